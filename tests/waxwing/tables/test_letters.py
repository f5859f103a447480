"""Dead letters as rows of files, there and back."""

from __future__ import annotations

import pyarrow as pa
import pytest

from waxwing.batch import Stream
from waxwing.change import DeadLetter
from waxwing.ledger.store import Step
from waxwing.tables.files import letters

LETTER = DeadLetter(
    Stream("f", "t", "id", 3), 7, 0, "parse", "bad", b"k", b"\xff", (("h", b"1"), ("none", None)), 1_700_000_000_123
)


def back(letter: DeadLetter) -> DeadLetter:
    (found,) = letters.letters_in(pa.Table.from_batches([letters.batch([letter], Step("f", "out"))]))
    return found


def test_a_letter_comes_back_as_it_was() -> None:
    assert back(LETTER) == LETTER


@pytest.mark.parametrize("timestamp_ms", [-1, letters.TIMESTAMP_MAX_MS + 1, 2**62])
def test_a_time_that_nobody_knows_or_no_reader_does_is_null(timestamp_ms: int) -> None:
    assert back(LETTER._replace(timestamp_ms=timestamp_ms)).timestamp_ms == -1
