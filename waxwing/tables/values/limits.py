"""What a column of a database keeps of its kind, where that is less than the kind: which values come back as they were.

A limit is found at the start, in the database's catalog (catalog.py), and looked at for a whole column of values at once.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from ctypes import c_float
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from typing import Any

MICROSECONDS = 1_000_000
UTF8_BYTES_MAX = 4  # of a character


@dataclass(frozen=True)
class Limit(ABC):
    """Values are of the types that the declared column takes, and none is null."""

    def all_fit(self, values: Sequence[Any]) -> bool:
        """Does each come back as it was?"""
        return all(self.reason(value) is None for value in values)

    @abstractmethod
    def reason(self, value: Any) -> str | None:
        """Why not."""


@dataclass(frozen=True)
class Octets(Limit):
    """Text of so many bytes of UTF-8: what is longer may be cut without an error."""

    most: int
    sql: str

    def all_fit(self, values: Sequence[str]) -> bool:
        return max(map(len, values)) * UTF8_BYTES_MAX <= self.most or super().all_fit(values)

    def reason(self, value: str) -> str | None:
        size = len(value.encode("utf-8", "surrogatepass"))
        return None if size <= self.most else f"{size:,} bytes, and {self.sql} holds {self.most:,}"


@dataclass(frozen=True)
class Members(Limit):
    """The values of an enumeration, to the letter: a database may take others for one of them."""

    values: frozenset[Any]
    shown: str

    def all_fit(self, values: Sequence[Any]) -> bool:
        return self.values.issuperset(values)

    def reason(self, value: Any) -> str | None:
        return None if value in self.values else f"{value!r} is not one of {self.shown}"[:500]


@dataclass(frozen=True)
class Selection(Limit):
    """Members of a set in its own order, each once, with commas between them: otherwise the database orders them anew."""

    members: tuple[str, ...]

    def reason(self, value: str) -> str | None:
        given = value.split(",") if value else []
        if given == [member for member in self.members if member in given]:
            return None
        return f"{value!r} is no selection of {','.join(self.members)} in this order"[:500]


@dataclass(frozen=True)
class Between(Limit):
    """Values within a range that the kind itself does not have."""

    least: Any
    most: Any
    sql: str

    def all_fit(self, values: Sequence[Any]) -> bool:
        return bool(self.least <= min(values) and max(values) <= self.most)

    def reason(self, value: Any) -> str | None:
        fits = self.least <= value <= self.most
        return None if fits else f"outside of the range of {self.sql}, {self.least} to {self.most}"


@dataclass(frozen=True)
class Grains(Limit):
    """Times in whole grains of so many microseconds: others would be rounded."""

    grain: int
    sql: str

    def all_fit(self, values: Sequence[datetime | time]) -> bool:
        grain = self.grain
        return not any(value.microsecond % grain for value in values)

    def reason(self, value: datetime | time) -> str | None:
        fits = value.microsecond % self.grain == 0
        return None if fits else f"a time with more digits of a second than {self.sql} keeps"


@dataclass(frozen=True)
class Moments(Limit):
    """Times in grains, within a range."""

    grain: int
    least: datetime
    most: datetime
    sql: str

    def reason(self, value: datetime) -> str | None:
        if not self.least <= value <= self.most:
            return f"outside of the range of {self.sql}, {self.least} to {self.most}"
        seconds = value.second * MICROSECONDS + value.microsecond
        return None if seconds % self.grain == 0 else f"a time that {self.sql} does not keep exactly"


@dataclass(frozen=True)
class Ticks(Limit):
    """SQL Server's DATETIME: steps of 1/300 s, which it gives as .000, .003 and .007."""

    sql: str

    def reason(self, value: datetime) -> str | None:
        fits = value.microsecond % 10_000 in (0, 3_000, 7_000) and value.year >= 1753
        return None if fits else f"a time that {self.sql} does not keep exactly"


@dataclass(frozen=True)
class FourBytes(Limit):
    """Floats of single precision, the smallest (nearer to zero than 2**-126) left out."""

    sql: str

    def reason(self, value: float) -> str | None:
        fits = c_float(value).value == value and (value == 0 or abs(value) >= 2.0**-126)
        return None if fits else f"a number that {self.sql} would round"


@dataclass(frozen=True)
class Amount(Limit):
    """Numbers up to a greatest one, of either sign."""

    most: Decimal

    def all_fit(self, values: Sequence[Decimal | int]) -> bool:
        return bool(-self.most <= min(values) and max(values) <= self.most)

    def reason(self, value: Decimal | int) -> str | None:
        return None if -self.most <= value <= self.most else "outside of the range of the column's type"


# A start tag with one attribute at most (their order is not kept), an end tag, or text.
_XML = re.compile(
    r"""<([A-Za-z_][\w.-]*)(?:\ [A-Za-z_][\w.-]*="(?:[^<>&"'\s]|\ |&(?:lt|gt|amp|quot);)*")?(/?)> | </([A-Za-z_][\w.-]*)> |
    ((?:[^<>&\r]|&(?:lt|gt|amp);)+)""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class WrittenXml(Limit):
    """XML as a database writes it that keeps what it means and not how it was written: plain elements and text."""

    sql: str

    def reason(self, value: str) -> str | None:
        return None if self._plain(value) else f"XML that {self.sql} would write otherwise"

    @staticmethod
    def _plain(value: str) -> bool:
        at, just_open, open_ = 0, False, list[str]()
        while at < len(value):
            if (found := _XML.match(value, at)) is None:
                return False
            name, empty, end, text = found.groups()
            if text is not None and (not text.strip() or not text.isprintable()):
                return False
            # An element without content would be written <a/>.
            if end and (just_open or not open_ or open_.pop() != end):
                return False
            if just_open := bool(name and not empty):
                open_.append(name)
            at = found.end()
        return not open_
