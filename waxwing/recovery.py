"""Bytewax's recovery store (`-r`), made ready before a start: by flows whose state is kept there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bytewax.recovery import init_db_dir

from waxwing.errors import ConfigError


def prepare(folder: Path, parts: int = 1) -> int:
    """Make the store's files where there are none, and remove what Bytewax would wrongly load; return how many rows that were.

    A crash leaves snapshots of epochs that were never finished. Bytewax starts again below them, but lets them lie: where the
    next run has nothing to say about a key in that epoch, the old snapshot counts, and its records are taken in twice.
    Call it once, in `flow()`, while nothing runs on the store.

    Raises:
        ConfigError: the folder can't be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("part-*.sqlite3"))
        if not files:
            init_db_dir(folder, parts)
            return 0
        resume = _resume_epoch(files)
        return sum(_removed(file, resume) for file in files)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(
            f"The recovery store {folder} can't be used: {error}.",
            hint="Check the folder's permissions, and that no flow runs on it.",
        ) from error


def _resume_epoch(files: list[Path]) -> int:
    """The epoch that Bytewax begins with: the lowest that a worker of the last run had reached. The tables' rows are spread
    over the files.
    """
    runs: dict[int, tuple[int, int]] = {}
    reached: dict[int, list[int]] = {}
    for file in files:
        with closing(sqlite3.connect(file)) as db:
            for number, workers, epoch in db.execute("SELECT ex_num, worker_count, resume_epoch FROM exs"):
                runs[number] = workers, epoch
            for number, epoch in db.execute("SELECT ex_num, worker_frontier FROM fronts"):
                reached.setdefault(number, []).append(epoch)
    if not runs:
        return 0
    last = max(runs)
    workers, epoch = runs[last]
    fronts = reached.get(last, [])
    # A worker that wrote nothing stands where its run began.
    return min(fronts) if len(fronts) == workers else epoch


def _removed(file: Path, resume: int) -> int:
    with closing(sqlite3.connect(file)) as db, db:
        return db.execute("DELETE FROM snaps WHERE snap_epoch >= ?", (resume,)).rowcount
