"""What an order is, and the row that it becomes.

What a shop would want decides what is an order (each refusal is a dead letter with its reason):

- quantity is 1 to 2,147,483,647. None, or less, is no order: returns are bookings of their own.
- unit_price is 0 (a gift) to 99,999,999.99, in whole cents: 25.5 and 25.500 are 25.50, 25.505 is refused and never rounded.
  A number or a text of a number; a negative price is a refund, and no order.
- total_value is quantity x unit_price, exactly, up to 9,999,999,999.99. Where the order brings one, it has to be that.
- order_id has 1 to 255 characters, not only blanks; customer, where there is one, at most 255.
- id has 1 to 36 characters. Where it is missing it is made of the record's place (topic id, partition, offset), so that it
  is the same whenever the record is read again. (A broker without topic ids has the topic's name in its place.)
- processed_at is in whole seconds since 1970. Where it is missing it is the time at which the batch was read: the one
  column, beside created_at and updated_at, that is not a function of the record.
- `ts` and other fields are left alone: nothing here needs them, and an order is not lost over them.
- The same id again is the same order: the later one wins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Context, Decimal, Inexact, InvalidOperation
from hashlib import blake2b

import msgspec

from waxwing.operators import Origin


class RawOrder(msgspec.Struct, frozen=True, gc=False):
    """An order as it arrives. (A Struct of msgspec: exact decimals, and the fastest to decode.)"""

    order_id: str
    quantity: int
    unit_price: Decimal
    id: str | None = None
    customer: str | None = None
    total_value: Decimal | None = None
    processed_at: int | None = None


# The columns of `orders` that the flow fills, in order. Plain tuples: the fastest for the sink.
Row = tuple[str, str, str | None, int, Decimal, Decimal, int]


class Order(msgspec.Struct, frozen=True, gc=False):
    """A completed order, as ENRICHED_TOPIC holds it: the fields of Row."""

    id: str
    order_id: str
    customer: str | None
    quantity: int
    unit_price: Decimal
    total_value: Decimal
    processed_at: int


QUANTITY_MAX = 2**31 - 1
PRICE_MAX = Decimal("99999999.99")
TOTAL_MAX = Decimal("9999999999.99")
PROCESSED_AT_MAX_S = 99_999_999_999  # in the year 5138; what lies above was meant in milliseconds
CENT = Decimal("0.01")
# Whatever would be rounded, or has more digits than decimal(10, 2), raises.
PRICE = Context(prec=10, traps=[Inexact, InvalidOperation])


def enrich(origin: Origin) -> Callable[[RawOrder, int], Row]:
    """For the orders of one batch: from an order (and its message's number) to its row, or a ValueError that says why not."""
    now_s = int(time.time())
    offsets = origin.batch.messages.offsets
    stream = origin.stream
    # 20 characters for the partition and 16 for the offset: no hash per record, and new keys stand side by side in the index.
    place = blake2b(f"{stream.source_id}/{stream.partition}".encode(), digest_size=10).hexdigest()

    def row(order: RawOrder, at: int) -> Row:
        quantity, processed_at = order.quantity, order.processed_at
        if not 0 < quantity <= QUANTITY_MAX:
            raise ValueError(f"quantity is {quantity}: an order has 1 to {QUANTITY_MAX:,}")
        price, total = money(order, quantity)
        if not 0 < len(order.order_id) <= 255 or order.order_id.isspace():
            raise ValueError(f"order_id has {len(order.order_id):,} characters: it needs 1 to 255, and not only blanks")
        if order.customer is not None and len(order.customer) > 255:
            raise ValueError(f"customer has {len(order.customer):,} characters: at most 255 can be kept")
        if order.id is None:
            row_id = f"{place}{offsets[at]:016x}"
        else:
            row_id = order.id
            if not 0 < len(row_id) <= 36:
                raise ValueError(f"id has {len(row_id):,} characters: it needs 1 to 36, or leave it out")
        if processed_at is None:
            processed_at = now_s
        elif not 0 <= processed_at <= PROCESSED_AT_MAX_S:
            raise ValueError(f"processed_at is {processed_at}: it must be whole seconds since 1970, not milliseconds")
        return row_id, order.order_id, order.customer, quantity, price, total, processed_at

    return row


def money(order: RawOrder, quantity: int) -> tuple[Decimal, Decimal]:
    """Price and total of an order, exact. Raises ValueError with the reason."""
    try:
        price = order.unit_price.quantize(CENT, None, PRICE)
        if price.is_signed():
            raise ValueError(f"unit_price is {order.unit_price}: negative prices are refunds, not orders")
        total = price * quantity
        if total > TOTAL_MAX:  # NaN raises here
            raise ValueError(f"quantity x unit_price is {total:,}: at most {TOTAL_MAX:,} can be kept")
        if order.total_value is not None and (not order.total_value.is_finite() or order.total_value != total):
            raise ValueError(f"total_value is {order.total_value}: quantity x unit_price is {total}")
    except Inexact:
        raise ValueError(f"unit_price is {order.unit_price}: prices are in whole cents, and are not rounded") from None
    except InvalidOperation:
        raise ValueError(f"unit_price is {order.unit_price}: it must be 0 to {PRICE_MAX:,}") from None
    return price, total
