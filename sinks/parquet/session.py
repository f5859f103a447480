"""A writer's way into a folder: files in staging, a record of its chain, and then the files are moved in."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sinks.parquet.chains import head_path, record_path
from sinks.parquet.files import Files, Growing
from sinks.parquet.place import staged_name, write
from sinks.parquet.records import SEGMENT_RECORDS, Anchor, File, Link, Moved, Run, moved_of, pack, stream_of
from waxwing.batch import Batch, Stream
from waxwing.change import Change, Position
from waxwing.errors import ConfigError, TargetError, TryLater
from waxwing.ledger.ledger import UNFED_HINT
from waxwing.ledger.whole_file import sync_folder
from waxwing.tables.files import letters
from waxwing.target import Session

if TYPE_CHECKING:
    from sinks.parquet.target import ParquetTarget


class Lane:
    """What one sink partition of this owner has staged, and its chain. It outlives a session.

    Args:
        target: whose.
        part: the partition.
        token: of this owner.
    """

    def __init__(self, target: ParquetTarget, part: str, token: str) -> None:
        self._target, self._ledger, self._place = target, target.parquet_ledger, target.place
        self._part, self.token = part, token
        settings = target.parquet_settings
        self._level = settings.parquet_zstd_level
        self._files = Files(target.rows.schema, self._level, settings.parquet_file_bytes_max, self._new)
        self._number = 0  # of the anchor that made this owner's chains
        self._at: dict[Stream, Moved] = {}
        self._states: dict[Stream, str] = {}  # files of this lane
        # The chain: its folder, the last head, and the number of the next record behind it.
        self._folder, self._k, self._segment, self._n = "", -1, "", SEGMENT_RECORDS

    # -- positions -----------------------------------------------------------------------------------

    def take_over(self, stream: Stream) -> Position:
        """The position of a stream of this partition."""
        ledger, step = self._ledger, self._target.own_step
        with ledger.held():
            contents = ledger.load()
            run, _ = ledger.run_of(self.token)
            row = contents.positions.get((step, stream))
            if row is None:
                raise ConfigError(f"{self._target.name} has no position of {stream}.", hint=UNFED_HINT, step=step.name)
            self._at[stream] = ledger.moved(stream)
        self._number = int(run.folder.partition("-")[0])
        state = contents.states.get((step, stream), b"") if self._target.keeps_state else None
        return row.position._replace(state=state)

    # -- records -------------------------------------------------------------------------------------

    def stage(self, batches: Sequence[Batch[Any]]) -> None:
        """Rows into the files of their folders."""
        made = self._target.rows.of(batches)
        with self._place.speaking():
            self._files.add(made)

    def _new(self, folder: str) -> tuple[Path, str]:
        name = f"{self._place.prefix}-{secrets.token_hex(12)}.parquet"
        return self._staged(), f"{folder}/{name}" if folder else name

    def _staged(self) -> Path:
        return self._place.staging / staged_name(self._number, self.token)

    # -- commits -------------------------------------------------------------------------------------

    def commit(self, change: Change) -> None:
        """Make what was staged durable and visible, with positions, dead letters and state.

        Raises:
            Fenced: another owner has the step.
        """
        if all(self._place_of(stream) == after.place for stream, after in change.after.items()):
            return  # it was done, and nobody heard of it
        if any(self._place_of(stream) != before.place for stream, before in change.before.items()):
            raise TargetError(f"{self._target.name}: a change does not begin where this lane stands.", step=self._target.step)
        with self._place.speaking():
            self._commit(change)

    def _place_of(self, stream: Stream) -> tuple[int, bytes | None]:
        return self._at[stream].offset_next, self._at[stream].token

    def _commit(self, change: Change) -> None:
        files = [*self._files.finished(), *self._letters(change)]
        states = {stream: self._state(after.state) for stream, after in change.after.items() if after.state is not None}
        moved = {
            stream: moved_of(after, self._at[stream].since, states.get(stream, self._at[stream].state))
            for stream, after in change.after.items()
        }
        if files or states:
            sync_folder(self._place.staging)
        left = self._link(moved, tuple(files))
        self._files.clear()
        self._at |= moved
        self._place.move(files)
        if left is not None:
            shutil.rmtree(left, ignore_errors=True)
        for stream, name in states.items():
            if old := self._states.get(stream):
                (self._place.staging / old).unlink(missing_ok=True)
            self._states[stream] = name

    def _letters(self, change: Change) -> list[File]:
        if not change.dead_letters:
            return []
        path, to = self._new("")
        made = letters.batch(change.dead_letters, self._target.own_step)
        growing = Growing(path, made.schema, self._level)
        growing.add(made)
        growing.finish()
        return [File(path.name, True, to)]

    def _state(self, state: bytes) -> str:
        path = self._staged()
        write(path, state)
        return path.name

    # -- the chain -----------------------------------------------------------------------------------

    def _link(self, moved: dict[Stream, Moved], files: tuple[File, ...]) -> Path | None:
        """Add a record to the chain: from here on it is committed. Returns a segment that is of no more use."""
        while True:
            run, anchor = self._ledger.run_of(self.token)
            if run.folder != self._folder:
                self._adopt(run, anchor)
            left = self._place.chains / self._folder / self._segment if self._segment else None
            is_head = self._n == SEGMENT_RECORDS
            made = self._head({**self._at, **moved}, files) if is_head else self._record(moved, files)
            # Who has taken the step meanwhile has this record or not, but moves the files itself if so.
            now, anchor = self._ledger.run_of(self.token)
            if made and now.folder == self._folder:
                return left if is_head else None
            if made:
                held = {stream_of(self._target.flow, row): row.moved for row in anchor.rows}
                if any(held.get(stream) != to for stream, to in moved.items()):
                    raise self._set_by_others()
                return None
            if now.folder == self._folder:
                raise TryLater(
                    f"{self._target.name}: another process was about to take its positions, and has not come to that.",
                    hint="Nothing was written after that. Start again: it goes on from the stored positions.",
                )

    def _adopt(self, run: Run, anchor: Anchor) -> None:
        """Go on in another folder: a position of the step was set by hand, or by a source that has lost its place."""
        held = {stream_of(self._target.flow, row): row.moved.since for row in anchor.rows}
        if any(held.get(stream) != moved.since for stream, moved in self._at.items()):
            raise self._set_by_others()
        self._folder, self._k, self._segment, self._n = run.folder, -1, "", SEGMENT_RECORDS

    def _set_by_others(self) -> TargetError:
        return TargetError(
            f"{self._target.name}: a position of this step was set anew while it was written.",
            hint="Nothing was written after that. Start again: it goes on from the stored positions.",
            step=self._target.step,
        )

    def _record(self, moved: dict[Stream, Moved], files: tuple[File, ...]) -> bool:
        path = record_path(self._place.chains / self._folder, self._segment, self._n)
        self._n += 1
        return self._put(path, Link(_streams(moved), files))

    def _head(self, moved: dict[Stream, Moved], files: tuple[File, ...]) -> bool:
        """A head tells of all streams of the lane: what lies before it goes."""
        folder, segment = self._place.chains / self._folder, secrets.token_hex(8)
        try:
            (folder / segment).mkdir()
        except FileNotFoundError:
            return False
        sync_folder(folder)
        if not self._put(head_path(folder, self._part, self._k + 1), Link(_streams(moved), files, segment)):
            with contextlib.suppress(OSError):
                (folder / segment).rmdir()
            return False
        self._k, self._segment, self._n = self._k + 1, segment, 1
        return True

    def _put(self, path: Path, record: Link) -> bool:
        return self._place.link(path, pack(record), self._number, self.token)


def _streams(moved: dict[Stream, Moved]) -> tuple[tuple[str, str, int, Moved], ...]:
    return tuple((*stream[1:], to) for stream, to in moved.items())


class ParquetSession(Session):
    """A session of one sink partition: what it does is done by the partition's lane.

    Args:
        lane: which.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    @override
    def take_over(self, stream: Stream) -> Position:
        return self._lane.take_over(stream)

    @override
    def stage(self, batches: Sequence[Batch[Any]]) -> None:
        self._lane.stage(batches)

    @override
    def commit(self, change: Change) -> None:
        self._lane.commit(change)

    @override
    def close(self) -> None:
        """What was staged stays: another session goes on with it."""
