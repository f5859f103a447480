"""Batch: parts and replay cuts lose nothing and double nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from waxwing.batch import Batch, Columns, Delete, Reject, Stream, lane_name, part_fn, raw

STREAM = Stream("flow", "topic", "id", 0)


@st.composite
def batches(draw: st.DrawFn) -> Batch[Any]:
    """Offsets with holes; each message makes rows, or is rejected, deleted or left out."""
    offsets = sorted(draw(st.sets(st.integers(5, 60), max_size=15)))
    size = len(offsets)
    columns = Columns(
        offsets,
        [b"k%d" % o for o in offsets],
        [b"%d" % o for o in offsets],
        [o * 10 for o in offsets],
        [(("h", b"%d" % o),) for o in offsets],
    )
    first = draw(st.integers(0, offsets[0] if offsets else 60))
    end = draw(st.integers(offsets[-1] + 1 if offsets else first, 70))
    fates = draw(st.lists(st.sampled_from(["row", "rows", "reject", "delete", "left out"]), min_size=size, max_size=size))
    rows = [(at, n) for at, fate in enumerate(fates) for n in range({"row": 1, "rows": 3}.get(fate, 0))]
    return Batch(
        STREAM,
        "lane-000",
        first,
        end,
        columns,
        [(offsets[at], n) for at, n in rows],
        [at for at, _ in rows],
        [Reject(at, "parse", "bad") for at, fate in enumerate(fates) if fate == "reject"],
        [Delete(at, b"k%d" % offsets[at]) for at, fate in enumerate(fates) if fate == "delete"],
    )


def content(batch: Batch[Any]) -> dict[str, list[Any]]:
    """Everything a batch holds, by offset in place of the number in the batch."""
    offsets = batch.messages.offsets
    m = batch.messages
    return {
        "messages": list(zip(offsets, m.keys, m.values, m.timestamps_ms, m.headers, strict=True)),
        "records": [(offsets[at], record) for at, record in zip(batch.at, batch.records, strict=True)],
        "rejects": [(offsets[r.at], r.stage, r.reason, r.row) for r in batch.rejects],
        "deletes": [(offsets[d.at], d.key) for d in batch.deletes],
    }


def joined(parts: list[Batch[Any]]) -> dict[str, list[Any]]:
    out = [content(part) for part in parts]
    return {name: [item for one in out for item in one[name]] for name in ("messages", "records", "rejects", "deletes")}


@given(batches(), st.lists(st.integers(0, 15), max_size=5))
def test_parts_join_again_without_loss(batch: Batch[Any], cuts: list[int]) -> None:
    size = len(batch.messages)
    edges = sorted({0, size, *(cut for cut in cuts if cut <= size)}) if size else [0, 0]
    parts = [batch.part(a, b) for a, b in pairwise(edges)]
    assert joined(parts) == content(batch)
    assert (parts[0].offset_first, parts[-1].offset_next) == (batch.offset_first, batch.offset_next)
    assert all(a.offset_next == b.offset_first for a, b in pairwise(parts))


def last_offset(batch: Batch[Any]) -> int:
    return batch.messages.offsets[-1] if len(batch.messages) else batch.offset_first


@given(batches(), st.data())
def test_the_replay_cut_keeps_exactly_what_lies_at_or_above_it(batch: Batch[Any], data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, last_offset(batch)))
    rest = batch.after(offset)
    kept = {name: [item for item in items if item[0] >= offset] for name, items in content(batch).items()}
    assert content(rest) == kept
    assert rest.offset_first == max(offset, batch.offset_first)


def test_a_replay_cut_behind_the_last_message_leaves_an_empty_batch() -> None:
    # Transaction markers stand at offsets 1 to 9: no messages, and a position may lie among them.
    batch = raw(STREAM, "lane-000", 0, 10, Columns([0], [None], [b""], [-1], [()]))
    rest = batch.after(4)
    assert (rest.offset_first, rest.offset_next, len(rest.messages)) == (4, 10, 0)


@given(batches(), st.data())
def test_replay_cuts_in_turn_are_the_last_one_alone(batch: Batch[Any], data: st.DataObject) -> None:
    offsets = data.draw(st.lists(st.integers(0, last_offset(batch)), max_size=4))
    rest = batch
    for offset in sorted(offsets):
        rest = rest.after(offset)
    assert content(rest) == content(batch.after(max(offsets, default=0)))


@given(batches())
def test_batches_pickle(batch: Batch[Any]) -> None:
    assert pickle.loads(pickle.dumps(batch)) == batch


def test_rejects_come_in_message_order_whatever_step_made_them() -> None:
    batch = raw(STREAM, "lane-000", 0, 3, Columns([0, 1, 2], [None] * 3, [b""] * 3, [-1] * 3, [()] * 3))
    late, early = Reject(2, "parse", "late"), Reject(0, "enrich", "early")
    assert batch.with_records([], [], [late, early]).rejects == [early, late]


def test_what_is_left_behind_the_end_of_a_whole_batch_stands_for_no_messages() -> None:
    read = raw(STREAM, "lane-000", 0, 3, Columns([0, 1, 2], [None] * 3, [b""] * 3, [-1] * 3, [()] * 3))
    whole = replace(read, whole=True, stands_for=[0, 2], token=b"later").with_records(["sum"], [0])
    left = whole.after(3)
    assert (left.offset_first, left.offset_next, left.token) == (3, 3, b"later")
    assert (list(left.records), len(left.messages), list(left.arrived)) == ([], 0, [])


def test_the_sink_partition_bears_the_lanes_name() -> None:
    names = [lane_name(lane) for lane in range(12)]
    number = part_fn(names)
    assert [sorted(names)[number(name)] for name in names] == names
    assert part_fn(["lane-000"])("lane-007") == 0
