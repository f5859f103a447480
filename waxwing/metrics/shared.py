"""Counts of a process that outlive it: memory shared with the process that started it, whatever ends the one that counts."""

from __future__ import annotations

import json
import mmap
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

# Names the shared memory to the process that counts.
VARIABLE = "WAXWING_COUNTS_FD"
_NAME = "waxwing-counts"
# The first byte says which of two places holds the latest counts; the other one is written meanwhile.
_PLACE_BYTES = 32_768
_SIZE_BYTES = 4
_FIRST = 16

Counts = dict[str, int | dict[str, int]]


class SharedCounts:
    """The latest counts of one process."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _FIRST + 2 * _PLACE_BYTES)

    @classmethod
    def make(cls) -> Self:
        """New memory, with no counts yet."""
        descriptor = os.memfd_create(_NAME)
        os.ftruncate(descriptor, _FIRST + 2 * _PLACE_BYTES)
        return cls(descriptor)

    @classmethod
    def given(cls) -> Self | None:
        """The memory that whoever started this process reads; None: nobody does."""
        text = os.environ.get(VARIABLE, "")
        try:
            # A number alone may be any other file of a process that was started without the memory.
            if text.isdecimal() and _NAME in str(Path(f"/proc/self/fd/{text}").readlink()):
                return cls(int(text))
        except OSError:
            pass
        return None

    def write(self, counts: Mapping[str, Any]) -> None:
        """Replace the counts. A process that is killed in the middle leaves those before."""
        data = json.dumps(counts).encode()
        if len(data) > _PLACE_BYTES - _SIZE_BYTES:
            return
        other = 1 if self._memory[0] == 2 else 2
        at = _FIRST + (other - 1) * _PLACE_BYTES
        self._memory[at : at + _SIZE_BYTES + len(data)] = len(data).to_bytes(_SIZE_BYTES) + data
        self._memory[0] = other

    def read(self) -> Counter[Any]:
        """The counts; those by step under (name, step)."""
        place = self._memory[0]
        if not place:
            return Counter()
        at = _FIRST + (place - 1) * _PLACE_BYTES
        size = int.from_bytes(self._memory[at : at + _SIZE_BYTES])
        counts: Counts = json.loads(self._memory[at + _SIZE_BYTES : at + _SIZE_BYTES + size])
        out: Counter[Any] = Counter()
        for name, value in counts.items():
            out.update({(name, step): number for step, number in value.items()} if isinstance(value, dict) else {name: value})
        return out

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()
        os.close(self.descriptor)


def dead_letters_of_steps(of_steps: Mapping[str, int]) -> str:
    """How many of which step, where there are several; for people."""
    several = {step: number for step, number in of_steps.items() if number}
    return f" ({', '.join(f'{step} {number:,}' for step, number in several.items())})" if len(several) > 1 else ""
