"""One definition of windows of every kind: what an earlier release wrote of each is kept in data/RELEASE/definitions.json.

It runs on earlier releases too: `python -m tests.migration.definitions` prints what the release writes, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from dataflows.orders import of_all, per_customer
from waxwing.operators.windows import (
    MESSAGE_TIME,
    Count,
    First,
    Fold,
    Hopping,
    Last,
    Max,
    Mean,
    Min,
    Session,
    Sum,
    Tumbling,
    Windows,
)

PLAIN = Windows(by=("account",), time="paid_at", kind=Tumbling(length_s=60), aggregates={"payments": Count()}, lateness_s=10)
EVERY = {
    "all": Count(),
    "counted": Count("cents"),
    "cents": Sum("cents"),
    "mean": Mean("cents", places=0),
    "finer": Mean("cents", places=60),
    "least": Min("cents"),
    "largest": Max("cents"),
    "first": First("shop"),
    "last": Last("shop"),
    "folded": Fold("cents", int, max, max),
    "whole": Fold(None, list, lambda state, record: [*state, record], lambda one, other: one + other),
}
NULLS = {
    "text": "",
    "quote": 'it\'s "so"',
    "whole": 0,
    "bytes": b"\x00\xff",
    "truth": False,
    "decimal": Decimal("1.50"),
    "day": date(2026, 1, 2),
    "moment": datetime(2026, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001 - windows take those without a zone, too
    "utc": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    "zoned": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    "uuid": UUID(int=7),
}

DEFINITIONS: Mapping[str, Windows] = {
    "plain": PLAIN,
    "of one key": replace(PLAIN, by=()),
    "of several keys": replace(PLAIN, by=("account", "shop", "country")),
    "by the message's time": replace(PLAIN, time=MESSAGE_TIME),
    "a length in fractions": replace(PLAIN, kind=Tumbling(length_s=0.25)),
    "a length as a float": replace(PLAIN, kind=Tumbling(60.0)),
    "of a day": replace(PLAIN, kind=Tumbling(length_s=86_400)),
    "of microseconds": replace(PLAIN, kind=Tumbling(length_s=1e-06)),
    "hopping": replace(PLAIN, kind=Hopping(length_s=3_600, every_s=600)),
    "hopping in fractions": replace(PLAIN, kind=Hopping(length_s=1.5, every_s=0.5)),
    "sessions": replace(PLAIN, kind=Session(gap_s=1_800)),
    "sessions in fractions": replace(PLAIN, kind=Session(gap_s=0.5)),
    "no lateness": replace(PLAIN, lateness_s=0),
    "lateness in fractions": replace(PLAIN, lateness_s=0.001),
    "long lateness": replace(PLAIN, lateness_s=34_560_000),
    "grace": replace(PLAIN, grace_s=3_600),
    "grace in fractions": replace(PLAIN, grace_s=0.1, corrections="eager"),
    "idle and future": replace(PLAIN, idle_after_s=5, future_s=7),
    "every aggregate": replace(PLAIN, aggregates=EVERY),
    "tuples": replace(PLAIN, fields=("account", "paid_at")),
    "nulls as a group": replace(PLAIN, null_keys="group"),
    **{f"nulls as {name}": replace(PLAIN, null_keys={"account": value}) for name, value in NULLS.items()},
    "nulls of several keys": replace(PLAIN, by=("account", "shop"), null_keys={"shop": "", "account": 0}),
    "names beyond ASCII": replace(PLAIN, by=("Kündin",), aggregates={"Zahl": Count(), "größte": Max("Betrag in €")}),
    "names with quotes": replace(PLAIN, by=("it's",), time='"paid"', aggregates={"a b": Sum("x'y\"z")}),
    "orders by customer": per_customer,
    "orders of all": of_all,
}

if __name__ == "__main__":
    print(json.dumps({name: windows.text for name, windows in DEFINITIONS.items()}, indent=1))
