"""A ledger in a Delta table's log: numbers in it name files of ours beside the table.

The rows' commits replace the number of their sink partition; the anchor's is replaced by whoever takes the step, or lets a
stream begin. Whoever takes it while others than its start's own processes may write makes a full opening: ONE commit with new
numbers and files for every sink partition and the anchor, which fences all of them. Else it joins: the anchor alone is replaced,
with its token among those that may write.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

from msgspec import structs
from typing_extensions import override

from sinks.delta.log import Conflict, DeltaLog, Unknown
from sinks.delta.place import DeltaPlace
from sinks.delta.records import (
    BEATS,
    Anchor,
    Found,
    Key,
    Names,
    Part,
    contents_of,
    draw,
    dump,
    held_of,
    key_of,
    left,
    load,
    moved,
    owners_of,
    said_of,
    windows_of,
)
from waxwing.errors import DataError, Fenced, TransientError
from waxwing.ledger.anchored import Anchored
from waxwing.ledger.contents import Contents, Letters
from waxwing.ledger.store import Race, Step

# The table is being written by another thread of this process for so long at most.
HELD_MAX_S = 60.0
# A file that is missing belongs to a snapshot that is old by now: so often a new one is looked at.
LOOKS_MAX = 20
# So long, drawn anew each time, a process that was overtaken waits: those that begin together must not be in each other's way.
GIVE_WAY_S = 0.0, 0.3
# So long a heartbeat that is under way is waited for at the end.
BEAT_ENDS_S = 2.0
_STOPPED, _BEATS, _CLOCK = b"stopped", b"beats", "clock"
_NO_LETTERS = Letters()  # they have no part in what is compared
R = TypeVar("R", Anchor, Part)


class _Taking(NamedTuple):
    """Somebody takes the step.

    Attributes:
        own: its token.
        keep: the tokens of those that stay.
        full: does it make a full opening?
        listed: the files that there were before the snapshot.
    """

    own: str
    keep: Sequence[str]
    full: bool
    listed: set[str]


class DeltaLedger(Anchored):
    """What one step keeps.

    Args:
        step: the step.
        place: its table, its dead letters, the files beside.
        writers: how many sink partitions the step has.
    """

    def __init__(self, step: Step, place: DeltaPlace, writers: int) -> None:
        self.names, self.place = Names(step), place
        self._step, self._writers = step, writers
        self._lock, self._beating = threading.RLock(), threading.Lock()
        self._found, self._loaded = Found(), Contents()
        self._cache: dict[int, Anchor | Part] = {}
        self._taking: _Taking | None = None
        self._unsettled = False  # has this process opened, and not fenced the letters?
        self._looked_at = -1  # the version up to which nothing of ours was taken back

    @property
    def rows(self) -> DeltaLog:
        """The log of the table."""
        return self.place.rows

    # -- as one object -----------------------------------------------------------------------------

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=HELD_MAX_S):
            raise TransientError(f"{self.rows.folder.path} is being written for {HELD_MAX_S:.0f} s.")
        try:
            yield
        finally:
            self._lock.release()

    @override
    def load(self) -> Contents:
        self._taking = None
        self._found = self.look()
        contents = self._contents(self._found)
        self._loaded = _kept(contents)
        return contents

    def load_with(self) -> tuple[Contents, Found]:
        """The same, with what it was made of."""
        return self.load(), self._found

    def _contents(self, found: Found) -> Contents:
        contents = contents_of(self._step, found)
        contents.letters = Letters(partial(self.place.letters.all, self._step))
        beats = self.place.state.listed(self.names.beat()) if contents.owners else {}
        for which, row in contents.owners.items():
            if row.heartbeat_ms > 0 and row.token in beats:
                stopped = self.place.state.read(self.names.beat(row.token)) == _STOPPED
                contents.owners[which] = row._replace(heartbeat_ms=0 if stopped else max(row.heartbeat_ms, beats[row.token]))
        return contents

    # -- what is there -------------------------------------------------------------------------------

    def look(self) -> Found:
        """What a new snapshot says, and the files that its numbers name.

        Raises:
            DataError: a file is gone; or the table was restored to a version before our last commit.
            TransientError: the table or the files are away; or others commit all the time.
        """
        before: object = None
        for _ in range(LOOKS_MAX):
            self.rows.refresh()
            found = self._files_of_snapshot()
            if isinstance(found, Found):
                self._demand_kept(found)
                return found
            if found == before:
                return self._lost(found)
            before = found
        raise TransientError(f"{self.rows.folder.path} is being written all the time: no snapshot lasts until it is read.")

    def _files_of_snapshot(self) -> Found | dict[str, int | None]:
        """What is found; or the numbers whose files are missing."""
        number = self.rows.number(self.names.anchor)
        if number is None:
            return Found()
        anchor = self._read(number, Anchor)
        if anchor is None:
            return {self.names.anchor: number}
        numbers: dict[int, int] = {}
        parts: dict[int, Part] = {}
        for at in range(anchor.parts):
            of_part = self.rows.number(self.names.part(at))
            part = None if of_part is None else self._read(of_part, Part)
            if of_part is None or part is None:
                return {self.names.part(at): of_part}
            numbers[at], parts[at] = of_part, part
        kept = {number, *numbers.values()}
        self._cache = {one: record for one, record in self._cache.items() if one in kept}
        return Found(number, anchor, numbers, parts)

    def _read(self, number: int, kind: type[R]) -> R | None:
        if number not in self._cache:
            content = self.place.state.read(self.names.file(number))
            if content is None:
                return None
            self._cache[number] = load(content, kind)
        record: Any = self._cache[number]
        return cast("R", record)

    def _lost(self, missing: Mapping[str, int | None]) -> Found:
        """Files are gone. All of them: then nothing is remembered, and the start asks what that means."""
        if not self.place.state.listed(self.names.folder):
            numbers: dict[int, int] = {}
            while (number := self.rows.number(self.names.part(len(numbers)))) is not None:
                numbers[len(numbers)] = number
            return Found(None, Anchor(parts=len(numbers)), numbers, self._parts_lost(numbers))
        gone = ", ".join(self.names.file(number or 0) for number in missing.values())
        raise DataError(
            f"{self.rows.folder.path} names a file of step {self._step.name} that is gone from {self.place.state_at}: {gone}.",
            hint="Restore that folder: it belongs to the table, and is as old as it. To begin anew, remove all that the step "
            "has in it, and start with BEGIN=anew: what the table holds comes a second time.",
            step=self._step.name,
        )

    def _parts_lost(self, numbers: Iterable[int]) -> dict[int, Part]:
        """What is known of sink partitions whose files are gone: that their last dead letters may be those of rows that stand."""
        letters = self.place.letters.log
        if not letters.exists():
            return dict.fromkeys(numbers, Part())
        letters.refresh()
        return {at: Part(letters=letters.number(self.names.part(at))) for at in numbers}

    def _demand_kept(self, found: Found) -> None:
        """Raises DataError where somebody has restored the table to a version before our last commits."""
        version = self.rows.version
        if found.number is not None and version > max(found.version, self._looked_at):
            numbers = {self.names.anchor: found.number} | {self.names.part(at): one for at, one in found.numbers.items()}
            if self.rows.taken_back(self._looked_at, found.version, numbers):
                raise DataError(
                    f"{self.rows.folder.path} was restored to a version before the last commit of step {self._step.name}: rows "
                    "are gone, and its positions stand behind them.",
                    hint="Restore it to the version right before that, and start again. Or begin anew: remove what the step has "
                    f"in {self.place.state_at}, and start with BEGIN=anew: what the table holds comes a second time.",
                    step=self._step.name,
                )
        self._looked_at = version

    # -- replacing the anchor ------------------------------------------------------------------------

    @override
    def save(self, contents: Contents) -> None:
        found, taking, before = self._found, self._taking, self._loaded
        changed = {
            key
            for key in contents.positions
            if moved(contents.positions[key]) != (moved(before.positions[key]) if key in before.positions else None)
            or contents.states.get(key) != before.states.get(key)
        }
        whole = (
            bool(changed & before.positions.keys() or before.positions.keys() - contents.positions.keys())
            or contents.letters.whole
            or (found.number is None and bool(found.numbers))
            or (taking is not None and taking.full)
        )
        if taking is None and not whole and _kept(contents) == before:
            return  # it was read
        self._replace(self._anchor(contents, {key_of(stream) for _, stream in changed}, whole=whole), whole=whole)
        if taking is not None and whole:
            self._tidy(taking, found)
        if taking is not None or whole:
            self.settle()

    def _anchor(self, contents: Contents, changed: set[Key], *, whole: bool) -> Anchor:
        anchor, taking, winners = self._found.anchor, self._taking, self._found.winners()
        rows = {key_of(stream): (row, contents.states.get((step, stream))) for (step, stream), row in contents.positions.items()}
        held = [one for one in left(anchor.held, -1, winners) if one.key in rows and one.key not in changed]
        for key in sorted(changed):
            row, state = rows[key]
            held.append(held_of(row.position, winners[key][1].moves + 1 if key in winners else 0, state))
        if taking is not None:
            stay = [token for token in anchor.open if token in taking.keep and token != taking.own]
            anchor = structs.replace(anchor, open=(*stay, taking.own), lanes=self._writers)
        gone = anchor.gone
        if whole and self.place.letters.log.exists() and self.place.letters.log.number(self.names.anchor) == anchor.opening:
            gone = ()  # they went with the last opening
        if contents.letters.whole:
            gone = (*gone, *self.place.letters.gone(self._step, contents.letters))
        return Anchor(
            version=self.rows.version,
            opening=draw() if whole else anchor.opening,
            lanes=anchor.lanes,
            parts=max(anchor.parts, anchor.lanes),
            open=anchor.open,
            said=tuple(said_of(rows[key][0]) for key in sorted(rows)),
            held=tuple(held),
            # Heartbeats that have come meanwhile change nothing.
            owners=anchor.owners if contents.owners == self._loaded.owners else owners_of(contents),
            windows=windows_of(contents.windows.get(self._step)),
            gone=gone,
        )

    def _replace(self, anchor: Anchor, *, whole: bool) -> None:
        """Replace the anchor, with `whole` also what the sink partitions have: in ONE commit, on the snapshot that was looked at.

        Raises:
            Race: somebody was faster.
        """
        found, rows = self._found, self.rows
        winners, taken_out = found.winners(), {one.key for one in anchor.held}
        records: dict[str, Anchor | Part] = {self.names.anchor: anchor}
        for at in range(0 if whole else found.anchor.parts, anchor.parts):
            part = found.parts.get(at, Part())
            kept = tuple(one for one in left(part.held, at, winners) if one.key not in taken_out)
            records[self.names.part(at)] = Part(version=rows.version, letters=part.letters, held=kept)
        numbers = {name: draw() for name in records}
        for name, record in records.items():
            self.place.state.write(self.names.file(numbers[name]), dump(record))
        self._unsettled |= whole
        try:
            rows.append(numbers)
        except (Conflict, Unknown) as error:
            if not rows.stands(numbers):
                time.sleep(random.uniform(*GIVE_WAY_S))
                raise Race(f"{rows.folder.path} was written by another process: {error}") from error
        if not rows.stands(numbers):  # its name in the log had been free again, and nobody reads it
            raise Race(f"{rows.folder.path}: the log was cleaned up meanwhile")
        rows.sync()

    def _tidy(self, taking: _Taking, found: Found) -> None:
        """Remove what was there before the snapshot, and is named by nobody."""
        now = self.look()
        named = {str(one) for one in (found.number, *found.numbers.values(), now.number, *now.numbers.values())}
        for name in sorted(taking.listed - named):
            self.place.state.remove(f"{self.names.folder}/{name}")
        tokens = {row[1] for row in now.anchor.owners}
        for name in self.place.state.listed(self.names.beat()).keys() - tokens:
            self.place.state.remove(self.names.beat(name))

    # -- the letters' table --------------------------------------------------------------------------

    def settle(self) -> None:
        """Fence the table of dead letters, once an opening, and take out those that were never committed: whoever comes first.

        Raises:
            Race: another one has opened meanwhile.
            TransientError: others commit there all the time.
        """
        letters, wanted = self.place.letters.log, 0
        for _ in range(LOOKS_MAX):
            letters.refresh()
            found = self.look()  # behind the snapshot of the letters: else a successor's could be taken for ours
            anchor = found.anchor
            wanted = wanted or anchor.opening
            if anchor.opening != wanted:
                raise Race(f"{self.rows.folder.path} was taken by another process")
            if letters.number(self.names.anchor) == wanted:
                letters.sync()
                self._unsettled = False
                return
            last = {letters.number(self.names.part(at)) for at in found.parts}
            orphans = last - {part.letters for part in found.parts.values()} - {None}
            fence = dict.fromkeys([self.names.anchor, *map(self.names.part, found.parts)], wanted)
            with contextlib.suppress(Conflict, Unknown):
                letters.delete(self.place.letters.those(self._step, orphans, anchor.gone), fence)
        raise TransientError(f"{letters.folder.path} is being written all the time.")

    # -- owners ------------------------------------------------------------------------------------

    @override
    def fence(self, contents: Contents, step: Step, keep: Sequence[str]) -> None:
        listed = set(self.place.state.listed(self.names.folder))  # before the snapshot: none of these can be a successor's
        now = self.look()
        if now.number != self._found.number:
            raise Race(f"{self.rows.folder.path} was taken by another process")
        self._found = now
        fresh = contents_of(step, now)
        contents.positions, contents.states = fresh.positions, fresh.states
        self._loaded.positions, self._loaded.states = dict(fresh.positions), dict(fresh.states)
        if now.anchor.lanes != self._writers:  # their streams lie with other sink partitions: no two may write one
            keep = keep[:1]
        full = self._unsettled or not now.anchor.open or not set(now.anchor.open) <= set(keep)
        self._taking = _Taking(keep[0], keep, full, listed)

    def demand_owned(self, found: Found, token: str) -> None:
        """Raises Fenced where another owner has taken the step from this one."""
        if token not in found.anchor.open:
            raise Fenced(
                f"Another process of flow {self._step.flow} has taken over its positions ({self.rows.folder.path}).",
                hint="Nothing was written after that. The other process goes on; do not restart this one.",
            )

    @override
    def now_ms(self) -> int:
        return self.place.state.stamp(f"{self.names.folder}/{BEATS}/{_CLOCK}", b"")

    @override
    def beat(self, token: str) -> bool:
        with self._beating:
            return self._beat(token)

    def _beat(self, token: str) -> bool:
        self.place.state.stamp(self.names.beat(token), _BEATS)
        if not self._lock.acquire(blocking=False):
            return True  # it is being written: the next heartbeat looks
        try:
            found = self.look()
        finally:
            self._lock.release()
        return token in found.anchor.open and any(row[1] == token and row[4] >= 0 for row in found.anchor.owners)

    @override
    def stop(self, token: str) -> None:
        # One that came behind would deny it; and a thread that is in the library while the process ends crashes it.
        is_over = self._beating.acquire(timeout=BEAT_ENDS_S)
        try:
            self.place.state.stamp(self.names.beat(token), _STOPPED)
        finally:
            if is_over:
                self._beating.release()


def _kept(contents: Contents) -> Contents:
    """What was loaded, to be compared later; dead letters are only read when they are asked for."""
    return Contents(dict(contents.positions), dict(contents.states), dict(contents.windows), _NO_LETTERS, dict(contents.owners))
