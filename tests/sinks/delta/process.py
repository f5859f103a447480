"""A process of a flow that writes a Delta table, taken step by step: it opens, commits, dies, freezes and comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

from sinks.delta import DeltaTarget
from sinks.delta.files import LocalFiles
from sinks.delta.log import DeltaLog, Unknown
from sinks.delta.rows.staging import Staging
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, DeadLetter, Position, Start
from waxwing.errors import TransientError
from waxwing.ledger.members import Member
from waxwing.ledger.ownership import Ownership
from waxwing.settings import DeltaSettings

FLOW, STEP = "shop", "out"
_names = count(1)


class Item(msgspec.Struct):
    """A row: the stream's partition, and the offset of its record."""

    partition: int
    offset: int


def table() -> sa.Table:
    return sa.Table("items", sa.MetaData(), sa.Column("partition", sa.Integer), sa.Column("offset", sa.BigInteger))


def stream(partition: int) -> Stream:
    return Stream(FLOW, "numbers", "name:numbers", partition)


class NoHeart:
    """One that beats when the process takes the step, and never again."""

    def __init__(self, *_: Any) -> None: ...

    def stop(self) -> None: ...

    def check(self, silent_max_s: float) -> None: ...


class Process:
    """One of a start: its records' `bad` ones are dead letters.

    Args:
        path: of the table.
        run: the start's name.
        number: which of its processes it is.
        lanes: sink partitions of the step.
    """

    def __init__(self, path: Path, run: str = "", number: int = 0, lanes: int = 2) -> None:
        self.path = path
        self.target = DeltaTarget(DeltaSettings(lanes=lanes, owner_stale_s=600.0), path, table())
        self.target.bind(FLOW, STEP)
        name = f"{next(_names)}"
        self.target.ownership = Ownership(Member(run or name, number, name), NoHeart)
        self.target.ownership.add(FLOW, STEP, self.ledger_owners)
        self.at: dict[int, Position] = {}

    @property
    def ledger_owners(self) -> Any:
        return self.target.owners()

    @property
    def ledger(self) -> Any:
        return self.target.ledger_of_step

    @property
    def token(self) -> str:
        return self.target.ownership.token

    def take(self) -> str:
        """Take the step: where somebody lives who has it."""
        self.target.prepare()
        return self.target.ownership.take()

    def open(self, *partitions: int) -> Process:
        """Take the step, and these streams."""
        for _ in range(20):
            if not (alive := self.take()):
                break
        assert alive == ""
        self.target.begin([Start(stream(partition), 0, None) for partition in partitions])
        for partition in partitions:
            self.at[partition] = self.session(partition).take_over(stream(partition))
        return self

    def session(self, partition: int) -> Any:
        return self.target.connect(f"lane-{partition % self.target.settings.lanes:03}", self.token)

    def change(self, partition: int, size: int, bad: Sequence[int] = (), state: bytes | None = None) -> Change:
        """The next records of a stream; those whose offsets are bad are dead letters."""
        before = self.at[partition]
        first, last = before.offset_next, before.offset_next + size
        after = before._replace(offset_next=last, records_seen=last, state=state)
        good = [offset for offset in range(first, last) if offset not in bad]
        messages = Columns(range(first, last), [None] * size, [b"x"] * size, [-1] * size, [()] * size)
        records = [Item(partition, offset) for offset in good]
        batch = Batch(stream(partition), "lane-000", first, last, messages, records, [offset - first for offset in good])
        letters = [
            DeadLetter(stream(partition), offset, 0, "parse", "bad", None, b"x", (("h", b"1"), ("none", None)), -1)
            for offset in range(first, last)
            if offset in bad
        ]
        return Change([batch], {stream(partition): before._replace(state=None)}, {stream(partition): after}, letters)

    def give(self, change: Change) -> None:
        """Let the target take it in, and commit it."""
        self.stage(change)
        self.commit(change)

    def stage(self, change: Change) -> None:
        """Let the target take it in."""
        self.session(next(iter(change.after)).partition).stage(change.batches)
        change.batches = []

    def commit(self, change: Change) -> None:
        """Commit what was staged, as a writer does: the same change again on a new session where that may help."""
        (at, after) = next(iter(change.after.items()))
        for tries in range(10):
            try:
                self.session(at.partition).commit(change)
                break
            except TransientError:
                if tries == 9:
                    raise
        self.at[at.partition] = after

    def write(self, partition: int, size: int, bad: Sequence[int] = ()) -> None:
        self.give(self.change(partition, size, bad))

    def is_gone(self) -> None:
        """Its heartbeats are old; nothing else of it is over."""
        self.ledger.stop(self.token)


def check(path: Path, ends: dict[int, int], bad: Sequence[int] = ()) -> None:
    """Each record up to these ends is once a row or once a letter."""
    rows = Counter((row["partition"], row["offset"]) for row in DeltaTable(path).to_pyarrow_table().to_pylist())
    letters = Counter(
        (row["partition"], row["offset"]) for row in DeltaTable(f"{path}_dead_letters").to_pyarrow_table().to_pylist()
    )
    every = {(partition, offset) for partition, end in ends.items() for offset in range(end)}
    assert rows == Counter({one: 1 for one in every if one[1] not in bad})
    assert letters == Counter({one: 1 for one in every if one[1] in bad})


class Crash(Exception):
    """The power is gone."""


# What asks the place for something that can be seen afterwards.
POINTS = [
    (LocalFiles, "write"),
    (LocalFiles, "remove"),
    (LocalFiles, "stamp"),
    (LocalFiles, "finish"),
    (DeltaLog, "create"),
    (DeltaLog, "append"),
    (DeltaLog, "delete"),
    (DeltaLog, "refresh"),
    (Staging, "finish"),
]


def crash(_: str) -> Exception:
    return Crash()


def lost(name: str) -> Exception:
    """No answer, as the point raises it."""
    return Unknown("no answer") if name in ("append", "delete") else TransientError("no answer")


class Faults:
    """The n-th call of these strikes, before or behind what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, points: Sequence[tuple[type, str]] = POINTS) -> None:
        self._at, self._behind, self.calls = 0, False, 0
        self._made: Callable[[str], Exception] = crash
        for kind, name in points:
            monkeypatch.setattr(kind, name, self._wrapped(name, getattr(kind, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            strikes = self.calls == self._at
            if strikes and not self._behind:
                raise self._made(name)
            done = real(*arguments, **named)
            if strikes:
                raise self._made(name)
            return done

        return call

    @contextmanager
    def striking(self, at: int, *, behind: bool, made: Callable[[str], Exception] = crash) -> Iterator[None]:
        """Within it the call of this number strikes."""
        self._at, self._behind, self.calls, self._made = at, behind, 0, made
        try:
            yield
        finally:
            self._at = 0
