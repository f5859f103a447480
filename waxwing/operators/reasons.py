"""Why the user's code refused a record, as a dead letter tells it: the exception's type and words, and its place."""

from __future__ import annotations

import asyncio
import dis
import re
import sys
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any
from uuid import UUID

import pydantic

# A reason is for people; the whole value is kept beside it.
REASON_CHARACTERS_MAX = 500

# What the user's code may raise that refuses its record: not Ctrl+C, which is for the process.
RAISED = (Exception, SystemExit, GeneratorExit, asyncio.CancelledError)

_PLAIN = (str, int, float, complex, Decimal, date, time, timedelta, UUID, type(None))
_PASSWORD = re.compile(r"(\w://[^\s/:@]*:)\S+@")
_WAXWING = __name__.partition(".")[0]


def reason_of(error: BaseException, record: Any = None, *, placed: bool = False) -> str:
    """Such as `KeyError: 'rate' (payments.py:72 in row)`. A ValueError that the user's own code raises, in words, is these alone,
    unless it is to be `placed` whatever it is.

    Neither whole records nor passwords of addresses are repeated.
    """
    frames = list(_frames(error.__traceback__))
    text = " ".join(_words(error, record).split())
    if not placed and frames and frames[-1].own and frames[-1].raises and type(error) is ValueError and text:
        return text[:REASON_CHARACTERS_MAX]
    place = next((f" ({frame.place})" for frame in reversed(frames) if frame.own), "")
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{told[: REASON_CHARACTERS_MAX - len(place)]}{place}"


def stopped(fn: Callable[..., object], record: Any, *more: Any) -> str:
    """The reason of a StopIteration that leaked out of the user's code, and ended a loop of ours in silence.

    That left no traceback: so the call is made again, as after a crash.
    """
    try:
        fn(record, *more)
    except RAISED as error:
        return reason_of(error, record)
    return StopIteration.__name__


def refusals_of(error: pydantic.ValidationError) -> str:
    """The fields and what was expected of them, without their values."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'value'}: {p['msg']}" for p in problems)


class _Frame:
    """One call of a traceback: whether it is of the user's code, not of a library that this calls, and its place."""

    def __init__(self, code: CodeType, module: str, line: int, instruction: int, flow: str) -> None:
        package = module.partition(".")[0]
        installed = {"site-packages", "dist-packages"}.intersection(Path(code.co_filename).parts)
        # (A flow may be installed, too.)
        self.own = package == flow or not (installed or package in sys.stdlib_module_names or package == _WAXWING)
        self.place = f"{Path(code.co_filename).name}:{line} in {code.co_name}"
        self.raises = dis.opname[code.co_code[instruction]] == "RAISE_VARARGS"


def _frames(traceback: TracebackType | None) -> Iterator[_Frame]:
    """The calls from the user's function on, the outermost first."""
    flow = ""
    while traceback is not None:
        frame = traceback.tb_frame
        module = str(frame.f_globals.get("__name__", ""))
        if flow or module.partition(".")[0] != _WAXWING:
            flow = flow or module.partition(".")[0]
            yield _Frame(frame.f_code, module, traceback.tb_lineno, traceback.tb_lasti, flow)
        traceback = traceback.tb_next


def _words(error: BaseException, record: Any) -> str:
    """What the exception says, without the record or what holds records."""
    if isinstance(error, pydantic.ValidationError):
        return refusals_of(error)
    if isinstance(error, ArithmeticError) and error.args and isinstance(error.args[0], list):
        # decimal's: [<class 'decimal.ConversionSyntax'>]
        return ", ".join(kind.__name__ for kind in error.args[0] if isinstance(kind, type) and kind is not type(error))
    if not isinstance(error, UnicodeError) and not all(map(_is_plain, error.args)):
        return ", ".join(_said(arg) if _is_plain(arg) else f"({type(arg).__name__})" for arg in error.args)
    text = _PASSWORD.sub(r"\1***@", _said(error))
    if not isinstance(record, _PLAIN):
        for whole in filter(None, (_said(record, repr), _said(record))):
            text = text.replace(whole, f"({type(record).__name__})")
    return text


def _said(value: Any, how: Callable[[Any], str] = str) -> str:
    """The text of the user's own object; empty where making it raises, too."""
    try:
        return how(value)
    except Exception:
        return ""


def _is_plain(arg: Any) -> bool:
    return isinstance(arg, _PLAIN) or (type(arg) is tuple and all(isinstance(part, _PLAIN) for part in arg))
