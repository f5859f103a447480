"""A ledger in a folder: the anchor is its last record, lanes move positions in chains of their own, heartbeats lie beside."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from typing_extensions import override

from sinks.parquet.beats import Beats
from sinks.parquet.chains import Chains, Overtaken, Streams, merge
from sinks.parquet.place import Place, run_folder, staged_name, write
from sinks.parquet.records import (
    FORMAT,
    Anchor,
    File,
    Moved,
    Row,
    Run,
    defined_of,
    moved_of,
    owner_record,
    owner_row,
    pack,
    place_of,
    row_of,
    stored_of,
    stream_of,
    unpack,
    windows_record,
)
from waxwing.batch import Stream
from waxwing.errors import Fenced, TransientError
from waxwing.ledger.anchored import Anchored
from waxwing.ledger.contents import Contents
from waxwing.ledger.store import Race, Step
from waxwing.ledger.whole_file import sync_folder

HELD_MAX_S = 60.0
_NONE = Moved(0, 0, 0, 0, 0, None, None, 0, 0, 0)


@dataclass
class _Known:
    """An anchor as it was loaded, with what has been sealed since: its streams and files are those that the next one has."""

    number: int
    anchor: Anchor
    streams: Streams  # as the anchor has them, and the chains that are sealed
    live: Streams  # with the chains of those who still write
    files: tuple[File, ...] = ()
    sealed: set[str] = field(default_factory=set)  # tokens


class ParquetLedger(Anchored):
    """What one step keeps.

    Args:
        place: its folders.
        step: the step.
        columns: the types of the columns that its files have, by name.
        keys: the columns that stand in folders' names.

    Attributes:
        parts: the sink partitions that each process may have.
    """

    def __init__(self, place: Place, step: Step, columns: dict[str, str], keys: Sequence[str]) -> None:
        self.place, self.chains, self._beats = place, Chains(place, step.flow), Beats(place.beats)
        self.parts: tuple[str, ...] = ()
        self._step, self._columns, self._keys = step, columns, tuple(keys)
        self._lock = threading.RLock()
        self._read: tuple[int, Anchor] = (-1, Anchor(FORMAT, *step))
        self._states: dict[str, bytes] = {}  # by the file's name
        self._known = _Known(*self._read, {}, {})
        self._loaded = Contents()
        self._opens = ""  # the token of who takes the step with the next anchor

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=HELD_MAX_S):
            raise TransientError(f"{self.place.own} is being read for {HELD_MAX_S:.0f} s.")
        try:
            yield
        finally:
            self._lock.release()

    # -- reading -------------------------------------------------------------------------------------

    def newest(self) -> tuple[int, Anchor]:
        """The last anchor, with its number; -1: there is none."""
        with self.place.speaking():
            held = self._read
            number = max(self.place.numbers(), default=-1)
            path = self.place.anchor_path(number)
            if number == held[0]:
                return held
            packed = self.place.read(path)
            if number < held[0] or packed is None:  # anchors are never removed
                raise self.place.gone(path)
            self._read = found = number, unpack(path, packed, Anchor)
            return found

    @override
    def load(self) -> Contents:
        with self.place.speaking():
            while True:
                with contextlib.suppress(Overtaken):
                    contents = self._load()
                    break
        self._loaded = contents.copy()
        return contents

    def _load(self) -> Contents:
        number, anchor = self.newest()
        streams = {stream_of(self._step.flow, row): row.moved for row in anchor.rows}
        live = self.chains.live(anchor, number)
        self._known, self._opens = _Known(number, anchor, streams, live, anchor.files), ""
        return self._contents(anchor, live)

    def _contents(self, anchor: Anchor, live: Streams) -> Contents:
        contents, step = Contents(), self._step
        for row in anchor.rows:
            stream = stream_of(step.flow, row)
            moved = live[stream]
            contents.positions[step, stream] = stored_of(step.flow, row, moved)
            if moved.state:
                contents.states[step, stream] = self._state(moved.state)
        self._states = {moved.state: self._states[moved.state] for moved in live.values() if moved.state}
        for one in anchor.owners:
            contents.owners[step, one.generation] = owner_row(one)._replace(
                heartbeat_ms=self._beats.of(one.token, one.heartbeat_ms)
            )
        if anchor.windows is not None:
            contents.windows[step] = defined_of(step.flow, anchor.windows)
        return contents

    def _state(self, name: str) -> bytes:
        if name not in self._states:
            packed = self.place.read(self.place.staging / name)
            if packed is None:  # a lane has moved on, and has removed it
                if not self._is_passed(name):
                    raise self.place.gone(self.place.staging / name)
                raise Overtaken
            self._states[name] = packed
        return self._states[name]

    def _is_passed(self, name: str) -> bool:
        """Does what was read of the chains no longer hold?"""
        number, anchor = self.newest()
        if number != self._known.number:
            return True
        return all(moved.state != name for moved in self.chains.live(anchor, number).values())

    # -- writing the anchor --------------------------------------------------------------------------

    @override
    def fence(self, contents: Contents, step: Step, keep: Sequence[str]) -> None:
        known, self._opens = self._known, keep[0]
        with self.place.speaking():
            if self.newest()[0] != known.number:
                raise Race(f"{self.place.own} has a later anchor")
            self._seal([run for run in known.anchor.runs if run.token not in keep], keep[0])
            with self._racing():  # one of those that go on may have just committed
                now = self._contents(known.anchor, known.live)
        for key, row in now.positions.items():
            contents.positions[key] = contents.positions[key]._replace(position=row.position)
        contents.states = now.states
        self._loaded = self._loaded.copy()
        self._loaded.positions, self._loaded.states = dict(now.positions), dict(now.states)

    def _seal(self, runs: Sequence[Run], token: str) -> None:
        known = self._known
        for run in runs:
            for part in run.parts:
                with self._racing():
                    end = self.chains.seal(run, part, known.number, token)
                merge(known.streams, end.streams)
                merge(known.live, end.streams)
                known.files += end.files
            known.sealed.add(run.token)

    @contextmanager
    def _racing(self) -> Iterator[None]:
        try:
            yield
        except Overtaken as error:
            raise Race(f"{self.place.own} was written while it was read") from error

    @override
    def save(self, contents: Contents) -> None:
        if self._same(contents):
            return
        with self.place.speaking():
            self._save(contents)

    def _same(self, contents: Contents) -> bool:
        before = self._loaded
        kept = "positions", "states", "windows", "owners"
        return not self._opens and all(getattr(contents, name) == getattr(before, name) for name in kept)

    def _save(self, contents: Contents) -> None:
        known, token = self._known, self._opens or f"by{secrets.token_hex(7)}"
        number = known.number + 1
        set_here = self._set_here(contents)
        runs = {run.token: run for run in known.anchor.runs if run.token not in known.sealed}
        if any(key in self._loaded.positions for key in set_here) or self._loaded.positions.keys() - contents.positions.keys():
            runs = self._begun_anew(runs, set_here, number, token)
        if self._opens and self._opens not in runs:
            runs[self._opens] = Run(self._opens, self._made(number, self._opens), self.parts)
        rows = []
        for key, stored in contents.positions.items():
            moved = known.streams.get(key[1], _NONE)
            if key in set_here:
                moved = moved_of(stored.position, number, self._keep(contents.states.get(key), number, token))
            rows.append(row_of(stored, moved))
        anchor = self._anchor_of(contents, rows, tuple(runs.values()))
        if not self.place.link(self.place.anchor_path(number), pack(anchor), number, token):
            raise Race(f"{self.place.own} has a later anchor")
        if self._opens or known.sealed:
            self.place.move(anchor.files)
        if self._opens:
            self._clean(number, anchor)
        self._opens = ""

    def _set_here(self, contents: Contents) -> set[tuple[Step, Stream]]:
        """Those whose place is set by this anchor, and by no lane."""
        before = self._loaded
        return {
            key
            for key, stored in contents.positions.items()
            if key not in before.positions
            or place_of(stored) != place_of(before.positions[key])
            or contents.states.get(key) != before.states.get(key)
        }

    def _begun_anew(self, runs: dict[str, Run], set_here: set[tuple[Step, Stream]], number: int, token: str) -> dict[str, Run]:
        """The runs with chains of another folder, since no lane may go on behind a position that is set for it here.

        Raises:
            Race: one of these has just been moved.
        """
        before = {key[1]: self._known.live.get(key[1]) for key in set_here}
        self._seal(list(runs.values()), token)
        if any(self._known.live.get(stream) != moved for stream, moved in before.items()):
            raise Race(f"{self.place.own}: a position has just been moved")
        return {run.token: Run(run.token, self._made(number, run.token), run.parts) for run in runs.values()}

    def _made(self, number: int, token: str) -> str:
        name = run_folder(number, token)
        (self.place.chains / name).mkdir()
        sync_folder(self.place.chains)
        return name

    def _keep(self, state: bytes | None, number: int, token: str) -> str:
        if state is None:
            return ""
        name = staged_name(number, token)
        write(self.place.staging / name, state)
        sync_folder(self.place.staging)
        return name

    def _anchor_of(self, contents: Contents, rows: Sequence[Row], runs: tuple[Run, ...]) -> Anchor:
        known = self._known
        return Anchor(
            FORMAT,
            *self._step,
            rows=tuple(rows),
            windows=windows_record(contents.windows.get(self._step)),
            owners=tuple(owner_record(generation, row) for (_, generation), row in contents.owners.items()),
            runs=runs,
            files=self.place.left(known.files),
            columns={**known.anchor.columns, **self._columns},
            keys=self._keys,
        )

    def _clean(self, number: int, anchor: Anchor) -> None:
        needed = [file.staged for file in anchor.files] + [row.moved.state for row in anchor.rows]
        self.place.clean(number, [run.token for run in anchor.runs], needed, [run.folder for run in anchor.runs])
        self._beats.clean({one.token for one in anchor.owners})

    # -- whose it is ---------------------------------------------------------------------------------

    def run_of(self, token: str) -> tuple[Run, Anchor]:
        """Where this owner's chains are, and the anchor that says so.

        Raises:
            Fenced: another owner has the step.
        """
        _, anchor = self.newest()
        for run in anchor.runs:
            if run.token == token and not any(one.token == token and one.heartbeat_ms < 0 for one in anchor.owners):
                return run, anchor
        raise Fenced(
            f"Another process of flow {self._step.flow} has taken over its positions ({self.place.own}).",
            hint="Nothing was written after that. The other process goes on; do not restart this one.",
        )

    def moved(self, stream: Stream) -> Moved:
        """Where a stream stands, as it was loaded."""
        return self._known.live[stream]

    # -- heartbeats ----------------------------------------------------------------------------------

    @override
    def now_ms(self) -> int:
        return self._beats.now_ms()

    @override
    def beat(self, token: str) -> bool:
        self._beats.touch(token)
        with contextlib.suppress(Fenced):
            self.run_of(token)
            return True
        return False

    @override
    def stop(self, token: str) -> None:
        self._beats.stop(token)
