"""What `python -m benchmarks` is told."""

from __future__ import annotations

import argparse
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.databases import DATABASES
from benchmarks.shapes import SHAPES

DEFAULT = ("processes", "start", *SHAPES, "latency", "idle", "windows", "closing", "outputs", "peer")
PARTS = (*DEFAULT, "folds", "nexmark")
READINGS = "readings"  # into files, a table and a topic
DESCRIPTION = """Waxwing from a real broker beside the raw limit of the same database, another commit and a peer, in one run.

    python -m benchmarks                                                    # some fifteen minutes
    python -m benchmarks --base main --peer /path/to/python                 # beside another commit, and Pathway
    python -m benchmarks --parts latency idle --databases postgresql
    python -m benchmarks --parts orders --orders 100000 --repeats 5
    python -m benchmarks --memory wide --orders 10000000                    # only this: memory over a long backlog
    python -m benchmarks --memory readings --orders 10000000                # the same of readings into files, Delta and a topic
    python -m benchmarks --bursts                                           # only this: five minutes of floods and trickles

Parts:
  processes   orders into the memory target, one process and two
  start       seconds to the first row
  orders narrow wide   records of that shape, new and existing rows, beside the raw limit; stages
  latency     how soon a row is visible at 200, 2,000 and 20,000 records/s, beside a hand-written loop
  idle        CPU with nothing to do
  windows     windows as whole flows into PostgreSQL
  closing     how soon a closed window is visible, in PostgreSQL
  outputs     readings into Parquet files, a Delta table and a topic, beside the bare writers of these
  peer        orders into PostgreSQL beside Pathway, whole processes
  folds       (not by default) windows in memory, beside Bytewax's own and polars
  nexmark     (not by default) Nexmark's queries of windows, in memory

The raw limit is the bare driver over one connection, given the same rows in a form made ready beforehand, in transactions as
large as the flow's were in a run before. The flow is timed as a user would: the whole process; "running" is without a run over
1,000 records, so without the start. CPU is the flow's own processes', without broker and database. Repeats are interleaved (raw,
flow, base, raw, ..), figures are their middles (least-greatest), ratios are made within a repeat. Machines are noisy: look at the
ratios.
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line, read."""

    parts: Sequence[str]
    databases: Sequence[str]
    orders: int
    repeats: int
    seconds: float
    base: str
    peer: str
    memory: str | None
    bursts: float | None
    write: bool

    @property
    def less(self) -> int:
        """Repeats of what is measured less often."""
        return max(self.repeats - 1, 1)

    @property
    def shapes(self) -> Sequence[str]:
        """The parts that are shapes of records."""
        return [name for name in SHAPES if name in self.parts]

    @property
    def with_databases(self) -> bool:
        """Is there a part that is measured database by database?"""
        return bool(self.shapes) or not {"start", "latency", "idle"}.isdisjoint(self.parts)


def whole_number(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def number_above_zero(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def program(text: str) -> str:
    if text and shutil.which(text) is None:
        raise argparse.ArgumentTypeError(f"there is no program {text}")
    return text


def options(words: Sequence[str] | None = None) -> Options:
    """The command line's, or these."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=DEFAULT, choices=PARTS, metavar="PART", help="only these (see above)")
    parser.add_argument(
        "--databases",
        nargs="+",
        default=list(DATABASES),
        choices=DATABASES,
        metavar="NAME",
        help=f"only these of {', '.join(DATABASES)}",
    )
    parser.add_argument(
        "--orders",
        type=whole_number,
        default=250_000,
        help="orders, and as many of other records as are as much work (%(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=whole_number,
        default=3,
        help="of orders and starts (%(default)s); the rest once less, if more than once",
    )
    parser.add_argument(
        "--seconds", type=number_above_zero, default=3.0, help="for how long each rate of latency is measured (%(default)s)"
    )
    parser.add_argument("--base", default="", metavar="COMMIT", help="the same with that commit's code, in turns")
    parser.add_argument("--peer", type=program, default="", metavar="PYTHON", help="a Python that has Pathway")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--memory", choices=[*SHAPES, READINGS], help="only this: a backlog of --orders such records, and the memory it takes"
    )
    only.add_argument(
        "--bursts",
        type=number_above_zero,
        nargs="?",
        const=5.0,
        metavar="MINUTES",
        help="only this: floods and trickles, by default for 5",
    )
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md, each in its section")
    read = Options(**vars(parser.parse_args(words)))
    if (read.memory or read.bursts) and read.parts is not DEFAULT:
        parser.error("--memory and --bursts measure only that: leave --parts out")
    if not set(read.parts) - {"windows", "closing", "outputs", "peer"} and "postgresql" not in read.databases:
        parser.error(f"{', '.join(read.parts)}: measured in PostgreSQL only: leave --databases out")
    if (read.memory or read.bursts) and read.databases == list(DATABASES):
        read = Options(**{**vars(read), "databases": ["postgresql"]})
    return read
