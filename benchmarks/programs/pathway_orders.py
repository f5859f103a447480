"""Pathway's orders flow, as near to ours as it comes: run by the Python that PEER names, and killed once all rows are there.

    PEER benchmarks/programs/pathway_orders.py BOOTSTRAP TOPIC HOST PORT USER PASSWORD DATABASE

Prices are floats, since it has no exact decimals, and nothing is refused; an order without an id takes its order_id. Its table is
`peer_orders`, with row_id for id, a name that it keeps for itself.
"""

import os
import sys
import time

import pathway as pw

AUTOCOMMIT_MS = 200
TABLE = "peer_orders"


class Order(pw.Schema):  # type: ignore[misc]  # not installed here, so of no type
    """An order as it arrives."""

    order_id: str
    quantity: int
    unit_price: float
    row_id: str | None = pw.column_definition(default_value=None)
    customer: str | None = pw.column_definition(default_value=None)
    total_value: float | None = pw.column_definition(default_value=None)
    processed_at: int | None = pw.column_definition(default_value=None)


def main() -> None:
    """Until it is killed."""
    bootstrap, topic, host, port, user, password, database = sys.argv[1:]
    brokers = {"bootstrap.servers": bootstrap, "group.id": f"peer-{os.getpid()}", "auto.offset.reset": "earliest"}
    orders = pw.io.kafka.read(
        brokers,
        topic=topic,
        schema=Order,
        format="json",
        json_field_paths={"row_id": "/id"},
        autocommit_duration_ms=AUTOCOMMIT_MS,
    )
    rows = orders.select(
        row_id=pw.coalesce(pw.this.row_id, pw.this.order_id),
        order_id=pw.this.order_id,
        customer=pw.this.customer,
        quantity=pw.this.quantity,
        unit_price=pw.this.unit_price,
        total_value=pw.this.unit_price * pw.this.quantity,
        processed_at=pw.coalesce(pw.this.processed_at, int(time.time())),
    )
    address = {"host": host, "port": port, "user": user, "password": password, "dbname": database}
    pw.io.postgres.write(rows, address, TABLE, output_table_type="snapshot", primary_key=[rows.row_id])
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
