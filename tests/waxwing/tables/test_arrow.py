"""Rows as record batches: what is written comes back, and is read alike by DuckDB, polars and pyarrow."""

import enum
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql

from waxwing.errors import ConfigError
from waxwing.tables.columns import checks
from waxwing.tables.files.arrow import BATCH_ROWS_MAX, FILES, ArrowRows, file_plan


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


def table(*columns: sa.Column[Any]) -> sa.Table:
    return sa.Table("t", sa.MetaData(), *columns)


WHOLE = table(
    sa.Column("id", sa.BigInteger, primary_key=True),
    sa.Column("small", sa.SmallInteger),
    sa.Column("plain", sa.Integer),
    sa.Column("unsigned", mysql.INTEGER(unsigned=True)),
    sa.Column("unsigned_big", mysql.BIGINT(unsigned=True)),
    sa.Column("price", sa.Numeric(38, 10)),
    sa.Column("ratio", sa.Double),
    sa.Column("paid", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("text", sa.Text),
    sa.Column("colour", sa.Enum(Colour)),
    sa.Column("raw", sa.LargeBinary),
    sa.Column("this", sa.Uuid),
    sa.Column("data", sa.JSON),
)
ONE = UUID(int=1)
ROWS: list[tuple[Any, ...]] = [
    (
        1,
        -(2**15),
        2**31 - 1,
        2**32 - 1,
        2**64 - 1,
        Decimal("1234567890123456789012345678.0123456789"),
        2**60,
        True,
        date(1, 1, 1),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2026, 1, 31, 12, 0, 0, 1),  # noqa: DTZ001 - the column has no zone
        "Zoë\x00",
        Colour.RED,
        b"\x00\xff",
        ONE,
        {"a": [1, Decimal("1.10")]},
    ),
    (2, *[None] * 15),
]
READ = [
    (*ROWS[0][:12], "RED", b"\x00\xff", str(ONE), '{"a":[1,1.10]}'),
    ROWS[1],
]


def written(tmp_path: Path, columns: sa.Table, rows: list[tuple[Any, ...]]) -> Path:
    made = ArrowRows(file_plan(columns))
    file = tmp_path / "one.parquet"
    with pq.ParquetWriter(file, made.schema) as writer:
        for batch in made.batches(rows):
            writer.write_batch(batch)
    return file


def test_what_is_written_is_read_alike(tmp_path: Path) -> None:
    file = written(tmp_path, WHOLE, ROWS)
    assert pq.read_table(file).to_pylist() == [dict(zip(WHOLE.c.keys(), row, strict=True)) for row in READ]
    assert pl.read_parquet(file).rows() == READ
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        read = connection.execute(f"SELECT * FROM '{file}' ORDER BY id").fetchall()
    assert [tuple(v.astimezone(UTC) if isinstance(v, datetime) and v.tzinfo else v for v in row) for row in read] == READ


def test_the_schema_is_what_all_readers_know() -> None:
    assert {field.name: str(field.type) for field in ArrowRows(file_plan(WHOLE)).schema} == {
        "id": "int64",
        "small": "int16",
        "plain": "int32",
        "unsigned": "int64",
        "unsigned_big": "decimal128(20, 0)",
        "price": "decimal128(38, 10)",
        "ratio": "double",
        "paid": "bool",
        "day": "date32[day]",
        "at": "timestamp[us, tz=UTC]",
        "local": "timestamp[us]",
        "text": "string",
        "colour": "string",
        "raw": "binary",
        "this": "string",
        "data": "string",
    }


KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "integer": (sa.BigInteger, st.integers(-(2**63), 2**63 - 1)),
    "decimal": (sa.Numeric(20, 4), st.decimals(-(10**16) + 1, 10**16 - 1, places=4) | st.integers(-(10**15), 10**15)),
    "float": (sa.Double, st.floats(allow_nan=False) | st.integers(-(2**60), 2**60)),
    "date": (sa.Date, st.dates()),
    "zoned": (
        sa.DateTime(timezone=True),
        st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])),
    ),
    "naive": (sa.DateTime, st.datetimes()),
    "text": (sa.Text, st.text()),
    "binary": (sa.LargeBinary, st.binary()),
    "boolean": (sa.Boolean, st.booleans()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_check_lets_through_comes_back(kind: str) -> None:
    type_, values = KINDS[kind]
    plan = file_plan(table(sa.Column("v", type_)))
    made, (check,) = ArrowRows(plan), checks(plan, FILES)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(values | st.none(), min_size=1, max_size=20))
    def comes_back(given_values: list[Any]) -> None:
        bad = check(given_values)
        good = [value for number, value in enumerate(given_values) if number not in bad]
        back = [value for batch in made.batches([(value,) for value in good]) for value in batch.column(0).to_pylist()]
        assert back == good

    comes_back()


def test_many_rows_are_several_batches() -> None:
    made = ArrowRows(file_plan(table(sa.Column("n", sa.Integer))))
    batches = made.batches([(n,) for n in range(BATCH_ROWS_MAX + 1)])
    assert [batch.num_rows for batch in batches] == [BATCH_ROWS_MAX, 1]
    assert pa.Table.from_batches(batches).column("n").to_pylist() == list(range(BATCH_ROWS_MAX + 1))
    assert made.batches([]) == []


def test_nobody_fills_a_number_and_what_a_database_fills_is_left_out() -> None:
    given_table = table(
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text),
        sa.Column("made_at", sa.DateTime, server_default=sa.func.now()),
        sa.Column("changed_at", sa.DateTime, onupdate=sa.func.now()),
    )
    assert ArrowRows(file_plan(given_table)).schema.names == ["id", "name"]
    assert ArrowRows(file_plan(given_table, columns=["made_at", "id"])).schema.names == ["made_at", "id"]


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (sa.Column("v", sa.Time), "column v is a time of day"),
        (sa.Column("v", sa.Numeric), "keeps 38 digits"),
        (sa.Column("v", sa.Numeric(39, 2)), "keeps 38 digits"),
        (sa.Column("v", sa.REAL), "single precision"),
        (sa.Column("v", sa.Interval), "is not supported"),
        (sa.Column("v"), "SQLAlchemy knows no such type"),
        (sa.Column("W", sa.Integer), "two columns differ by capitals alone"),
    ],
)
def test_what_files_can_not_keep_is_said_at_the_start(column: sa.Column[Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        file_plan(table(sa.Column("w", sa.Integer), column))


def test_without_pyarrow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install waxwing-streams\[delta\]"):
        ArrowRows(file_plan(table(sa.Column("n", sa.Integer))), "delta")


def test_the_layer_loads_no_pyarrow() -> None:
    code = "import sys, waxwing.tables.files.arrow, sinks; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
