"""What is an order and what is not: the decisions of dataflows/orders.py, one by one."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.orders import RawOrder, Row, enrich
from dataflows.orders_generator import BAD, orders
from dataflows.sending import Keyed
from waxwing.batch import Batch, Columns, Stream, raw
from waxwing.operators import Origin
from waxwing.operators.parse import Parser

parser = Parser(RawOrder, "parse", deletes=False, value_bytes_max=1_000_000)


def batch_of(
    values: list[bytes | None], *, topic_id: str = "topic-id", partition: int = 0, first: int = 0
) -> Batch[bytes | None]:
    size = len(values)
    columns = Columns(range(first, first + size), [None] * size, values, [-1] * size, [()] * size)
    return raw(Stream("orders", "raw_orders", topic_id, partition), "lane-000", first, first + size, columns)


def row_of(value: bytes, **place: Any) -> Row:
    """The row of one message. Raises ValueError with the reason where it is refused."""
    batch = parser.parsed(batch_of([value], **place))
    if batch.rejects:
        raise ValueError(batch.rejects[0].reason)
    return enrich(Origin(batch.stream, batch))(batch.records[0], 0)


def order(**changes: Any) -> bytes:
    """The order of the README, changed. Text that begins with # is put in as it is, for numbers that Python would spoil."""
    fields = {"order_id": "ORD-001", "quantity": 3, "unit_price": "#25.50"} | changes
    inner = [
        f"{json.dumps(name)}:{v[1:] if isinstance(v, str) and v.startswith('#') else json.dumps(v)}" for name, v in fields.items()
    ]
    return f"{{{','.join(inner)}}}".encode()


def test_the_order_of_the_readme_is_completed() -> None:
    before_s = int(time.time())
    row_id, order_id, customer, quantity, price, total, processed_at = row_of(order())
    assert (order_id, customer, quantity, price, total) == ("ORD-001", None, 3, Decimal("25.50"), Decimal("76.50"))
    assert len(row_id) == 36
    assert before_s <= processed_at <= int(time.time())


def test_an_order_that_is_already_enriched_passes_through_as_it_is() -> None:
    value = order(id="a-1", customer="Ada", total_value="#76.5", processed_at=1_767_225_600, ts="2026-01-01", colour="red")
    assert row_of(value) == ("a-1", "ORD-001", "Ada", 3, Decimal("25.50"), Decimal("76.50"), 1_767_225_600)


@pytest.mark.parametrize(
    ("given_price", "price"),
    [
        ("#25.5", "25.50"),
        ("#25.500", "25.50"),
        ("#25", "25.00"),
        ("#2.55e1", "25.50"),
        ("#0", "0.00"),
        ("#99999999.99", "99999999.99"),
        ("25.50", "25.50"),
    ],
)
def test_a_price_in_whole_cents_is_taken_however_it_is_written(given_price: str, price: str) -> None:
    assert str(row_of(order(quantity=1, unit_price=given_price))[4]) == price


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quantity": 0}, "quantity is 0: an order has 1 to 2,147,483,647"),
        ({"quantity": -2}, "quantity is -2: an order has 1 to 2,147,483,647"),
        ({"quantity": 2**31, "unit_price": "#0.01"}, "quantity is 2147483648: an order has 1 to 2,147,483,647"),
        ({"quantity": 10**30}, "quantity is 1000000000000000000000000000000: an order has 1 to 2,147,483,647"),
        ({"quantity": "3"}, "Expected `int`, got `str` - at `$.quantity`"),
        ({"quantity": "#3.0"}, "Expected `int`, got `float` - at `$.quantity`"),
        ({"quantity": True}, "Expected `int`, got `bool` - at `$.quantity`"),
        ({"quantity": None}, "Expected `int`, got `null` - at `$.quantity`"),
        ({"unit_price": "#25.505"}, "unit_price is 25.505: prices are in whole cents, and are not rounded"),
        ({"unit_price": "#1e-999999"}, "unit_price is 1E-999999: prices are in whole cents, and are not rounded"),
        ({"unit_price": "#-0.01"}, "unit_price is -0.01: negative prices are refunds, not orders"),
        ({"unit_price": "#-0.0"}, "unit_price is -0.0: negative prices are refunds, not orders"),
        ({"unit_price": "#100000000"}, "unit_price is 100000000: it must be 0 to 99,999,999.99"),
        ({"unit_price": "#1e999999"}, "unit_price is 1E+999999: it must be 0 to 99,999,999.99"),
        ({"unit_price": "NaN"}, "unit_price is NaN: it must be 0 to 99,999,999.99"),
        ({"unit_price": "sNaN"}, "unit_price is sNaN: it must be 0 to 99,999,999.99"),
        ({"unit_price": "-Infinity"}, "unit_price is -Infinity: it must be 0 to 99,999,999.99"),
        ({"unit_price": True}, "Expected `decimal`, got `bool` - at `$.unit_price`"),
        (
            {"quantity": 101, "unit_price": "#99999999.99"},
            "quantity x unit_price is 10,099,999,998.99: at most 9,999,999,999.99 can be kept",
        ),
        ({"total_value": "#80.00"}, "total_value is 80.00: quantity x unit_price is 76.50"),
        ({"total_value": "#76.501"}, "total_value is 76.501: quantity x unit_price is 76.50"),
        ({"total_value": "NaN"}, "total_value is NaN: quantity x unit_price is 76.50"),
        ({"order_id": ""}, "order_id has 0 characters: it needs 1 to 255, and not only blanks"),
        ({"order_id": "  "}, "order_id has 2 characters: it needs 1 to 255, and not only blanks"),
        ({"order_id": "x" * 256}, "order_id has 256 characters: it needs 1 to 255, and not only blanks"),
        ({"order_id": 7}, "Expected `str`, got `int` - at `$.order_id`"),
        ({"customer": "x" * 256}, "customer has 256 characters: at most 255 can be kept"),
        ({"id": ""}, "id has 0 characters: it needs 1 to 36, or leave it out"),
        ({"id": "x" * 37}, "id has 37 characters: it needs 1 to 36, or leave it out"),
        ({"processed_at": -1}, "processed_at is -1: it must be whole seconds since 1970, not milliseconds"),
        (
            {"processed_at": 1_767_225_600_000},
            "processed_at is 1767225600000: it must be whole seconds since 1970, not milliseconds",
        ),
        ({"processed_at": "2026-01-01"}, "Expected `int | null`, got `str` - at `$.processed_at`"),
    ],
)
def test_what_is_no_order_is_refused_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the whole text is compared
        row_of(order(**changes))
    assert str(refused.value) == reason


@given(quantity=st.integers(1, 2**31 - 1), cents=st.integers(0, 9_999_999_999))
def test_totals_are_exact_or_refused(quantity: int, cents: int) -> None:
    value = order(quantity=quantity, unit_price=f"#{cents // 100}.{cents % 100:02}")
    if quantity * cents > 999_999_999_999:
        with pytest.raises(ValueError, match=r"at most 9,999,999,999\.99"):
            row_of(value)
    else:
        price, total = row_of(value)[4:6]
        assert Fraction(price) == Fraction(cents, 100)
        assert Fraction(total) == Fraction(quantity * cents, 100)


def test_a_missing_id_depends_on_the_record_s_place_and_on_nothing_else() -> None:
    places = [
        {"topic_id": topic_id, "partition": partition, "first": first}
        for topic_id in ("a", "b", "a/1")
        for partition in (0, 1, 11)
        for first in (0, 1, 10, 2**62)
    ]
    ids = [row_of(order(), **place)[0] for place in places]
    assert len(set(ids)) == len(places)
    assert [row_of(order(quantity=7), **place)[0] for place in places] == ids
    assert {len(row_id) for row_id in ids} == {36}


def test_an_id_does_not_change_with_the_batch_that_a_record_comes_in() -> None:
    whole = parser.parsed(batch_of([order(), b"bad", order(), order()], first=5))
    tail = parser.parsed(batch_of([order(), order()], first=7))
    rows, again = (list(map(enrich(Origin(batch.stream, batch)), batch.records, batch.at)) for batch in (whole, tail))
    assert [row[0] for row in rows[1:]] == [row[0] for row in again]


# -- generated orders ------------------------------------------------------------------------------


def generated(count: int, bad_ratio: float, seed: int = 1) -> list[Keyed]:
    return [one for chunk in orders(count, bad_ratio=bad_ratio, seed=seed) for one in chunk]


def test_generated_orders_are_the_same_for_the_same_seed() -> None:
    assert generated(25_000, 0.01) == generated(25_000, 0.01)
    assert generated(100, 0.0, seed=1) != generated(100, 0.0, seed=2)


def test_good_generated_orders_are_good_and_half_of_them_bring_an_id() -> None:
    values = [value for _, value in generated(20_000, 0.0)]
    batch = parser.parsed(batch_of(values))
    rows = list(map(enrich(Origin(batch.stream, batch)), batch.records, batch.at))
    assert len({row[0] for row in rows}) == len(rows) == 20_000
    assert sum(1 for record in batch.records if record.id) == 10_000
    assert any(record.total_value for record in batch.records)


@pytest.mark.parametrize("way", BAD)
def test_every_bad_order_is_refused(way: str) -> None:
    batch = parser.parsed(batch_of([BAD[way](123)]))
    if not batch.rejects:
        with pytest.raises(ValueError, match=r"\w+ (is|has) .+: \w+"):
            enrich(Origin(batch.stream, batch))(batch.records[0], 0)


def test_bad_orders_come_in_every_way_and_about_as_often_as_asked() -> None:
    values = [value for _, value in generated(100_000, 0.01)]
    bad = [value for value in values if not _is_good(value)]
    assert 800 < len(bad) < 1_200
    assert len(BAD) >= 12
    assert bad.count(None) == pytest.approx(len(bad) / len(BAD), abs=1)


def _is_good(value: bytes | None) -> bool:
    try:
        row_of(value or b"")
    except ValueError:
        return False
    return True
