"""Types of existing columns, as a database's own catalog names them: which are taken, exact how far, which are refused and why.

Each database has one table of its whole catalog (`waxwing/databases/*/types.py`). Columns of existing tables are read
by it, `docs/types.md` is made of it (`waxwing types`), and a test writes random values of each type that is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from waxwing.tables.values.limits import Limit

ELSEWHERE = "Leave the column to the database (name the others: SqlTarget(..., columns=[...])), or alter it"


class Raw(NamedTuple):
    """What the catalog says of a column's type."""

    kind: str  # the type's name there, without parameters
    sql: str  # the whole type, as the database writes it
    length: int | None = None  # characters or bytes; None: no limit
    precision: int | None = None
    scale: int | None = None
    digits: int | None = None  # of a second, behind the point
    unsigned: bool = False
    labels: tuple[str, ...] = ()


Made = sa.types.TypeEngine[Any] | tuple[sa.types.TypeEngine[Any], Limit | None]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A type that is written.

    `names` and `declare` are what the page of types says: the types' names, what the flow's Table declares for them.
    `exact` says how far values are kept exactly; what goes beyond is a dead letter.
    """

    names: str
    declare: str
    exact: str
    make: Callable[[Raw], Made]  # the general type that holds the same, with what it keeps of its kind


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A type that is not written: `why` completes "it ..."; `instead` says what to do."""

    names: str
    why: str
    instead: str = ""


# By the type's name in the catalog.
Types = Mapping[str, Taken | Refused]


@dataclass(frozen=True, kw_only=True)
class Found:
    """A column of an existing table. `filled`: the database fills it where a row brings nothing."""

    name: str
    sql: str
    type: sa.types.TypeEngine[Any] | None  # None: it is refused
    limit: Limit | None
    refused: str
    nullable: bool
    filled: bool
    computed: bool


def found(name: str, raw: Raw, types: Types, *, nullable: bool, filled: bool, computed: bool, alias: str = "") -> Found:
    """A column, by the table of types. `alias`: the name of a type that stands for another one (a domain)."""
    entry = types.get(raw.kind, UNKNOWN)
    kind, limit, why = None, None, ""
    if isinstance(entry, Refused):
        why = f"it {entry.why}. {entry.instead or ELSEWHERE}"
    else:
        made = entry.make(raw)
        kind, limit = made if isinstance(made, tuple) else (made, None)
    return Found(
        name=name,
        sql=alias or raw.sql,
        type=kind,
        limit=limit,
        refused=why,
        nullable=nullable,
        filled=filled,
        computed=computed,
    )


UNKNOWN = Refused(
    names="any other",
    why="is unknown to Waxwing, and might change values",
    instead=f"{ELSEWHERE} to a type of docs/types.md",
)


def entries(types: Types) -> list[Taken | Refused]:
    """Each entry once, in the order of the table, and what holds for a type that stands nowhere in it."""
    listed = list(dict.fromkeys(types.values()))
    return listed if any(entry.names.startswith(UNKNOWN.names) for entry in listed) else [*listed, UNKNOWN]


def table_of(*rows: tuple[str, Taken | Refused]) -> Types:
    """The table, from names of the catalog (blanks between them) and what holds for them."""
    return {name: entry for names, entry in rows for name in names.split(" ")}
