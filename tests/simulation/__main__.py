"""Schedules on demand: `python -m tests.simulation --schedules 200000 --seed 7 [--planted NAME]`; one again: `--replay SEED`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from functools import partial

from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.planted import PLANTED
from tests.simulation.world import Told, play

LINES_SHOWN = 60


def _parts(planted: str | None) -> Parts:
    return PLANTED[planted].parts if planted else SHIPPED


def _play(planted: str | None, seed: int) -> Told:
    return play(seed, _parts(planted))


def _show(told: Told, planted: str | None, lines: int) -> None:
    again = play(told.seed, _parts(planted), traced=True)
    for line in again.trace[-lines:]:
        print(line)
    print(f"\nseed {told.seed}: {again.violation or 'nothing wrong'}")
    if again.violation != told.violation:
        print(
            f"The first time it was: {told.violation or 'nothing wrong'}. A schedule must be the same each time: mend that first."
        )


def _told(schedules: range, planted: str | None, processes: int) -> Iterator[Told]:
    if processes == 1:
        yield from map(partial(_play, planted), schedules)
        return
    with multiprocessing.Pool(processes) as pool:
        yield from pool.imap(partial(_play, planted), schedules, chunksize=16)


def main() -> None:
    """Run schedules until one goes wrong; then show it. Exit code 1 means that one did."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first schedule; the next ones follow")
    parser.add_argument("--planted", choices=PLANTED, help="; ".join(f"{name}: {bug.what}" for name, bug in PLANTED.items()))
    parser.add_argument("--processes", type=int, default=1, help="of this machine, to run schedules at the same time")
    parser.add_argument("--replay", type=int, metavar="SEED", help="show this one schedule, whole")
    args = parser.parse_args()
    if args.replay is not None:
        told = play(args.replay, _parts(args.planted))
        _show(told, args.planted, sys.maxsize)
        sys.exit(bool(told.violation))
    began_s = time.monotonic()
    schedules = statements = turns = started = 0
    wrong: Told | None = None
    for told in _told(range(args.seed, args.seed + args.schedules), args.planted, args.processes):
        schedules, statements, turns = schedules + 1, statements + told.statements, turns + told.turns
        started += told.processes
        if told.violation:
            wrong = told
            break
        if schedules % 1_000 == 0:
            print(f"{schedules:,} schedules, nothing wrong", flush=True)
    if wrong is not None:
        print(f"The last {LINES_SHOWN} lines of the schedule with seed {wrong.seed}:\n")
        _show(wrong, args.planted, LINES_SHOWN)
        named = f" --planted {args.planted}" if args.planted else ""
        print(f"All of it: python -m tests.simulation --replay {wrong.seed}{named}\n")
    print(
        f"{schedules:,} schedules from seed {args.seed}, {turns:,} turns, {statements:,} statements, {started:,} processes "
        f"started, in {time.monotonic() - began_s:.0f} s: {'1 violation' if wrong else 'nothing wrong'}"
    )
    sys.exit(wrong is not None)


if __name__ == "__main__":
    main()
