"""The writer and what it is made of: replay cut, gap check, limits, isolation of bad rows, retry, unknown commits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import Append, MemoryTarget, Upsert, sink
from sinks.memory.target import MemorySession
from sinks.writer.admission import RATIO_BLOCK_RECORDS, Admission
from sinks.writer.isolation import dead_letters, without_rows
from sinks.writer.writer import Writer
from sources import read
from sources.memory import MemorySource
from tests.servers.process import until
from waxwing import operators as ww
from waxwing.batch import Batch, Columns, Reject, Stream
from waxwing.change import Change, Position, Size, Start
from waxwing.errors import BadRowsLimit, Fenced, OffsetGap, RowError, TableError, TransientError
from waxwing.ledger.store import Transaction
from waxwing.settings import SinkSettings
from waxwing.target import Session

STREAM = Stream("flow", "topic", "id", 0)


def batch(first: int, end: int, *, rejects: tuple[int, ...] = (), rows_per_message: int = 1) -> Batch[Any]:
    """Messages first <= offset < end; message at offset n makes rows (n, 0), (n, 1), ..."""
    offsets = list(range(first, end))
    messages = Columns(offsets, [None] * len(offsets), [b"%d" % o for o in offsets], [-1] * len(offsets), [()] * len(offsets))
    good = [at for at in range(len(offsets)) if at not in rejects]
    return Batch(
        STREAM,
        "lane-000",
        first,
        end,
        messages,
        [(offsets[at], n) for at in good for n in range(rows_per_message)],
        [at for at in good for _ in range(rows_per_message)],
        [Reject(at, "parse", "bad") for at in rejects],
    )


class Faulty(MemoryTarget):
    """A memory target that does what the test says at each write."""

    def __init__(self, settings: SinkSettings, *, bad: set[Any] = frozenset(), named: bool = False) -> None:  # type: ignore[assignment]  # empty
        super().__init__(Append(), settings)
        self.bind("flow", "flow.step")
        self.begin([Start(STREAM, 0, None)])
        self.bad, self.named = bad, named
        self.plan: Iterator[str] = iter(())
        self.writes = 0

    def connect(self, part: str, token: str) -> MemorySession:
        return FaultySession(self, self.open_store(), token)


class FaultySession(MemorySession):
    def commit(self, change: Change) -> None:
        self.faulty(change, dry_run=False)

    def attempt(self, change: Change) -> None:
        self.faulty(change, dry_run=True)

    def faulty(self, change: Change, *, dry_run: bool) -> None:
        target = self._target
        assert isinstance(target, Faulty)
        target.writes += 1
        fault = next(target.plan, "")
        if fault == "dies before":
            raise TransientError("connection lost")
        records = [record for b in change.batches for record in b.records]
        if bad := {n: "bad row" for n, record in enumerate(records) if record in target.bad}:
            raise RowError("bad row", bad=bad if target.named else None)
        super().attempt(change) if dry_run else super().commit(change)
        if fault == "dies after":
            raise TransientError("connection lost in COMMIT", committing=True)


QUICK = SinkSettings(flush_interval_s=0.0, retry_max_s=5.0)


def run(target: MemoryTarget, batches: list[Batch[Any]]) -> None:
    writer = Writer(target, "lane-000")
    try:
        for each in batches:
            writer.put(each)
        writer.flush()
    finally:
        writer.close()


def test_batches_are_written_once_and_the_position_follows() -> None:
    target = Faulty(QUICK)
    run(target, [batch(0, 3), batch(3, 3), batch(3, 5)])
    assert target.rows == [(n, 0) for n in range(5)]
    assert target.positions()[0].offset_next == 5


def test_a_replay_is_cut_at_the_stored_position() -> None:
    target = Faulty(QUICK)
    run(target, [batch(0, 4)])
    run(target, [batch(0, 2), batch(2, 6), batch(6, 7)])
    assert target.rows == [(n, 0) for n in range(7)]


@pytest.mark.parametrize(
    "batches", [[batch(1, 3)], [batch(0, 3), batch(4, 5)], [batch(0, 3), batch(0, 3)], [batch(0, 3), batch(2, 5)]]
)
def test_a_batch_that_does_not_follow_stops_the_flow(batches: list[Batch[Any]]) -> None:
    target = Faulty(QUICK)
    with pytest.raises(OffsetGap):
        run(target, batches)
    assert target.rows in ([], [(0, 0), (1, 0), (2, 0)])


def test_a_zombie_is_fenced() -> None:
    target = Faulty(QUICK)
    old, new = Writer(target, "lane-000"), Writer(target, "lane-000")
    old.put(batch(0, 2))
    old.flush()
    new.put(batch(0, 3))
    new.flush()
    old.put(batch(2, 4))
    with pytest.raises(Fenced):
        old.flush()
    old.close()
    new.close()
    assert target.rows == [(0, 0), (1, 0), (2, 0)]


@given(st.lists(st.sampled_from(["", "dies before", "dies after"]), max_size=4))
@settings(max_examples=20)
def test_lost_connections_before_and_in_commit_write_each_row_once(faults: list[str]) -> None:
    target = Faulty(SinkSettings(flush_interval_s=0.0, retry_max_s=60.0))
    target.plan = iter(faults)
    run(target, [batch(0, 3), batch(3, 6), batch(6, 9)])
    assert target.rows == [(n, 0) for n in range(9)]


def test_retries_end_after_retry_max_s() -> None:
    target = Faulty(SinkSettings(flush_interval_s=0.0, retry_max_s=0.0))
    target.plan = iter(["dies before"] * 5)
    with pytest.raises(TransientError):
        run(target, [batch(0, 3)])
    assert target.rows == []


@given(
    bad=st.sets(st.tuples(st.integers(0, 19), st.integers(0, 1)), max_size=8),
    named=st.booleans(),
    cut=st.integers(0, 20),
    per_message=st.integers(1, 2),
)
@settings(max_examples=60)
def test_bad_rows_become_dead_letters_and_all_others_are_written(
    bad: set[tuple[int, int]], named: bool, cut: int, per_message: int
) -> None:
    target = Faulty(QUICK, bad=bad, named=named)
    run(target, [batch(0, cut, rows_per_message=per_message), batch(cut, 20, rows_per_message=per_message)])
    rows = [(n, m) for n in range(20) for m in range(per_message)]
    assert sorted(target.rows) == [row for row in rows if row not in bad]
    assert sorted((letter.offset, letter.row) for letter in target.dead_letters) == [row for row in rows if row in bad]
    assert {letter.stage for letter in target.dead_letters} <= {"sink"}
    assert all(letter.value == b"%d" % letter.offset for letter in target.dead_letters)


def test_rows_of_one_message_taken_out_in_turns_keep_their_own_numbers() -> None:
    one = batch(0, 1, rows_per_message=4)
    one = without_rows([one], {1: "first"})[0]  # rows 0 2 3 are left
    one = without_rows([one], {0: "second", 2: "third"})[0]  # rows 0 and 3
    assert [(letter.row, letter.reason) for letter in dead_letters(one)] == [(0, "second"), (1, "first"), (3, "third")]
    assert one.records == [(0, 2)]


def admission(position: Position, **limits: Any) -> Admission:
    admitted = Admission(SinkSettings(**limits))
    admitted.open(position)
    admitted.admit([batch(position.offset_next, position.offset_next)])
    return admitted


def test_the_run_of_bad_records_goes_on_over_batches_and_restarts() -> None:
    admitted = admission(Position(STREAM, 0, 0), bad_run_max=3)
    change = admitted.change([batch(0, 4, rejects=(2, 3))])
    admitted.moved(change)
    assert admitted.positions[STREAM].bad_run == 2
    restarted = admission(admitted.positions[STREAM], bad_run_max=3)
    restarted.change([batch(4, 6, rejects=(0,))])  # three in a row: at the limit
    with pytest.raises(BadRowsLimit, match=r"4 bad records in a row.*offset 5"):
        restarted.change([batch(4, 6, rejects=(0, 1))])


def test_accepted_offsets_are_not_judged() -> None:
    admitted = admission(Position(STREAM, 0, 0, limits_from=3), bad_run_max=1)
    assert admitted.change([batch(0, 4, rejects=(0, 1, 2, 3))]).after[STREAM].bad_run == 1
    with pytest.raises(BadRowsLimit):
        admitted.change([batch(0, 5, rejects=(0, 1, 2, 3, 4))])


@given(
    st.lists(st.integers(0, 2 * RATIO_BLOCK_RECORDS + 500), unique=True, max_size=40), st.sets(st.integers(1, 25_000), max_size=4)
)
@settings(max_examples=40)
def test_batch_boundaries_do_not_change_the_counters(bad: list[int], cuts: set[int]) -> None:
    end = 2 * RATIO_BLOCK_RECORDS + 501
    edges = sorted({0, end, *(cut for cut in cuts if cut < end)})
    whole, parts = admission(Position(STREAM, 0, 0)), admission(Position(STREAM, 0, 0))
    one = whole.change([batch(0, end, rejects=tuple(sorted(bad)))]).after[STREAM]
    many = parts.change([batch(a, b, rejects=tuple(sorted(n - a for n in bad if a <= n < b))) for a, b in pairwise(edges)]).after[
        STREAM
    ]
    assert one == many


def test_the_ratio_is_judged_within_blocks() -> None:
    admitted = admission(Position(STREAM, 0, 0), bad_ratio_max=0.001)
    spread = tuple(range(0, 20_000, 1_000))  # ten in each block: at the limit
    admitted.change([batch(0, 20_000, rejects=spread)])
    with pytest.raises(BadRowsLimit, match="11 bad records among 10,000"):
        admitted.change([batch(0, 20_000, rejects=(*spread[:3], 2_500, *spread[3:]))])


def test_put_waits_while_the_queue_is_full() -> None:
    gate, connecting = threading.Event(), threading.Event()

    class Slow(Faulty):
        def connect(self, part: str, token: str) -> MemorySession:
            connecting.set()
            gate.wait(10)
            return super().connect(part, token)

    target = Slow(SinkSettings(flush_interval_s=0.0, queue_records_max=1))
    writer = Writer(target, "lane-000")
    writer.put(batch(0, 1))
    assert connecting.wait(10)

    def put_three() -> None:
        for n in range(1, 4):
            writer.put(batch(n, n + 1))

    third = threading.Thread(target=put_three)
    third.start()
    third.join(0.2)
    assert third.is_alive()
    gate.set()
    third.join(10)
    writer.flush()
    writer.close()
    assert len(target.rows) == 4


def test_close_drops_what_waits() -> None:
    target = Faulty(SinkSettings(flush_interval_s=60.0))
    writer = Writer(target, "lane-000")
    writer.put(batch(0, 3))
    writer.close()
    assert target.rows == []


def test_upsert_in_memory_keeps_the_newest_version() -> None:
    target = MemoryTarget(Upsert(keys=("id",), newer_by="v"))
    target.bind("flow", "step")
    target.begin([Start(STREAM, 0, None)])
    writer = Writer(target, "lane-000")
    rows = [{"id": 1, "v": 2}, {"id": 1, "v": 1}, {"id": 2, "v": 5}, {"id": 2, "v": 5, "late": True}]
    writer.put(batch(0, 4).with_records(rows, range(4)))
    writer.flush()
    writer.close()
    assert target.rows == [{"id": 1, "v": 2}, {"id": 2, "v": 5}]


def test_a_refusal_that_no_row_explains_stops_the_flow() -> None:
    class Refusing(Faulty):
        def connect(self, part: str, token: str) -> MemorySession:
            return RefusingSession(self, self.open_store(), token)

    class RefusingSession(MemorySession):
        def commit(self, change: Change) -> None:
            raise RowError("duplicate dead letter")

    with pytest.raises(TableError, match="without any row"):
        run(Refusing(QUICK), [batch(0, 3, rejects=(0, 1, 2))])


def test_a_target_that_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    class Silent(Faulty):
        def connect(self, part: str, token: str) -> MemorySession:
            gate.wait(30)
            return super().connect(part, token)

    monkeypatch.setattr("sinks.writer.writer.SILENCE_S", 0.2)
    monkeypatch.setattr("sinks.writer.writer.CLOSE_S", 0.1)
    with pytest.raises(TransientError, match="has not answered"):
        run(Silent(SinkSettings(flush_interval_s=0.0, retry_max_s=0.0)), [batch(0, 3)])
    gate.set()


def test_a_transaction_that_takes_too_long_is_written_in_halves() -> None:
    class Slow(Faulty):
        def connect(self, part: str, token: str) -> MemorySession:
            return SlowSession(self, self.open_store(), token)

    class SlowSession(MemorySession):
        def commit(self, change: Change) -> None:
            if sum(len(b.records) for b in change.batches) > 3:
                raise TransientError("statement timeout", too_large=True)
            super().commit(change)

    target = Slow(QUICK)
    run(target, [batch(0, 7), batch(7, 12)])
    assert target.rows == [(n, 0) for n in range(12)]


def test_after_two_deadlocks_transactions_are_smaller_and_grow_again_bit_by_bit() -> None:
    sizes: list[int] = []

    class Busy(Faulty):
        most = 3

        def connect(self, part: str, token: str) -> MemorySession:
            return BusySession(self, self.open_store(), token)

    class BusySession(MemorySession):
        def commit(self, change: Change) -> None:
            size = sum(len(b.records) for b in change.batches)
            sizes.append(size)
            assert isinstance(self._target, Busy)
            if size > self._target.most:
                raise TransientError("deadlock", contended=True)
            super().commit(change)

    target = Busy(SinkSettings(flush_interval_s=0.0, retry_max_s=60.0))
    writer = Writer(target, "lane-000")
    writer.put(batch(0, 24))
    writer.flush()
    assert sizes[:6] == [24, 24, 12, 12, 6, 6]  # two deadlocks each
    assert set(sizes[6:]) == {3}
    sizes.clear()
    target.most = 1_000
    for first in range(24, 524, 10):
        writer.put(batch(first, first + 10))
        writer.flush()
    writer.close()
    assert target.rows == [(n, 0) for n in range(524)]
    assert sizes[0] <= 3
    assert sizes[-1] == 10
    assert max(sizes) == 10


def test_who_is_in_the_way_for_good_ends_the_flow_after_retry_max_s() -> None:
    class Blocked(Faulty):
        def connect(self, part: str, token: str) -> MemorySession:
            return BlockedSession(self, self.open_store(), token)

    class BlockedSession(MemorySession):
        def commit(self, change: Change) -> None:
            raise TransientError("lock time-out", contended=True)

    began_s = 0.0
    now = iter(range(10_000))
    target = Blocked(SinkSettings(flush_interval_s=0.0, retry_max_s=200.0))
    writer = Writer(target, "lane-000", now_s=lambda: began_s + next(now))
    writer.put(batch(0, 64))
    with pytest.raises(TransientError, match="lock time-out"):
        writer.flush()
    writer.close()
    assert next(now) < 500  # cut or not, the time is that of all attempts together


def filtered(first: int, end: int, kept: Sequence[int], rejects: Sequence[int] = ()) -> Batch[Any]:
    """A batch of which a filter left these messages, some of them rejected since."""
    whole = batch(first, end)
    at = [n for n in kept if n not in rejects]
    return whole.with_records([(first + n, 0) for n in at], at, [Reject(n, "row", "bad") for n in rejects])


def test_what_a_filter_left_out_is_no_good_record() -> None:
    every_hundredth = range(0, 5_000, 100)
    admitted = admission(Position(STREAM, 0, 0), bad_run_max=120)
    for first in (0, 5_000):
        admitted.moved(admitted.change([filtered(first, first + 5_000, every_hundredth, every_hundredth)]))
    assert admitted.positions[STREAM] == Position(STREAM, 10_000, 0, None, 100, 100, 100)
    with pytest.raises(BadRowsLimit, match="121 bad records in a row, up to offset 12000"):
        admitted.change([filtered(10_000, 15_000, every_hundredth, every_hundredth)])
    # Half of what came: in blocks of as many as came.
    admitted = admission(Position(STREAM, 0, 0), bad_ratio_max=0.004)
    with pytest.raises(BadRowsLimit, match="41 bad records among 10,000"):
        admitted.change([filtered(n, n + 1_000, range(0, 1_000, 100), range(0, 1_000, 200)) for n in range(0, 10_000, 1_000)])


def test_the_first_dead_letter_of_each_kind_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    rejects = [
        (0, "sink", "column at: with a time zone, and the column has none"),
        (1, "sink", "column at: with a time zone, and the column has none"),
        (2, "sink", "duplicate key value violates unique constraint: Key (id)=(secret) already exists. (23505)"),
        (3, "sink", "duplicate key value violates unique constraint: Key (id)=(other) already exists. (23505)"),
        (4, "row", "KeyError: 'rate' (payments.py:72 in row)"),
    ]
    target = Faulty(QUICK)
    run(target, [batch(0, 6).with_records([(5, 0)], [5], [Reject(*one) for one in rejects])])
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"dead_letter"' in line]
    assert [line["level"] for line in told] == ["warning"] * 3
    said = " ".join(line["message"] for line in told)
    assert "topic[0] at offset 0, refused by sink: column at: with a time zone, and the column has none." in said
    assert "payments.py:72" in said
    assert "secret" not in said


class Spooled(MemoryTarget):
    """A target whose changes are staged: records stand in a spool of its own until they are committed."""

    def __init__(self, settings: SinkSettings, rows_max: int) -> None:
        super().__init__(Append(), settings)
        self.spool: list[Any] = []
        self.committed: list[tuple[int, int]] = []  # rows of the spool at each commit, and offset_next behind it
        self.largest = 0  # records that one call brought
        self._rows_max = rows_max
        self.bind("flow", "step")
        self.begin([Start(STREAM, 0, None)])

    @property
    def size(self) -> Size:
        return Size(self._rows_max, age_s=3_600.0, commit_s=None, staged=True)

    def connect(self, part: str, token: str) -> MemorySession:
        return SpooledSession(self, self.open_store(), token)


class SpooledSession(MemorySession):
    def stage(self, batches: Sequence[Batch[Any]]) -> None:
        target = self._target
        assert isinstance(target, Spooled)
        records = [record for one in batches for record in one.records]
        if bad := {n: "odd" for n, (offset, _) in enumerate(records) if offset % 10 == 5}:
            raise RowError("odd", bad=bad)
        target.largest = max(target.largest, len(records))
        target.spool += records

    def write_rows(self, transaction: Transaction, prepared: Change) -> None:
        target = self._target
        assert isinstance(target, Spooled)
        assert not prepared.batches, "they were staged"
        target.committed.append((len(target.spool), next(iter(prepared.after.values())).offset_next))
        rows, target.spool = target.spool, []
        target.write_rows(replace(prepared, batches=[batch(0, 0).with_records(rows, [0] * len(rows))]))


def test_a_change_of_any_size_is_staged_in_parts_and_committed_once_it_is_large_enough() -> None:
    target = Spooled(QUICK, rows_max=25)
    writer = Writer(target, "lane-000")
    for first in range(0, 70, 10):
        writer.put(batch(first, first + 10))
    until(lambda: len(target.committed) == 2, timeout_s=60, what="two changes are large enough")
    writer.flush()  # and the rest, whatever its size
    writer.close()
    good = [offset for offset in range(70) if offset % 10 != 5]
    assert target.rows == [(offset, 0) for offset in good]
    assert [letter.offset for letter in target.dead_letters] == list(range(5, 70, 10))
    assert [rows for rows, _ in target.committed[:2]] == [27, 27]
    assert [offset_next for _, offset_next in target.committed] == [30, 60, 70]
    assert target.positions()[0].offset_next == 70
    assert target.largest <= 27


def test_what_was_staged_and_not_committed_comes_again() -> None:
    target = Spooled(QUICK, rows_max=1_000)
    writer = Writer(target, "lane-000")
    writer.put(batch(0, 4))
    until(lambda: len(target.spool) == 4, timeout_s=60, what="it is staged")
    writer.close()  # as at an end that nobody asked for
    assert target.positions()[0].offset_next == 0
    target.spool.clear()  # it goes with the process
    run(target, [batch(0, 4)])
    assert target.rows == [(offset, 0) for offset in range(4)]


def staged_flow(target: Spooled) -> Dataflow:
    """Forty records of its stream, an epoch a batch."""
    flow = Dataflow("flow")
    source = MemorySource([b"%d" % n for n in range(40)], batch_records=4, lanes=1, topic="other")
    sink("step", ww.map("row", read("in", flow, source), lambda value: (int(value or 0), 0)), target)
    return flow


def test_an_epoch_s_end_cuts_no_staged_change_while_its_source_goes_on() -> None:
    target = Spooled(QUICK, rows_max=1_000)
    run_main(staged_flow(target), epoch_interval=timedelta(0))
    assert len(target.rows) == 36
    assert len(target.committed) == 1


def test_nor_when_another_source_of_the_same_target_ends() -> None:
    target = Spooled(QUICK, rows_max=1_000)
    flow = Dataflow("flow")
    sources = [
        read(topic, flow, MemorySource([b"%d" % n for n in range(size)], batch_records=4, lanes=1, topic=topic))
        for topic, size in (("short", 4), ("long", 40))
    ]
    rows = ww.map("row", op.merge("both", *sources), lambda value: (int(value or 0), 0))
    sink("step", rows, target)
    run_main(flow, epoch_interval=timedelta(0))
    assert len(target.rows) == 4 + 36
    assert len(target.committed) == 1


def test_a_lane_without_a_stream_is_not_waited_for() -> None:
    """It would have nothing to say its end by."""
    target = Spooled(QUICK, rows_max=1_000)
    source = MemorySource([b"%d" % n for n in range(10)], batch_records=4, lanes=2, topic="other", feeds=[target])
    lanes = [source.build_part("flow.in", name, None) for name in source.list_parts()]
    try:
        until(lambda: bool(lanes[0].next_batch()), timeout_s=60, what="there is something to read")
        assert target.is_read("lane-000")
        assert not target.is_read("lane-001")
        with pytest.raises(StopIteration):
            until(lambda: bool(lanes[1].next_batch()), timeout_s=60, what="it has come to its end")
        assert target.is_read()
        with pytest.raises(StopIteration):
            until(lambda: lanes[0].next_batch() is None, timeout_s=60, what="so has the other one")
    finally:
        for lane in lanes:
            lane.close()
    assert not target.is_read()


def test_with_a_recovery_store_an_epoch_s_end_is_a_barrier_for_staged_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BYTEWAX_RECOVERY_DIRECTORY", "/somewhere")
    target = Spooled(QUICK, rows_max=1_000)
    run_main(staged_flow(target), epoch_interval=timedelta(0))
    assert len(target.rows) == 36
    assert len(target.committed) > 2


def test_refusals_without_a_name_stop_a_target_that_can_not_try() -> None:
    class Mute(MemoryTarget):
        def connect(self, part: str, token: str) -> Session:  # type: ignore[override]  # it can't try
            return MuteSession(super().connect(part, token))

    class MuteSession(Session):
        def __init__(self, inner: MemorySession) -> None:
            self._inner = inner

        def take_over(self, stream: Stream) -> Position:
            return self._inner.take_over(stream)

        def commit(self, change: Change) -> None:
            raise RowError("something is wrong with some row")

        def close(self) -> None:
            self._inner.close()

    target = Mute(Append(), QUICK)
    target.bind("flow", "step")
    target.begin([Start(STREAM, 0, None)])
    with pytest.raises(TableError, match="it does not say which: something is wrong"):
        run(target, [batch(0, 3)])
