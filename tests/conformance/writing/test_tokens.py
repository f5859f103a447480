"""Places that a source calls by tokens, kept by each database: what is read again, and from where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from typing_extensions import override

from sinks import Append, SqlTarget, SqlWindows, sink, window_sink
from sources import read
from sources.kit import Log, Place, Run
from sources.memory import MemorySource
from tests.conformance.place import ON_THREE
from tests.conformance.place import Place as Database
from tests.conformance.writing.test_starts import Record, at, names, play, settings, steps_of
from tests.servers.process import until
from waxwing import operators as ww
from waxwing.batch import Stream
from waxwing.change import Change
from waxwing.errors import TargetError
from waxwing.ledger.store import Transaction
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.target import Session

BINARY = b"\x00\xff'\\"


class Told(MemorySource):
    """Says from where it was read; its tokens are bytes that no text could be. `forgets`: its server keeps no log."""

    forgets = False

    @override
    def describe(self) -> Sequence[Log]:
        logs = super().describe()
        return [Log(one.source, one.source_id, token=one.token, kept=False) for one in logs] if self.forgets else logs

    @override
    def _token(self, offset: int) -> bytes | None:
        token = super()._token(offset)
        return None if token is None else BINARY + token

    @override
    def read(self, place: Place) -> Iterator[Run]:
        assert place.token is not None
        token = place.token.removeprefix(BINARY)
        self.places = [(place.offset, token)]
        yield from super().read(Place(place.stream, place.offset, token))


@ON_THREE
def test_a_database_keeps_the_place_that_a_source_is_read_from(place: Database) -> None:
    tables: list[sa.Table] = []

    def run(steps: int, data: list[int], tokens: Collection[int] = (), *, kept: bool = True, again: bool = True) -> object:
        source = Told([{"id": n} for n in data], topic=topic, batch_records=3, tokens=tokens, replayable=again)
        source.forgets = not kept
        graph = Dataflow(flow)
        rows = ww.map("row", ww.parse("parse", read("in", graph, source), Record), lambda record: (record.id,))
        for number, table in enumerate(tables[:steps]):
            sink(f"step_{number}", rows, at(place, SqlTarget(settings(place), table, Append())))
        play(graph, place)
        (found,) = source.places
        return found

    def anew() -> tuple[str, str]:
        tables[:] = [place.table(sa.Column("id", sa.Integer)) for _ in range(2)]
        flow, _, topic = names()
        return flow, topic

    def written(steps: int = 2) -> list[list[int]]:
        return [[n for (n,) in place.read(table)] for table in tables[:steps]]

    flow, topic = anew()
    numbers = list(range(12))
    assert run(1, numbers[:5], {4}) == (0, b"0")
    assert run(1, numbers[:7], {4}) == (4, b"4"), "and cut off at 5, where the table stands"
    assert run(2, numbers[:8], {4}) == (0, b"0"), "a step that is added begins where the first began"
    assert run(2, numbers[:9], {4, 8}) == (4, b"4")
    assert run(2, numbers, {4, 8}) == (8, b"8")
    assert written() == [numbers, numbers]

    flow, topic = anew()  # a log that is not kept: the step that is added begins where the first can be read from
    assert run(1, numbers[:7], {4}, kept=False) == (0, b"0")
    assert run(2, numbers, {4}, kept=False) == (4, b"4")
    assert written() == [numbers, numbers[4:]]

    flow, topic = anew()  # what can't be read again: what lies below the token is another thing by now
    assert run(1, numbers[:5], again=False) == (0, b"0")
    assert run(1, [99] * 5 + numbers[5:], again=False) == (5, b"5")
    assert written(1) == [numbers]

    target = at(place, SqlTarget(settings(place), tables[0], Append()))
    target.bind(flow, "step_0")

    def moves(token: bytes | None) -> bool:
        def move(transaction: Transaction) -> bool:
            (row,) = transaction.positions()
            return transaction.compare_and_set(row._replace(position=row.position._replace(token=token)), row)

        return bool(target.in_transaction(move))

    assert [moves(token) for token in (None, BINARY + b"5", BINARY + b"12")] == [False, False, True], "of one offset, the token"


PER_TEN = Windows(by=("id",), time="at", kind=Tumbling(10), aggregates={"n": Count()}, lateness_s=0)


class Dying(SqlWindows):
    """Its second bucket never gets a commit through: the process dies once the first one stands at `end`."""

    end = -1

    def connect(self, part: str, token: str) -> Session:
        session = super().connect(part, token)
        if self.end >= 0 and part == "bucket-001":

            def commit(change: Change) -> None:
                until(lambda: self.end in {one.offset_next for one in self.positions()}, timeout_s=60, what="the first one's end")
                raise TargetError("killed")

            session.commit = commit  # type: ignore[method-assign]  # in place of the real one
        return session


@ON_THREE
@pytest.mark.parametrize("kept", [True, False])
def test_each_bucket_of_windows_keeps_the_place_that_it_can_be_read_from(place: Database, kept: bool) -> None:
    to = place.table(
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("window_start", sa.DateTime, primary_key=True),
        sa.Column("n", sa.BigInteger),
    )
    flow, _, topic = names()
    stream = Stream(flow, topic, f"name:{topic}", 0)
    data = [{"id": n % 7, "at": n} for n in range(40)]

    def target(buckets: int) -> Any:
        made = Dying(settings(place).model_copy(update={"window_buckets": buckets}), to, PER_TEN)
        made.bind(flow, "totals")
        return at(place, made)

    one_writer = target(2).parts_max == 1

    def run(end: int, tokens: Collection[int] | None, *, buckets: int = 2, dies: bool = False) -> object:
        source = Told(data[:end], topic=topic, batch_records=3, tokens=tokens, ends=end == len(data))
        source.forgets = not kept
        graph, windows = Dataflow(flow), target(buckets)
        windows.end = end if dies and not one_writer else -1
        window_sink("totals", ww.parse("parse", read("in", graph, source), Record), windows)
        if windows.end >= 0:
            with pytest.raises(TargetError, match="killed"):
                play(graph, place)
        else:
            play(graph, place)
        (found,) = source.places
        return found

    def held(buckets: int = 2) -> Counter[tuple[int, int | None, bytes | None]]:
        places = target(buckets).positions()
        assert {one.stream for one in places} == {stream}
        return Counter((one.offset_next, one.token_offset, one.token and one.token.removeprefix(BINARY)) for one in places)

    each = 1 if one_writer else 2
    assert run(2, {4}) == (0, b"0")
    assert held() == {(2, 0, b"0"): each}, "a place that the source names comes later"
    assert run(6, {4}) == (0, b"0")
    assert held() == {(6, 4, b"4"): each}
    assert run(18, {4, 8, 16}, dies=True) == (4, b"4")
    if not one_writer:
        assert held() == {(18, 16, b"16"): 1, (6, 4, b"4"): 1}
        assert run(20, {4, 8, 16}) == (4, b"4"), "from the lowest bucket's, with its name"
    else:
        assert run(20, {4, 8, 16}) == (16, b"16")
    assert held() == {(20, 16, b"16"): each}
    assert target(3).rebucket() == (1 if one_writer else 2)
    assert held(3) == {(20, 16, b"16"): 1 if one_writer else 3}
    assert run(40, {4, 8, 16, 32}, buckets=3) == (16, b"16")
    count: Counter[tuple[int, int]] = Counter((n % 7, n // 10 * 10) for n in range(40))
    assert {(id_, start.second): n for id_, start, n in place.read(to)} == count


class Wordy(MemorySource):
    """Its tokens are as long as can be."""

    places: list[int]

    @override
    def _token(self, offset: int) -> bytes | None:
        return b"%d" % offset + b" " * 4_000

    @override
    def read(self, place: Place) -> Iterator[Run]:
        assert place.token is not None
        self.places.append(int(place.token))
        yield from super().read(place)


@ON_THREE
def test_more_tokens_than_the_first_part_of_a_state_holds_are_read_whole(place: Database) -> None:
    to = place.table(
        sa.Column("window_start", sa.DateTime, primary_key=True),
        sa.Column("n", sa.BigInteger),
    )
    flow, _, topic = names()
    each = Windows(by=(), time="at", kind=Tumbling(10), aggregates={"n": Count()}, lateness_s=0)
    partitions = 300
    for end in (1, 2):
        source = Wordy({p: [{"id": 1, "at": n} for n in range(end)] for p in range(partitions)}, topic=topic, ends=end == 2)
        source.places = []
        graph = Dataflow(flow)
        target = at(place, SqlWindows(settings(place).model_copy(update={"window_buckets": 1}), to, each))
        window_sink("totals", ww.parse("parse", read("in", graph, source), Record), target)
        play(graph, place)
        assert source.places == [end - 1] * partitions
        assert [(one.offset_next, one.token_offset) for one in target.positions()] == [(end, end)] * partitions
        assert {one.offset_next for one in steps_of(place, flow).positions_of("totals")} == {end}
    assert [n for _, n in place.read(to)] == [2 * partitions]
