"""Why the user's code refused a record: type, words and place, wherever it runs; nothing of the record, and no password."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from bytewax.dataflow import Stream as Flowing
from pydantic import BaseModel, field_validator

from tests.waxwing.operators.test_operators import batch, run
from tests.waxwing.operators.test_parse import parsed
from tests.waxwing.operators.windows.test_windows import batch as events
from tests.waxwing.operators.windows.test_windows import define
from tests.waxwing.operators.windows.test_windows import run as windowed
from waxwing import operators as ww
from waxwing.errors import ConfigError
from waxwing.operators.reasons import reason_of
from waxwing.operators.windows import Fold, Sum


class Payment(msgspec.Struct):
    account: str
    amount: Decimal


RATES: dict[Any, Any] = {}
PAYMENT = Payment("4111-1111", Decimal(5))


def line_of(mark: str) -> int:
    """The line of this file that ends in a comment of this word."""
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.endswith(f"# {mark}"))


def row(record: Any) -> Any:
    return RATES["rate"]  # here


def kept(record: Any) -> bool:
    return bool(record / 0 > 1)  # divided


def listed(record: Any) -> Any:
    yield record
    yield row(record)  # not the place: that is where it was raised


def by_uuid(record: Any) -> Any:
    return UUID("x").hex  # of a library


def first(record: Any) -> Any:
    return next(iter(()))  # stop


def leave(record: Any) -> Any:
    sys.exit("no such option")  # leaves


def cancelled(record: Any) -> Any:
    raise asyncio.CancelledError  # cancels


class Leaving:
    time, key = 1, "a"

    @property
    def value(self) -> Any:
        return leave(self)


class Left(BaseModel):
    price: int

    @field_validator("price")
    @classmethod
    def priced(cls, price: int) -> int:
        return int(leave(price))


def test_what_would_end_the_process_or_a_task_refuses_its_record_alone() -> None:
    left = f"SystemExit: no such option (test_reasons.py:{line_of('leaves')} in leave)"
    cancels = f"CancelledError (test_reasons.py:{line_of('cancels')} in cancelled)"
    for fn, reason in ((leave, left), (cancelled, cancels)):
        for step in (ww.map, ww.filter, ww.flat_map):
            (result,) = run(lambda up, step=step, fn=fn: step("step", up, fn), [batch([1])])  # type: ignore[misc]  # no such defaults
            assert result.rejects[-1].reason == reason
        pieces = dict(run(lambda up, fn=fn: ww.key_by("step", up, fn, 2), [batch([1])]))  # type: ignore[misc]
        assert pieces["bucket-000"].rejects[-1].reason == reason
        fold = Fold("value", lambda: 0, lambda held, value, fn=fn: fn(value), lambda held, other: held)  # type: ignore[misc]
        emission = windowed(define(aggregates={"folded": fold}), events([(1, "a", 5)]))
        assert [letter.reason for letter in emission.rejects] == [reason]
    emission = windowed(define(aggregates={"total": Sum("value")}, fields=None), events([Leaving()]))
    assert [letter.reason for letter in emission.rejects] == [f"value: {left}"]
    assert parsed(Left, [b'{"price":1}']).rejects[0].reason == left


class Mute(Exception):
    """Neither it nor its record has a text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def mute(record: Any) -> Any:
    raise Mute(record)  # without words


def test_an_error_or_a_record_without_a_text_is_told_by_its_type() -> None:
    (result,) = run(lambda up: ww.map("step", up, mute), [batch([1])])
    assert result.rejects[-1].reason == f"Mute (test_reasons.py:{line_of('without words')} in mute)"
    (result,) = run(lambda up: ww.map("step", up, row), [batch([Mute()])])
    assert result.rejects[-1].reason == f"KeyError: 'rate' (test_reasons.py:{line_of('here')} in row)"
    several = ExceptionGroup("several", [ValueError("a"), KeyError("b")])
    assert reason_of(several) == "ExceptionGroup: several, (list)"


Step = Callable[[Flowing[Any]], Flowing[Any]]
STEPS: dict[str, tuple[Step, str]] = {
    "map": (lambda up: ww.map("step", up, row), "KeyError: 'rate' (test_reasons.py:{here} in row)"),
    "map_batch": (
        lambda up: ww.map_batch("step", up, lambda origin: lambda record, at: row(record)),
        "KeyError: 'rate' (test_reasons.py:{here} in row)",
    ),
    "filter": (
        lambda up: ww.filter("step", up, kept),
        "ZeroDivisionError: division by zero (test_reasons.py:{divided} in kept)",
    ),
    "flat_map": (lambda up: ww.flat_map("step", up, listed), "KeyError: 'rate' (test_reasons.py:{here} in row)"),
    "a library": (
        lambda up: ww.map("step", up, by_uuid),
        "ValueError: badly formed hexadecimal UUID string (test_reasons.py:{library} in by_uuid)",
    ),
    "a stop": (lambda up: ww.map("step", up, first), "StopIteration (test_reasons.py:{stop} in first)"),
    "a stop in a filter": (lambda up: ww.filter("step", up, first), "StopIteration (test_reasons.py:{stop} in first)"),
    "a stop of a list": (lambda up: ww.flat_map("step", up, first), "StopIteration (test_reasons.py:{stop} in first)"),
    "a stop in a batch's function": (
        lambda up: ww.map_batch("step", up, lambda origin: lambda record, at: first(record)),
        "StopIteration (test_reasons.py:{stop} in first)",
    ),
    "a function of C": (lambda up: ww.map("step", up, len), "TypeError: object of type 'int' has no len()"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_reason_says_what_and_where(name: str) -> None:
    step, expected = STEPS[name]
    (result,) = run(step, [batch([1])])
    reason = result.rejects[-1].reason
    assert reason == expected.format(
        here=line_of("here"), divided=line_of("divided"), library=line_of("of a library"), stop=line_of("stop")
    )


def test_functions_of_keys_and_folds_say_it_too() -> None:
    pieces = dict(run(lambda up: ww.key_by("step", up, row, 2), [batch([1])]))
    here = f"KeyError: 'rate' (test_reasons.py:{line_of('here')} in row)"
    assert [reject.reason for reject in pieces["bucket-000"].rejects] == ["old", here]
    pieces = dict(run(lambda up: ww.key_by("step", up, first, 2), [batch([1])]))
    assert pieces["bucket-000"].rejects[-1].reason == f"StopIteration (test_reasons.py:{line_of('stop')} in first)"
    fold = Fold("value", lambda: 0, lambda held, value: row(value), lambda held, other: held)
    emission = windowed(define(aggregates={"folded": fold}), events([(1, "a", 5)]))
    assert [letter.reason for letter in emission.rejects] == [here]


def test_what_makes_the_function_of_a_batch_stops_by_name() -> None:
    with pytest.raises(Exception, match=r".*") as raised:
        run(lambda up: ww.map_batch("step", up, row), [batch([1])])
    error: BaseException | None = raised.value
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__
    assert isinstance(error, ConfigError)
    assert error.message == f"Step step: KeyError: 'rate' (test_reasons.py:{line_of('here')} in row)."


class Priced:
    time, key = 1, "a"

    @property
    def value(self) -> Any:
        return row(self)


def test_so_do_properties_that_windows_read() -> None:
    emission = windowed(define(aggregates={"total": Sum("value")}, fields=None), events([Priced()]))
    assert [letter.reason for letter in emission.rejects] == [
        f"value: KeyError: 'rate' (test_reasons.py:{line_of('here')} in row)"
    ]


class Checked(BaseModel):
    price: int

    @field_validator("price")
    @classmethod
    def priced(cls, price: int) -> int:
        return int(RATES[price])  # validated


class Asserted(msgspec.Struct):
    price: int

    def __post_init__(self) -> None:
        row(self)


def test_so_do_checks_of_the_record_type() -> None:
    assert parsed(Checked, [b'{"price":1}']).rejects[0].reason == (
        f"KeyError: 1 (test_reasons.py:{line_of('validated')} in priced)"
    )
    assert parsed(Asserted, [b'{"price":1}']).rejects[0].reason == (
        f"KeyError: 'rate' (test_reasons.py:{line_of('here')} in row)"
    )


def raised(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def refuse(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Decimal("abc"), "InvalidOperation: ConversionSyntax ("),
        (lambda: Decimal("sNaN") + 1, "InvalidOperation ("),
        (lambda: Decimal(1) / 0, "DivisionByZero ("),
        (lambda: Decimal(0) / 0, "InvalidOperation: DivisionUndefined ("),
        (lambda: refuse(ValueError("amount is not positive")), "amount is not positive"),
        (lambda: refuse(ValueError()), "ValueError ("),
        (lambda: refuse(LookupError("no rate")), "LookupError: no rate ("),
        (lambda: int("x"), "ValueError: invalid literal for int() with base 10: 'x' ("),
        (
            lambda: json.loads("{"),
            "JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1) (",
        ),
        (lambda: refuse(RuntimeError("two\n lines")), "RuntimeError: two lines ("),
        (lambda: RATES[("EUR", 2)], "KeyError: ('EUR', 2) ("),
        (lambda: refuse(OSError(2, "No such file")), "FileNotFoundError: [Errno 2] No such file ("),
        (b"\xff".decode, "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
        (lambda: Checked.model_validate({"price": "secret"}), "ValidationError: price: Input should be a valid integer"),
    ],
)
def test_an_exception_is_named_properly(call: Callable[[], object], says: str) -> None:
    reason = reason_of(raised(call))
    assert reason.startswith(says)
    if says.endswith("("):
        assert reason.removeprefix(says).startswith("test_reasons.py:")


def test_neither_records_nor_passwords_are_repeated() -> None:
    for error in (ValueError(PAYMENT), KeyError(PAYMENT), ValueError(f"bad: {PAYMENT}"), RuntimeError({"account": "4111"})):
        reason = reason_of(raised(lambda error=error: refuse(error)), PAYMENT)  # type: ignore[misc]  # mypy knows no such default
        assert "4111" not in reason
        assert "Payment" in reason or "dict" in reason
    url = ConnectionError("no route to postgresql://user:s3cr:t@db/shop, mysql://root:s3cr/t@db")
    assert "s3cr" not in reason_of(raised(lambda: refuse(url)))
    assert len(reason_of(raised(lambda: refuse(KeyError("x" * 10_000))))) == 500


def test_an_installed_flow_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "shopflow.py").write_text("def row(record):\n    return record['rate']\n")
    sys.path.insert(0, str(tmp_path / "site-packages"))
    try:
        import shopflow  # type: ignore[import-not-found]  # made above

        (result,) = run(lambda up: ww.map("step", up, shopflow.row), [batch([{}])])
    finally:
        sys.path.remove(str(tmp_path / "site-packages"))
        sys.modules.pop("shopflow", None)
    assert result.rejects[-1].reason == "KeyError: 'rate' (shopflow.py:2 in row)"
