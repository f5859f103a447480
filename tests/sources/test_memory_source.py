"""The memory source: values, boundaries and offsets as chosen, and going on where recovery or a target stands.

Its flows into targets are in tests/dataflows/test_memory.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import bytewax.operators as op
import pytest
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, run_main
from hypothesis import given
from hypothesis import strategies as st

from sinks import MemoryTarget, sink
from sources.memory import MemorySource, Message
from waxwing.batch import Batch


def read(source: MemorySource, lane: str = "lane-000", *, marks: bool = False) -> list[Batch[bytes | None]]:
    """The batches of a lane: those with records, or the marks of the partitions' ends."""
    part = source.build_part("flow.in", lane, None)
    out: list[Batch[bytes | None]] = []
    while True:
        try:
            out.extend(batch for batch in part.next_batch() if bool(batch.mark) == marks)
        except StopIteration:
            return out


def test_dicts_become_json_and_the_rest_stays_as_it_is() -> None:
    message = Message(b"v", b"k", (("h", b"x"),), 7, 40)
    (batch,) = read(MemorySource([{"a": 1, "ä": None}, b"raw", None, message, b"behind"]))
    m = batch.messages
    assert list(batch.records) == list(m.values) == ['{"a":1,"ä":null}'.encode(), b"raw", None, b"v", b"behind"]
    assert (m.keys[3], m.headers[3], m.timestamps_ms[3], m.timestamps_ms[0]) == (b"k", (("h", b"x"),), 7, -1)
    assert list(m.offsets) == [0, 1, 2, 40, 41]
    assert (batch.offset_first, batch.offset_next, str(batch.stream)) == (0, 42, "memory[0]")


@given(st.lists(st.integers(1, 4), max_size=10), st.integers(1, 5) | st.lists(st.integers(0, 4), max_size=6))
def test_batches_join_without_gap_and_have_the_chosen_sizes(steps: list[int], sizes: int | Sequence[int]) -> None:
    offsets = [sum(steps[: n + 1]) for n in range(len(steps))]
    chosen: int | Mapping[int, Sequence[int]] = sizes if isinstance(sizes, int) else {0: sizes}
    batches = read(MemorySource([Message(b"%d" % offset, offset=offset) for offset in offsets], batch_records=chosen))
    assert [value for batch in batches for value in batch.records] == [b"%d" % offset for offset in offsets]
    assert all(a.offset_next == b.offset_first for a, b in pairwise(batches))
    got = [len(batch.messages) for batch in batches]
    expected = [sizes] * len(got) if isinstance(sizes, int) else list(sizes)
    assert got[:-1] == expected[: len(got) - 1]


def test_each_partition_ends_with_a_mark_behind_its_last_record_unless_more_is_to_come() -> None:
    data: dict[int, list[Message | bytes]] = {0: [b"a", Message(b"b", offset=7)], 1: []}
    (first, second) = sorted(read(MemorySource(data, batch_records=1), marks=True), key=lambda end: end.stream)
    assert [(str(end.stream), end.offset_first, end.offset_next, end.mark) for end in (first, second)] == [
        ("memory[0]", 8, 8, "end"),
        ("memory[1]", 0, 0, "end"),
    ]
    assert read(MemorySource(data, ends=False), marks=True) == []


def test_a_source_id_of_its_own_tells_it_from_another_of_its_name() -> None:
    assert [
        read(source)[0].stream.source_id
        for source in (MemorySource([b"a"], topic="t", source_id="1"), MemorySource([b"a"], topic="t"))
    ] == ["1", "name:t"]


def test_lane_i_reads_the_partitions_whose_number_leaves_i() -> None:
    source = MemorySource({p: [b"%d" % p] for p in range(5)}, lanes=2)
    assert source.list_parts() == ["lane-000", "lane-001"]
    assert [[batch.stream.partition for batch in read(source, lane)] for lane in source.list_parts()] == [[0, 2, 4], [1, 3]]
    assert {batch.lane for batch in read(source, "lane-001")} == {"lane-001"}


def numbers(end: int) -> list[Any]:
    return [b"%d" % n for n in range(end)]


@pytest.fixture
def recovery(tmp_path: Path) -> RecoveryConfig:
    init_db_dir(tmp_path, 1)
    return RecoveryConfig(str(tmp_path))


@pytest.mark.parametrize("sizes", [2, 5])
def test_without_targets_the_recovery_store_says_where_to_go_on(recovery: RecoveryConfig, sizes: int) -> None:
    out: list[Batch[Any]] = []
    for end, batch_records in ((6, 2), (12, sizes)):
        flow = Dataflow("flow")
        op.output("out", op.input("in", flow, MemorySource(numbers(end), batch_records=batch_records)), TestingSink(out))
        run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery)
    assert [value for batch in out for value in batch.records] == numbers(12)


def test_a_target_and_a_recovery_store_together_lose_nothing(recovery: RecoveryConfig) -> None:
    target, fresh = MemoryTarget(), MemoryTarget()
    for end, into in ((6, target), (12, target), (14, fresh)):
        flow = Dataflow("flow")
        sink("out", op.input("in", flow, MemorySource(numbers(end), batch_records=2, feeds=[into])), into)
        run_main(flow, epoch_interval=timedelta(0), recovery_config=recovery)
    assert target.rows == numbers(12)
    assert fresh.rows == numbers(14)  # the target decides, also when it knows less than the store
