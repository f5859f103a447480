"""Merging as a flow does it, over the SQL target and by the writer: replays, dead letters, lost answers, several writers."""

from __future__ import annotations

import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sinks import Merge, SqlTarget
from sinks.writer.writer import Writer
from tests.conformance.place import ON_THREE, Place, lose_commits, make_place
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Start
from waxwing.databases.ledger import schema
from waxwing.errors import BadRowsLimit, OffsetGap
from waxwing.settings import SqlSettings

STREAM, OTHER = Stream("flow", "topic", "topic-id", 0), Stream("flow", "topic", "topic-id", 1)


def parts(first: int, size: int, records: list[Any]) -> Batch[Any]:
    """A batch of pre-aggregates: its records stand for all its messages."""
    offsets = list(range(first, first + size))
    messages = Columns(offsets, [b"k"] * size, [b"v"] * size, [5] * size, [()] * size)
    return Batch(STREAM, "lane-000", first, first + size, messages, records, [size - 1] * len(records), whole=True)


@pytest.fixture
def to(place: Place) -> SqlTarget:
    for name in ("sums", *schema.metadata.tables):
        place.run(f"DROP TABLE IF EXISTS {name}")
    return target(place)


def target(place: Place, *extra: sa.Column[Any], **mean: tuple[str, str]) -> SqlTarget:
    table = sa.Table(
        "sums",
        sa.MetaData(),
        sa.Column("id", sa.String(20), primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("v", sa.Numeric(12, 2), sa.CheckConstraint("v > -100")),
        *extra,
    )
    url = SecretStr(place.url.render_as_string(hide_password=False))
    made = SqlTarget(SqlSettings(database_url=url, flush_interval_s=0.0), table, Merge(keys=("id",), add=("n", "v"), mean=mean))
    made.place.database, made.place.engine = place.database, place.engine
    made.bind("flow", "flow.sums")
    made.prepare()
    made.begin([Start(STREAM, 0, None), Start(OTHER, 0, None)])
    return made


def write(to: SqlTarget, *batches: Batch[Any], part: str = "lane-000") -> None:
    writer = Writer(to, part)
    try:
        for each in batches:
            writer.put(each)
        writer.flush()
    finally:
        writer.close()


def sums(place: Place) -> dict[str, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in place.read(sa.table("sums", *map(sa.column, ("id", "n", "v"))))}  # type: ignore[arg-type]  # a name will do


def letters(place: Place) -> list[tuple[Any, ...]]:
    t = schema.dead_letters
    query = sa.select(t.c.source_offset, t.c.row_index, t.c.stage, t.c.message_value, t.c.reason).order_by(
        t.c.source_offset, t.c.row_index
    )
    with place.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


@ON_THREE
def test_equal_keys_of_one_transaction_and_of_many_give_the_same_sums(place: Place, to: SqlTarget) -> None:
    rows = [("a", 1, Decimal("0.10")), ("b", None, Decimal("0.20")), ("a", 2, None), ("a", None, Decimal("-0.30"))]
    write(to, parts(0, 9, rows), parts(9, 1, []), parts(10, 5, rows[:2]))
    write(to, parts(0, 15, rows * 9), parts(15, 1, [{"id": "b", "n": 5, "v": None}]))  # a replay is passed over as a whole
    read = {key: (n, None if v is None else Decimal(str(v)).quantize(Decimal("0.01"))) for key, (n, v) in sums(place).items()}
    assert read == {"a": (4, Decimal("-0.10")), "b": (5, Decimal("0.40"))}


@ON_THREE
def test_a_stored_position_inside_a_batch_stops_the_flow_and_nothing_is_written(place: Place, to: SqlTarget) -> None:
    write(to, parts(0, 5, [("a", 1, None)]))
    with pytest.raises(OffsetGap, match="inside a batch"):
        write(to, parts(0, 8, [("a", 100, None)]))
    assert sums(place) == {"a": (1, None)}


def test_a_sum_that_does_not_fit_is_a_dead_letter_and_the_others_are_written(place: Place, to: SqlTarget) -> None:
    write(to, parts(0, 3, [("full", 2**31 - 10, None), ("less", -(2**31) + 10, None)]))
    many = [(f"k{number:03}", 1, None) for number in range(300)]
    write(to, parts(3, 400, [*many[:100], ("full", 10, None), *many[100:], ("less", -11, Decimal("1.50"))]))
    write(to, parts(403, 1, [("full", 9, None), ("less", -10, None)]))
    found = sums(place)
    assert found.pop("full")[0] == 2**31 - 1
    assert found.pop("less")[0] == -(2**31)
    assert found == {key: (1, None) for key, _, _ in many}
    told = letters(place)
    assert [(offset, row, stage, orjson.loads(value)) for offset, row, stage, value, _ in told] == [
        (402, 100, "sink", {"id": "full", "n": 10, "v": None}),
        (402, 301, "sink", {"id": "less", "n": -11, "v": "1.50"}),
    ]


@ON_THREE
def test_of_rows_that_fit_alone_and_not_as_a_sum_the_later_is_a_dead_letter(place: Place, to: SqlTarget) -> None:
    write(to, parts(0, 4, [("a", 2**31 - 1, None), ("b", 1, None)]), parts(4, 4, [("a", 1, None), ("b", 1, None)]))
    assert sums(place) == {"a": (2**31 - 1, None), "b": (2, None)}
    assert [(offset, row) for offset, row, *_ in letters(place)] == [(7, 0)]


@ON_THREE
def test_rows_that_do_not_fit_and_rows_that_a_constraint_refuses_have_numbers_of_their_own(place: Place, to: SqlTarget) -> None:
    rows = [("x" * 21, 1, None), ("a", 1, Decimal(-100)), ("b", 1, Decimal(1)), ("c", 1, Decimal(-100)), ("d", "1", None)]
    write(to, parts(0, 10, rows))
    assert list(sums(place)) == ["b"]
    assert [(offset, row, orjson.loads(value)["id"]) for offset, row, _, value, _ in letters(place)] == [
        (9, 0, "x" * 21),
        (9, 1, "a"),
        (9, 3, "c"),
        (9, 4, "d"),
    ]


@ON_THREE
def test_when_every_row_is_bad_the_flow_stops(place: Place, to: SqlTarget) -> None:
    batches = [parts(first, 600, [(f"k{number}", 1, Decimal(-100)) for number in range(20)]) for first in range(0, 3000, 600)]
    with pytest.raises(BadRowsLimit):
        write(to, *batches)
    assert sums(place) == {}
    assert to.positions()[0].offset_next in (0, 600)


def test_a_commit_whose_answer_is_lost_is_not_added_twice(place: Place, to: SqlTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    write(to, parts(0, 1, [("a", 1, None)]))
    lose_commits(to.place.engine, monkeypatch, "after", "before", "", "after", "after", "before")
    write(to, *[parts(n, 1, [("a", 10**n, None), (f"k{n}", n, None)]) for n in range(1, 9)])
    assert sums(place)["a"] == (111_111_111, None)
    assert {key: n for key, (n, _) in sums(place).items() if key != "a"} == {f"k{n}": n for n in range(1, 9)}


def test_two_partitions_that_write_the_same_keys_at_once_lose_nothing(place: Place, to: SqlTarget) -> None:
    one_writer = to.parts_max == 1
    parts_of = [[STREAM, OTHER]] if one_writer else [[STREAM], [OTHER]]
    errors: list[BaseException] = []

    def run(streams: list[Stream], number: int) -> None:
        other = make_place(place.url)
        own = target(other)
        batches = []
        for step in range(20):
            for stream in streams:
                keys = range(50) if stream is STREAM else range(49, -1, -1)
                batches.append(replace(parts(step, 1, [(f"k{key}", 1, Decimal(key)) for key in keys]), stream=stream))
        try:
            write(own, *batches, part=f"lane-{number:03}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(streams, number)) for number, streams in enumerate(parts_of)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {key: n for key, (n, _) in sums(place).items()} == {f"k{key}": 40 for key in range(50)}


@ON_THREE
def test_a_mean_may_be_not_null(place: Place) -> None:
    for name in ("sums", *schema.metadata.tables):
        place.run(f"DROP TABLE IF EXISTS {name}")
    to = target(place, sa.Column("average", sa.Numeric(12, 2), nullable=False), average=("v", "n"))
    write(to, parts(0, 2, [("a", 2, Decimal("3.00"))]), parts(2, 2, [("a", 2, Decimal("-2.00")), ("b", 1, Decimal("0.40"))]))
    assert letters(place) == []
    found = place.read(sa.table("sums", *map(sa.column, ("id", "average"))))  # type: ignore[arg-type]  # a name will do
    assert [(key, float(average)) for key, average in found] == [("a", 0.25), ("b", 0.4)]
