"""The orders flow as a whole, over memory."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from bytewax.testing import cluster_main, run_main
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.orders import OrdersSettings, build, flow
from dataflows.orders_generator import orders
from sinks import MemoryTarget
from sources.memory import MemorySource, Message
from waxwing.errors import ConfigError
from waxwing.settings import SinkSettings

DATA: dict[int, list[Any]] = {0: [], 1: []}
for number, (key, value) in enumerate(next(iter(orders(400, bad_ratio=0.2, seed=3)))):
    DATA[number % 2].append(Message(value, key=key))


def columns(target: MemoryTarget) -> list[Any]:
    """The rows without processed_at, which is the clock's."""
    return sorted(row[:6] for row in target.rows)


def run(batch_records: Any = 100) -> MemoryTarget:
    target = MemoryTarget()
    run_main(build(MemorySource(DATA, feeds=[target], batch_records=batch_records, lanes=2), target))
    return target


WHOLE = run()


def test_the_order_of_the_readme_becomes_its_row() -> None:
    target = MemoryTarget()
    source = MemorySource([{"order_id": "ORD-001", "quantity": 3, "unit_price": 25.50}, b"{}"], feeds=[target])
    run_main(build(source, target))
    ((row_id, *row),) = columns(target)
    assert row == ["ORD-001", None, 3, Decimal("25.50"), Decimal("76.50")]
    assert len(row_id) == 36
    (letter,) = target.dead_letters
    assert (letter.stage, letter.reason, letter.value) == ("parse", "Object missing required field `order_id`", b"{}")


def test_each_record_is_a_row_or_a_dead_letter() -> None:
    assert len(WHOLE.rows) + len(WHOLE.dead_letters) == 400
    assert 50 < len(WHOLE.dead_letters) < 110
    assert {letter.stage for letter in WHOLE.dead_letters} == {"parse", "enrich"}
    assert len({row[0] for row in WHOLE.rows}) == len(WHOLE.rows)


@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=6), others=st.lists(st.integers(1, 60), min_size=1, max_size=6))
@settings(max_examples=15)
def test_batch_boundaries_change_nothing(sizes: list[int], others: list[int]) -> None:
    target = run({0: sizes, 1: others})
    assert columns(target) == columns(WHOLE)
    assert sorted(target.dead_letters) == sorted(WHOLE.dead_letters)


def test_two_workers_change_nothing() -> None:
    target = MemoryTarget(settings=SinkSettings(flush_interval_s=0.0, lanes=2))
    source = MemorySource(DATA, feeds=[target], lanes=2, batch_records=13)
    cluster_main(build(source, target), [], 0, worker_count_per_proc=2)
    assert columns(target) == columns(WHOLE)


def test_the_half_that_fills_the_topic_needs_no_database() -> None:
    topic = MemoryTarget()
    half = OrdersSettings(orders_part="enrich", enriched_topic="enriched")
    run_main(flow(half, kafka=MemorySource(DATA, lanes=2), enriched=topic))
    assert columns(topic) == columns(WHOLE)
    with pytest.raises(ConfigError, match="the embedded demonstration is the whole flow"):
        flow(half)
