"""Windows over two topics: the source of one begins long after the other's has read all there is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import bytewax.operators as op
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.inputs import StatefulSourcePartition
from typing_extensions import override

from sinks import MemoryWindows, SqlLiveWindows, SqlWindows, window_sink
from sources.memory import MemorySource
from tests.conformance.place import ON_THREE, Place
from tests.conformance.test_starts import Record, at, letters, names, play, settings, steps_of
from waxwing import operators as ww
from waxwing.operators.windows import Count, Tumbling, Windows

MINUTES = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)


class Late(MemorySource):
    """A memory source that begins only when it may."""

    may: Callable[[], bool]

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> Any:
        build = super().build_part
        return _LatePart(lambda: build(step_id, for_part, resume_state), self.may)


class _LatePart(StatefulSourcePartition[Any, Any]):
    def __init__(self, build: Callable[[], Any], may: Callable[[], bool]) -> None:
        self._build, self._may = build, may
        self._part: Any = None

    @override
    def next_batch(self) -> Any:
        if self._part is None:
            if not self._may():
                return []
            self._part = self._build()
        return self._part.next_batch()

    @override
    def snapshot(self) -> Any:
        return None


def seconds(*times: int) -> list[dict[str, int]]:
    return [{"id": n, "at": time} for n, time in enumerate(times)]


def run(flow: str, target: Any, topic: str, first: list[Any], second: list[Any], may: Callable[[], bool]) -> None:
    graph = Dataflow(flow)
    late = Late(second, feeds=[target], topic=f"{topic}-late")
    late.may = may
    sources = {"early": MemorySource(first, feeds=[target], topic=topic), "late": late}
    records = [ww.parse(f"parse_{name}", op.input(name, graph, source), Record) for name, source in sources.items()]
    window_sink("totals", op.merge("both", *records), target)
    play(graph)


@ON_THREE
@pytest.mark.parametrize("kind", [SqlWindows, SqlLiveWindows])
def test_nothing_closes_before_the_other_topic_s_source_has_begun(place: Place, kind: Any) -> None:
    flow, _, topic = names()
    to = place.table(sa.Column("window_start", sa.BigInteger, primary_key=True, autoincrement=False), sa.Column("n", sa.Integer))

    def stands_at(offset: int) -> Callable[[], bool]:
        def stands() -> bool:
            found = [one for one in steps_of(place, flow).positions_of("totals") if one.stream.source == topic]
            return bool(found) and found[0].offset_next >= offset

        return stands

    first, second = seconds(1, 70, 130), seconds(2, 71, 3)
    run(flow, at(place, kind(settings(place), to, MINUTES)), topic, first, second, stands_at(3))
    late = [] if kind is SqlLiveWindows else [2]  # behind second 71 of its own topic
    assert place.read(to) == [(0, 3 - len(late)), (60, 2), (120, 1)]
    assert [offset for _, offset, _ in letters(place, flow)] == late
    # A restart: both are known, and again the one comes after the other.
    first, second = [*first, *seconds(190, 250)], [*second, *seconds(191, 251)]
    run(flow, at(place, kind(settings(place), to, MINUTES)), topic, first, second, stands_at(5))
    assert place.read(to)[3:] == [(180, 2), (240, 2)]
    assert [offset for _, offset, _ in letters(place, flow)] == late


def test_memory_waits_for_the_other_topic_too() -> None:
    target = MemoryWindows(MINUTES)
    calls = count()
    run("flow", target, "topic", seconds(1, 70), seconds(2, 71), lambda: next(calls) > 50)
    assert [(row["window_start"] // 1_000_000, row["n"]) for row in target.rows] == [(0, 2), (60, 2)]
    assert target.dead_letters == []
