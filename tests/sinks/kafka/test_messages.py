"""Rows as messages: keys, headers, times, tombstones, numbers, and what is no message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from sinks.kafka.names import positions_topic, step_of
from sinks.kafka.values import MessageMaker
from waxwing.batch import Batch, Columns, Delete, Stream
from waxwing.change import Change
from waxwing.errors import ConfigError, RowError
from waxwing.ledger.store import Step

STREAM = Stream("flow", "source", "id", 0)


class Row(msgspec.Struct):
    id: int
    name: str | None
    price: Decimal | None = None
    share: float | None = None
    at: datetime | None = None


TABLE = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Integer, nullable=False),
    sa.Column("name", sa.String(20)),
    sa.Column("price", sa.Numeric(20, 3)),
    sa.Column("share", sa.Float),
    sa.Column("at", sa.DateTime(timezone=True)),
)


def change(rows: list[Any], at: list[int] | None = None, deletes: tuple[Delete, ...] = (), **more: Any) -> Change:
    size = max([len(rows), *(delete.at + 1 for delete in deletes), *(n + 1 for n in at or ())])
    messages = Columns(range(size), [None] * size, [b""] * size, [1_000 + n for n in range(size)], [()] * size)
    batch = Batch(STREAM, "lane-000", 0, size, messages, rows, at or range(len(rows)), deletes=deletes, **more)
    return Change([batch], {}, {})


def made(rows: list[Any], key: Any = None, headers: Any = None, **more: Any) -> list[dict[str, Any]]:
    found = MessageMaker(TABLE, None, key, headers).of(change(rows, **more), 1_000_000)
    return [dict(zip(("key", "value", "timestamp", "headers"), one, strict=True)) for one in found]


def test_values_are_json_by_the_table_s_columns_exact_and_in_utc() -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, 89, UTC)
    (message,) = made([Row(7, "Ä", Decimal("12.340"), 0.1, at)])
    assert message["value"] == '{"id":7,"name":"Ä","price":12.340,"share":0.1,"at":"2026-03-04T05:06:07.000089Z"}'.encode()
    assert message["timestamp"] == 1_000
    assert message["key"] is None


def test_a_time_of_another_zone_stands_in_utc_in_value_key_and_headers() -> None:
    at = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    (first, second) = made([Row(7, "a", at=at), Row(8, "b")], "at", {"at": "at"})
    assert b'"at":"2026-02-28T23:30:00Z"' in first["value"]
    assert (first["key"], first["headers"]) == (b"2026-02-28T23:30:00Z", [("at", b"2026-02-28T23:30:00Z")])
    assert b'"at":null' in second["value"]


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ("name", b"Sensor 1"),
        ("id", b"7"),
        ("price", b"1.500"),
        (("name", "id"), b'{"name":"Sensor 1","id":7}'),
        (lambda row: f"{row.id}!", b"7!"),
        (lambda row: bytes([row.id]), b"\x07"),
        (lambda _: None, None),
        (None, None),
    ],
)
def test_a_key_is_a_column_as_plain_text_several_as_an_object_or_a_function_s(key: Any, wanted: bytes | None) -> None:
    (message,) = made([Row(7, "Sensor 1", Decimal("1.500"))], key)
    assert message["key"] == wanted


def test_a_null_in_the_key_s_column_is_no_key() -> None:
    (message,) = made([Row(7, None)], "name")
    assert message["key"] is None


def test_headers_are_columns_or_functions() -> None:
    (message,) = made([Row(7, "x")], headers={"who": "name", "twice": lambda row: str(2 * row.id), "none": "price"})
    assert message["headers"] == [("who", b"x"), ("twice", b"14"), ("none", None)]


def test_tombstones_stand_where_they_came_without_a_value() -> None:
    deletes = (Delete(0, b"raw"), Delete(2, (8,), ("id",)))
    found = made([Row(7, "a"), Row(9, "b")], "id", at=[1, 3], deletes=deletes)
    assert [(one["key"], one["value"] is None) for one in found] == [(b"raw", True), (b"7", False), (b"8", True), (b"9", False)]


def test_a_tombstone_of_other_columns_than_the_key_s_is_bad() -> None:
    with pytest.raises(RowError) as caught:
        made([Row(7, "a")], "id", at=[0], deletes=(Delete(1, ("x",), ("name",)),))
    assert caught.value.bad == {1: "a tombstone of name, where the key is made of id"}


def test_what_json_or_the_columns_can_t_hold_is_named() -> None:
    rows = [Row(1, "a"), Row(2, "b" * 21), Row(3, "c", share=float("nan")), Row(4, "d", Decimal("1.0005"))]
    with pytest.raises(RowError) as caught:
        made(rows)
    assert sorted(caught.value.bad) == [1, 2, 3]
    assert "share" in caught.value.bad[2]


def test_a_function_that_fails_makes_its_record_bad_and_no_other() -> None:
    with pytest.raises(RowError) as caught:
        made([Row(1, "a"), Row(0, "b")], lambda row: str(1 // row.id))
    assert caught.value.bad == {1: "its key or a header can't be made: ZeroDivisionError: integer division or modulo by zero"}


def test_a_message_that_is_larger_than_the_topic_takes_is_named() -> None:
    with pytest.raises(RowError) as caught:
        MessageMaker(TABLE, None, "id", None).of(change([Row(1, "a"), Row(2, "b")]), 100)
    assert "max.message.bytes" in caught.value.bad[0]
    assert sorted(caught.value.bad) == [0, 1]


def test_rows_of_a_batch_that_is_taken_as_a_whole_have_no_time_of_their_own() -> None:
    found = made([Row(1, "a"), Row(2, "b"), Row(3, "c")], at=[0], whole=True)
    assert len(found) == 3
    assert not any(one["timestamp"] for one in found)


def test_a_key_or_header_of_no_column_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="no column where, which is to be the key"):
        MessageMaker(TABLE, None, "where", None)
    with pytest.raises(ConfigError, match="no column where, which is to be the header h"):
        MessageMaker(TABLE, None, None, {"h": "where"})


@pytest.mark.parametrize("flow", ["orders", "my flow", "a.b_c-d", "Größe", "_20"])
def test_topics_of_positions_are_found_again_by_their_names(flow: str) -> None:
    for step in (Step(flow, "out"), Step("x", flow)):
        assert step_of(positions_topic(step)) == step
    assert step_of("orders") is None


def test_a_name_that_is_too_long_for_a_topic_is_refused() -> None:
    with pytest.raises(ConfigError, match="too long"):
        positions_topic(Step("é" * 60, "out"))
