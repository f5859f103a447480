"""Flows over memory: the real operators and the real sink partition, run by Bytewax itself."""

from __future__ import annotations

from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.testing import cluster_main, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from sinks import MemoryTarget, sink
from sources.memory import MemorySource, Message
from waxwing.errors import ConfigError
from waxwing.settings import SinkSettings


def build(source: MemorySource, *targets: MemoryTarget) -> Dataflow:
    flow = Dataflow("flow")
    batches = op.input("in", flow, source)
    for number, target in enumerate(targets):
        sink(f"out_{number}", batches, target)
    return flow


sizes = st.lists(st.integers(0, 7), max_size=8)


@given(lengths=st.lists(st.integers(0, 15), min_size=1, max_size=3), cuts=st.lists(sizes, min_size=3, max_size=3), again=sizes)
@settings(max_examples=40)
def test_any_boundaries_and_a_longer_second_run_give_each_record_once(
    lengths: list[int], cuts: list[list[int]], again: list[int]
) -> None:
    data = {p: [b"%d.%d" % (p, n) for n in range(length)] for p, length in enumerate(lengths)}
    target = MemoryTarget()
    half: dict[int, list[Any]] = {p: items[: len(items) // 2] for p, items in data.items()}
    run_main(build(MemorySource(half, feeds=[target], batch_records=dict(enumerate(cuts)), lanes=2), target))
    run_main(build(MemorySource(data, feeds=[target], batch_records=dict.fromkeys(data, again)), target))
    for p, items in data.items():
        assert [row for row in target.rows if row.startswith(b"%d." % p)] == items
    assert {position.stream.partition: position.offset_next for position in target.positions()} == dict(enumerate(lengths))


@given(ahead=st.integers(0, 12), cut=st.integers(1, 12))
@settings(max_examples=30)
def test_two_targets_at_different_positions_each_get_the_rest_once(ahead: int, cut: int) -> None:
    data = [b"%d" % n for n in range(12)]
    first, second = MemoryTarget(), MemoryTarget()
    for target, name in ((first, "out_0"), (second, "out_1")):
        target.bind("flow", name)
    flow = Dataflow("flow")
    sink("out_0", op.input("in", flow, MemorySource(data[:ahead], feeds=[first])), first)
    run_main(flow)
    run_main(build(MemorySource(data, feeds=[first, second], batch_records=cut), first, second))
    assert first.rows == second.rows == data


@pytest.mark.parametrize("workers", [1, 2])
def test_lanes_are_spread_over_workers(workers: int) -> None:
    data: dict[int, list[Any]] = {p: [b"%d" % (100 * p + n) for n in range(50)] for p in range(4)}
    target = MemoryTarget(settings=SinkSettings(flush_interval_s=0.0, lanes=4))
    cluster_main(
        build(MemorySource(data, feeds=[target], lanes=4, batch_records=7), target), [], 0, worker_count_per_proc=workers
    )
    assert sorted(int(row) for row in target.rows) == sorted(100 * p + n for p in range(4) for n in range(50))


def test_offsets_with_holes_are_kept() -> None:
    target = MemoryTarget()
    data = [Message(b"a", offset=3), Message(b"b", offset=9), Message(b"c", offset=10)]
    run_main(build(MemorySource(data, feeds=[target], batch_records=1), target))
    assert target.rows == [b"a", b"b", b"c"]
    assert target.positions()[0].offset_next == 11


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(ConfigError, match="MemorySource: 1 is no message"):
        MemorySource([1])  # type: ignore[list-item]  # the mistake


def test_a_target_that_the_source_does_not_know_is_a_clear_error() -> None:
    target = MemoryTarget()
    with pytest.raises((ConfigError, RuntimeError), match=r"sources\.read|error") as caught:
        run_main(build(MemorySource([b"a"], feeds=[]), target))
    causes: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(isinstance(cause, ConfigError) and "sources.read" in str(cause) for cause in causes)


def test_a_renamed_step_is_refused_with_what_to_do() -> None:
    target = MemoryTarget()
    run_main(build(MemorySource([b"a"], feeds=[target]), target))
    target._step = ""
    flow = Dataflow("flow")
    sink("renamed", op.input("in", flow, MemorySource([b"a"], feeds=[target])), target)
    with pytest.raises(BaseException, match="step"):
        run_main(flow)


def test_two_sources_of_one_flow_feed_their_own_steps() -> None:
    first, second = MemoryTarget(), MemoryTarget()
    second._memory = first._memory  # one place holds the positions of both
    for _ in range(2):
        flow = Dataflow("flow")
        sink("a", op.input("in_a", flow, MemorySource([b"a"], topic="a", feeds=[first])), first)
        sink("b", op.input("in_b", flow, MemorySource([b"b"], topic="b", feeds=[second])), second)
        run_main(flow)
    assert (first.rows, second.rows) == ([b"a"], [b"b"])
