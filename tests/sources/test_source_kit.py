"""The source kit over any kind of source: tokens, what can't be read again, several sources, servers that are away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, TypedDict

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from sinks import MemoryTarget, MemoryWindows, sink, window_sink
from sources import read
from sources.kit import Log, NotThere, Options, Place, Run, Source, numbered
from sources.kit.reading.stream import StreamReader
from sources.kit.starting.positions import open_feeds
from sources.kit.words import OpenPart
from sources.memory import MemorySource
from tests.servers.process import until
from waxwing import operators as ww
from waxwing.batch import Stream
from waxwing.change import Position, Start
from waxwing.errors import ConfigError, DataLoss, OffsetGap, TargetError, TransientError, WaxwingError
from waxwing.operators.windows import Count, Tumbling, Windows


class Reading(TypedDict):
    at: int


def items(end: int) -> list[bytes]:
    return [b"%d" % number for number in range(end)]


class Told(MemorySource):
    """A memory source that says from where it was read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.places: list[tuple[int, bytes | None]] = []

    @override
    def read(self, place: Place) -> Iterator[Run]:
        self.places.append((place.offset, place.token))
        yield from super().read(place)


def run(source: Source, *targets: MemoryTarget) -> None:
    flow = Dataflow("flow")
    batches = read("in", flow, source)
    for number, target in enumerate(targets):
        sink(f"out_{number}", batches, target)
    run_main(flow)


def refused(kind: type[WaxwingError], call: Callable[[], object], match: str) -> WaxwingError:
    with pytest.raises(BaseException, match=r".") as caught:  # Bytewax's own, at times
        call()
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, WaxwingError):
        error = error.__cause__ or error.__context__
    assert isinstance(error, kind), caught.value
    assert match in str(error)
    return error


# -- tokens ------------------------------------------------------------------------------------------


@given(
    ends=st.lists(st.integers(0, 12), min_size=1, max_size=3).map(sorted),
    tokens=st.sets(st.integers(1, 11)),
    size=st.integers(1, 5),
    late=st.integers(0, 2),
)
@settings(max_examples=40)
def test_a_source_is_read_from_the_token_below_the_lowest_position_and_each_record_is_taken_in_once(
    ends: list[int], tokens: set[int], size: int, late: int
) -> None:
    first, second = MemoryTarget(), MemoryTarget()
    for number, end in enumerate([*ends, 12]):  # each run finds more; the second target joins later
        targets = [first, second] if number >= min(late, len(ends)) else [first]
        stood = [position for target in targets for position in target.positions()]
        source = Told(items(end), tokens=tokens, batch_records=size)
        run(source, *targets)
        lowest = min((position.offset_next for position in stood), default=0) if len(stood) == len(targets) else 0
        held = [(at, p.token) for p in stood if (at := p.token_offset) is not None and at <= lowest]
        # (Where a target stands higher, that place is looked at before.)
        assert source.places[-1] == max(held, default=(0, b"0"))
        assert len(source.places) <= 2
        for target in targets:
            (position,) = target.positions()
            at = max(place for place in {0, *tokens} if place <= end)
            # (Where the log ended before this place was met as a batch's end, the token is an earlier one.)
            assert position.offset_next == end
            assert position.token == b"%d" % (position.token_offset or 0)
            assert (position.token_offset or 0) <= at
    assert first.rows == second.rows == items(12)


def test_a_token_stands_with_the_batch_that_ends_there_and_a_run_of_nothing_moves_it_on() -> None:
    stream = Stream("flow", "log", "id", 0)
    reader = StreamReader("lane-000", OpenPart(stream, 7, (8,), None, b"five", 5))

    def taken(first: int, *values: bytes, token: bytes | None = None, to: int | None = None) -> list[tuple[int, int, Any]]:
        made = numbered(first, values, token=token)
        batches = reader.take(made if to is None else Run(made.messages, to, token))
        return [(one.offset_first, one.offset_next, one.token) for one in batches]

    assert taken(5, b"5") == [], "below the position: it was passed on before"
    assert taken(6, token=b"six", to=6) == [], "nor is the token of a place below it that of the position"
    assert taken(6, b"6", token=b"seven") == [(7, 7, b"seven")], "no record of it is new, but its place is later"
    assert taken(7, b"7", b"8", b"9") == [(7, 8, None), (8, 10, None)]
    assert taken(10, b"10", token=b"eleven") == [(10, 11, b"eleven")]
    assert taken(11, token=b"quiet", to=11) == [(11, 11, b"quiet")]
    assert taken(11, token=b"quiet", to=11) == [], "it is known"
    assert taken(9, b"9", b"10", b"11") == [(11, 12, None)], "read again from a token, after the connection was lost"
    assert (reader.position, reader.token, reader.token_offset) == (12, b"quiet", 11)


def test_a_source_that_counts_from_the_start_again_is_stopped_for_it_would_look_like_a_replay() -> None:
    class Miscounted(MemorySource):
        @override
        def read(self, place: Place) -> Iterator[Run]:
            yield from super().read(Place(place.stream, 0, b"0"))

    target = MemoryTarget()
    run(MemorySource(items(5), tokens={5}), target)
    refused(
        TargetError, lambda: run(Miscounted(items(9), tokens={5}), target), "gave offset 0, and what comes next is 5 or higher"
    )
    assert target.rows == items(5)


def test_a_token_that_no_target_could_keep_is_a_bug_of_the_source() -> None:
    with pytest.raises(TargetError, match="5,000 bytes"):
        numbered(0, [], token=b"x" * 5_000)


def test_a_stream_that_is_polled_in_vain_is_idle_from_when_it_first_came_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("sources.kit.reading.stream.time", SimpleNamespace(monotonic=lambda: now_s))
    reader = StreamReader("lane-000", OpenPart(Stream("flow", "log", "id", 0), 0))
    marks = []
    for now_s in (100.0, 101.0, 102.0, 103.0):
        assert reader.take(Run(numbered(0, []).messages, 0), at_end=True) == []
        marks += [(now_s, mark.idle_s) for mark in reader.idle([2.0])]
    assert marks == [(102.0, 2.0)]
    now_s = 104.0
    assert [one.token for one in reader.take(Run(numbered(0, []).messages, 0, b"later"), at_end=True)] == [b"later"]
    now_s = 107.0
    assert [mark.idle_s for mark in reader.idle([2.0])] == [7.0], "it says where it stands, and brings nothing"
    reader.take(numbered(0, [b"0"]))
    assert reader.idle([0.0]) == [], "there may be more"


def test_without_tokens_an_offset_below_the_position_is_refused() -> None:
    reader = StreamReader("lane-000", OpenPart(Stream("flow", "log", "id", 0), 5))
    with pytest.raises(OffsetGap, match="gave offset 4 below the position 5"):
        reader.take(numbered(4, [b"4", b"5"]))


class Forgetful(MemorySource):
    """A log of which the server forgets what all have taken in: it is read from tokens alone, and counted from the first."""

    @override
    def describe(self) -> Sequence[Log]:
        (log,) = super().describe()
        return [Log(log.source, log.source_id, first=0, token=b"%d" % self.now, kept=False)]

    now = 0

    @override
    def read(self, place: Place) -> Iterator[Run]:
        assert place.token is not None
        at = int(place.token)
        values = items(20)[at:] if self.now < 10 else items(30)[at:]
        for n, value in enumerate(values):
            yield numbered(place.offset + n, [value], token=b"%d" % (at + n + 1) if (at + n) % 4 == 3 else None)


def test_of_a_log_that_is_not_kept_a_step_added_later_begins_at_the_lowest_place_of_the_others() -> None:
    first, added = MemoryTarget(), MemoryTarget()
    source = Forgetful([])
    source.now = 5  # the log's present place, which gets the number 0
    run(source, first)
    assert first.rows == items(20)[5:]
    (position,) = first.positions()
    assert (position.offset_next, position.token_offset, position.token) == (15, 15, b"20")
    held = first._memory.contents.positions  # cut behind 16
    place = {"token": b"16", "token_offset": 11}
    first._memory.contents.positions = {key: row._replace(position=row.position._replace(**place)) for key, row in held.items()}  # type: ignore[arg-type]  # of two fields
    source = Forgetful([])
    source.now = 10
    run(source, first, added)
    assert first.rows == items(30)[5:]
    assert added.rows == items(30)[16:], "whole from a place that the server can name, never from the middle"
    assert added.positions()[0].offset_start == 11


class Moment(TypedDict):
    at: int


def test_windows_that_an_earlier_release_kept_without_a_token_have_that_of_their_start() -> None:
    minutes = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    windows = MemoryWindows(minutes)
    places = []
    for tokens, end in ((None, 3), ({4}, 5), ({4}, 9)):
        flow = Dataflow("flow")
        source = Told([{"at": n} for n in range(end)], tokens=tokens, ends=end == 9)
        window_sink("totals", ww.parse("parse", read("in", flow, source), Moment), windows)
        run_main(flow)
        places += source.places
    assert places == [(0, None), (0, b"0"), (4, b"4")]
    assert [row["n"] for row in windows.rows] == [9]


class NoTokens(MemoryTarget):
    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        return [one._replace(token=None, token_offset=None) for one in super().begin(starts)]


def test_a_log_that_is_not_kept_is_not_read_into_what_keeps_no_tokens() -> None:
    error = refused(
        ConfigError, lambda: run(Forgetful([]), NoTokens()), "memory keeps no tokens, and the log of memory is not kept"
    )
    assert error.exit_code == 78


def test_a_bounded_run_of_which_some_ends_are_unknown_keeps_those_that_are_known() -> None:
    known, unknown = Stream("flow", "a", "id a", 0), Stream("flow", "b", "id b", 0)
    target = MemoryTarget()
    target.bind("flow", "out", {})
    logs = {known: 0, unknown: 0}
    for end in (5, 9):  # the second run finishes what the first one began
        starts = open_feeds([target], logs, lambda: logs, {known: end, unknown: None})
        assert {stream: start.offset_end for stream, start in starts.items()} == {known: 5, unknown: None}


# -- what can't be read again --------------------------------------------------------------------------


def test_what_can_t_be_read_again_goes_on_at_its_token_in_whole_batches() -> None:
    target = MemoryTarget()
    run(MemorySource([b"a", b"b", b"c"], replayable=False, batch_records=2), target)
    source = Told([b"gone", b"another", b"changed", b"d"], replayable=False, batch_records=2)
    run(source, target)
    assert source.places == [(3, b"3")]
    assert target.rows == [b"a", b"b", b"c", b"d"]
    assert target.positions()[0].place == (4, b"4")


def test_what_can_t_be_read_again_feeds_one_step_and_no_windows() -> None:
    source = MemorySource([b"a"], replayable=False)
    error = refused(ConfigError, lambda: run(source, MemoryTarget(), MemoryTarget()), "it feeds one sink step, and here are 2")
    assert error.exit_code == 78
    assert "out_0, out_1" in error.message
    flow, minutes = Dataflow("flow"), Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    window_sink(
        "totals", op.map("same", read("in", flow, MemorySource([], replayable=False)), lambda b: b), MemoryWindows(minutes)
    )
    refused(ConfigError, lambda: run_main(flow), "totals folds windows")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [(numbered(0, [b"a"]), "in part"), (numbered(0, [b"a"], whole=True), "without a token")],
)
def test_a_source_that_can_t_be_read_again_and_does_not_say_where_it_is_is_stopped(wrong: Run, told: str) -> None:
    reader = StreamReader("lane-000", OpenPart(Stream("flow", "table", "id", 0), 0), replayable=False)
    with pytest.raises(TargetError, match=told):
        reader.take(wrong)


def test_a_whole_run_is_never_cut() -> None:
    reader = StreamReader("lane-000", OpenPart(Stream("flow", "table", "id", 0), 0, (1,)))
    with pytest.raises(OffsetGap, match=r"1 lies inside a run, 0 to 1, that is never cut"):
        reader.take(numbered(0, [b"a", b"b"], token=b"2", whole=True))


# -- several sources -----------------------------------------------------------------------------------


def test_several_sources_by_name_or_pattern_are_read_in_lanes_spread_by_their_names() -> None:
    topics = {f"orders.{n}": {0: [b"%d" % n]} for n in range(9)}
    by_name, by_pattern = MemoryTarget(), MemoryTarget()
    run(MemorySource(sources=topics, lanes=4), by_name)
    source = MemorySource(sources={**topics, "returns": {0: [b"no"]}}, pattern=r"orders\..", lanes=4)
    run(source, by_pattern)
    assert sorted(by_name.rows) == sorted(by_pattern.rows) == items(9)
    assert {position.stream.source for position in by_pattern.positions()} == set(topics)
    assert len({source.lane_of(position.stream) for position in by_pattern.positions()}) == 4


def test_a_pattern_that_fits_what_another_source_reads_into_the_same_step_is_told() -> None:
    topics = {"a.1": {0: [b"1"]}, "a.2": {0: [b"2"]}}
    flow, target = Dataflow("flow"), MemoryTarget()
    both = [read("in", flow, MemorySource(sources=topics, pattern="a.*")), read("more", flow, MemorySource([b"x"], topic="a.2"))]
    sink("out", op.merge("both", *both), target)
    refused(ConfigError, lambda: run_main(flow), "Flow flow reads 'a.2' twice into step out")


def test_windows_over_a_pattern_wait_for_all_of_its_streams() -> None:
    minutes = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    target = MemoryWindows(minutes)
    for run_ in range(2):
        more = [{"at": 200 + run_ * 100}]
        topics = {"a.1": {0: [{"at": 1}, {"at": 100}, *more]}, "a.2": {0: [{"at": 2}, {"at": 101}, *more]}}
        if run_:
            topics = {name: {0: [{"at": 1}, {"at": 100}, {"at": 200}, *more]} for name in topics}
        source, flow = MemorySource(sources=topics, pattern="a.*", lanes=2, ends=bool(run_)), Dataflow("flow")
        records = ww.parse("parse", read("in", flow, source), Reading)
        window_sink("totals", records, target)
        run_main(flow)
    assert [(row["window_start"] // 1_000_000, row["n"]) for row in target.rows] == [(0, 2), (60, 2), (180, 2), (300, 2)]
    assert target.dead_letters == []


# -- patience ------------------------------------------------------------------------------------------


class Shaky(Source):
    """A log of ten records that is away now and then."""

    def __init__(self, failures: int, **options: Any) -> None:
        super().__init__("log", options=Options(**{"lanes": 1, "until": "end", **options}))
        self.failures, self.closed, self.reads = failures, 0, 0

    def _may_fail(self) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise TransientError("The log is away.")

    @override
    def describe(self) -> Sequence[Log]:
        self._may_fail()
        return [Log("log", "id", end=10)]

    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        self.reads += 1
        for number in range(place.offset, 10):
            if number % 4 == 3:
                yield None
                self.failures += self.reads == number // 4 + 1
                self._may_fail()
            yield numbered(number, [b"%d" % number])

    @override
    def close(self) -> None:
        self.closed += 1


def test_a_source_that_is_away_is_asked_again_and_goes_on_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sources.kit.reading.by_stream.RETRY_FIRST_S", 0.001)
    monkeypatch.setattr("sources.kit.patience.RETRY_FIRST_S", 0.001)
    source, target = Shaky(failures=2), MemoryTarget()
    run(source, target)
    assert target.rows == items(10)
    assert (source.reads, source.failures) == (3, 0)
    assert source.closed == 1
    assert target.positions()[0].offset_end == 10


def test_a_source_that_stays_away_ends_the_run_within_its_time() -> None:
    error = refused(TransientError, lambda: run(Shaky(failures=99, away_max_s=0.0), MemoryTarget()), "The log is away.")
    assert error.exit_code == 75


def test_what_is_not_there_is_refused_or_waited_for() -> None:
    class Absent(Shaky):
        asked = 0

        @override
        def describe(self) -> Sequence[Log]:
            self.asked += 1
            return super().describe() if self.asked > 1 else []

    refused(ConfigError, lambda: run(Absent(0, on_unknown="fail"), MemoryTarget()), "Source 'log' does not exist.")
    target = MemoryTarget()
    run(Absent(0), target)
    assert target.rows == items(10)


def test_what_goes_away_while_the_source_is_asked_is_looked_for_again() -> None:
    class Flickers(Shaky):
        asked = 0

        @override
        def describe(self) -> Sequence[Log]:
            self.asked += 1
            if self.asked == 4:  # two at the start, then one a look
                raise NotThere("log")
            return [Log("log", "id")]

        @override
        def read(self, place: Place) -> Iterator[Run | None]:
            yield None
            while self.asked < 6:
                yield None
            yield from super().read(place)

    source, target = Flickers(0, refresh_interval_s=0.001), MemoryTarget()
    run(source, target)
    assert target.rows == items(10)


def test_a_source_made_anew_is_told_and_read_from_its_start_where_that_is_meant() -> None:
    target = MemoryTarget()
    run(MemorySource([b"a"], source_id="first"), target)
    refused(DataLoss, lambda: run(MemorySource([b"b"], source_id="second"), target), "was deleted and created again")


def test_a_source_needs_names_or_a_pattern_and_lanes_that_can_be() -> None:
    for wrong, told in ((lambda: MemorySource(sources={}), "needs names"), (lambda: Options(lanes=0), "0 lanes")):
        with pytest.raises(ConfigError, match=told):
            wrong()


def test_batches_of_a_source_join_without_a_gap_whatever_its_runs_leave_out() -> None:
    stream = Stream("flow", "log", "id", 0)
    reader = StreamReader("lane-000", OpenPart(stream, 0))
    batches = [
        *reader.take(numbered(3, [b"3"])),
        *reader.take(Run(numbered(5, []).messages, 9)),
        *reader.take(numbered(20, [b""])),
    ]
    assert all(a.offset_next == b.offset_first for a, b in pairwise(batches))
    assert (batches[0].offset_first, batches[-1].offset_next) == (0, 21)


# -- what the source alone knows to be lost --------------------------------------------------------------


class Rewritten(Source):
    """A log whose end nobody knows: that a place is not there any more is found where it is read."""

    kept = True

    def __init__(self, values: Sequence[bytes], **options: Any) -> None:
        super().__init__("log", options=Options(**{"lanes": 1, "until": "end", **options}))
        self.values = values

    @override
    def describe(self) -> Sequence[Log]:
        return [Log("log", "id", token=b"0", kept=self.kept)]

    @override
    def read(self, place: Place) -> Iterator[Run]:
        at, _, last = (place.token or b"").partition(b":")
        if last and self.values[int(at) - 1 : int(at)] != [last]:
            raise DataLoss("The log was written anew.", hint="Look at it.")
        for n, value in enumerate(self.values[int(at) :]):
            yield numbered(place.offset + n, [value], token=b"%d:%s" % (int(at) + n + 1, value))

    @override
    def close(self) -> None:
        """Nothing is open."""


def test_a_loss_that_a_source_finds_where_it_reads_is_told_or_the_log_is_read_from_its_start() -> None:
    minutes = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    first, second, windows = MemoryTarget(), MemoryTarget(), MemoryWindows(minutes)

    def go(source: Source, *targets: MemoryTarget) -> None:
        flow = Dataflow("flow")
        batches = read("in", flow, source)
        for number, target in enumerate(targets):
            sink(f"out_{number}", batches, target)
        window_sink("totals", ww.parse("parse", batches, Reading), windows)
        run_main(flow)

    old, new = [b'{"at":1}', b'{"at":2}', b'{"at":3}'], [b'{"at":700}', b'{"at":701}']
    go(Rewritten(old), first)
    error = refused(DataLoss, lambda: go(Rewritten(new), first), "The log was written anew.")
    refused(DataLoss, lambda: go(Rewritten(new), first, second), "The log was written anew.")  # though the second begins at 0
    assert second.rows == []
    assert "Look at it. ON_DATA_LOSS=continue reads the stream anew from its log's start" in error.hint
    go(Rewritten(new, on_data_loss="continue"), first, second)
    assert (first.rows, second.rows) == ([*old, *new], new)
    places = {(p.offset_next, p.token_offset, p.token) for p in [*first.positions(), *second.positions(), *windows.positions()]}
    assert places == {(2, 2, b'2:{"at":701}')}
    go(Rewritten([*new, b'{"at":702}']), first, second)  # from there it goes on as ever
    assert first.rows == [*old, *new, b'{"at":702}']
    assert [(row["window_start"] // 1_000_000, row["n"]) for row in windows.rows] == [(0, 3), (660, 2)]


def test_a_loss_of_what_is_not_kept_is_never_passed_over() -> None:
    class Slot(Rewritten):
        kept = False

    target = MemoryTarget()
    run(Slot([b"a", b"b"]), target)
    refused(DataLoss, lambda: run(Slot([b"c"], on_data_loss="continue"), target), "The log was written anew.")
    assert target.rows == [b"a", b"b"]


def test_a_loss_while_it_is_read_ends_the_run_where_the_next_start_goes_on() -> None:
    class Later(Rewritten):
        @override
        def read(self, place: Place) -> Iterator[Run]:
            yield from super().read(place)
            until(lambda: len(target.rows) == 2, timeout_s=60, what="what was read before is written")
            self.values = [b"c"]
            yield from super().read(Place(place.stream, 2, b"2:b"))

    target = MemoryTarget()
    source = Later([b"a", b"b"], on_data_loss="continue")
    error = refused(TransientError, lambda: run(source, target), "written anew. (ON_DATA_LOSS=continue)")
    assert error.exit_code == 75
    run(Rewritten([b"c"], on_data_loss="continue"), target)
    assert target.rows == [b"a", b"b", b"c"]
