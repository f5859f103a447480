"""Nexmark's queries 5 (hot items) and 7 (highest bid) with our windows, over generated events in memory, checked against polars.

Of 50 events 1 is a new person, 3 are new auctions and 46 are bids, half of them on a few hot auctions. An event a millisecond.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import msgspec
import polars as pl

from benchmarks.inside.folds import FIRST_MS, Folded, batches, fold
from benchmarks.report import Report
from waxwing.batch import Batch
from waxwing.operators.windows import MESSAGE_TIME, Count, Fold, Hopping, Tumbling, Windows

EVENTS = 1_000_000
PERSONS, AUCTIONS, CYCLE = 1, 3, 50
# Bids go to one of the latest auctions, every second one to the latest hot one: each HOT_EVERY-th.
OPEN_AUCTIONS, HOT_EVERY = 100, 100
ACTIVE_PERSONS = 1_000
HOT_S, EVERY_S, HIGHEST_S = 60, 10, 10
SECOND_US = 1_000_000


class Person(msgspec.Struct, frozen=True, gc=False):
    """Someone who bids or sells."""

    id: int
    name: str
    city: str


class Auction(msgspec.Struct, frozen=True, gc=False):
    """Something for sale."""

    id: int
    item: str
    seller: int
    reserve: int


class Bid(msgspec.Struct, frozen=True, gc=False):
    """A price in cents for an auction's item."""

    auction: int
    bidder: int
    price: int


Event = Person | Auction | Bid
Best = tuple[int, int, int]  # price, auction, bidder

hot_items = Windows(
    by=("auction",),
    time=MESSAGE_TIME,
    kind=Hopping(length_s=HOT_S, every_s=EVERY_S),
    aggregates={"bids": Count()},
    lateness_s=1,
)


def _add(state: Best, bid: Bid) -> Best:
    # By price first; of equal prices one that depends on the bids alone.
    return max(state, (bid.price, bid.auction, bid.bidder))


highest_bid = Windows(
    by=(),
    time=MESSAGE_TIME,
    kind=Tumbling(length_s=HIGHEST_S),
    aggregates={"best": Fold(None, make=lambda: (0, 0, 0), add=_add, merge=max)},
    lateness_s=1,
)


def events(count: int) -> list[Event]:
    """The same for the same count."""
    chance, out = random.Random(1), list[Event]()
    for number in range(count):
        cycle, place = divmod(number, CYCLE)
        last_person, last_auction = cycle, cycle * AUCTIONS + min(max(place - PERSONS, 0), AUCTIONS - 1)
        bidder = chance.randint(max(last_person - ACTIVE_PERSONS, 0), last_person)
        if place < PERSONS:
            out.append(Person(last_person, f"person {last_person}", "Phoenix"))
        elif place < PERSONS + AUCTIONS:
            out.append(Auction(last_auction, f"item {last_auction}", bidder, chance.randrange(100_000)))
        else:
            hot = last_auction // HOT_EVERY * HOT_EVERY
            auction = hot if chance.random() < 0.5 else chance.randint(max(last_auction - OPEN_AUCTIONS, 0), last_auction)
            out.append(Bid(auction, bidder, round(10 ** (2 + 6 * chance.random()))))
    return out


def bids(every: Sequence[Batch[Event]]) -> Iterator[Batch[Bid]]:
    """What both queries begin with."""
    for batch in every:
        chosen = [(at, one) for at, one in zip(batch.at, batch.records, strict=True) if type(one) is Bid]
        yield batch.with_records([one for _, one in chosen], [at for at, _ in chosen])


# -- the queries' last steps, and the same by polars --------------------------------------------------


def hottest(rows: Sequence[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """(window's end, auction, bids) of the auctions with the most bids in each window."""
    most: dict[int, int] = {}
    for _, end, _, count, _ in rows:
        most[end] = max(most.get(end, 0), count)
    return {(end, auction, count) for _, end, auction, count, _ in rows if count == most[end]}


def highest(rows: Sequence[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """(window's end, price, auction, bidder)."""
    return {(end, *best) for _, end, best, _ in rows}


def hottest_by_polars(frame: pl.DataFrame) -> set[tuple[Any, ...]]:
    """Query 5 again."""
    every, slots = EVERY_S * SECOND_US, HOT_S // EVERY_S
    ends = [((pl.col("time") // every + 1 + slot) * every).alias("end") for slot in range(slots)]
    counted = pl.concat([frame.select(end, "auction") for end in ends]).group_by("end", "auction").len()
    return set(counted.filter(pl.col("len") == pl.col("len").max().over("end")).iter_rows())


def highest_by_polars(frame: pl.DataFrame) -> set[tuple[Any, ...]]:
    """Query 7 again."""
    length = HIGHEST_S * SECOND_US
    best = pl.struct("price", "auction", "bidder").sort().last().alias("best")
    ends = ((pl.col("time") // length + 1) * length).alias("end")
    return set(frame.group_by(ends).agg(best).unnest("best").iter_rows())


@dataclass(frozen=True)
class Query:
    """A query, both ways."""

    title: str
    windows: Windows
    last: Callable[[Sequence[tuple[Any, ...]]], set[tuple[Any, ...]]]
    by_polars: Callable[[pl.DataFrame], set[tuple[Any, ...]]]


QUERIES = (
    Query(f"5, hot items: {HOT_S} s every {EVERY_S} s", hot_items, hottest, hottest_by_polars),
    Query(f"7, highest bid: {HIGHEST_S} s", highest_bid, highest, highest_by_polars),
)


def measure(report: Report, repeats: int) -> None:
    """Both queries: rates, and whether polars says the same."""
    made = events(EVENTS)
    every = batches(made, range(FIRST_MS, FIRST_MS + EVENTS))
    bid = [((FIRST_MS + n) * 1_000, one.auction, one.bidder, one.price) for n, one in enumerate(made) if isinstance(one, Bid)]
    frame = pl.DataFrame(bid, schema=["time", "auction", "bidder", "price"], orient="row")
    gc.collect()
    gc.freeze()
    rows = []
    for query in QUERIES:
        began_s = time.process_time()
        want = query.by_polars(frame)
        limit_s = time.process_time() - began_s
        seconds = []
        for _ in range(repeats):
            began_s = time.process_time()
            folded: Folded = fold(query.windows, bids(every))
            found = query.last(folded.rows)
            seconds.append(time.process_time() - began_s)
            if found != want:
                raise SystemExit(f"Nexmark query {query.title}: {len(found):,} rows, polars has {len(want):,}, or they differ")
        rates = sorted(EVENTS / each for each in seconds)
        spread = f"{rates[0]:,.0f}-{rates[-1]:,.0f}"
        rows.append([query.title, f"{len(want):,}", f"{median(rates):,.0f}", spread, f"{EVENTS / limit_s:,.0f}"])
    gc.unfreeze()
    columns = ["query", "rows, equal to polars'", "events/s of CPU", "(repeats)", "polars, columns ready: events/s of CPU"]
    report.table(f"Nexmark, {EVENTS:,} events", columns, rows)
