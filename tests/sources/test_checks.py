"""check_source: the sources of ours keep to it, and each thing that a source may get wrong is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from typing_extensions import override

from sources.kit import Log, Options, Place, Run, Source, messages, numbered
from sources.kit.checks import check_source
from sources.memory import MemorySource
from waxwing.errors import WaxwingError

ROWS = [b"%d" % n for n in range(6)]


@pytest.mark.parametrize(
    "options",
    [
        {"batch_records": 2},
        {"batch_records": 2, "tokens": {0, 2, 4}, "start": "earliest"},
        {"batch_records": 2, "replayable": False},
        {"batch_records": 1, "lanes": 2, "sources": {"a": {0: ROWS, 1: ROWS[:1]}, "b": {0: []}}},
    ],
)
def test_the_memory_source_keeps_to_it(options: dict[str, Any]) -> None:
    found = check_source(lambda: MemorySource(ROWS, **options))
    assert found == ({"a[0]": ROWS, "a[1]": ROWS[:1], "b[0]": []} if "sources" in options else {"memory[0]": ROWS})


class Lines(Source):
    """A source whose numbers are places in bytes: no tokens."""

    text = b"a\nbb\nccc\n"
    end: int | None = len(text)

    def __init__(self) -> None:
        super().__init__("log", options=Options(lanes=1, until="end"))

    @override
    def describe(self) -> Sequence[Log]:
        return [Log("log", "1", end=self.end)]

    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        at = place.offset
        for line in self.text[at:].splitlines(keepends=True):
            yield Run(messages([at], [line.strip()]), at + len(line))
            at += len(line)

    @override
    def close(self) -> None:
        """Nothing is open."""


def test_numbers_may_have_holes() -> None:
    assert check_source(Lines) == {"log[0]": [b"a", b"bb", b"ccc"]}


class Tokens(Lines):
    """One with tokens."""

    @override
    def describe(self) -> Sequence[Log]:
        return [Log("log", "1", token=b"0", end=6, end_token=b"6")]

    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        for n in range(int(place.token or b"0"), 6):
            yield numbered(place.offset + n - int(place.token or b"0"), [ROWS[n]], token=b"%d" % (n + 1))


class Forgets(Lines):
    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        yield from super().read(Place(place.stream, 0))


class Longer(Lines):
    end = 100


class Renumbers(Tokens):
    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        for run in super().read(place):
            yield numbered(place.offset, [b"0"], token=run.token if run else None)


class SkipsOne(Tokens):
    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        yield from super().read(Place(place.stream, place.offset, b"%d" % (int(place.token or b"0") + (place.offset > 0))))


class OtherId(Tokens):
    ids = iter(range(1_000))

    @override
    def describe(self) -> Sequence[Log]:
        return [Log("log", str(next(self.ids)), token=b"0")]


class Endless(Tokens):
    def __init__(self) -> None:
        Source.__init__(self, "log")


class EndsBefore(Tokens):
    @override
    def describe(self) -> Sequence[Log]:
        return [Log("log", "1", token=b"0", end=6, end_token=b"5")]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Forgets, "gave offset 0, and what comes next is 2 or higher"),
        (Longer, "read from its start it ends at 9, and describe() says 100"),
        (Renumbers, "gave offset 0, and what comes next is 1 or higher"),
        (SkipsOne, "log[0], read from 1 (token b'1'): record 0 is (1, None, b'2', -1, ()), and was (1, None, b'1', -1, ())"),
        (OtherId, "listed() gave [('log', '1', 0)], and describe() gave [('log', '0', 0)]"),
        (EndsBefore, "log[0], read from 6 (token b'5'): record 0 is (6, None, b'5', -1, ()), and was not there"),
        (Endless, "until='end'"),
    ],
)
def test_what_a_source_gets_wrong_is_found(make: Callable[[], Source], told: str) -> None:
    assert check_source(Tokens) == {"log[0]": ROWS}
    with pytest.raises((AssertionError, WaxwingError)) as caught:
        check_source(make)
    assert told in str(caught.value)
