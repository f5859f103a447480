"""Closed windows into a topic of Kafka."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from sinks.kafka.target import KafkaTarget
from sinks.kafka.values import Header, Key
from sinks.windows.table import WindowTable
from sinks.windows.target import WindowTarget
from waxwing.operators.windows import Windows
from waxwing.settings import KafkaWindowSettings


class KafkaWindows(WindowTarget):
    """A message for each closed window, and one more for a correction; open windows lie in the compacted topic of the step.

    Args:
        settings: the brokers, how often buckets are written, how many there are.
        topic: made where it is missing.
        table: the columns of a message's value; for fixed and names see WindowTable.
        windows: the windows.
        key: as KafkaTarget has it, of the row.
        headers: likewise.

    Parallelism: one producer per bucket.
    Delivery: exactly once: a bucket's messages, late records, positions and open state are one transaction
        (tests/faults/flows/test_flows.py).

    Raises:
        ConfigError: a table that does not fit the windows.
    """

    def __init__(
        self,
        settings: KafkaWindowSettings,
        topic: str,
        table: sa.Table,
        windows: Windows,
        *,
        key: Key | None = None,
        headers: Mapping[str, Header] | None = None,
        fixed: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        window_table = WindowTable(table, windows, fixed, names)
        columns = [column.name for column in table.c if column.name in window_table.names]  # a value has them in this order
        rows = KafkaTarget(settings, topic, table, key=key, headers=headers, columns=columns)
        super().__init__(rows, windows, settings, settings.window_buckets, lambda found: window_table.tuples(found, rows.columns))
        rows.writers = self.window_buckets
