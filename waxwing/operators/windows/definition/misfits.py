"""What a record type shows to be wrong with windows, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from waxwing.errors import ConfigError
from waxwing.operators.declared import field_types
from waxwing.operators.windows.aggregates.extremes import PLAIN
from waxwing.operators.windows.aggregates.values import KEYS
from waxwing.operators.windows.definition.kinds import MessageTime
from waxwing.operators.windows.definition.windows import Windows

NUMBERS = frozenset({int, float, Decimal})
TIMES = NUMBERS | {datetime}
Takes = Mapping[str, frozenset[type]]


def check_types(definition: Windows, kind: Any, takes: Takes) -> None:
    """Refuse records of a declared type that could not be in any window; where it says nothing, nothing is refused.

    Args:
        definition: the windows.
        kind: the records' type, as their flow declares it.
        takes: by field the types that its aggregates take, where that is less than windows take (live ones).

    Raises:
        ConfigError: with all that is wrong.
    """
    declared = field_types(kind)
    if declared is None:
        return
    wanted: list[tuple[str, frozenset[type], str]] = [
        (name, KEYS, "can't be a key (text, whole numbers, Decimals, dates and times can)") for name in definition.by
    ]
    if not isinstance(definition.time, MessageTime):
        wanted.append((definition.time, TIMES, "is no time (epoch seconds, or a datetime)"))
    for name, aggregate in definition.aggregates.items():
        if aggregate.reads is not None:
            what = f"{type(aggregate).__name__} ({name})"
            if aggregate.check == "number":
                wanted.append((aggregate.reads, NUMBERS, f"is no number, which {what} takes"))
            elif aggregate.check == "plain":
                wanted.append((aggregate.reads, PLAIN, f"can't be compared and kept, as {what} does"))
            else:
                wanted.append((aggregate.reads, frozenset(), ""))
    wanted += [
        (field, kinds, "can't be merged by the database, as Min and Max of live windows are") for field, kinds in takes.items()
    ]
    problems = []
    for field, kinds, why in wanted:
        if field not in declared:
            problems.append(f"it has no {field}")
        elif why and (has := declared[field]) is not None and has and not has & kinds:
            problems.append(f"its {field}, {' or '.join(sorted(one.__name__ for one in has))}, {why}")
    if problems:
        raise ConfigError(
            f"Windows over records of type {kind.__name__}: {'; '.join(dict.fromkeys(problems))}.",
            hint=f"Its fields are {', '.join(declared)}. A step in between (map) can make what is needed of them.",
        )
