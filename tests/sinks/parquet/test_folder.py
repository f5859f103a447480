"""What lies in a folder, as other programs read it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main

from sinks import sink
from sinks.parquet import ParquetTarget, PartitionKey, day, files, hour
from sinks.writer.writer import Writer
from sources import read
from sources.memory import MemorySource, Message
from tests.servers.process import until
from waxwing.batch import Batch, Columns, Stream
from waxwing.change import Change, Start
from waxwing.errors import RowError
from waxwing.operators import parse
from waxwing.settings import ParquetSettings
from waxwing.tables.rows import NO_DELETES

AT = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)


class Order(msgspec.Struct):
    id: int
    shop: str | None
    amount: Decimal
    at: datetime | None


def table(*more: sa.Column[Any]) -> sa.Table:
    return sa.Table(
        "orders",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("shop", sa.Text),
        sa.Column("amount", sa.Numeric(10, 2)),
        sa.Column("at", sa.DateTime(timezone=True)),
        *more,
    )


def order(n: int, **some: Any) -> dict[str, Any]:
    return {"id": n, "shop": f"s{n % 3}", "amount": f"{n}.25", "at": (AT + timedelta(minutes=10 * n)).isoformat()} | some


def settings(**some: Any) -> ParquetSettings:
    return ParquetSettings(**({"lanes": 1, "owner_stale_s": 1.0, "parquet_file_age_s": 3_600.0} | some))


def run(target: ParquetTarget, records: Sequence[Any] | dict[int, Sequence[Any]], *, topic: str = "orders") -> None:
    """A flow over these."""
    flow = Dataflow("shop")
    source = MemorySource(records, batch_records=4, topic=topic, lanes=target.settings.lanes)
    sink("files", parse("parse", read("in", flow, source), Order, on_tombstone="delete"), target)
    run_main(flow)


def found(folder: Path) -> list[str]:
    """The folders of files, below this one."""
    return sorted({str(path.parent.relative_to(folder)) for path in folder.rglob("*.parquet")})


def test_duckdb_polars_and_pyarrow_read_the_same_rows_and_keys(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table(), partition_by=[day("at"), hour("at")]), [order(n) for n in range(12)])
    assert found(folder) == [
        "date=2026-01-31/hour=23",
        "date=2026-02-01/hour=00",
        "date=2026-02-01/hour=01",
    ]
    want = [(n, f"s{n % 3}", Decimal(f"{n}.25"), at := AT + timedelta(minutes=10 * n), at.date(), at.hour) for n in range(12)]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        # What begins with a zero it takes for a text, unless it is told.
        query = f"SELECT * FROM read_parquet('{folder}/**/*.parquet', hive_types={{'hour': INTEGER}}) ORDER BY id"
        by_duckdb = connection.execute(query).fetchall()
    assert [(*row[:3], row[3].astimezone(UTC), *row[4:]) for row in by_duckdb] == want
    assert pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True).sort("id").rows() == want
    by_arrow = ds.dataset(folder, partitioning="hive").to_table().sort_by("id").to_pylist()
    assert [(*list(row.values())[:4], row["date"], row["hour"]) for row in by_arrow] == [
        (*row[:4], row[4].isoformat(), row[5]) for row in want
    ]


def test_keys_that_folders_could_not_be_named_by_are_encoded_and_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    shops = ["a/b", "k=v", "two words", "é", "100%", "..", "semi;colon", "?*", "quote'\"", None, "plain"]
    run(ParquetTarget(settings(), folder, table(), partition_by=["shop"]), [order(n, shop=shop) for n, shop in enumerate(shops)])
    assert all("shop" not in pq.ParquetFile(path).schema_arrow.names for path in folder.rglob("*.parquet"))
    assert "shop=__HIVE_DEFAULT_PARTITION__" in found(folder)
    assert "shop=a%2Fb" in found(folder)
    want = list(enumerate(shops))
    with duckdb.connect() as connection:
        query = f"SELECT id, shop FROM read_parquet('{folder}/**/*.parquet', hive_types={{'shop': VARCHAR}}) ORDER BY id"
        assert connection.execute(query).fetchall() == want
    hive = {"shop": pl.String}
    by_polars = pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True, hive_schema=hive)
    assert by_polars.sort("id").select("id", "shop").rows() == want
    by_arrow = ds.dataset(folder, partitioning="hive").to_table(columns=["id", "shop"]).sort_by("id")
    assert [tuple(row.values()) for row in by_arrow.to_pylist()] == want


def test_a_key_that_no_folder_s_name_holds_is_a_dead_letter(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    target = ParquetTarget(settings(), folder, table(), partition_by=["shop"])
    run(
        target,
        [order(0, shop=""), order(1, shop="x" * 300), order(2, shop="__HIVE_DEFAULT_PARTITION__"), order(3, shop="x" * 250)],
    )
    letters = pl.read_parquet(f"{folder}_dead_letters/*.parquet").sort("offset")
    assert letters["offset"].to_list() == [0, 1, 2]
    assert letters["error"][0] == "column shop: '' is a null to readers, as a key of folders"
    assert "at most 255" in letters["error"][1]
    assert pl.read_parquet(f"{folder}/**/*.parquet", hive_partitioning=True)["id"].to_list() == [3]


@pytest.mark.parametrize("kind", [sa.DateTime(timezone=True), sa.DateTime(), sa.Date()])
def test_days_and_hours_are_those_of_utc_or_of_what_has_no_zone(tmp_path: Path, kind: Any) -> None:
    folder = tmp_path / "orders"
    zoned, is_day = getattr(kind, "timezone", False), isinstance(kind, sa.Date)
    moments = ["0001-01-01T00:00:00", "1969-12-31T23:59:59.999999", "2026-01-31T22:30:00", "9999-12-31T23:59:59.999999"]
    given = [datetime.fromisoformat(one).replace(tzinfo=UTC if zoned else None) for one in moments]
    values: list[Any] = [one.date() if is_day else one for one in given] + [None]
    made = sa.Table("t", sa.MetaData(), sa.Column("at", kind), sa.Column("n", sa.Integer))
    target = ParquetTarget(settings(), folder, made, partition_by=[day("at")] if is_day else [day("at"), hour("at")])
    batches = target.rows.of([plain([(one, n) for n, one in enumerate(values)])])
    nobody = "__HIVE_DEFAULT_PARTITION__"
    want = [f"date={one[:10]}" + ("" if is_day else f"/hour={one[11:13]}") for one in moments]
    want.append(f"date={nobody}" + ("" if is_day else f"/hour={nobody}"))
    assert {one: batch.column(1).to_pylist() for one, batch in batches} == {one: [n] for n, one in enumerate(want)}


def plain(rows: list[tuple[Any, ...]]) -> Batch[Any]:
    n = len(rows)
    return Batch(STREAM, "lane-000", 0, n, Columns(range(n), [None] * n, [b""] * n, [-1] * n, [()] * n), rows, range(n))


def test_a_key_may_be_made_of_a_column(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    key = PartitionKey(name="hundred", column="id", value=lambda id_: id_ // 100)
    run(ParquetTarget(settings(), folder, table(), partition_by=[key]), [order(n) for n in (1, 99, 100, 350)])
    assert found(folder) == ["hundred=0", "hundred=1", "hundred=3"]


def test_dead_letters_are_whole_messages_with_their_places(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    bad = Message(b"no JSON", key=b"k", headers=[("h", b"1"), ("h", None)], timestamp_ms=1_700_000_000_123)
    run(ParquetTarget(settings(), folder, table()), [order(0), bad, order(1), Message(None, key=b"1"), order(2, amount="1.005")])
    assert pl.read_parquet(folder / "*.parquet")["id"].to_list() == [0, 1]
    letters = pl.read_parquet(f"{folder}_dead_letters/*.parquet").sort("offset").to_dicts()
    assert letters[0] | {"error": ""} == {
        "stage": "parse",
        "error": "",
        "source": "orders",
        "partition": 0,
        "offset": 1,
        "key": b"k",
        "value": b"no JSON",
        "headers": [{"name": "h", "value": b"1"}, {"name": "h", "value": None}],
        "timestamp": datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC),
        "row": 0,
        "flow": "shop",
        "step": "files",
        "source_id": "name:orders",
    }
    assert [(one["offset"], one["stage"], one["value"]) for one in letters[1:]] == [
        (3, "sink", None),
        (4, "sink", msgspec.json.encode(order(2, amount="1.005"))),
    ]
    assert letters[1]["error"] == NO_DELETES
    assert letters[2]["error"] == "column amount: more than 2 decimals"
    with duckdb.connect() as connection:
        query = f"SELECT headers[1].name, headers[1].value FROM '{folder}_dead_letters/*.parquet' WHERE \"offset\" = 1"
        assert connection.execute(query).fetchall() == [("h", b"1")]


def test_positions_may_stand_in_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    target = ParquetTarget(
        settings(), folder, table(), partition_by=["shop"], positions=True, columns=["shop", "id", "amount", "at"]
    )
    run(target, {0: [order(0), b"?", order(1)], 1: [order(2)]})
    rows = pl.read_parquet(f"{folder}/**/*.parquet").select("id", "kafka_partition", "kafka_offset").sort("id").rows()
    assert rows == [(0, 0, 0), (1, 0, 2), (2, 1, 0)]


def test_a_column_that_comes_later_is_null_before(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table()), [order(0)])

    class Noted(Order):
        note: str

    flow = Dataflow("shop")
    source = MemorySource([order(0, note=""), order(1, note="new")], topic="orders", lanes=1)
    target = ParquetTarget(settings(), folder, table(sa.Column("note", sa.Text)))
    sink("files", parse("parse", read("in", flow, source), Noted), target)
    run_main(flow)
    query = f"SELECT id, note FROM read_parquet('{folder}/*.parquet', union_by_name=true) ORDER BY id"
    with duckdb.connect() as connection:
        assert connection.execute(query).fetchall() == [(0, None), (1, "new")]


def test_files_that_were_removed_or_put_together_by_hand_are_not_missed(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table()), [order(0), order(1)])
    (one,) = folder.glob("*.parquet")
    one.unlink()
    run(ParquetTarget(settings(), folder, table()), [order(n) for n in range(4)])
    assert pl.read_parquet(folder / "*.parquet")["id"].to_list() == [2, 3]


def test_files_are_compressed_by_zstd_and_have_the_types_of_the_table_all_of_which_may_be_null(tmp_path: Path) -> None:
    folder = tmp_path / "orders"
    run(ParquetTarget(settings(), folder, table(), positions=True), [order(0, amount="7.50"), order(1, shop=None, at=None)])
    (path,) = folder.glob("*.parquet")
    file = pq.ParquetFile(path)
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == [
        ("id", "int32"),
        ("shop", "string"),
        ("amount", "decimal128(10, 2)"),
        ("at", "timestamp[us, tz=UTC]"),
        ("kafka_partition", "int32"),
        ("kafka_offset", "int64"),
    ]
    assert all(field.nullable for field in file.schema_arrow)
    group = file.metadata.row_group(0)
    assert {group.column(number).compression for number in range(group.num_columns)} == {"ZSTD"}
    assert [tuple(row.values()) for row in file.read().to_pylist()] == [
        (0, "s0", Decimal("7.50"), AT, 0, 0),
        (1, None, Decimal("1.25"), None, 0, 1),
    ]


# -- sizes ------------------------------------------------------------------------------------------------------------------

STREAM = Stream("flow", "topic", "id", 0)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Targets that have their step, and their sessions."""
    made: list[ParquetTarget] = []

    def of(**some: Any) -> tuple[ParquetTarget, Any, Any]:
        keys = some.pop("partition_by", ())
        target = ParquetTarget(settings(**some), tmp_path / "orders", table(), partition_by=keys)
        made.append(target)
        target.bind("flow", "files")
        target.prepare()
        assert target.ownership.take() == ""
        target.begin([Start(STREAM, 0, None)])
        session = target.connect("lane-000", target.token())
        return target, session, session.take_over(STREAM)

    yield of
    for target in made:
        target.ownership.release()


def batch(first: int, records: Sequence[dict[str, Any]]) -> Batch[Any]:
    n = len(records)
    messages = Columns(range(first, first + n), [None] * n, [b""] * n, [-1] * n, [()] * n)
    return Batch(STREAM, "lane-000", first, first + n, messages, [msgspec.convert(one, Order) for one in records], range(n))


def commit(session: Any, position: Any, end: int) -> Any:
    after = position._replace(offset_next=end)
    session.commit(Change([], {STREAM: position}, {STREAM: after}))
    return after


def test_a_file_that_is_full_is_followed_by_another_of_the_same_commit(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "GROUP_ROWS_MAX", 1_000)
    _, session, position = opened(parquet_file_bytes_max=10_000)
    for first in range(0, 10_000, 1_000):
        session.stage([batch(first, [order(n, shop=f"{n * 7919:x}") for n in range(first, first + 1_000)])])
        assert not found(tmp_path / "orders"), "a reader sees nothing before the commit"
    commit(session, position, 10_000)
    paths = list((tmp_path / "orders").glob("*.parquet"))
    assert len(paths) == 10
    assert max(path.stat().st_size for path in paths) < 30_000
    assert sorted(pl.read_parquet(tmp_path / "orders" / "*.parquet")["id"]) == list(range(10_000))


@pytest.mark.parametrize("limits", [{"parquet_file_age_s": 0.2}, {"parquet_file_rows_max": 3}])
def test_files_are_shown_when_they_are_old_or_large_enough_and_no_sooner(
    opened: Any, tmp_path: Path, limits: dict[str, Any]
) -> None:
    target, _, _ = opened(**limits)
    writer = Writer(target, "lane-000")
    try:
        began_s = time.monotonic()
        writer.put(batch(0, [order(0), order(1)]))
        if "parquet_file_rows_max" in limits:
            until(lambda: any(target.place.staging.iterdir()), timeout_s=60, what="they are staged")
            assert not found(tmp_path / "orders")
            writer.put(batch(2, [order(2)]))
        until(lambda: bool(found(tmp_path / "orders")), timeout_s=60, what="a reader sees them")
        assert time.monotonic() - began_s >= limits.get("parquet_file_age_s", 0.0)
    finally:
        writer.close()
    (path,) = (tmp_path / "orders").glob("*.parquet")
    assert pl.read_parquet(path)["id"].to_list() == list(range(3 if "parquet_file_rows_max" in limits else 2))


def test_few_files_are_open_however_many_folders_there_are(opened: Any, tmp_path: Path) -> None:
    _, session, position = opened(partition_by=["shop"])
    for first in range(0, 200, 50):
        session.stage([batch(first, [order(n, shop=f"s{n % 90}") for n in range(first, first + 50)])])
        assert len(session._lane._files._open) <= files.OPEN_MAX
    commit(session, position, 200)
    assert len(found(tmp_path / "orders")) == 90
    assert sorted(pl.read_parquet(f"{tmp_path}/orders/**/*.parquet")["id"]) == list(range(200))


def test_what_waits_for_a_row_group_is_bounded_over_all_files(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WAITING_BYTES_MAX", 20_000)
    _, session, _ = opened(partition_by=["shop"])
    for first in range(0, 1_000, 100):
        session.stage([batch(first, [order(n, shop=f"s{n % 9}") for n in range(first, first + 100)])])
        assert sum(growing.bytes_waiting for growing, _ in session._lane._files._open.values()) <= 20_000


def test_of_a_batch_with_a_bad_row_nothing_is_staged(opened: Any, tmp_path: Path) -> None:
    _, session, position = opened()
    with pytest.raises(RowError) as refused:
        session.stage([batch(0, [order(0), order(1, amount="1.005")])])
    assert refused.value.bad == {1: "column amount: more than 2 decimals"}
    session.stage([batch(0, [order(0)])])
    commit(session, position, 2)
    assert pl.read_parquet(tmp_path / "orders" / "*.parquet")["id"].to_list() == [0]


def test_a_change_that_brings_no_row_moves_the_position_and_makes_no_file(opened: Any, tmp_path: Path) -> None:
    target, session, position = opened()
    for end in (3, 5):
        position = commit(session, position, end)
    assert target.positions()[0].offset_next == 5
    assert found(tmp_path / "orders") == []
