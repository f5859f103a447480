"""Windows over two topics: the source of one begins long after the other's has read all there is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.inputs import StatefulSourcePartition
from pydantic import SecretStr
from typing_extensions import override

from sinks import MemoryWindows, SqlLiveWindows, SqlWindows, window_sink
from sources.memory import MemorySource
from tests.conformance.place import ON_THREE, Place
from tests.conformance.writing.test_starts import Record, at, letters, names, play, settings, steps_of
from waxwing import operators as ww
from waxwing.batch import Stream
from waxwing.change import Start
from waxwing.errors import TableError
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import SqlWindowSettings
from waxwing.target import Expected

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
            try:
                found = [one for one in steps_of(place, flow).positions_of("totals") if one.stream.source == topic]
            except TableError:  # the other source has not made them yet
                return False
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


@pytest.mark.parametrize("in_memory", [True, False])
def test_of_a_pattern_s_streams_those_are_waited_for_that_are_read_now(in_memory: bool, tmp_path: Path) -> None:
    def a_target() -> Any:
        if in_memory:
            return MemoryWindows(MINUTES)
        url = f"sqlite:///{tmp_path / 'windows.sqlite'}"
        return SqlWindows(SqlWindowSettings(database_url=SecretStr(url)), totals, MINUTES)

    totals = sa.Table("t", sa.MetaData(), sa.Column("window_start", sa.BigInteger, primary_key=True), sa.Column("n", sa.Integer))
    kept = a_target()
    pattern, name = Expected(r"orders\..*", pattern=True), Expected("payments")
    names = ("orders.de", "orders.fr", "orders.at", "payments")
    de, fr, at_, other = (Stream("flow", source, f"id {source}", 0) for source in names)
    for now, known in (([de, fr], 2), ([fr], 1), ([fr, at_], 2)):  # each a run: of the second one a topic is gone
        target = kept if in_memory else a_target()
        target.bind("flow", "totals", {})
        target.prepare()
        for expected in (pattern, name):
            target.expect(expected)
        target.begin([Start(stream, 0, None) for stream in now])
        of_pattern = {stream for stream in target.read_streams() if pattern.has(stream.source)}
        assert (of_pattern, len(of_pattern)) == (set(now), known)
        target.begin([Start(other, 0, None)])  # the other reader's: nothing changes for the pattern's
        assert set(target.read_streams()) == {*now, other}
        assert target.not_begun(target.read_streams()) == set()
    assert target.not_begun([other]) == {pattern}
    assert not Expected("orders.de").has("ordersxde")
