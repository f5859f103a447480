"""What a step remembers, in files that numbers in the table's log name: one of each sink partition, and the anchor."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from sinks.delta.files import escaped
from waxwing.batch import Stream
from waxwing.change import Position
from waxwing.errors import ConfigError
from waxwing.ledger.contents import Contents, OwnerRow
from waxwing.ledger.members import Member
from waxwing.ledger.store import Step, Stored
from waxwing.ledger.windows import Defined, dump_streams, load_streams

FORMAT = 1
BEATS = "beats"


def draw() -> int:
    """A new number: of 63 bits, so that none comes twice, whatever was restored."""
    return secrets.randbits(62) + 1


class Names(NamedTuple):
    """What a step is called in the log and beside the table."""

    step: Step

    @property
    def folder(self) -> str:
        """Of its files."""
        return f"{escaped(self.step.flow)}/{escaped(self.step.name)}"

    @property
    def anchor(self) -> str:
        """The application id of the anchor."""
        return f"waxwing/{self.folder}/anchor"

    def part(self, number: int) -> str:
        """The application id of a sink partition."""
        return f"waxwing/{self.folder}/{number}"

    def file(self, number: int) -> str:
        """The file that a number names."""
        return f"{self.folder}/{number}"

    def beat(self, token: str = "") -> str:
        """The file that an owner's heartbeats touch; or where they all are."""
        return f"{self.folder}/{BEATS}/{token}" if token else f"{self.folder}/{BEATS}"


R = TypeVar("R", "Anchor", "Part")
# Of a stream within a flow: its source, the source's id, the partition.
Key = tuple[str, str, int]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """Where a stream stands, and what windows keep with it. The holder where it has moved most is the one that counts.

    `position` are the fields of Position but for the stream and the state.
    """

    key: Key
    moves: int
    position: tuple[Any, ...]
    state: bytes | None = None


class Part(msgspec.Struct, frozen=True, array_like=True):
    """What the file of a sink partition says.

    Attributes:
        version: of the table when it was written; its commit is a later one.
        letters: the number of the last dead letters that this partition committed; None: there were none.
        held: the streams that it moved last.
    """

    format: int = FORMAT
    version: int = -1
    letters: int | None = None
    held: tuple[Held, ...] = ()


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What is said of a stream at a start."""

    key: Key
    offset_start: int
    offset_end: int | None
    limits_from: int
    generation: int


class Anchor(msgspec.Struct, frozen=True, array_like=True):
    """What is compared and replaced by whoever takes the step, or lets a stream begin.

    Attributes:
        version: of the table when it was written.
        opening: the number that the last full opening drew.
        lanes: the sink partitions that whoever is open writes with; those of the same number are where the others have them.
        parts: how many sink partitions there ever were.
        open: the tokens of those that may write.
        said: the streams that have begun.
        held: where they stand, as long as no sink partition has moved them further.
        gone: dead letters that are to go with this opening: a stream's, from an offset on.
    """

    format: int = FORMAT
    version: int = -1
    opening: int = 0
    lanes: int = 0
    parts: int = 0
    open: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()
    held: tuple[Held, ...] = ()
    owners: tuple[tuple[int, str, tuple[str, int, str], str, int], ...] = ()
    windows: tuple[int, str, str] | None = None
    gone: tuple[tuple[Key, int], ...] = ()


def dump(record: Part | Anchor) -> bytes:
    """As a file."""
    return msgspec.msgpack.encode(record)


def load(content: bytes, kind: type[R]) -> R:
    """Of a file. Raises ConfigError where a later release wrote it."""
    record = msgspec.msgpack.decode(content, type=kind)
    if record.format != FORMAT:
        raise ConfigError(
            f"What is remembered of a Delta table has format {record.format}, this Waxwing knows {FORMAT}.",
            hint="Run the newer Waxwing.",
        )
    return record


def key_of(stream: Stream) -> Key:
    """Of a stream, within its flow."""
    return stream.source, stream.source_id, stream.partition


def held_of(position: Position, moves: int, state: bytes | None) -> Held:
    """As it is kept."""
    return Held(key_of(position.stream), moves, tuple(position._replace(state=None))[1:], state)


class Found(NamedTuple):
    """What a snapshot of the rows' table and the files say.

    Attributes:
        number: of the anchor; None: there is none.
        numbers: of each sink partition, as far as it has one.
    """

    number: int | None = None
    anchor: Anchor = Anchor()
    numbers: Mapping[int, int] = {}
    parts: Mapping[int, Part] = {}

    def winners(self) -> dict[Key, tuple[int, Held]]:
        """Of each stream the entry that counts, with its holder: a sink partition, or -1 for the anchor."""
        out: dict[Key, tuple[int, Held]] = {}
        for holder, held in ((-1, self.anchor.held), *((n, part.held) for n, part in self.parts.items())):
            for one in held:
                if one.key not in out or out[one.key][1].moves < one.moves:
                    out[one.key] = holder, one
        return out

    @property
    def version(self) -> int:
        """Where the last of their writers saw the table."""
        return max(self.anchor.version, *(part.version for part in self.parts.values()), -1)


def contents_of(step: Step, found: Found) -> Contents:
    """The same, as a ledger has it."""
    contents, winners = Contents(), found.winners()
    for said in found.anchor.said:
        stream, held = Stream(step.flow, *said.key), winners[said.key][1]
        position = Position(stream, *held.position)._replace(
            offset_start=said.offset_start, offset_end=said.offset_end, limits_from=said.limits_from
        )
        contents.positions[step, stream] = Stored(position, said.generation)
        if held.state is not None:
            contents.states[step, stream] = held.state
    for generation, token, member, place, heartbeat_ms in found.anchor.owners:
        contents.owners[step, generation] = OwnerRow(token, Member(*member), place, heartbeat_ms)
    if found.anchor.windows is not None:
        buckets, text, streams = found.anchor.windows
        contents.windows[step] = Defined(buckets, text, load_streams(step.flow, streams))
    return contents


def moved(row: Stored) -> Position:
    """What moves of a position; the rest is said at a start."""
    return row.position._replace(offset_start=0, offset_end=None, limits_from=0, state=None)


def said_of(row: Stored) -> Said:
    """What the anchor says of a position's stream."""
    position = row.position
    return Said(key_of(position.stream), position.offset_start, position.offset_end, position.limits_from, row.generation)


def owners_of(contents: Contents) -> tuple[tuple[int, str, tuple[str, int, str], str, int], ...]:
    """The owners' records, as the anchor has them."""
    out = []
    for (_, generation), row in contents.owners.items():
        member = row.member
        out.append((generation, row.token, (member.run, member.process, member.own), row.place, row.heartbeat_ms))
    return tuple(out)


def windows_of(defined: Defined | None) -> tuple[int, str, str] | None:
    """The definition of windows, as the anchor has it."""
    return None if defined is None else (defined.buckets, defined.text, dump_streams(defined.streams))


def left(held: Iterable[Held], holder: int, winners: Mapping[Key, tuple[int, Held]]) -> tuple[Held, ...]:
    """Those entries of a holder that count."""
    return tuple(one for one in held if winners[one.key][0] == holder)
