"""Where streams start and end, decided over the positions that targets hold."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from typing_extensions import override

from sinks import MemoryTarget
from sources.kit.starting.positions import StartAt, StepAt, open_feeds
from sources.kit.starting.saying import say_starts
from waxwing.batch import Stream
from waxwing.change import Position, Start

ONE, TWO = (Stream("flow", "t", "id", number) for number in range(2))


class Holding(MemoryTarget):
    """A target that holds these positions, several of a stream where it has buckets, and remembers what it was told."""

    def __init__(self, step: str, *held: Position) -> None:
        super().__init__()
        self.bind("flow", step)
        self.held, self.told = list(held), dict[Stream, int | None]()

    @override
    def positions(self) -> Sequence[Position]:
        return self.held

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        self.told = {start.stream: start.offset_end for start in starts}
        known = {position.stream for position in self.held}
        new = [Position(one.stream, one.offset_start, one.offset_start) for one in starts if one.stream not in known]
        return [position._replace(offset_end=self.told[position.stream]) for position in (*self.held, *new)]


def at(stream: Stream, offset: int, end: int | None) -> Position:
    return Position(stream, offset, 0, end)


def ends(*targets: Holding, log_ends: tuple[int, int] = (900, 900)) -> list[dict[Stream, int | None]]:
    logs = {ONE: 0, TWO: 0}
    opened = open_feeds(targets, logs, lambda: logs, dict(zip(logs, log_ends, strict=True)))
    assert all(opened[stream].offset_end == targets[0].told[stream] for stream in logs)
    return [target.told for target in targets]


@pytest.mark.parametrize("last_first", [False, True])
def test_a_bounded_run_keeps_its_ends_while_any_bucket_is_behind_one(last_first: bool) -> None:
    buckets = [at(ONE, 60, 100), at(ONE, 100, 100)]
    windows = Holding("windows", *(buckets[::-1] if last_first else buckets), at(TWO, 70, 70), at(TWO, 70, 70))
    assert ends(windows) == [{ONE: 100, TWO: 70}]


def test_a_bounded_run_keeps_its_ends_whatever_other_targets_last_runs_ended_at() -> None:
    behind = Holding("behind", at(ONE, 60, 100), at(TWO, 70, 70))
    other = Holding("other", at(ONE, 80, 80), at(TWO, 400, 400))
    added = Holding("added")
    for order in ([behind, other, added], [added, other, behind]):
        assert ends(*order) == [{ONE: 100, TWO: 70}] * 3


def test_a_bounded_run_that_was_done_begins_another_with_the_log_s_ends_of_now() -> None:
    assert ends(Holding("a", at(ONE, 100, 100), at(TWO, 70, 70)), Holding("b")) == [{ONE: 900, TWO: 900}] * 2


def test_a_partition_that_an_unfinished_run_did_not_know_has_nothing_to_read() -> None:
    assert ends(Holding("a", at(ONE, 60, 100))) == [{ONE: 100, TWO: 0}]


def test_of_two_tokens_with_one_number_the_stored_one_is_read_from_whatever_the_log_s_start_is_called() -> None:
    held = Position(ONE, 3, 3, token=b"13", token_offset=3)  # nothing came about between the places 3 and 13
    opened = open_feeds([Holding("a", held)], {ONE: 3}, lambda: {ONE: 3}, None, token_of=lambda *_: b"3")
    assert (opened[ONE].token, opened[ONE].token_offset) == (b"13", 3)


def said(capsys: pytest.CaptureFixture[str], starts: dict[Stream, StartAt], start: str, *, anew: bool = False) -> list[str]:
    say_starts("flow", starts, start, anew=anew)
    return [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]


def test_many_partitions_are_summed_up_and_a_start_beside_stored_positions_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    starts = {
        Stream("flow", "t", "id", n): StartAt(n, steps=(StepAt("a", 10 * n, n > 8), StepAt("b", 7, False))) for n in range(12)
    }
    assert said(capsys, starts, "latest") == [
        (
            "Flow flow, step a: 9 of 12 partitions of t go on at 0 to 80, 3 of 12 partitions of t begin anew at 90 to 110. "
            "START=latest counts only where no position is stored."
        ),
        "Flow flow, step b: 12 of 12 partitions of t go on at 7. START=latest counts only where no position is stored.",
    ]
    few = {ONE: StartAt(0, steps=(StepAt("a", 0, True),)), TWO: StartAt(0, steps=(StepAt("a", 3, False),))}
    assert said(capsys, few, "", anew=True) == [
        (
            "Flow flow, step a: t[1] goes on at 3, t[0] begins anew at 0. "
            "BEGIN=anew does nothing for a step that has positions: take it out."
        )
    ]
    assert said(capsys, {ONE: few[ONE]}, "latest", anew=True) == ["Flow flow, step a: t[0] begins anew at 0."]


def test_many_sources_are_summed_up_by_the_first_and_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    starts = {Stream("flow", f"f{n:02}.csv", str(n), 0): StartAt(0, steps=(StepAt("a", 0, True),)) for n in range(25)}
    assert said(capsys, starts, "") == ["Flow flow, step a: 25 of 25 partitions of f00.csv and 24 others begin anew at 0."]
    assert said(capsys, dict(list(starts.items())[:9]), "")[0].endswith(
        "9 of 9 partitions of f00.csv and 8 others begin anew at 0."
    )


def test_what_began_at_start_s_place_goes_on_there_at_the_next_start_though_nothing_came() -> None:
    target = Holding("a")
    for held, anew in ([], True), ([Position(ONE, 4, 4)], False):
        target.held = held
        opened = open_feeds([target], {ONE: 0}, lambda: {ONE: 4}, None)
        assert opened[ONE].steps == (StepAt("a", 4, anew),)
