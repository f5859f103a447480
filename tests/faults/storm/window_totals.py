"""What `order_totals` should hold, computed again from the topic by polars; and where each record that is not in it went.

It shares nothing with the windows but the description of what they are (Windows, and dataflows/orders.py): a minute of event
time; a record is late when the highest time before it in its own partition, less a minute, has reached its window's end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import polars as pl
import sqlalchemy as sa

from tests.faults.recompute import plain_engine, records, row_of

MINUTE_MS = LATENESS_MS = 60_000
CHUNK = 100_000
BUCKETS = "waxwing:windows"
SCHEMA = {
    "partition": pl.Int32,
    "offset": pl.Int64,
    "time_ms": pl.Int64,
    "customer": pl.String,
    "quantity": pl.Int64,
    "cents": pl.Int64,
}
KEYS = ["scope", "customer", "start_ms"]
STEPS = {"customer_totals": "customer", "totals": "all"}
Place = tuple[str, int, int, int]  # step, partition, offset, end of the window


def accepted(bootstrap: str, topic: str) -> pl.DataFrame:
    """Every good order of a topic, in the order of each partition."""
    frames = [pl.DataFrame(schema=SCHEMA)]
    rows: list[tuple[Any, ...]] = []
    for partition, offset, message in records(bootstrap, topic):
        row = row_of(message.value(), "made")
        if row is not None:
            rows.append((partition, offset, message.timestamp()[1], row[2] or "", row[3], int(row[5] * 100)))
        if len(rows) == CHUNK:
            frames.append(pl.DataFrame(rows, SCHEMA, orient="row"))
            rows = []
    frames.append(pl.DataFrame(rows, SCHEMA, orient="row"))
    return pl.concat(frames).sort("partition", "offset")


def judged(orders: pl.DataFrame) -> pl.DataFrame:
    """The orders, each with its window and whether it is late."""
    highest_before = pl.col("time_ms").cum_max().shift(1).over("partition")
    start = pl.col("time_ms") // MINUTE_MS * MINUTE_MS
    timed = orders.with_columns(start_ms=start, watermark=highest_before - LATENESS_MS)
    return timed.with_columns(late=(pl.col("watermark") >= pl.col("start_ms") + MINUTE_MS).fill_null(value=False))


def totals(orders: pl.DataFrame) -> pl.DataFrame:
    """Totals of each customer, and of all, by minute; without the mean, which follows from the rest."""
    both = pl.concat(
        [orders.with_columns(scope=pl.lit("customer")), orders.with_columns(scope=pl.lit("all"), customer=pl.lit(""))]
    )
    return both.group_by(KEYS).agg(
        pl.len().cast(pl.Int64).alias("orders"),
        pl.col("quantity").sum(),
        pl.col("cents").sum(),
        pl.col("cents").max().alias("largest"),
    )


def stored(connection: sa.Connection) -> Iterator[tuple[Any, ...]]:
    """The table's rows: keys, totals, and the mean."""
    names = "scope, customer, window_start, orders, quantity, value, largest, mean_value"
    for scope, customer, start, orders, quantity, *money in connection.execute(sa.text(f"SELECT {names} FROM order_totals")):
        time = datetime.fromisoformat(str(start)).replace(tzinfo=UTC)
        yield scope, customer, round(time.timestamp() * 1000), orders, quantity, *(_cents(one) for one in money)


def _cents(money: Any) -> int:
    return round(Decimal(str(money)) * 100)


@dataclass(frozen=True)
class WindowDifference:
    """What is wrong with the totals and the late records; all empty when everything is accounted for.

    A record may be among the late by the clock only, as part of an aggregate, where its partition was not waited for.
    """

    totals: list[Any]
    means: list[Any]
    late_missing: list[Place]
    late_extra: list[Place]
    rows: int
    records: int
    late: int
    by_clock: int

    @property
    def equal(self) -> bool:
        return not (self.totals or self.means or self.late_missing or self.late_extra)

    def __str__(self) -> str:
        if self.equal:
            by_clock = f", and {self.by_clock:,} in late aggregates (a partition that was idle or added)" if self.by_clock else ""
            return f"equal: {self.rows:,} totals of {self.records:,} orders; {self.late:,} late ones, exactly those{by_clock}"
        return (
            f"DIFFERENT: totals {len(self.totals)} {self.totals[:6]}, means {len(self.means)} {self.means[:3]}, late missing "
            f"{len(self.late_missing)} {self.late_missing[:3]}, late extra {len(self.late_extra)} {self.late_extra[:3]}"
        )


def compare_totals(url: str, orders: pl.DataFrame, form: Literal["on_close", "live"]) -> WindowDifference:
    """Hold the table and the late records against the topic. In the live form nothing is late."""
    all_judged = judged(orders)
    late = all_judged.filter(pl.col("late") & pl.lit(form == "on_close"))
    want = totals(all_judged.filter(~pl.col("late")) if form == "on_close" else all_judged)
    engine = plain_engine(url)
    query = "SELECT step, source, source_partition, source_offset, reason, message_value FROM waxwing_dead_letters"
    with engine.connect() as connection:
        rows = list(stored(connection))
        late_ones = connection.execute(sa.text(f"{query} WHERE stage = 'late'")).all()
        letters = [letter for letter in late_ones if letter.step in STEPS]
    sqlite = engine.dialect.name == "sqlite"
    engine.dispose()
    by_clock = [_aggregate(letter.step, letter.message_value) for letter in letters if letter.source == BUCKETS]
    schema = {**dict.fromkeys(KEYS, pl.String), "start_ms": pl.Int64}
    schema |= dict.fromkeys(["orders", "quantity", "cents", "largest"], pl.Int64)
    have = pl.DataFrame([*(row[:7] for row in rows), *by_clock], schema, orient="row").group_by(KEYS)
    merged = have.agg(pl.col("orders", "quantity", "cents").sum(), pl.col("largest").max())
    return WindowDifference(
        [*_only(merged, want), *_only(want, merged)],
        [row for row in rows if row[7] not in _means(row[5], row[3], form, sqlite=sqlite)],
        *_differ(letters, late),
        len(rows),
        len(orders),
        len(late),
        sum(row[3] for row in by_clock if row[0] == "all"),
    )


def _only(one: pl.DataFrame, other: pl.DataFrame) -> list[Any]:
    return one.join(other, on=one.columns, how="anti").rows()


def _means(cents: int, count: int, form: str, *, sqlite: bool) -> set[int]:
    """A core rounds half to even, a database half up; SQLite, with floats, either way."""
    whole, rest = divmod(cents, count)
    if rest * 2 != count:
        return {whole + (rest * 2 > count)}
    if form == "on_close":
        return {whole + whole % 2}
    return {whole, whole + 1} if sqlite else {whole + 1}


def _aggregate(step: str, value: bytes) -> tuple[Any, ...]:
    row = json.loads(value)
    start_ms = row["window_start"] // 1000
    return (
        STEPS[step],
        row.get("customer") or "",
        start_ms,
        row["orders"],
        row["quantity"],
        _cents(row["value"]),
        _cents(row["largest"]),
    )


def _differ(letters: Any, late: pl.DataFrame) -> tuple[list[Place], list[Place]]:
    """Late records without their dead letter, and dead letters that should not be, or twice."""
    want = {
        (step, partition, offset, start + MINUTE_MS)
        for partition, offset, start in late.select("partition", "offset", "start_ms").rows()
        for step in STEPS
    }
    extra, found = [], set()
    for letter in letters:
        if letter.source == BUCKETS:
            continue
        end = datetime.fromisoformat(letter.reason.rpartition(" to ")[2])
        place = letter.step, letter.source_partition, letter.source_offset, round(end.timestamp() * 1000)
        if place in found or place not in want or not letter.message_value:
            extra.append(place)
        found.add(place)
    return sorted(want - found), extra
