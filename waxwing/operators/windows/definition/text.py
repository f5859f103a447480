"""The text of a definition, kept beside rows and state to know them again: what it says never changes, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from waxwing.operators.windows.aggregates.functions import Aggregate, Fold
from waxwing.operators.windows.definition.kinds import SECOND_US, Calendar, Hopping, MessageTime, Session, Tumbling, microseconds

_SPANS = re.compile(r" lateness_s=\S+ grace_s=(?P<grace>[0-9.e+-]+)")
_WHOLE = re.compile(r"(?<=[0-9])\.0(?=[,) ]|$)")


def text_of(
    by: tuple[str, ...],
    time: str | MessageTime,
    kind: Tumbling | Hopping | Calendar | Session,
    aggregates: Mapping[str, Aggregate],
    lateness_us: int,
    grace_us: int,
    null_keys: Any,
) -> str:
    """In ASCII, which every database holds."""
    said = ", ".join(
        f"{name}={f'Fold({aggregate.field!r})' if isinstance(aggregate, Fold) else aggregate!r}"
        for name, aggregate in aggregates.items()
    )
    when = "MESSAGE_TIME" if isinstance(time, MessageTime) else repr(time)
    return _ascii(
        f"by={by!r} time={when} kind={kind!r} aggregates=({said}) "
        f"lateness_s={lateness_us / SECOND_US!r} grace_s={grace_us / SECOND_US!r}"
        f"{f' null_keys={null_keys!r}' if isinstance(null_keys, dict) else ''}"
    )


def meaning(text: str) -> str:
    """What of a text may not change. Which records are late, and for how long a window is corrected, may be said anew: that holds
    for what comes."""
    return _WHOLE.sub("", _SPANS.sub("", _ascii(text)))


def grace_of(text: str) -> int:
    """The grace in a text, in microseconds."""
    found = _SPANS.search(text)
    return microseconds(float(found["grace"])) if found else 0


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
