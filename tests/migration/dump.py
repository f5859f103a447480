"""Databases as text: what an earlier release made and filled, written once, and loaded into an empty database by tests."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa

from tests.faults.recompute import plain_engine
from tests.migration.topic import DATA

# The releases before this one whose databases are kept.
RELEASES = ("9766af2", "12ee004")
END = ";\n"  # of a statement
ROWS = 200  # of one INSERT
Content = dict[str, list[tuple[Any, ...]]]
Totals = Literal["on_close", "live"]
OF_FORMS: tuple[Totals, ...] = ("on_close", "live")


@dataclass(frozen=True)
class Facts:
    """Where a dump comes from; its first line."""

    release: str
    database: str
    totals: Totals  # ORDER_TOTALS; with "on_close" the flow `visits` ran in the database as well
    topic: str
    topic_id: str


def file(release: str, database: str, totals: str) -> Path:
    """The dump's place."""
    return DATA / release / f"{database}-{totals}.sql"


def buckets_of(database: str) -> int:
    """WINDOW_BUCKETS of a dump."""
    return 2 if database == "sqlserver" else 4


def save(facts: Facts, url: str, made: Sequence[str]) -> Path:
    """Write a database down: the statements that made its tables, then all rows of these."""
    out = [f"-- {json.dumps(asdict(facts))}\n", *(f"{statement}{END}" for statement in made)]
    engine = plain_engine(url)
    with engine.connect() as connection:
        for name in sorted(sa.inspect(connection).get_table_names()):
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            keys = [table.c[column.name] for column in table.primary_key] or list(table.c)
            rows = connection.execute(sa.text(f"SELECT * FROM {name} ORDER BY {', '.join(key.name for key in keys)}")).all()
            names = ", ".join(column.name for column in table.c)
            for first in range(0, len(rows), ROWS):
                values = ",\n".join(f"({', '.join(literals(row, facts.database))})" for row in rows[first : first + ROWS])
                assert END not in values
                out.append(f"INSERT INTO {name} ({names}) VALUES\n{values}{END}")
    engine.dispose()
    path = file(facts.release, facts.database, facts.totals)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(out))
    return path


def literals(row: Sequence[Any], database: str) -> Iterator[str]:
    """The values of a row as the database writes them."""
    for value in row:
        if value is None or isinstance(value, int | float | Decimal):
            yield "NULL" if value is None else str(value)
        elif isinstance(value, datetime):
            yield f"'{value:%Y-%m-%d %H:%M:%S}{f'.{value.microsecond:06}'[: 4 if database == 'sqlserver' else None]}'"
        elif isinstance(value, bytes | bytearray | memoryview):
            form = {"postgresql": "'\\x{}'", "sqlserver": "0x{}"}.get(database, "x'{}'")
            yield form.format(bytes(value).hex())
        else:
            assert isinstance(value, str), value
            text = value.replace("'", "''")
            yield f"'{text.replace(chr(92), chr(92) * 2) if database == 'mariadb' else text}'"


def facts_of(path: Path) -> Facts:
    """Where a dump comes from."""
    with path.open() as lines:
        return Facts(**json.loads(lines.readline().removeprefix("-- ")))


def statements(path: Path) -> list[str]:
    """What makes and fills the tables."""
    return [text for text in path.read_text().partition("\n")[2].split(END) if text.strip()]


def load(path: Path, url: str, *, own_alone: bool = False, rows_max: int = ROWS) -> Facts:
    """Fill an empty database from a dump; with `own_alone` only with Waxwing's own tables; `rows_max` of each INSERT."""
    facts = facts_of(path)
    wanted = [text for text in statements(path) if not own_alone or text.split()[2].startswith("waxwing_")]
    wanted = [",\n(".join(text.split(",\n(")[:rows_max]) for text in wanted]
    if facts.database == "sqlite":
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file_connection:
            file_connection.executescript(f"BEGIN;\n{END.join(wanted)};\nCOMMIT;")
        return facts
    engine = plain_engine(url)
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        for statement in wanted:
            cursor.execute(statement)
        connection.connection.commit()
        cursor.close()
    engine.dispose()
    return facts


def empty_database(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an empty database."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/{len(list(folder.iterdir()))}.sqlite"
    url: str = request.getfixturevalue(kind).new_database()
    return url


class Database:
    """Databases of one kind, filled from a dump: Waxwing's own tables alone, or all."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
        self.kind, self._request, self._folder = kind, request, folder

    def empty(self) -> str:
        return empty_database(self.kind, self._request, self._folder)

    def whole(self, release: str, totals: Totals) -> tuple[Facts, str]:
        """With the data."""
        url = self.empty()
        return load(file(release, self.kind, totals), url), url

    def old(self, release: str = "12ee004", rows_max: int = ROWS, *, own_alone: bool = True) -> str:
        url = self.empty()
        load(file(release, self.kind, "on_close"), url, own_alone=own_alone, rows_max=rows_max)
        return url

    def made(self, release: str = "12ee004") -> dict[str, str]:
        """The release's own tables: how it makes them, by name."""
        texts = statements(file(release, self.kind, "on_close"))
        return {text.split()[2]: text for text in texts if text.startswith("CREATE TABLE waxwing_")}


def content(url: str) -> Content:
    """All rows of Waxwing's own tables."""
    engine = plain_engine(url)
    with engine.connect() as connection:
        names = [name for name in sa.inspect(connection).get_table_names() if name.startswith("waxwing_")]
        out = {name: sorted(map(tuple, connection.execute(sa.text(f"SELECT * FROM {name}"))), key=repr) for name in names}
        columns = {name: [(column["name"],) for column in sa.inspect(connection).get_columns(name)] for name in names}
    engine.dispose()
    return out | {f"columns of {name}": found for name, found in columns.items()}


def run(url: str, *statements: str) -> None:
    engine = plain_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()
