"""Every column type of each database's catalog: what it takes comes back equal from every record class or is a dead letter, and
what it does not take is refused at the start by its name."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from typing_extensions import TypedDict

from sinks import Append, SqlTarget
from sinks.writer.writer import Writer
from tests.conformance.place import Place
from tests.conformance.tables import existing_types as known
from tests.conformance.tables.existing_types import Case
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Start
from waxwing.errors import ConfigError
from waxwing.settings import SqlSettings

# SQLAlchemy warns of decimals on SQLite, which it reads from floats: up to 15 digits they are exact, and more are refused.
pytestmark = pytest.mark.filterwarnings("ignore:Dialect sqlite.pysqlite does .not. support Decimal objects")


class Known(NamedTuple):
    taken: dict[str, Case]
    refused: str
    setup: Sequence[str] = ()


KNOWN = {
    "sqlite": Known(known.SQLITE, known.SQLITE_REFUSED),
    "postgresql": Known(known.POSTGRESQL, known.POSTGRESQL_REFUSED, known.POSTGRESQL_SETUP),
    "mysql": Known(known.MYSQL, known.MYSQL_REFUSED),
    "sqlserver": Known(known.SQLSERVER, known.SQLSERVER_REFUSED, known.SQLSERVER_SETUP),
}


def as_struct(names: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    kind = msgspec.defstruct("Row", [(name, Any, None) for name in names])
    return lambda row: kind(**row)


def as_model(names: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    make: Any = pydantic.create_model
    kind = make("Row", **dict.fromkeys(names, (Any, None)))
    return lambda row: kind(**row)


def as_typed_dict(names: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    made: Any = TypedDict
    kind = made("Row", dict.fromkeys(names, Any))
    return lambda row: kind(**row)


def as_dataclass(names: Sequence[str]) -> Callable[[dict[str, Any]], Any]:
    kind = dataclasses.make_dataclass("Row", [(name, Any, None) for name in names])
    return lambda row: kind(**row)


CLASSES = (as_struct, as_model, as_typed_dict, as_dataclass)


class Written:
    """A table with a column for each type, a target that writes it, and what became of each value."""

    def __init__(self, place: Place, cases: dict[str, Case]) -> None:
        self.cases = {f"c{number}": case for number, case in enumerate(cases.values())}
        declared = [sa.Column(name, case.declared) for name, case in self.cases.items()]
        self.table = place.table(sa.Column("n", sa.Integer, primary_key=True, autoincrement=False), *declared)
        shown = [sa.Column(name, case.read or case.declared) for name, case in self.cases.items()]
        self._read = sa.Table(self.table.name, sa.MetaData(), sa.Column("n", sa.Integer), *shown)
        self._place, self._next = place, 0
        columns = ", ".join(f"{name} {case.sql}" for name, case in self.cases.items())
        place.run(f"CREATE TABLE {self.table.name} (n int PRIMARY KEY, {columns})")
        self._stream = Stream("types", self.table.name, self.table.name, 0)
        url = SecretStr(place.url.render_as_string(hide_password=False))
        setting = SqlSettings(database_url=url, flush_interval_s=0.0, owner_stale_s=1.0, bad_ratio_max=1.0, bad_run_max=10**9)
        target = SqlTarget(setting, self.table, Append())
        target.place.engine, target.place.database = place.engine, place.database
        target.bind("types", self.table.name)
        target.prepare()
        target.begin([Start(self._stream, 0, None)])
        self._writer = Writer(target, "lane-000")
        self._records = [make(["n", *self.cases]) for make in CLASSES]

    def of(self, values: Sequence[tuple[str, Any]]) -> list[tuple[str, Any, bool, Any]]:
        """Write each value of a column, the others null, in each record class; say whether it was kept, and as what."""
        asked = [(name, value, make) for name, value in values for make in self._records]
        first = self._next
        self._next += len(asked)
        nothing = {name: case.good for name, case in self.cases.items() if case.good is not None}
        blank = dict.fromkeys(self.cases) | nothing
        records = [make({**blank, "n": first + n, name: value}) for n, (name, value, make) in enumerate(asked)]
        size = len(records)
        offsets = list(range(first, first + size))
        messages = Columns(offsets, [None] * size, [b"{}"] * size, [0] * size, [()] * size)
        self._writer.put(Batch(self._stream, "lane-000", first, first + size, messages, records, list(range(size)), [], []))
        self._writer.flush()
        with self._place.engine.connect() as connection:
            rows = {row.n: row for row in connection.execute(sa.select(self._read).where(self._read.c.n >= first))}
        return [
            (name, value, first + n in rows, getattr(rows.get(first + n), name, None)) for n, (name, value, _) in enumerate(asked)
        ]

    def close(self) -> None:
        self._writer.close()


def same(case: Case, got: Any, gave: Any) -> bool:
    want = gave if case.shown is None or gave is None else case.shown(gave)
    if isinstance(got, memoryview | bytearray):
        got = bytes(got)
    if isinstance(want, float) and math.isnan(want):
        return isinstance(got, float) and math.isnan(got)
    # A member of an enumeration may be given by its name; an integer to a column of decimals or floats comes back as its equal.
    equal = got == want or (isinstance(want, str) and getattr(got, "name", None) == want)
    return bool(equal) and (type(got) is type(want) or isinstance(want, int | str))


_PREPARED: set[sa.URL] = set()


def prepared(place: Place) -> Known:
    """The types of this database, with the user's own ones made."""
    here = KNOWN[place.database.dialect.name]
    if place.url not in _PREPARED:
        place.run(*here.setup)
        _PREPARED.add(place.url)
    return here


def test_a_value_of_every_type_comes_back_from_every_record_class_or_is_a_dead_letter(place: Place) -> None:
    here = prepared(place)
    written = Written(place, here.taken)
    cases, names = written.cases, dict(zip(written.cases, here.taken, strict=True))
    try:
        kept = [(name, value) for name, case in cases.items() for value in case.kept]
        for name, value, is_there, got in written.of(kept):
            assert is_there, (names[name], value)
            assert same(cases[name], got, value), (names[name], value, got)
        refused = [(name, value) for name, case in cases.items() for value in case.refused]
        assert [(names[name], value, got) for name, value, is_there, got in written.of(refused) if is_there] == []

        # Never shrunk: what failed is one value of one column, and an example costs a transaction.
        @settings(max_examples=8, suppress_health_check=list(HealthCheck), deadline=None, phases=[Phase.generate])
        @given(st.tuples(*(st.lists(case.values, max_size=3) for case in cases.values())))
        def any_values(columns: tuple[list[Any], ...]) -> None:
            given_ = [(name, value) for name, values in zip(cases, columns, strict=True) for value in values]
            for name, value, is_there, got in written.of(given_):
                assert not is_there or same(cases[name], got, value), (names[name], value, got)

        any_values()
    finally:
        written.close()


def test_a_type_that_is_not_taken_is_refused_at_the_start_with_its_name_and_what_to_do(place: Place) -> None:
    here = prepared(place)
    types = re.split(r", (?![^(]*\))", here.refused)
    columns = [f"c{number} {sql}" for number, sql in enumerate(types)]
    table = place.table(sa.Column("n", sa.Integer), *(sa.Column(column.split(" ")[0], sa.Text) for column in columns))
    place.run(f"CREATE TABLE {table.name} (n int, {', '.join(columns)})")
    with pytest.raises(ConfigError) as refused:
        place.plan(table, Append())
    for column in columns:
        name, sql = column.split(" ", 1)
        assert re.search(rf"column {name} is [^;]*{re.escape(sql.split('(')[0])}", str(refused.value), re.IGNORECASE), column


def test_every_type_of_the_server_s_catalog_stands_in_the_table(place: Place) -> None:
    """What the server has and our table has not would be refused too, but without a word on what to do."""
    catalogs = {
        "postgresql": "SELECT typname FROM pg_type WHERE typnamespace = CAST('pg_catalog' AS regnamespace) "
        "AND typtype = 'b' AND NOT (typcategory = 'A' AND typelem <> 0) AND typname <> 'unknown' ORDER BY 1",
        "sqlserver": "SELECT DISTINCT name FROM sys.types WHERE is_user_defined = 0",
        "mysql": "SELECT lower(plugin_name) FROM information_schema.plugins WHERE plugin_type = 'DATA TYPE'",
    }
    if (catalog := catalogs.get(place.database.dialect.name)) is None:
        return  # any word is a type to SQLite
    with place.engine.connect() as connection:
        there = set(connection.scalars(sa.text(catalog)))
    assert there, "a server without types"
    assert there - place.database.types.keys() == set()


def test_a_reflected_table_is_taken_or_refused_by_the_types_that_the_database_names(place: Place) -> None:
    """As `sa.Table("t", metadata, autoload_with=engine)` makes it: never an error without a word on what to do."""
    here = prepared(place)
    own = {"sqlite": "", "postgresql": "short", "mysql": "set('a', 'b')", "sqlserver": "dbo.email"}
    for number, sql in enumerate([own[place.database.dialect.name], *re.split(r", (?![^(]*\))", here.refused)]):
        name = place.table().name
        place.run(f"CREATE TABLE {name} (n int PRIMARY KEY, v {sql})")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sa.exc.SAWarning)  # of types that it does not know
            table = sa.Table(name, sa.MetaData(), autoload_with=place.engine)
        if number == 0:
            planned = place.plan(table, Append(), columns=["n", "v"])
            place.write(planned, place.accepted(planned, [(1, "a"), (2, "b,a,c" * 40)]))
            with place.engine.connect() as connection:
                assert connection.execute(sa.text(f"SELECT n, v FROM {name} WHERE n = 1")).one()[1] == "a"
            continue
        with pytest.raises(ConfigError, match=r"[Cc]olumn v"):
            place.plan(table, Append(), columns=["n", "v"])
