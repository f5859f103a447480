"""What stands in the table: every type, partitions, statistics; and what an existing table may be."""

from __future__ import annotations

import builtins
import json
import math
import shutil
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import msgspec
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from deltalake import DeltaTable, write_deltalake

from sinks import sink
from sinks.delta import DeltaTarget, library
from sinks.delta.files import Folder, escaped, folder_of
from sinks.delta.rows.stats import LAST_CHARACTER
from sources import read
from sources.memory import MemorySource
from waxwing.errors import ConfigError, DataError, WaxwingError
from waxwing.operators import map as map_records
from waxwing.operators import parse
from waxwing.settings import DeltaSettings


class N(msgspec.Struct):
    """A message: which record it stands for."""

    n: int


QUICK = DeltaSettings(lanes=1, owner_stale_s=1.0, delta_commit_age_s=0.0)
EVERY = sa.Table(
    "every",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger),
    sa.Column("small", sa.SmallInteger),
    sa.Column("text", sa.Text),
    sa.Column("price", sa.Numeric(38, 10)),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("ratio", sa.Double),
    sa.Column("yes", sa.Boolean),
    sa.Column("raw", sa.LargeBinary),
    sa.Column("kind", sa.Enum("a", "b", name="kind")),
    sa.Column("which", sa.Uuid),
    sa.Column("doc", sa.JSON),
)
NOW = datetime(2026, 3, 1, 12, 30, 15, 123_457, UTC)
FULL: dict[str, Any] = {
    "id": 2**62,
    "small": -3,
    "text": "über 'alles'",
    "price": Decimal("1234567890123456789012345678.0123456789"),
    "at": NOW,
    "local": NOW.replace(tzinfo=None),
    "day": date(2026, 3, 1),
    "ratio": 0.1,
    "yes": True,
    "raw": b"\x00\xff",
    "kind": "b",
    "which": UUID(int=7),
    "doc": {"a": [1, None]},
}
AS_READ = FULL | {"which": str(UUID(int=7)), "doc": '{"a":[1,null]}'}
EMPTY = dict.fromkeys(FULL)


def run(
    path: Path, table: sa.Table, records: list[Any], *, begin: str = "", settings: DeltaSettings = QUICK, **options: Any
) -> DeltaTarget:
    """Write records, as they are, by a flow."""
    flow = Dataflow("demo")
    target = DeltaTarget(settings, path, table, **options)
    source = MemorySource([{"n": n} for n in range(len(records))], begin=begin)  # type: ignore[arg-type]
    batches = parse("parse", read("in", flow, source), N)
    sink("out", map_records("record", batches, lambda one: records[one.n]), target)
    try:
        run_main(flow)
    except BaseException as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, WaxwingError):
            found = found.__cause__ or found.__context__
        raise found or error from None
    return target


def test_every_type_is_read_alike_by_all_readers(tmp_path: Path) -> None:
    path = tmp_path / "every"
    run(path, EVERY, [FULL, EMPTY])
    rows = [AS_READ, EMPTY]
    table = DeltaTable(path)
    by_id = lambda row: row["id"] is None  # noqa: E731
    assert sorted(pa.RecordBatchReader.from_stream(table.scan()).read_all().to_pylist(), key=by_id) == rows
    assert sorted(pl.read_delta(str(path)).to_dicts(), key=by_id) == rows
    files = table.file_uris()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql("SELECT * FROM read_parquet(?)", params=[files]).to_arrow_table().to_pylist()
    assert sorted(found, key=by_id) == rows
    assert {field.name: str(field.type.type) for field in table.schema().fields} == {
        "id": "long",
        "small": "short",
        "text": "string",
        "price": "decimal(38,10)",
        "at": "timestamp",
        "local": "timestamp_ntz",
        "day": "date",
        "ratio": "double",
        "yes": "boolean",
        "raw": "binary",
        "kind": "string",
        "which": "string",
        "doc": "string",
    }
    assert all(field.nullable for field in table.schema().fields)


PARTS = sa.Table(
    "parts",
    sa.MetaData(),
    sa.Column("id", sa.Integer),
    sa.Column("shop", sa.Text),
    sa.Column("day", sa.Date),
    sa.Column("n", sa.Integer),
)


def test_partitions_bear_any_value(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    shops = ["Köln", "a/b=c d", "100%", None, "..", "x" * 50, "it's"]
    rows = [
        {"id": n, "shop": shop, "day": date(2026, 1, n % 2 + 1) if n % 5 else None, "n": n % 3}
        for n, shop in enumerate(shops * 3)
    ]
    run(path, PARTS, rows, partition_by=["shop", "day", "n"])
    table = DeltaTable(path)
    assert table.metadata().partition_columns == ["shop", "day", "n"]
    found = pa.RecordBatchReader.from_stream(table.scan()).read_all().to_pylist()
    assert sorted(found, key=lambda row: row["id"]) == rows
    assert sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["id"]) == rows
    assert sorted(pl.read_delta(str(path)).to_dicts(), key=lambda row: row["id"]) == rows
    one = pa.RecordBatchReader.from_stream(table.scan(predicate="shop = 'a/b=c d' AND n = 1")).read_all()
    assert one.column("id").to_pylist() == [row["id"] for row in rows if row["shop"] == "a/b=c d" and row["n"] == 1]
    assert pl.scan_delta(str(path)).filter(pl.col("shop") == "100%").collect().height == 3


def test_an_empty_text_can_be_no_partition_and_is_a_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    run(path, PARTS, [{"id": n, "shop": shop, "day": None, "n": 0} for n, shop in enumerate(["a", "", "b"])], partition_by="shop")
    assert sorted(DeltaTable(path).to_pyarrow_table().column("id").to_pylist()) == [0, 2]
    letters = DeltaTable(f"{path}.dead_letters").to_pyarrow_table().to_pylist()
    assert [(row["stage"], row["source_offset"]) for row in letters] == [("sink", 1)]
    assert "readers of a partition take for null" in letters[0]["reason"]


def test_a_partition_must_be_a_column_of_few_values(tmp_path: Path) -> None:
    for by, why in (
        ("none", "rows bring no column none"),
        (["ratio"], "can't be the name"),
        (["id", "id"], "each of these once"),
    ):
        with pytest.raises(ConfigError, match=why):
            DeltaTarget(QUICK, tmp_path / "t", EVERY, partition_by=by)


def stats(path: Path) -> dict[str, Any]:
    lines = sorted((path / "_delta_log").glob("*.json"))
    found = [json.loads(line)["add"] for file in lines for line in file.read_text().splitlines() if line.startswith('{"add"')]
    assert len(found) == 1
    said: dict[str, Any] = json.loads(found[0]["stats"])
    return said


def test_statistics_hold_all_values_and_say_no_more_than_they_know(tmp_path: Path) -> None:
    path = tmp_path / "every"
    long = "ÿ" * 40
    late = FULL | {"at": NOW + timedelta(days=1), "local": datetime(1969, 1, 1), "text": long, "ratio": -0.5}  # noqa: DTZ001
    run(path, EVERY, [FULL, late, EMPTY])
    said = stats(path)
    assert said["numRecords"] == 3
    assert set(said["nullCount"].values()) == {1}
    assert said["minValues"]["at"] == "2026-03-01T12:30:15.123Z"
    assert said["maxValues"]["at"] == "2026-03-02T12:30:15.124Z"
    assert (said["minValues"]["local"], said["maxValues"]["local"]) == ("1969-01-01 00:00:00.000", "2026-03-01 12:30:15.124")
    assert said["maxValues"]["text"] == "ÿ" * 32 + LAST_CHARACTER
    assert said["minValues"]["text"] == FULL["text"]
    assert (said["minValues"]["ratio"], said["maxValues"]["ratio"]) == (-0.5, 0.1)
    assert said["minValues"]["id"] == said["maxValues"]["id"] == 2**62
    assert '"price":1234567890123456789012345678.0123456789' in "".join(
        file.read_text().replace("\\", "") for file in (path / "_delta_log").glob("*.json")
    )
    assert said["minValues"]["day"] == "2026-03-01"
    assert "raw" not in said["nullCount"]
    assert "yes" not in said["minValues"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_without_an_order_have_no_bounds(tmp_path: Path, value: float) -> None:
    path = tmp_path / "every"
    run(path, EVERY, [FULL, FULL | {"ratio": value}])
    assert "ratio" not in stats(path)["minValues"]
    assert "id" in stats(path)["minValues"]
    if not math.isnan(value):  # readers differ in whether it is larger than any number
        found = pa.RecordBatchReader.from_stream(DeltaTable(path).scan(predicate="ratio > 5")).read_all().num_rows
        assert found == (1 if value > 0 else 0)


def test_filters_find_what_statistics_let_pass(tmp_path: Path) -> None:
    path = tmp_path / "every"
    for n in range(4):
        run(path, EVERY, [FULL | {"id": k, "text": f"t{k}", "day": date(2026, 1, 1) + timedelta(days=k)} for k in range(n + 1)])
    table = DeltaTable(path)
    for predicate, ids in (("id >= 2", [2, 3]), ("text = 't1'", [1]), ("day > '2026-01-02'", [2, 3]), ("price < 0", [])):
        found = pa.RecordBatchReader.from_stream(table.scan(predicate=predicate)).read_all()
        assert sorted(found.column("id").to_pylist()) == ids, predicate
    assert sorted(pl.scan_delta(str(path)).filter(pl.col("at") == NOW).collect()["id"].to_list()) == [0, 1, 2, 3]


# -- an existing table -------------------------------------------------------------------------------------------------------

SHOP = sa.Table(
    "shop", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("name", sa.String(20)), sa.Column("price", sa.Numeric(10, 2))
)
ROW = {"id": 1, "name": "x", "price": Decimal("1.25")}


def made(path: Path, *fields: pa.Field, **options: Any) -> DeltaTable:
    return DeltaTable.create(path, pa.schema(list(fields)), **options)


def test_a_table_of_wider_columns_is_written_and_others_are_left_null(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    made(
        path,
        pa.field("price", pa.decimal128(20, 4)),
        pa.field("name", pa.string()),
        pa.field("more", pa.float64()),
        pa.field("id", pa.int64()),
    )
    run(path, SHOP, [ROW])
    assert DeltaTable(path).to_pyarrow_table().to_pylist() == [{"price": Decimal("1.2500"), "name": "x", "more": None, "id": 1}]
    assert pl.read_delta(str(path)).to_dicts() == [{"price": Decimal("1.2500"), "name": "x", "more": None, "id": 1}]


def test_columns_that_the_table_lacks_are_added_and_null_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "shop"
    run(path, SHOP, [ROW])
    wider = sa.Table(
        "shop", sa.MetaData(), *(c._copy() for c in SHOP.c), sa.Column("at", sa.DateTime), sa.Column("n", sa.Integer)
    )
    at = datetime(2026, 1, 1)  # noqa: DTZ001
    run(path, wider, [ROW, ROW | {"id": 2, "at": at, "n": 7}])
    run(path, SHOP, [ROW, ROW, ROW | {"id": 3}])
    rows = sorted(pl.read_delta(str(path)).to_dicts(), key=lambda row: row["id"])
    assert rows == [ROW | {"at": None, "n": None}, ROW | {"id": 2, "at": at, "n": 7}, ROW | {"id": 3, "at": None, "n": None}]
    assert "added at, n" in caplog.text


def test_all_that_does_not_fit_is_told_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    made(
        path,
        pa.field("id", pa.int16()),
        pa.field("NAME", pa.string()),
        pa.field("price", pa.float64(), nullable=False),
        pa.field("must", pa.int32(), nullable=False),
        partition_by=["id"],
        configuration={"delta.setTransactionRetentionDuration": "interval 1 days"},
    )
    with pytest.raises(ConfigError) as raised:
        run(path, SHOP, [ROW])
    for told in (
        "forgets who wrote",
        "partitioned by id, and not by nothing",
        "column id is short, where integer is needed",
        "column NAME is written name here",
        "column price is double, where decimal(10,2) is needed",
        "column price takes no nulls",
        "column must takes no nulls, and rows do not bring it",
    ):
        assert told in str(raised.value)


def test_what_a_table_checks_or_makes_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    made(
        path,
        pa.field("id", pa.int32(), metadata={"delta.generationExpression": "1"}),
        pa.field("name", pa.string()),
        pa.field("price", pa.decimal128(10, 2)),
    ).alter.add_constraint({"positive": "id > 0"})
    with pytest.raises(ConfigError, match="constraint \\(positive\\)"):
        run(path, SHOP, [ROW])


def test_a_folder_of_other_files_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    path.mkdir()
    (path / "x.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match="is no Delta table"):
        run(path, SHOP, [ROW])


def test_what_is_remembered_never_lies_inside_the_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="DELTA_STATE_PATH lies inside"):
        DeltaTarget(DeltaSettings(delta_state_path=str(tmp_path / "shop" / "state")), tmp_path / "shop", SHOP)


def test_one_folder_may_remember_several_tables_of_one_name(tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"delta_state_path": str(tmp_path / "state")})
    for where in ("a", "b"):
        (tmp_path / where).mkdir()
        for size in (1, 2):
            run(tmp_path / where / "shop", SHOP, [ROW] * size, settings=settings)
        assert DeltaTable(tmp_path / where / "shop").to_pyarrow_table().num_rows == 2
    assert len(list((tmp_path / "state").iterdir())) == 2


# -- what others do ----------------------------------------------------------------------------------------------------------


def count(path: Path) -> int:
    return int(DeltaTable(path).to_pyarrow_table().num_rows)


def test_rows_of_others_stay_and_a_first_start_beside_them_asks(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    table = pa.table({"id": [9], "name": ["old"], "price": [Decimal("1.00")]}, DeltaTarget(QUICK, path, SHOP)._schema.schema)
    write_deltalake(path, table)
    with pytest.raises(DataError, match="BEGIN=anew"):
        run(path, SHOP, [ROW])
    run(path, SHOP, [ROW], begin="anew")
    write_deltalake(path, table, mode="append")
    run(path, SHOP, [ROW, ROW])
    assert count(path) == 4


def test_a_second_flow_into_the_table_is_no_lost_one(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    run(path, SHOP, [ROW])
    run(path, SHOP, [ROW], settings=QUICK.model_copy(update={"flow_name": "another"}), begin="anew")
    assert count(path) == 2


def test_a_restored_table_is_refused_until_it_is_restored_back(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    run(path, SHOP, [ROW])
    run(path, SHOP, [ROW, ROW])
    before = DeltaTable(path).version()
    DeltaTable(path).restore(before - 1)
    with pytest.raises(DataError, match="restored to a version before"):
        run(path, SHOP, [ROW] * 3)
    DeltaTable(path).restore(before)
    run(path, SHOP, [ROW] * 3)
    assert count(path) == 3


def test_positions_that_are_lost_in_part_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    run(path, SHOP, [ROW])
    step = tmp_path / ".shop.waxwing" / "demo" / "out"
    for file in [file for file in step.iterdir() if file.is_file()][1:]:
        file.unlink()
    with pytest.raises(DataError, match=r"is gone from .*\.shop\.waxwing"):
        run(path, SHOP, [ROW, ROW])


def test_a_table_that_is_made_anew_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "shop"
    run(path, SHOP, [ROW, ROW])
    shutil.rmtree(path)
    run(path, SHOP, [ROW, ROW, ROW])
    assert count(path) == 3


# -- the package, and paths --------------------------------------------------------------------------------------------------


def test_without_the_package_the_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "deltalake":
            raise ImportError("No module named 'deltalake'")
        return real(name, *arguments)

    library.load.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install waxwing-streams\[delta\]"):
        DeltaTarget(QUICK, tmp_path / "shop", SHOP).prepare()


def test_paths_and_urls_name_one_folder() -> None:
    assert folder_of("/a/b/", "x") == Folder("/a/b")
    assert folder_of("file:///a/b", "x") == Folder("/a/b")
    assert folder_of("s3://bucket//a/b/", "x") == Folder("s3://bucket/a/b")
    assert folder_of("s3://bucket/a/b", "x").beside(".b.waxwing") == Folder("s3://bucket/a/.b.waxwing")
    assert not folder_of("s3://bucket/a", "x").is_local
    for bad in ("", "s3://bucket"):
        with pytest.raises(ConfigError):
            folder_of(bad, "x")
    assert [escaped(name) for name in ("a b", "..", "a/b", ".x")] == ["a%20b", "%2E%2E", "a%2Fb", "%2Ex"]
