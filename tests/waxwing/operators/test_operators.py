"""map, filter, flat_map, unbatch and the keyed exchange: rejects stand alone, places are kept, buckets are stable."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
from bytewax.dataflow import Dataflow
from bytewax.dataflow import Stream as Flowing
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from sinks import MemoryTarget
from sinks.writer.isolation import halves, without_rows
from waxwing import operators as wop
from waxwing.batch import Batch, Columns, Delete, Reject, Stream
from waxwing.errors import ConfigError
from waxwing.operators.exchange import bucket_of, key_by
from waxwing.operators.windows import MESSAGE_TIME, Count, Tumbling, Windows
from waxwing.operators.windows.live import Live

STREAM = Stream("flow", "topic", "id", 0)
OLD = Reject(0, "parse", "old")


def batch(records: Sequence[Any], at: Sequence[int] | None = None, *, first: int = 0, partition: int = 0) -> Batch[Any]:
    """Message n has offset first + 2n and key k<n>; message 0 is a reject, message 1 a delete, records begin at message 2."""
    at = range(2, 2 + len(records)) if at is None else at
    size = max(at, default=1) + 1
    offsets = [first + 2 * n for n in range(size)]
    columns = Columns(offsets, [b"k%d" % n for n in range(size)], [b"v%d" % n for n in range(size)], offsets, [()] * size)
    return Batch(
        STREAM._replace(partition=partition), "lane-000", first, first + 2 * size, columns, records, at, [OLD], [Delete(1, b"k1")]
    )


def run(step: Callable[[Flowing[Any]], Flowing[Any]], items: Iterable[Any]) -> list[Any]:
    flow = Dataflow("flow")
    out: list[Any] = []
    op.output("out", step(op.input("in", flow, TestingSource(items, batch_size=1))), TestingSink(out))
    run_main(flow)
    return out


def one(step: Callable[[Flowing[Any]], Flowing[Any]], item: Batch[Any]) -> Batch[Any]:
    (result,) = run(step, [item])
    assert (result.stream, result.offset_first, result.offset_next) == (item.stream, item.offset_first, item.offset_next)
    assert list(result.deletes) == list(item.deletes)
    return result  # type: ignore[no-any-return]  # Bytewax's sinks are untyped


def half(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number // 2


@given(st.lists(st.integers(0, 9), max_size=12))
@settings(max_examples=40)
def test_map_rejects_exactly_the_records_that_raise(numbers: list[int]) -> None:
    result = one(lambda up: wop.map("enrich", up, half), batch(numbers))
    assert result.records == [n // 2 for n in numbers if not n % 2]
    assert list(result.at) == [at for at, n in enumerate(numbers, 2) if not n % 2]
    assert result.rejects == [OLD, *(Reject(at, "enrich", f"{n} is odd") for at, n in enumerate(numbers, 2) if n % 2)]


@pytest.mark.parametrize("error", [StopIteration(), KeyError("x"), RecursionError(), ValueError("")])
def test_any_exception_of_the_function_is_a_reason(error: Any) -> None:
    def fn(number: int) -> int:
        if number == 1:
            raise error
        return number

    result = one(lambda up: wop.map("enrich", up, fn), batch([0, 1, 2]))
    assert result.records == [0, 2]
    (reject,) = [r for r in result.rejects if r.stage == "enrich"]
    assert reject.at == 3
    assert reject.reason


def test_long_reasons_are_cut() -> None:
    def fn(_: int) -> int:
        raise ValueError("x" * 10_000)

    result = one(lambda up: wop.map("enrich", up, fn), batch([0]))
    assert len(result.rejects[-1].reason) == 500


def test_map_batch_knows_where_each_record_comes_from() -> None:
    def make(origin: wop.Origin) -> Callable[[int, int], tuple[Any, ...]]:
        return lambda record, at: (
            half(record),
            origin.stream.source_id,
            origin.offset(at),
            origin.key(at),
            origin.timestamp_ms(at),
        )

    result = one(lambda up: wop.map_batch("enrich", up, make), batch([0, 1, 4, 6], [2, 3, 3, 5], first=10))
    assert result.records == [(0, "id", 14, b"k2", 14), (2, "id", 16, b"k3", 16), (3, "id", 20, b"k5", 20)]
    assert list(result.at) == [2, 3, 5]


def test_functions_may_ask_the_message_of_their_record() -> None:
    def told(record: int, message: wop.Message) -> tuple[Any, ...]:
        where = message.source, message.partition, message.offset, message.key, message.timestamp_ms, message.headers
        return half(record), *where

    item = batch([0, 1, 4, 6], [2, 3, 3, 5], first=10, partition=7)
    result = one(lambda up: wop.map("enrich", up, told, with_message=True), item)
    rows = [(0, "topic", 7, 14, b"k2", 14, ()), (2, "topic", 7, 16, b"k3", 16, ()), (3, "topic", 7, 20, b"k5", 20, ())]
    assert (result.records, list(result.at)) == (rows, [2, 3, 5])
    assert [(r.at, r.stage, r.reason) for r in result.rejects[1:]] == [(3, "enrich", "1 is odd")]
    kept = one(lambda up: wop.filter("some", up, lambda _, message: message.offset > 14, with_message=True), item)
    assert (kept.records, list(kept.at)) == ([1, 4, 6], [3, 3, 5])
    twice = one(lambda up: wop.flat_map("twice", up, lambda n, message: [(n, message.key)] * 2, with_message=True), item)
    assert (twice.records[:3], list(twice.at)) == ([(0, b"k2"), (0, b"k2"), (1, b"k3")], [2, 2, 3, 3, 3, 3, 5, 5])


def test_rows_of_one_message_that_several_steps_refuse_have_numbers_of_their_own() -> None:
    def refuse(number: int) -> Callable[[int], int]:
        def fn(record: int) -> int:
            if record == number:
                raise ValueError(f"{number}")
            return record

        return fn

    result = one(lambda up: wop.map("b", wop.map("a", up, refuse(1)), refuse(2)), batch([0, 1, 2], [2, 2, 2]))
    assert [(r.at, r.row, r.reason) for r in result.rejects[1:]] == [(2, 1, "1"), (2, 2, "2")]


@given(st.lists(st.integers(0, 9), max_size=12))
@settings(max_examples=40)
def test_filter_keeps_places_and_rejects_what_raises(numbers: list[int]) -> None:
    def keep(number: int) -> bool:
        if number == 5:
            raise ValueError("five")
        return number > 2

    result = one(lambda up: wop.filter("some", up, keep), batch(numbers))
    assert list(zip(result.at, result.records, strict=True)) == [(at, n) for at, n in enumerate(numbers, 2) if n > 2 and n != 5]
    assert result.rejects == [OLD, *(Reject(at, "some", "five") for at, n in enumerate(numbers, 2) if n == 5)]


@given(st.lists(st.integers(0, 4), max_size=8))
@settings(max_examples=40)
def test_flat_map_repeats_the_place_of_each_record(numbers: list[int]) -> None:
    def spread(number: int) -> Iterator[int]:
        yield from range(number)
        if number == 3:  # half-way through: nothing of the record may stay
            raise ValueError("three")

    result = one(lambda up: wop.flat_map("spread", up, spread), batch(numbers))
    good = [(at, n) for at, n in enumerate(numbers, 2) if n != 3]
    assert list(zip(result.at, result.records, strict=True)) == [(at, m) for at, n in good for m in range(n)]
    assert [r.at for r in result.rejects if r.stage == "spread"] == [at for at, n in enumerate(numbers, 2) if n == 3]


def test_unbatch_gives_the_records_one_by_one() -> None:
    assert run(lambda up: wop.unbatch("flat", up), [batch([1, 2]), batch([]), batch([3])]) == [1, 2, 3]


def pieces(items: Iterable[Batch[Any]], key_fn: Callable[[Any], Any], buckets: int) -> list[tuple[str, Batch[Any]]]:
    return run(lambda up: key_by("key", up, key_fn, buckets), items)


@given(st.lists(st.lists(st.integers(0, 20), max_size=10), max_size=4), st.integers(1, 5))
@settings(max_examples=40)
def test_every_bucket_gets_a_piece_of_every_batch_in_order_and_nothing_is_lost(lists: list[list[int]], buckets: int) -> None:
    batches: list[Batch[Any]] = []
    for numbers in lists:
        batches.append(batch(numbers, first=batches[-1].offset_next if batches else 0))
    out = pieces(batches, lambda n: n, buckets)
    for bucket in range(buckets):
        mine = [piece for name, piece in out if name == f"bucket-{bucket:03}"]
        assert [(p.offset_first, p.offset_next) for p in mine] == [(b.offset_first, b.offset_next) for b in batches]
        assert all(bucket_of(record, buckets) == bucket for piece in mine for record in piece.records)
    for n, whole in enumerate(batches):
        parts = [piece for _, piece in out[n * buckets : (n + 1) * buckets]]
        rows = [(p.messages.offsets[at], p.messages.values[at], r) for p in parts for at, r in zip(p.at, p.records, strict=True)]
        assert sorted(rows) == [
            (whole.messages.offsets[at], whole.messages.values[at], r) for at, r in zip(whole.at, whole.records, strict=True)
        ]
        assert [(p.messages.offsets[r.at], r.reason) for p in parts for r in p.rejects] == [(whole.offset_first, "old")]
        assert [p.messages.keys[d.at] for p in parts for d in p.deletes] == [b"k1"]


def test_a_key_that_cannot_be_had_rejects_its_record() -> None:
    (first,) = [piece for name, piece in pieces([batch([1.5, "a"])], lambda key: key, 3) if name == "bucket-000"]
    assert [(r.stage, first.messages.values[r.at]) for r in first.rejects] == [("parse", b"v0"), ("key", b"v2")]
    assert "not float" in first.rejects[-1].reason


def test_records_of_a_key_meet_on_one_worker_whatever_partition_they_came_by() -> None:
    flow = Dataflow("flow")
    out: list[Any] = []
    batches = [batch([n, n + 1, n + 2], partition=n) for n in range(6)]
    keyed = key_by("key", op.input("in", flow, TestingSource(batches, batch_size=1)), lambda n: n, 4)

    def fold(state: list[int] | None, piece: Batch[int]) -> tuple[list[int], tuple[int, ...]]:
        state = [*(state or []), *piece.records]
        return state, tuple(state)

    op.output("out", op.stateful_map("fold", keyed, fold), TestingSink(out))
    cluster_main(flow, [], 0, worker_count_per_proc=2)
    last = {name: seen for name, seen in out if len(seen) >= max(len(s) for n, s in out if n == name)}
    assert sorted(n for seen in last.values() for n in seen) == sorted(n for b in batches for n in b.records)
    assert all({bucket_of(n, 4) for n in seen} <= {int(name[-3:])} for name, seen in last.items())


def test_buckets_are_the_same_in_every_process() -> None:
    call = "from waxwing.operators.exchange import bucket_of; print([bucket_of(k, 97) for k in ('a', b'a', 'Zoë', 7, -7, 2**70)])"
    outs = {
        subprocess.run(
            [sys.executable, "-c", call],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2")
    }
    # Pinned: whoever changes the hash moves the keys of every stored state.
    assert outs == {f"{[bucket_of(k, 97) for k in ('a', 'a', 'Zoë', 7, -7, 2**70)]}\n"}
    assert [bucket_of("a", 97), bucket_of(b"customer-1", 97), bucket_of(7, 97)] == [80, 76, 64]


@pytest.mark.parametrize("buckets", [0, -1, 1_001])
def test_a_number_of_buckets_out_of_bounds_is_refused(buckets: int) -> None:
    with pytest.raises(ConfigError, match="Take 1 to 1,000"):
        pieces([], lambda n: n, buckets)


class _Any(msgspec.Struct):
    """A record of any kind."""


class NoSix(MemoryTarget):
    """Takes no 6."""

    @override
    def misfits(self, records: Sequence[Any]) -> dict[int, str]:
        return {number: "six" for number, record in enumerate(records) if record == 6}


# What a step may change of a batch, and everything else stays: fields to come, too.
CHANGED = {"records", "at", "rejects", "deletes"}
CUT = CHANGED | {"offset_first", "offset_next", "messages", "token", "stands_for"}
STEPS: dict[str, tuple[set[str], Callable[[Flowing[Any]], Flowing[Any]]]] = {
    "parse": (CHANGED, lambda up: wop.parse("step", wop.map("bytes", up, lambda _: b"{}"), _Any)),
    "map": (CHANGED, lambda up: wop.map("step", up, half)),
    "map_batch": (CHANGED, lambda up: wop.map_batch("step", up, lambda _: lambda record, _at: record)),
    "filter": (CHANGED, lambda up: wop.filter("step", up, lambda number: number > 3)),
    "flat_map": (CHANGED, lambda up: wop.flat_map("step", up, lambda number: [number] * 2)),
    "without_rejects": ({"rejects"}, lambda up: wop.without_rejects("step", up)),
    "check": (CHANGED, lambda up: wop.check("step", up, NoSix())),
    "key_by": (CHANGED | {"messages"}, lambda up: op.map("bare", key_by("step", up, str, 2), lambda item: item[1])),
}


def marked(item: Batch[Any], changed: set[str]) -> Batch[Any]:
    """The batch with a value of its own in each field that must not change."""
    own: dict[str, Any] = {
        "stream": STREAM._replace(flow="own"),
        "lane": "own",
        "whole": True,
        "mark": "idle",
        "idle_s": 2.5,
        "stands_for": (0, 2),
        "token": b"own",
    }
    own |= {"offset_first": item.offset_first, "offset_next": item.offset_next, "messages": item.messages}
    kept = {field.name for field in fields(Batch)} - changed
    unknown = kept - own.keys() - CHANGED
    assert not unknown, f"a new field: say what a copy of a batch does with {unknown}"
    return replace(item, **{name: own[name] for name in kept & own.keys()})


def same(item: Batch[Any], made: Batch[Any], changed: set[str]) -> None:
    for field in fields(Batch):
        if field.name not in changed:
            assert getattr(made, field.name) == getattr(item, field.name), field.name


@pytest.mark.parametrize("name", STEPS)
def test_a_step_keeps_every_field_of_a_batch_but_those_it_is_for(name: str) -> None:
    changed, step = STEPS[name]
    item = marked(batch([4, 5, 6]), changed)
    results = run(step, [item])
    assert results
    for made in results:
        same(item, made, changed)


def test_parts_of_a_batch_keep_every_field_but_those_that_are_cut() -> None:
    item = marked(batch([4, 5, 6]), CUT)
    whole = replace(item, whole=False, token=b"own")
    copies = {
        "part": (whole, whole.part(1, 3), CUT),
        "after": (whole, whole.after(3), CUT),
        "after all": (item, item.after(item.offset_next), CUT),
        "with_records": (item, item.with_records([1], [2], [], []), CHANGED),
        "without_rows": (item, without_rows([item], {0: "bad", 3: "bad"})[0], CHANGED),
    }
    for source, made, changed in copies.values():
        same(source, made, changed)
    assert (whole.part(1, 3).token, whole.part(1, 9).token, whole.after(3).token) == (None, b"own", b"own")
    assert [replace(item, whole=False, stands_for=(0, 2)).part(*cut).stands_for for cut in ((0, 1), (1, 3))] == [[0], [1]]
    for half_of in halves([whole]):
        for made in half_of:
            same(whole, made, CUT)
    definition = Windows(by=(), time=MESSAGE_TIME, kind=Tumbling(60), aggregates={"n": Count()}, lateness_s=0)
    same(item, Live(definition).whole(item, [(1,)], []), {*CHANGED, "stands_for"})
