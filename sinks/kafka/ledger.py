"""A ledger in a compacted topic: positions move in the transactions of the rows, the anchor in one of its own."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TypeVar

import msgspec
from typing_extensions import override

from sinks.kafka.compacted import SETTLES_S, CompactedTopic
from sinks.kafka.names import positions_topic, transactional_id
from sinks.kafka.producers import Overtaken, Sender
from sinks.kafka.records import (
    BEATS,
    CHUNK_BYTES,
    INTO,
    OPEN,
    OWNERS,
    PROOF,
    STOPPED,
    WINDOWS,
    Entry,
    Record,
    beat_key,
    dump_owners,
    dump_windows,
    key_of,
    load_head,
    load_owners,
    load_windows,
    position_record,
    state_records,
    stream_key,
    stream_record,
    take_whole,
)
from sinks.kafka.topics import MESSAGE_BYTES_DEFAULT
from waxwing.batch import Stream
from waxwing.errors import DataError, Fenced, TransientError
from waxwing.ledger.anchored import Anchored
from waxwing.ledger.contents import Contents, OwnerRow
from waxwing.ledger.store import Race, Step
from waxwing.settings import KafkaTargetSettings

T = TypeVar("T")
HELD_MAX_S = 60.0
# A heartbeat was sent, and then looks whose the step is: if it can, within this time.
LOOKS_WITHIN_S = 2.0
# So long, drawn anew each time, a process that was overtaken waits for the other to get done; that takes about a second.
GIVE_WAY_S = 0.5, 3.0
# What was read in parts is looked at again so soon; where nothing new has come for so long, the other parts never will.
LOOKS_AGAIN_S, QUIET_S = 0.02, 1.0
_INITS_AT_ONCE = 8
_OF_ANCHOR = {OWNERS, OPEN, WINDOWS, INTO}


class KafkaLedger(Anchored):
    """What one step keeps in its topic.

    Args:
        settings: the brokers.
        step: the step.
        into: the topic that it fills, for those who come later.
        writers: how many writers each process of the flow has at most.

    Attributes:
        message_bytes_max: of a message in the topic that it fills.
        batch_bytes_max: of a batch in any topic that its writers fill.
        chunk_bytes: of a chunk of what windows keep.
    """

    def __init__(self, settings: KafkaTargetSettings, step: Step, into: str, writers: int) -> None:
        self.topic = positions_topic(step)
        self._settings, self._step, self._into, self._writers = settings, step, into, writers
        self._lock, self._plain_lock = threading.RLock(), threading.Lock()
        self._raced = False  # has another one become the anchor's writer, when we were?
        self.message_bytes_max = self.batch_bytes_max = MESSAGE_BYTES_DEFAULT
        self.chunk_bytes = CHUNK_BYTES
        self._anchor: Sender | None = None
        self._senders: dict[str, list[Sender]] = {}  # by the token, of writers that are not in use yet
        self._seen: dict[bytes, Entry] = {}  # of the anchor's records, when contents were loaded
        self._seen_openings = 0  # how many openings there had been by then, committed or not
        self._loaded = Contents()
        self._opened: Record | None = None  # goes with the next record of owners
        self._in_use: dict[tuple[str, str], Sender] = {}  # by token and part

    @cached_property
    def _committed(self) -> CompactedTopic:
        return CompactedTopic(self._settings, self.topic, committed=True)

    @cached_property
    def _all(self) -> CompactedTopic:
        return CompactedTopic(self._settings, self.topic, committed=False, history_of=OPEN)

    @cached_property
    def _plain(self) -> Sender:
        """Sends heartbeats, which are no part of any transaction."""
        return Sender(self._settings, reports=True)

    @property
    def transactional(self) -> bool:
        """Are there transactions?"""
        return self._settings.kafka_transactions == "yes"

    # -- as one object -----------------------------------------------------------------------------

    @override
    @contextmanager
    def held(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=HELD_MAX_S):
            raise TransientError(f"Topic {self.topic} is being read for {HELD_MAX_S:.0f} s.")
        try:
            yield
        finally:
            self._lock.release()

    @override
    def load(self) -> Contents:
        return self._load(None)

    def load_all(self) -> Contents:
        """What is there once all transactions of now are over."""
        return self._load(self._all.end())

    def _load(self, end: int | None) -> Contents:
        self._committed.read(end)
        self._all.read()
        contents = self._contents()
        self._seen, self._seen_openings, self._loaded = self._anchored(), len(self._all.history), contents.copy()
        return contents

    def _anchored(self) -> dict[bytes, Entry]:
        """The records that only the anchor writes."""
        found = self._committed.found
        return {key: entry for key, entry in found.items() if key in _OF_ANCHOR or key.startswith(b'["stream"')}

    def _contents(self) -> Contents:
        """What is there, once each stream was seen whole.

        What is committed is read up to where the first open transaction begins, and where it began in the midst of another one
        the rest of that other one comes later.
        """
        contents, quiet_since = Contents(), (0, 0.0)
        give_up_s = time.monotonic() + SETTLES_S
        while torn := self._read(lambda: take_whole(self._step, self._committed.found, contents)):
            end, now_s = self._all.end(), time.monotonic()
            if end != quiet_since[0]:
                quiet_since = end, now_s
            is_all = self._committed.offset_next >= end and now_s - quiet_since[1] > QUIET_S
            if is_all or now_s > give_up_s:
                raise self._damaged(f"what is kept of {torn[0]} does not fit together")
            time.sleep(LOOKS_AGAIN_S)
            self._committed.read()
        found, step = self._committed.found, self._step
        contents.owners = self._owners()
        if WINDOWS in found:
            contents.windows[step] = self._read(lambda: load_windows(step.flow, found[WINDOWS].value))
        return contents

    def _read(self, call: Callable[[], T]) -> T:
        """What the call makes of records.

        Raises:
            DataError: they are none of ours.
        """
        try:
            return call()
        except (msgspec.MsgspecError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._damaged(f"a record is none of Waxwing's ({error})") from error

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"Topic {self.topic}: {why}.",
            hint="Was something written into it, or deleted, by hand? Restore it; or begin anew: empty the topic that the step "
            "fills, delete this one, and start.",
            step=self._step.name,
        )

    def _owners(self) -> dict[tuple[Step, int], OwnerRow]:
        """The owners' records, with their last heartbeats."""
        if OWNERS not in self._committed.found:
            return {}
        return self._read(lambda: load_owners(self._step, self._committed.found[OWNERS].value, self._all.found))

    @override
    def save(self, contents: Contents) -> None:
        self._demand_anchor()
        self._committed.read(self._all.end())
        now = self._contents()
        changed = [key for key, row in contents.positions.items() if row != self._loaded.positions.get(key)]
        if self._anchored() != self._seen or any(now.positions.get(key) != self._loaded.positions.get(key) for key in changed):
            raise Race(f"topic {self.topic} was written by another process")
        self._transact(self._changes(contents))
        self._opened = None

    def _changes(self, contents: Contents) -> list[Record]:
        before, step = self._loaded, self._step
        out = [] if INTO in self._committed.found else [Record(INTO, self._into.encode())]
        for key, row in contents.positions.items():
            held, state = before.positions.get(key), contents.states.get(key)
            moved, kept = row.position, state is not None and state != before.states.get(key)
            said = stream_record(moved, row.generation)
            if held is None or stream_record(held.position, held.generation) != said:
                out.append(said)
            if held is None or held.position != moved or kept:
                emission = secrets.token_hex(8) if state is not None else ""
                out.append(position_record(moved, emission))
                if state is not None:
                    out += state_records(moved.stream, state, emission, self.chunks_of(moved.stream), self.chunk_bytes)
        for key in before.positions.keys() - contents.positions.keys():
            chunks = range(self.chunks_of(key[1]))
            out += [Record(stream_key(kind, key[1]), None) for kind in ("stream", "position", "head")]
            out += [Record(stream_key("chunk", key[1], number), None) for number in chunks]
        if contents.owners != before.owners:
            out.append(Record(OWNERS, dump_owners({number: row for (_, number), row in contents.owners.items()})))
        if contents.windows != before.windows:
            out.append(Record(WINDOWS, dump_windows(contents.windows[step])))
        if self._opened is not None:
            out.append(self._opened)
        return out

    def chunks_of(self, stream: Stream) -> int:
        """How many chunks what is kept of a stream has, as far as was read."""
        head = self._committed.found.get(stream_key("head", stream))
        return 0 if head is None else load_head(head.value)[1]

    # -- the anchor --------------------------------------------------------------------------------

    def _demand_anchor(self) -> None:
        """Become the one who may write the anchor: whoever could before can no more."""
        if self._anchor is not None:
            return
        if self._raced:  # another one is at it: processes that begin together must not undo each other's work for ever
            time.sleep(random.uniform(*GIVE_WAY_S))
            self._raced = False
        anchor = Sender(self._settings, transactional_id(self._step) if self.transactional else "")
        self._init(anchor)
        self._anchor = anchor

    def _transact(self, records: Sequence[Record]) -> None:
        anchor = self._anchor
        assert anchor is not None
        try:
            anchor.begin()
            anchor.send_records(self.topic, records)
            anchor.commit()
        except Overtaken as error:
            self._anchor, self._raced = None, True
            raise Race(f"another process writes topic {self.topic}: {error}") from error
        except BaseException:
            self._anchor = None  # whatever became of it is seen by who reads the topic
            anchor.abort()
            raise

    def _prove(self) -> None:
        """Raises Race where another process has become the one who may write the anchor."""
        self._transact([Record(PROOF, secrets.token_hex(4).encode())])

    @override
    def fence(self, contents: Contents, step: Step, keep: Sequence[str]) -> None:
        self._demand_anchor()
        # Drawn for each try: who saw an earlier try of ours, and did not yet see us win, ends the writers of that one alone.
        own = f"{keep[0]}.{secrets.token_hex(3)}"
        if self.transactional:
            self._fence_writers(step, own, keep)
        # What those left open is over now; before, it would have had to be waited for until its time is up.
        self._committed.read(self._all.end())
        if self._anchored() != self._seen:
            raise Race(f"topic {self.topic} was written by another process")
        opened = self._writers_of(self._committed.found[OPEN]) if OPEN in self._committed.found else {}
        kept = {name: count for name, count in opened.items() if _token(name) in keep[1:]} | {own: self._writers}
        self._opened = Record(OPEN, msgspec.json.encode(kept))
        self._committed.read(self._all.end())
        now = self._contents()
        contents.positions, contents.states = now.positions, now.states
        self._loaded = self._loaded.copy()
        self._loaded.positions, self._loaded.states = dict(now.positions), dict(now.states)

    def _fence_writers(self, step: Step, own: str, keep: Sequence[str]) -> None:
        """Make this owner's writers, and end those of all owners before it.

        Who these are is read without waiting for what is open: all that may have begun since the last opening that is known to
        be committed, whether theirs was or not.
        """
        self._all.read()
        if len(self._all.history) != self._seen_openings:
            raise Race(f"topic {self.topic} was written by another process")
        self._prove()  # whose writers are about to be ended are still our predecessors
        known = self._committed.found.get(OPEN)
        begins = [self._writers_of(entry) for entry in self._all.history if known is None or entry.offset >= known.offset]
        ended = {(name, count) for one in begins for name, count in one.items() if _token(name) not in keep}
        gone = {transactional_id(step, name, number) for name, count in ended for number in range(count)}
        mine = [transactional_id(step, own, number) for number in range(self._writers)]
        with ThreadPoolExecutor(_INITS_AT_ONCE) as pool:
            self._senders = {_token(own): list(pool.map(self._made, [*mine, *gone]))[: len(mine)]}

    def _writers_of(self, opening: Entry) -> dict[str, int]:
        """The writers that an opening leaves, by their owners' names, with how many there are of each."""
        return self._read(lambda: msgspec.json.decode(opening.value, type=dict[str, int]))

    def _made(self, name: str) -> Sender:
        sender = Sender(self._settings, name, self.message_bytes_max, self.batch_bytes_max)
        self._init(sender)
        return sender

    def _init(self, sender: Sender) -> None:
        try:
            sender.init(self.topic)
        except Overtaken as error:
            self._anchor, self._raced = None, True
            raise Race(f"another process takes topic {self.topic}: {error}") from error

    # -- writers -----------------------------------------------------------------------------------

    def sender(self, token: str, part: str) -> Sender:
        """The producer of a partition: one that was made as this owner took the step.

        Raises:
            TransientError: this process has let go of the step.
        """
        with self.held():
            held = self._in_use.get((token, part))
            if held is None:
                if not self.transactional:
                    held = self._made("")
                elif not (left := self._senders.get(token)):
                    raise TransientError(f"Topic {self.topic}: this process has let go of it.")
                else:
                    held = left.pop()
                self._in_use = {which: one for which, one in self._in_use.items() if which[0] == token} | {(token, part): held}
            return held

    def demand_owned(self, contents: Contents, token: str) -> None:
        """Raises Fenced where another owner has taken the step from this one."""
        if not _owns(contents.owners, token):
            raise Fenced(
                f"Another process of flow {self._step.flow} has taken over its positions (topic {self.topic}).",
                hint="Nothing was written after that. The other process goes on; do not restart this one.",
            )

    # -- heartbeats --------------------------------------------------------------------------------

    @override
    def now_ms(self) -> int:
        with self._plain_lock:
            return self._plain.timestamp_ms(self.topic, key_of("clock"), b"")

    @override
    def beat(self, token: str) -> bool:
        with self._plain_lock:
            self._plain.timestamp_ms(self.topic, beat_key(token), BEATS)
        if not self._lock.acquire(timeout=LOOKS_WITHIN_S):
            return True  # the topic is being read: the next heartbeat looks
        try:
            self._committed.read()
            if not _owns(self._owners(), token):  # or it can't be seen yet
                self._committed.read(self._all.end())
            return _owns(self._owners(), token)
        finally:
            self._lock.release()

    @override
    def stop(self, token: str) -> None:
        if self._plain_lock.acquire(timeout=1.0):
            try:
                self._plain.send(self.topic, key=beat_key(token), value=STOPPED, partition=0)
                self._plain.acknowledged(1.0)
            finally:
                self._plain_lock.release()


def _owns(owners: Mapping[tuple[Step, int], OwnerRow], token: str) -> bool:
    return any(row.token == token and row.heartbeat_ms >= 0 for row in owners.values())


def _token(name: str) -> str:
    """The token of an owner whose writers have this name."""
    return name.partition(".")[0]
