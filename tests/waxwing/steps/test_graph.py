"""Sources find the targets behind them in the graph, as its steps are drawn."""

from __future__ import annotations

from typing import Any, TypedDict

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow, operator
from bytewax.dataflow import Stream as Flowing
from bytewax.testing import TestingSource, run_main

from sinks import MemoryTarget, MemoryWindows, sink, window_sink
from sources import read
from sources.memory import MemorySource
from waxwing import operators as ww
from waxwing.errors import ConfigError
from waxwing.operators.windows import Count, Tumbling, Windows


class Reading(TypedDict):
    at: int


@operator
def wrapped(step_id: str, up: Flowing[Any]) -> Flowing[Any]:
    """An operator made of others."""
    return op.filter("all", op.map("same", up, lambda batch: batch), lambda _: True)


def test_sources_find_the_targets_behind_them_whatever_stands_between() -> None:
    minutes = Windows(by=(), time="at", kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    targets = {name: MemoryTarget() for name in ("near", "far", "of_both", "of_other")}
    totals = MemoryWindows(minutes)
    first, other = MemorySource([{"at": 1}], topic="first"), MemorySource([{"at": 2}], topic="other")
    for _ in range(2):  # a second graph over the same sources begins anew
        flow = Dataflow("flow")
        from_first, from_other = read("first", flow, first), op.input("other", flow, other)
        sink("near", from_first, targets["near"])
        records = ww.parse("parse", wrapped("wrapped", from_first), Reading)
        sink("far", ww.filter("some", records, bool), targets["far"])
        window_sink("totals", records, totals)
        sink("of_both", op.merge("both", from_first, from_other), targets["of_both"])
        sink("of_other", from_other, targets["of_other"])
        assert list(first._feeds) == [targets["near"], targets["far"], totals, targets["of_both"]]
        assert list(other._feeds) == [targets["of_both"], targets["of_other"]]
    run_main(flow)
    assert (targets["near"].rows, targets["far"].rows) == ([b'{"at":1}'], [Reading(at=1)])
    assert sorted(targets["of_both"].rows) == [b'{"at":1}', b'{"at":2}']
    assert [row["n"] for row in totals.rows] == [1]


def test_a_sink_and_its_source_within_one_operator_find_each_other() -> None:
    target, source = MemoryTarget(), MemorySource([b"a"])

    @operator
    def whole(step_id: str, flow: Dataflow) -> None:
        sink("out", read("in", flow, source), target)

    flow = Dataflow("flow")
    whole("whole", flow)
    assert list(source._feeds) == [target]


def test_what_is_given_by_hand_stands_alone() -> None:
    flow, target, given = Dataflow("flow"), MemoryTarget(), MemoryTarget()
    source = MemorySource([b"a"], feeds=[given])
    sink("out", read("in", flow, source), target)
    assert list(source._feeds) == [given]


def test_a_source_of_another_kind_is_told() -> None:
    with pytest.raises(ConfigError, match=r"read\('in'\): TestingSource is no source of Waxwing"):
        read("in", Dataflow("flow"), TestingSource([]))
