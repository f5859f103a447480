"""Short storms over whole flows: every output is what another computation of the source topic says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.flows.orders import OrdersStorm
from tests.faults.flows.sensors import SensorsStorm
from tests.faults.flows.storm import Events, FlowStorm
from tests.servers import Kafka, PostgreSQL


@contextmanager
def closing(storm: FlowStorm) -> Iterator[FlowStorm]:
    try:
        yield storm
    finally:
        storm.close()


@pytest.mark.slow
def test_orders_through_a_topic_into_a_table(kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path) -> None:
    events = Events(kills=2, freezes=1, seed=3)
    with closing(OrdersStorm(kafka, postgresql.new_database(), tmp_path, orders=5_000, events=events)) as storm:
        assert storm.run().startswith("equal: 4,9")


@pytest.mark.slow
def test_readings_into_parquet_files_a_topic_and_a_table(kafka: Kafka, tmp_path: Path) -> None:
    events, outputs = Events(kills=2, seed=5), ("files", "topic", "table")
    url = f"sqlite:///{tmp_path}/sensors.sqlite"
    with closing(SensorsStorm(kafka, tmp_path, readings=12_000, events=events, outputs=outputs, url=url)) as storm:
        assert storm.run().startswith("equal: 12,000 readings; read ")


@pytest.mark.slow
def test_readings_into_delta_tables(kafka: Kafka, tmp_path: Path) -> None:
    with closing(
        SensorsStorm(kafka, tmp_path, readings=8_000, events=Events(kills=1, seed=6), outputs=("files",), form="delta")
    ) as storm:
        assert storm.run().startswith("equal: 8,000 readings; read ")
