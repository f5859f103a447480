"""A ledger in one file, which is replaced whole, with the dead letters in one beside it: for targets that are folders."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import DeadLetter, Position
from waxwing.errors import ConfigError, DataError, TransientError
from waxwing.ledger.contents import Contents, Letter, Letters, OwnerRow
from waxwing.ledger.members import Member
from waxwing.ledger.store import Step, Stored
from waxwing.ledger.whole import Whole
from waxwing.ledger.windows import Defined, dump_streams, load_streams

FORMAT = 1
# A transaction takes milliseconds. Who waits for so long waits for a process that is frozen, or for a disk; as with databases
# (DATABASE_LOCK_TIMEOUT_S).
LOCK_MAX_S = 5.0
_LOOK_AGAIN_S = 0.005
_LENGTH_BYTES = 4


class _Saved(NamedTuple):
    """Where the letters lie: the number in their file's name, and how much of it counts."""

    number: int = 0
    size: int = 0


class WholeFile(Whole):
    """A file in a folder that all processes of the flow reach. `<file>.lock` and `<file>.letters-<n>` stand beside it.

    It is read in every transaction, and written in every commit: positions, owners, what windows keep. Dead letters are not:
    they are added to a file of their own.

    Args:
        file: its path. (Not on a network file system whose locks or renames lie.)
    """

    # One for each file: the threads of this process come in turns, and wait for others by one of them.
    _turns: dict[Path, threading.Lock] = {}  # noqa: RUF012 - of all

    def __init__(self, file: Path) -> None:
        self._file = file.absolute()
        self._turn = self._turns.setdefault(self._file, threading.Lock())
        self._saved = _Saved()

    def dead_letters(self) -> list[DeadLetter]:
        """Those of all steps that write into it."""
        with self.held():
            return [letter for _, letter in self.load().letters.all()]

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        end_s = time.monotonic() + LOCK_MAX_S
        if not self._turn.acquire(timeout=LOCK_MAX_S):
            raise TransientError(f"{self._file} is held by another writer of this process for {LOCK_MAX_S:.0f} s.", locked=True)
        try:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                lock = self._file.with_name(f"{self._file.name}.lock").open("a+")
            except OSError as error:
                raise ConfigError(f"{self._file} can't be written: {error}.", hint="Check the folder's permissions.") from error
            with lock:  # closing it lets go of it
                self._locked(lock.fileno(), end_s)
                yield
        finally:
            self._turn.release()

    def _locked(self, lock: int, end_s: float) -> None:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < end_s:
                    time.sleep(_LOOK_AGAIN_S)
                    continue
                holder = os.pread(lock, 20, 0).decode()
                raise TransientError(
                    f"{self._file} is held by another process ({holder}) for {LOCK_MAX_S:.0f} s.",
                    hint="Is it frozen? Let it go on, or kill it.",
                    locked=True,
                ) from None
            os.ftruncate(lock, 0)
            os.write(lock, str(os.getpid()).encode())
            return

    @override
    def load(self) -> Contents:
        try:
            packed = self._file.read_bytes()
        except FileNotFoundError:
            self._saved = _Saved()
            return Contents()
        try:
            number, *rows = msgspec.msgpack.decode(packed)
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise self._damaged(error) from error
        if number != FORMAT:
            raise ConfigError(f"{self._file} has format {number}, this Waxwing knows {FORMAT}.", hint="Run the newer Waxwing.")
        *tables, saved = rows
        self._saved = _Saved(*saved)
        return _loaded(*tables, letters=Letters(partial(self._letters, self._saved)))

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._file} is damaged: {error}.", hint="Restore it from a backup, with its folder.")

    def _letters_file(self, number: int) -> Path:
        return self._file.with_name(f"{self._file.name}.letters-{number}")

    def _letters(self, saved: _Saved) -> list[Letter]:
        if not saved.size:
            return []
        try:
            packed = memoryview(self._letters_file(saved.number).read_bytes())[: saved.size]
            found, at = [], 0
            while at < saved.size:
                start = at + _LENGTH_BYTES
                at = start + int.from_bytes(packed[at:start], "big")
                flow, step, stream, *fields = msgspec.msgpack.decode(packed[start:at])
                letter = DeadLetter(Stream(*stream), *fields)
                found.append((Step(flow, step), letter._replace(headers=tuple((name, value) for name, value in letter.headers))))
        except (OSError, msgspec.DecodeError, ValueError, TypeError) as error:
            raise self._damaged(error) from error
        return found

    @override
    def save(self, contents: Contents) -> None:
        before = self._saved
        after = self._save_letters(contents.letters)
        beside = self._file.with_name(f"{self._file.name}.new")
        with beside.open("wb") as out:
            out.write(msgspec.msgpack.encode([FORMAT, *_dumped(contents), after]))
            out.flush()
            os.fsync(out.fileno())
        beside.replace(self._file)
        try:
            sync_folder(self._file.parent)
        except OSError as error:
            raise TransientError(f"{self._file} was replaced, and may not outlive a crash: {error}", committing=True) from error
        if after.number != before.number:
            self._letters_file(before.number).unlink(missing_ok=True)

    def _save_letters(self, letters: Letters) -> _Saved:
        """What the ledger does not name yet counts for nothing: it is written over."""
        if not letters.added and not letters.whole:
            return self._saved
        number, size = (self._saved.number + 1, 0) if letters.whole else self._saved
        packed = bytearray()
        for step, letter in letters.added:
            one = msgspec.msgpack.encode([*step, *letter])
            packed += len(one).to_bytes(_LENGTH_BYTES, "big") + one
        file = self._letters_file(number)
        with file.open("r+b" if size else "wb") as out:
            out.truncate(size)
            out.seek(size)
            out.write(packed)
            out.flush()
            os.fsync(out.fileno())
        return _Saved(number, size + len(packed))


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder outlive a crash of the machine."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _dumped(contents: Contents) -> list[Any]:
    """Plain lists, by position: fields that come later stand behind, and what an earlier release wrote has fewer."""
    return [
        [[*step, *row.position, row.generation, row.token] for (step, _), row in contents.positions.items()],
        [[*step, stream, state] for (step, stream), state in contents.states.items()],
        [[*step, one.buckets, one.text, dump_streams(one.streams)] for step, one in contents.windows.items()],
        [[*step, generation, *row] for (step, generation), row in contents.owners.items()],
    ]


def _loaded(positions: Any, states: Any, windows: Any, owners: Any, *, letters: Letters) -> Contents:
    contents = Contents(letters=letters)
    for flow, step, stream, *fields, generation, token in positions:
        at = Stream(*stream)
        contents.positions[Step(flow, step), at] = Stored(Position(at, *fields), generation, token)
    for flow, step, stream, state in states:
        contents.states[Step(flow, step), Stream(*stream)] = state
    for flow, step, buckets, text, streams in windows:
        contents.windows[Step(flow, step)] = Defined(buckets, text, load_streams(flow, streams))
    for flow, step, generation, token, member, place, heartbeat_ms in owners:
        contents.owners[Step(flow, step), generation] = OwnerRow(token, Member(*member), place, heartbeat_ms)
    return contents
