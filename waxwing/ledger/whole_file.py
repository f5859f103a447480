"""A ledger in one file, which is replaced whole: for targets that are folders."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.errors import ConfigError, DataError
from waxwing.ledger.members import Member
from waxwing.ledger.store import Step, Stored
from waxwing.ledger.whole import Contents, OwnerRow, Whole
from waxwing.ledger.windows import Defined, dump_streams, load_streams

FORMAT = 1


class WholeFile(Whole):
    """A file in a folder that all processes of the flow reach, with a lock beside it.

    Args:
        file: its path. `<file>.lock` stands beside it. (Not on a network file system whose locks or renames lie.)
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            lock = self._file.with_name(f"{self._file.name}.lock").open("a")
        except OSError as error:
            raise ConfigError(f"{self._file} can't be written: {error}.", hint="Check the folder's permissions.") from error
        with lock:  # closing it lets go of it
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @override
    def load(self) -> Contents:
        try:
            packed = self._file.read_bytes()
        except FileNotFoundError:
            return Contents()
        try:
            number, *rows = msgspec.msgpack.decode(packed)
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise DataError(f"{self._file} is damaged: {error}.", hint="Restore it from a backup, with its folder.") from error
        if number != FORMAT:
            raise ConfigError(f"{self._file} has format {number}, this Waxwing knows {FORMAT}.", hint="Run the newer Waxwing.")
        return _loaded(*rows)

    @override
    def save(self, tables: Contents) -> None:
        beside = self._file.with_name(f"{self._file.name}.new")
        with beside.open("wb") as out:
            out.write(msgspec.msgpack.encode([FORMAT, *_dumped(tables)]))
            out.flush()
            os.fsync(out.fileno())
        beside.replace(self._file)
        sync_folder(self._file.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder outlive a crash of the machine."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _dumped(tables: Contents) -> list[Any]:
    """Plain lists, by position: fields that come later stand behind, and what an earlier release wrote has fewer."""
    return [
        [[*step, *row.position, row.generation, row.token] for (step, _), row in tables.positions.items()],
        [[*step, stream, state] for (step, stream), state in tables.states.items()],
        [[*step, one.buckets, one.text, dump_streams(one.streams)] for step, one in tables.windows.items()],
        [[*step, *letter] for step, letter in tables.letters],
        [[*step, generation, *row] for (step, generation), row in tables.owners.items()],
    ]


def _loaded(positions: Any, states: Any, windows: Any, letters: Any, owners: Any) -> Contents:
    tables = Contents()
    for flow, step, stream, *fields, generation, token in positions:
        at = Stream(*stream)
        tables.positions[Step(flow, step), at] = Stored(Position(at, *fields), generation, token)
    for flow, step, stream, state in states:
        tables.states[Step(flow, step), Stream(*stream)] = state
    for flow, step, buckets, text, streams in windows:
        tables.windows[Step(flow, step)] = Defined(buckets, text, load_streams(flow, streams))
    for flow, step, stream, *fields in letters:
        tables.letters.append((Step(flow, step), DeadLetter(Stream(*stream), *fields)))
    for flow, step, generation, token, member, place, heartbeat_ms in owners:
        tables.owners[Step(flow, step), generation] = OwnerRow(token, Member(*member), place, heartbeat_ms)
    return tables
