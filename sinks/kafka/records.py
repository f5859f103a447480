"""What a step's own topic holds: one record a position, a stream, an owner's heartbeat, a chunk of what windows keep."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from waxwing.batch import Stream
from waxwing.change import Position
from waxwing.ledger.contents import Contents, OwnerRow
from waxwing.ledger.members import Member
from waxwing.ledger.store import Step, Stored
from waxwing.ledger.windows import Defined, dump_streams, load_streams

# What windows keep is cut into so many bytes a record, or half of what the topic takes (message.max.bytes is 1 MiB by default).
CHUNK_BYTES = 500_000
EMISSION = "emission"  # the header of a chunk that names what it belongs to

OWNERS, OPEN, WINDOWS, INTO, PROOF = (json.dumps([name]).encode() for name in ("owners", "open", "windows", "into", "proof"))
STOPPED, BEATS = b"stopped", b"beats"


class Entry(NamedTuple):
    """The last record of a key, as it was read."""

    value: bytes
    emission: str
    timestamp_ms: int
    offset: int


class Record(NamedTuple):
    """A record of the topic, to be written; without a value it takes another of its key away."""

    key: bytes
    value: bytes | None
    emission: str = ""


_OF_STREAMS = {"stream", "position", "head", "chunk"}


def key_of(kind: str, *parts: Any) -> bytes:
    """The key of a record."""
    return json.dumps([kind, *parts], ensure_ascii=False).encode()


def stream_key(kind: str, stream: Stream, *more: int) -> bytes:
    """The key of a stream's record."""
    return key_of(kind, *stream[1:], *more)


def beat_key(token: str) -> bytes:
    """The key of an owner's heartbeats."""
    return key_of("beat", token)


def stream_of(flow: str, key: bytes) -> tuple[str, Stream, tuple[int, ...]] | None:
    """The kind of a stream's record, its stream, and what follows in its key; None: it is of no stream."""
    try:
        kind, *parts = msgspec.json.decode(key, type=list[str | int])
    except (msgspec.DecodeError, ValueError):  # somebody else's
        return None
    if kind not in _OF_STREAMS or tuple(map(type, parts[:3])) != (str, str, int):
        return None
    source, source_id, partition, *more = parts
    return str(kind), Stream(flow, str(source), str(source_id), int(partition)), tuple(map(int, more))


def streams_in(flow: str, found: Mapping[bytes, Entry]) -> list[Stream]:
    """The streams of which there is a position."""
    of_streams = (stream_of(flow, key) for key in found)
    return [one[1] for one in of_streams if one is not None and one[0] == "position"]


def into_of(found: Mapping[bytes, Entry]) -> str:
    """The topic that the step fills; empty: nobody has said it."""
    return found[INTO].value.decode(errors="replace") if INTO in found else ""


# -- positions: what moves with every change, and what is said at a start, in records of their own ------------------------


def position_record(position: Position, emission: str = "") -> Record:
    """What a writer moves."""
    fields: dict[str, Any] = {name: getattr(position, name) for name in _MOVING}
    if position.token is not None:
        fields |= {"token": b64encode(position.token).decode(), "token_offset": position.token_offset}
    if emission:
        fields["emission"] = emission
    return Record(stream_key("position", position.stream), msgspec.json.encode(fields))


def stream_record(position: Position, generation: int) -> Record:
    """What is said of a stream at a start."""
    fields = {name: getattr(position, name) for name in _SAID} | {"generation": generation}
    return Record(stream_key("stream", position.stream), msgspec.json.encode(fields))


_MOVING = ("offset_next", "records_seen", "records_bad", "bad_run", "rows_seen", "rows_bad", "rows_bad_run")
_SAID = ("offset_start", "offset_end", "limits_from")


def load_position(stream: Stream, said: bytes, moved: bytes) -> tuple[Position, int, str]:
    """A position, the number of its last owner, and the emission that it belongs to."""
    first, last = msgspec.json.decode(said), msgspec.json.decode(moved)
    token = last.get("token")
    position = Position(
        stream,
        **{name: first[name] for name in _SAID},
        **{name: last[name] for name in _MOVING},
        token=None if token is None else b64decode(token),
        token_offset=last.get("token_offset"),
    )
    return position, first["generation"], last.get("emission", "")


# -- what windows keep ----------------------------------------------------------------------------------------------------


def state_records(
    stream: Stream, state: bytes, emission: str, chunks_before: int, chunk_bytes: int = CHUNK_BYTES
) -> list[Record]:
    """The head and the chunks of a state, and the end of those chunks that it no longer has."""
    parts = [state[at : at + chunk_bytes] for at in range(0, len(state), chunk_bytes)]
    head = msgspec.json.encode({"emission": emission, "chunks": len(parts)})
    return [
        Record(stream_key("head", stream), head),
        *(Record(stream_key("chunk", stream, number), part, emission) for number, part in enumerate(parts)),
        *(Record(stream_key("chunk", stream, number), None) for number in range(len(parts), chunks_before)),
    ]


def load_head(value: bytes) -> tuple[str, int]:
    """The emission that a state belongs to, and how many chunks it has."""
    head = msgspec.json.decode(value)
    return head["emission"], head["chunks"]


def take_whole(step: Step, found: Mapping[bytes, Entry], contents: Contents) -> list[Stream]:
    """Adds to the contents the streams that are whole now, and were not before; returns the others."""
    torn = []
    for key, entry in found.items():
        of_stream = stream_of(step.flow, key)
        if of_stream is None or of_stream[0] != "stream" or (step, of_stream[1]) in contents.positions:
            continue
        stream = of_stream[1]
        moved, head = (found.get(stream_key(kind, stream)) for kind in ("position", "head"))
        if moved is None:
            torn.append(stream)
            continue
        position, generation, emission = load_position(stream, entry.value, moved.value)
        state = None if head is None else _state(stream, found, head, emission)
        if head is not None and state is None:
            torn.append(stream)
            continue
        contents.positions[step, stream] = Stored(position, generation)
        if state is not None:
            contents.states[step, stream] = state
    return torn


def _state(stream: Stream, found: Mapping[bytes, Entry], head: Entry, emission_of_position: str) -> bytes | None:
    """What is kept beside the position of this emission; None: parts of it are missing."""
    emission, chunks = load_head(head.value)
    parts = [found.get(stream_key("chunk", stream, number)) for number in range(chunks)]
    if emission != emission_of_position or any(part is None or part.emission != emission for part in parts):
        return None
    return b"".join(part.value for part in parts if part is not None)


def dump_windows(defined: Defined) -> bytes:
    """The definition of windows, with their streams."""
    return msgspec.json.encode([defined.buckets, defined.text, dump_streams(defined.streams)])


def load_windows(flow: str, value: bytes) -> Defined:
    """The same, read."""
    buckets, text, streams = msgspec.json.decode(value)
    return Defined(buckets, text, load_streams(flow, streams))


# -- owners -----------------------------------------------------------------------------------------------------------------


def dump_owners(owners: dict[int, OwnerRow]) -> bytes:
    """All owners' records, by their numbers."""
    return msgspec.json.encode([[number, *row] for number, row in owners.items()])


def load_owners(step: Step, value: bytes, beats: Mapping[bytes, Entry]) -> dict[tuple[Step, int], OwnerRow]:
    """The same, read, with their last heartbeats."""
    owners = {}
    for number, token, member, place, said_ms in msgspec.json.decode(value):
        heartbeat_ms, beat = said_ms, beats.get(beat_key(token))
        if beat is not None and said_ms > 0:
            heartbeat_ms = 0 if beat.value == STOPPED else max(said_ms, beat.timestamp_ms)
        owners[step, number] = OwnerRow(token, Member(*member), place, heartbeat_ms)
    return owners
