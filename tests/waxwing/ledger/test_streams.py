"""The text in which the streams of windows are kept."""

from __future__ import annotations

from waxwing.batch import Stream
from waxwing.ledger.windows import NEVER, SEEN, Known, dump_streams, load_streams


def test_streams_come_back_with_tokens_of_any_bytes_and_those_without_are_written_as_before() -> None:
    one, other = Stream("flow", "topic", "id", 0), Stream("flow", "log", "id", 3)
    streams = {one: Known(5, None), other: Known(0, 9, False, 7, 1, SEEN, b"\x00\xff'")}
    text = dump_streams(streams)
    assert load_streams("flow", text) == streams
    assert text == f'[["topic", "id", 0, 5, null, true, 0, {NEVER}, 2], ["log", "id", 3, 0, 9, false, 7, 1, 2, "AP8n"]]'
    assert load_streams("flow", '[["topic", "id", 0, 5, null, true]]') == {one: Known(5, None)}, "of an earlier release"
