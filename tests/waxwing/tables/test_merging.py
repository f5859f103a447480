"""Merging in Python: equal keys of one transaction, the checks of the mode, batches that are whole, the memory target."""

from __future__ import annotations

import enum
import json
import pickle
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import MemoryTarget, Merge
from sinks.writer.admission import Admission
from sinks.writer.isolation import dead_letters, halves, without_rows
from sinks.writer.writer import Writer
from tests.sinks.test_writer import QUICK, STREAM, Faulty, batch, run
from waxwing.batch import Batch, Reject
from waxwing.change import Change, Position, Start
from waxwing.databases.sqlite.database import DIALECT
from waxwing.errors import BadRowsLimit, ConfigError, OffsetGap, RowError
from waxwing.settings import SinkSettings
from waxwing.tables.merging import merger
from waxwing.tables.plan import Nature
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker


def whole(first: int, end: int, records: list[Any] | None = None) -> Batch[Any]:
    """A batch whose records stand for all its messages; a row for each unless others are given."""
    made = batch(first, end)
    records = list(made.records) if records is None else records
    return replace(made, records=records, at=[end - first - 1] * len(records), whole=True)


# -- rows of equal key -----------------------------------------------------------------------------------------------------


def test_rows_of_one_key_become_one_and_come_in_the_order_of_keys() -> None:
    mode = Merge(keys=("k",), add=("n",), least=("low",), greatest=("high",))
    merged = merger(mode, ["k", "n", "low", "high"])
    assert merged([("b", 1, 5, None), ("a", None, 1, 1), ("b", -3, 4, 7), ("b", None, None, 6)]) == [
        ("a", None, 1, 1),
        ("b", -2, 4, 7),
    ]
    assert merged([]) == []


def test_where_the_newest_value_counts_rows_come_in_the_order_of_their_newest_records() -> None:
    merged = merger(Merge(keys=("k",), add=("n",)), ["k", "n", "note"])
    rows = [("c", 1, "u"), ("b", 1, "x"), ("a", None, "y"), ("b", -3, None), ("c", None, "z")]
    assert merged(rows) == [("a", None, "y"), ("b", -2, None), ("c", 1, "z")]
    assert merged(rows[:3]) == rows[:3]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize("keys", [[None, 1, "a"], [Colour.RED, Colour.BLUE, "red"], [1, Decimal("0.5"), 1.25], [b"b", b"a"]])
def test_keys_that_have_no_order_do_not_stop_anything(keys: list[Any]) -> None:
    merged = merger(Merge(keys=("k",), add=("n",)), ["k", "n"])
    rows = [(key, 1) for key in keys]
    assert set(merged([*rows, *reversed(rows)])) == {(key, 2) for key in keys}
    assert merged(rows) == merged(rows[::-1])


def test_sums_of_decimals_are_exact_beyond_what_python_keeps_by_default() -> None:
    merged = merger(Merge(keys=("k",), add=("n",)), ["k", "n"])
    large, small = Decimal(10) ** 30, Decimal("1e-20")
    assert merged([(1, large), (1, small), (1, 7), (1, -large)]) == [(1, 7 + small)]


def table_of(*columns: sa.Column[Any]) -> sa.Table:
    return sa.Table("t", sa.MetaData(), sa.Column("k", sa.String(5), primary_key=True), *columns)


def rows_of(mode: Merge, records: list[Any]) -> list[Any]:
    table = table_of(sa.Column("n", sa.Integer), sa.Column("f", sa.Double))
    planned = replace(plan(table, mode, dialect=DIALECT), nature=Nature(keys_exact=True, rows_alone=True, rows_numbered=False))
    change = Change([whole(0, 9, records)], {}, {})
    return RowMaker(planned, [column.name for column in planned.columns], DIALECT).of(change).rows


def test_a_row_that_does_not_fit_is_named_and_a_sum_that_does_not_is_not() -> None:
    mode = Merge(keys=("k",), add=("n", "f"))
    assert rows_of(mode, [("b", 1, None), {"k": "a", "n": 1}, ("b", 2, 0.5)]) == [("a", 1, None), ("b", 3, 0.5)]
    with pytest.raises(RowError, match="1 rows") as named:
        rows_of(mode, [("b", 1, None), ("b", 2**31, None)])
    assert list(named.value.bad) == [1]
    with pytest.raises(RowError, match="column n: outside the integers") as nameless:
        rows_of(mode, [("b", 2**31 - 1, None), ("b", 1, None)])
    assert nameless.value.bad == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_would_stay_in_a_sum_for_ever_is_refused(value: float) -> None:
    with pytest.raises(RowError):
        rows_of(Merge(keys=("k",), add=("f",)), [("a", 1, value)])


# -- the mode against the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        (Merge(keys=("k",)), "names no column to merge"),
        (Merge(keys=(), add=("n",)), "the mode Merge names no key columns"),
        (Merge(keys=("n",), add=("v",)), "neither its primary key nor a unique constraint"),
        (Merge(keys=("k",), add=("nowhere",)), "it has no column nowhere"),
        (Merge(keys=("k",), add=("k",)), "column k is a key and can't be merged"),
        (Merge(keys=("k",), add=("n",), least=("n",)), "column n is merged in two ways"),
        (Merge(keys=("k",), add=("note",)), "add names note, which is no number"),
        (Merge(keys=("k",), greatest=("note",)), "greatest names note, which is no number, date or timestamp"),
        (Merge(keys=("k",), add=("day",)), "add names day, which is no number"),
        (Merge(keys=("k",), add=("n", "at")), "add names at, which is no number"),
        (Merge(keys=("k",), add=("made",)), "add names made, and rows do not bring it"),
        (Merge(keys=("k",), add=("touched",)), "add names touched, and rows do not bring it"),
        (Merge(keys=("k",), add=("n", "v"), mean={"nowhere": ("v", "n")}), "it has no column nowhere"),
        (Merge(keys=("k",), add=("v",), mean={"mean": ("v", "n")}), "the mean mean is of n, which is not among add"),
        (Merge(keys=("k",), add=("n", "v"), mean={"mean": ("n", "v")}), "counts by v, which is no integer"),
        (Merge(keys=("k",), add=("n", "v"), mean={"note": ("v", "n")}), "the mean note needs decimals"),
        (Merge(keys=("k",), add=("n", "v"), mean={"v": ("v", "n")}), "column v is merged in two ways"),
        (Merge(keys=("k",), add=("n", "v"), mean={"made": ("v", "n")}), "column made is a mean, which the database sets"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mode_that_does_not_fit_the_table_is_refused_with_what_to_do(mode: Merge, told: str) -> None:
    table = table_of(
        sa.Column("n", sa.Integer),
        sa.Column("v", sa.Numeric(10, 2)),
        sa.Column("note", sa.Text),
        sa.Column("day", sa.Date),
        sa.Column("at", sa.DateTime),
        sa.Column("mean", sa.Numeric(10, 4)),
        sa.Column("made", sa.Integer, server_default="0"),
        sa.Column("touched", sa.Integer, onupdate=sa.text("1")),
    )
    with pytest.raises(ConfigError) as error:
        plan(table, mode, dialect=DIALECT)
    assert told in error.value.message
    assert error.value.hint


# -- batches that are whole ------------------------------------------------------------------------------------------------


def test_a_whole_batch_stays_whole_through_steps_and_processes() -> None:
    one = whole(0, 4)
    assert pickle.loads(pickle.dumps(one)).whole
    assert one.with_records([], []).whole
    assert not batch(0, 4).whole


def test_a_position_inside_a_whole_batch_is_an_error_and_one_at_its_ends_is_not() -> None:
    one = whole(5, 9)
    assert one.after(5) is one
    assert one.after(3) is one
    assert one.after(9).records == []
    with pytest.raises(OffsetGap, match="7, lies inside a batch that stands for offsets 5 to 9"):
        one.after(7)


def test_halves_are_cut_between_whole_batches_only() -> None:
    one, two, empty = whole(0, 8), whole(8, 9), whole(9, 10, [])
    assert halves([one]) == ([one], [])
    assert halves([one, empty]) == ([one, empty], [])
    assert halves([one, two, empty]) == ([one], [two, empty])
    left, right = halves([batch(9, 13), one])
    assert [len(part.records) for part in (*left, *right)] == [2, 2, 8]


@given(
    bad=st.sets(st.integers(0, 39), max_size=6),
    named=st.booleans(),
    cuts=st.sets(st.integers(1, 39), max_size=4),
    kinds=st.lists(st.booleans(), min_size=5, max_size=5),
)
@settings(max_examples=60)
def test_of_whole_batches_and_others_exactly_the_bad_rows_become_dead_letters(
    bad: set[int], named: bool, cuts: set[int], kinds: list[bool]
) -> None:
    target = Faulty(QUICK, bad={(n, 0) for n in bad}, named=named)
    edges = sorted({0, 40, *cuts})
    batches = [(whole if kind else batch)(a, b) for a, b, kind in zip(edges, edges[1:], kinds, strict=False)]
    run(target, batches)
    assert target.rows == [(n, 0) for n in range(40) if n not in bad]
    assert len(target.dead_letters) == len(bad)
    assert len({(letter.offset, letter.row) for letter in target.dead_letters}) == len(bad)
    of_rows = {json.loads(letter.value)[0] for letter in target.dead_letters if letter.value and letter.value.startswith(b"[")}
    assert of_rows == {n for n in bad if any(b.whole and b.offset_first <= n < b.offset_next for b in batches)}


def test_one_bad_row_of_thousands_takes_few_tries() -> None:
    target = Faulty(QUICK, bad={(3_210, 0)})
    run(target, [whole(0, 5_000)])
    assert len(target.rows) == 4_999
    assert target.writes <= 2 + 2 * 13 + 8  # refused, halved 13 times, what is good made one part, the row once more, written


@dataclass
class Total:
    k: str
    n: Decimal


class Packed(msgspec.Struct):
    k: str
    n: Decimal


@pytest.mark.parametrize(
    "record", [("a", Decimal("1.5")), {"k": "a", "n": Decimal("1.5")}, Total("a", Decimal("1.5")), Packed("a", Decimal("1.5"))]
)
def test_the_dead_letter_of_a_row_of_many_messages_holds_the_row(record: Any) -> None:
    (one,) = without_rows([whole(10, 14, [record, record])], {1: "too large"}, ["k", "n"])
    (letter,) = dead_letters(one)
    assert (letter.offset, letter.row, letter.stage, letter.reason) == (13, 1, "sink", "too large")
    assert json.loads(letter.value or b"") == {"k": "a", "n": "1.5"}
    assert (letter.key, letter.headers, letter.timestamp_ms) == (None, (), -1)


def test_what_is_no_json_is_kept_as_text() -> None:
    (one,) = without_rows([whole(0, 1, [{"k": "\ud800", "n": 1}])], {0: "no text"})
    assert dead_letters(one)[0].value == b"{'k': '\\ud800', 'n': 1}"


def test_rows_taken_out_in_turns_and_rejects_of_messages_keep_keys_of_their_own() -> None:
    one = replace(whole(0, 3, ["r0", "r1", "r2", "r3"]), rejects=[Reject(2, "parse", "no JSON")])
    (one,) = without_rows([one], {1: "first"})
    (one,) = without_rows([one], {0: "second", 2: "third"})
    assert one.records == ["r2"]
    found = [(letter.offset, letter.row, letter.reason) for letter in dead_letters(one)]
    assert found == [(2, 0, "no JSON"), (2, 1, "second"), (2, 2, "first"), (2, 3, "third")]


def test_bad_rows_count_as_their_share_of_the_messages() -> None:
    admitted = Admission(SinkSettings(bad_run_max=9))
    admitted.open(Position(STREAM, 0, 0))
    (some,) = without_rows([whole(0, 100, list(range(10)))], {3: "bad", 4: "bad"})
    change = admitted.change([some])
    assert (change.after[STREAM].records_bad, change.after[STREAM].bad_run) == (20, 0)
    with pytest.raises(BadRowsLimit, match="10 bad records in a row"):
        admitted.change(without_rows([whole(0, 100, [1, 2])], {0: "bad", 1: "bad"}))


# -- the memory target -----------------------------------------------------------------------------------------------------


def test_the_memory_target_merges() -> None:
    mode = Merge(keys=("k",), add=("n", "v"), least=("low",), greatest=("day",), mean={"mean": ("v", "n")})
    target = MemoryTarget(mode)
    target.bind("flow", "step")
    target.begin([Start(STREAM, 0, None)])
    one = {"k": "a", "n": 2, "v": Decimal(3), "low": None, "day": date(2026, 1, 1), "note": "x"}
    two = {"k": "a", "n": 2, "v": Decimal(-1), "low": 5, "day": date(2025, 1, 1), "note": "y"}
    writer = Writer(target, "lane-000")
    writer.put(whole(0, 3, [one, {**one, "k": "b", "n": 0}]))
    writer.put(whole(3, 9, [two]))
    writer.flush()
    writer.close()
    assert target.rows == [
        {"k": "a", "n": 4, "v": 2, "low": 5, "day": date(2026, 1, 1), "note": "y", "mean": Decimal("0.5")},
        {**one, "k": "b", "n": 0, "mean": None},
    ]


def test_the_memory_target_merges_objects_and_refuses_plain_tuples() -> None:
    target = MemoryTarget(Merge(keys=("k",), add=("n",)))
    target.bind("flow", "step")
    target.begin([Start(STREAM, 0, None)])
    writer = Writer(target, "lane-000")
    writer.put(whole(0, 1, [Total("a", Decimal(1)), Packed("a", Decimal(2))]))
    writer.flush()
    assert target.rows == [{"k": "a", "n": 3}]
    writer.put(whole(1, 2, [("a", 1)]))
    with pytest.raises(ConfigError, match=r"MemoryTarget\(Merge"):
        writer.flush()
    writer.close()
