"""What stands in the table: every type, partitions, statistics; and what an existing table may be."""

from __future__ import annotations

import builtins
import json
import math
import shutil
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable, write_deltalake

from sinks.delta import DeltaTarget, PartitionKey, day, hour, library
from sinks.delta.files import Folder, escaped, folder_of
from sinks.delta.rows.stats import LAST_CHARACTER
from sinks.parquet import ParquetTarget
from tests.sinks.delta.running import QUICK, run
from waxwing.errors import ConfigError, DataError
from waxwing.settings import DeltaSettings, ParquetSettings
from waxwing.tables.files.arrow import ArrowRows, file_plan

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


def test_a_text_that_can_be_no_partition_is_a_dead_letter(tmp_path: Path) -> None:
    path = tmp_path / "parts"
    shops = ["a", "", "b", "é" * 42, "__HIVE_DEFAULT_PARTITION__"]
    run(path, PARTS, [{"id": n, "shop": shop, "day": None, "n": 0} for n, shop in enumerate(shops)], partition_by="shop")
    assert sorted(DeltaTable(path).to_pyarrow_table().column("id").to_pylist()) == [0, 2]
    letters = DeltaTable(f"{path}_dead_letters").to_pyarrow_table().to_pylist()
    assert sorted((row["stage"], row["offset"]) for row in letters) == [("sink", 1), ("sink", 3), ("sink", 4)]
    reasons = {row["offset"]: row["error"] for row in letters}
    assert "is a null to readers of a partition" in reasons[1]
    assert "has 257 bytes, at most 255" in reasons[3]


KEYED = sa.Table(
    "keyed",
    sa.MetaData(),
    sa.Column("id", sa.BigInteger),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("local", sa.DateTime),
    sa.Column("on", sa.Date),
)


def keyed(n: int, at: datetime | None) -> dict[str, Any]:
    local = None if at is None else at.replace(tzinfo=None)
    return {"id": n, "at": at, "local": local, "on": None if local is None else local.date()}


def test_keys_of_day_and_hour_and_of_anything_divide_the_table_by_event_time(tmp_path: Path) -> None:
    path = tmp_path / "keyed"
    ats = [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), None, NOW, NOW + timedelta(minutes=40), NOW + timedelta(days=1)]
    berlin = datetime(2026, 3, 2, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    rows = [keyed(n, at) for n, at in enumerate([*ats, berlin])]
    keys = [day("at"), hour("at"), day("on", "on_day"), PartitionKey(name="half", column="id", value=lambda n: f"k{n // 3}")]
    run(path, KEYED, rows, partition_by=keys, positions=True)
    table = DeltaTable(path)
    assert table.metadata().partition_columns == ["date", "hour", "on_day", "half"]
    found = sorted(table.to_pyarrow_table().to_pylist(), key=lambda row: row["id"])
    assert found == [
        row
        | {
            "date": row["at"] and row["at"].astimezone(UTC).date(),
            "hour": row["at"] and row["at"].astimezone(UTC).hour,
            "on_day": row["on"],
            "half": f"k{n // 3}",
            "kafka_partition": 0,
            "kafka_offset": n,
        }
        for n, row in enumerate(rows)
    ]
    assert (path / "date=2026-03-01" / "hour=23" / "on_day=2026-03-02" / "half=k1").is_dir()
    assert sorted(pl.scan_delta(str(path)).filter(pl.col("hour") == 23).collect()["id"].to_list()) == [0, 5]
    run(path, KEYED, [*rows, keyed(6, None)], partition_by=keys, positions=True)
    assert count(path) == 7


def test_records_of_which_no_key_can_be_made_are_dead_letters(tmp_path: Path) -> None:
    path = tmp_path / "keyed"
    made: dict[int, Any] = {0: 1, 1: "x", 2: 2**63, 4: None, 5: True}
    key = PartitionKey(name="k", column="id", value=made.__getitem__, type="integer")
    run(path, KEYED, [keyed(n, NOW) for n in range(6)], partition_by=key)
    assert sorted((row["id"], row["k"]) for row in DeltaTable(path).to_pyarrow_table().to_pylist()) == [(0, 1), (4, None)]
    letters = DeltaTable(f"{path}_dead_letters").to_pyarrow_table().to_pylist()
    assert sorted(row["offset"] for row in letters) == [1, 2, 3, 5]
    assert "column id: no key k can be made of" in letters[0]["error"]


def test_keys_and_positions_must_fit_the_table(tmp_path: Path) -> None:
    for options, why in (
        ({"partition_by": hour("on")}, r"column on .* has no hour"),
        ({"partition_by": day("id")}, r"column id .* has no day"),
        ({"partition_by": day("at", "ON")}, "two columns ON"),
        ({"partition_by": day("none")}, "no column none"),
    ):
        with pytest.raises(ConfigError, match=why):
            DeltaTarget(QUICK, tmp_path / "t", KEYED, **options)  # type: ignore[arg-type]
    taken = sa.Table("t", sa.MetaData(), sa.Column("kafka_offset", sa.Integer))
    with pytest.raises(ConfigError, match="two columns kafka_offset"):
        DeltaTarget(QUICK, tmp_path / "t", taken, positions=True)


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
    assert (said["minValues"]["yes"], said["maxValues"]["yes"]) == (True, True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_without_an_order_have_no_bounds(tmp_path: Path, value: float) -> None:
    path = tmp_path / "every"
    run(path, EVERY, [FULL, FULL | {"ratio": value}])
    assert not {"minValues", "maxValues"} & stats(path).keys()
    assert DeltaTable(path).to_pyarrow_table(filters=[("id", "=", FULL["id"])]).num_rows == 2
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


def test_readers_that_pass_over_files_by_statistics_find_every_row(tmp_path: Path) -> None:
    path = tmp_path / "every"
    made(path, *(pa.field(name, kind) for name, kind in [*_types_of(EVERY), ("more", pa.float64())]))
    long, last = "z" * 5_000, LAST_CHARACTER * 40
    rows: list[Any] = []
    for more in (
        [FULL, EMPTY],
        [EMPTY],
        [FULL | {"text": long}, FULL | {"text": f"a{last}", "yes": False}],
        [FULL | {"text": last}],
        [FULL | {"ratio": math.nan}, FULL | {"ratio": 7.5}],
        [FULL, FULL | {"small": 2**20}, FULL | {"day": "?"}],
    ):
        rows += more
        run(path, EVERY, rows)
    dataset = DeltaTable(path).to_pyarrow_dataset()
    every = dataset.to_table().to_pylist()
    assert len(every) == 9
    for name in (*FULL, "more"):
        column = ds.field(name)
        values = [row[name] for row in every]
        assert dataset.to_table(filter=column.is_null()).num_rows == values.count(None), name
        assert dataset.to_table(filter=column.is_valid()).num_rows == len(values) - values.count(None), name
        for value in {value for value in values if value is not None and not (type(value) is float and math.isnan(value))}:
            assert dataset.to_table(filter=column == value).num_rows == values.count(value), (name, value)
    letters = DeltaTable(f"{path}_dead_letters").to_pyarrow_dataset()
    filters = (ds.field("stage") == "sink", ds.field("offset") >= 9, ds.field("source") > "", ds.field("timestamp").is_null())
    assert [letters.to_table(filter=one).num_rows for one in filters] == [2, 2, 2, 2]


def _types_of(table: sa.Table) -> list[tuple[str, Any]]:
    return [(field.name, field.type) for field in ArrowRows(file_plan(table)).schema]


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


def test_two_formats_do_not_mix(tmp_path: Path) -> None:
    delta, files = tmp_path / "delta", tmp_path / "files"
    run(delta, SHOP, [ROW])
    for suffix in ("", "_dead_letters"):
        with pytest.raises(ConfigError, match="is a Delta table"):
            ParquetTarget(ParquetSettings(), f"{delta}{suffix}", SHOP).prepare()
    files.with_name("files_dead_letters").mkdir()
    files.with_name("files_dead_letters").joinpath("x.parquet").touch()
    with pytest.raises(ConfigError, match="files_dead_letters holds files, and is no Delta table"):
        run(files, SHOP, [ROW])


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
    for bad in ("", "s3://bucket", "ftp://bucket/a", "/a/x%20y"):
        with pytest.raises(ConfigError):
            folder_of(bad, "x")
    assert [escaped(name) for name in ("a b", "..", "a/b", ".x")] == ["a%20b", "%2E%2E", "a%2Fb", "%2Ex"]
