"""What a flow says, through Python's `logging`: by loggers named `waxwing...`, each record with an `event` and `fields`.

A run and the commands write it to stderr: lines for a person on a terminal, JSON lines otherwise.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import traceback
from typing import Any

from typing_extensions import override

from waxwing.errors import WaxwingError
from waxwing.secrets import scrub

# Asked once: later stderr may lead through a filter.
terminal = sys.stderr.isatty()
SAY_AGAIN_S = 30.0
LASTING_MAX = 1_000
_lasting: dict[str, tuple[float, int]] = {}  # by what is wrong: when it was last said, and how often it was met since
_lock = threading.Lock()
_LEVELS = {logging.WARNING: "warning", logging.ERROR: "error"}
NAME = "waxwing"


def info(event: str, message: str, **fields: Any) -> None:
    """Say what happens. `event` is a stable name for machines, `message` a sentence for people."""
    _say(logging.INFO, event, message, fields)


def warning(event: str, message: str, **fields: Any) -> None:
    """Say what someone should look at; the flow goes on."""
    _say(logging.WARNING, event, message, fields)


def lasting(event: str, about: str, message: str, **fields: Any) -> None:
    """Say what lasts, and is met by many: at once, then every half minute, with how often it was met since.

    `about` is what is wrong; a target's name before it ("orders in postgresql at ...: ") makes no difference.
    """
    key, now_s = re.sub(r"^\S+ in ", "", about), time.monotonic()
    with _lock:
        if len(_lasting) > LASTING_MAX:
            _lasting.clear()
        said_s, more = _lasting.get(key, (-SAY_AGAIN_S, 0))
        again = now_s - said_s < SAY_AGAIN_S
        _lasting[key] = (said_s, more + 1) if again else (now_s, 0)
    if not again:
        times = f" ({more:,} more times since that was last said)" if more else ""
        _say(logging.WARNING, event, f"{message}{times}", fields)


def error(event: str, message: str, **fields: Any) -> None:
    """Say why the flow stops."""
    _say(logging.ERROR, event, message, fields)


def failure(problem: BaseException) -> None:
    """Say why the flow stops: the error's message and hint. Only a bug of ours shows where it arose."""
    if isinstance(problem, WaxwingError):
        fields = {name: value for name, value in problem.context.items() if value is not None}
        _say(logging.ERROR, type(problem).__name__, str(problem), {**fields, "exit_code": problem.exit_code})
        return
    where = traceback.extract_tb(problem.__traceback__)
    places = " <- ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(where[-5:]))
    _say(logging.ERROR, "bug", f"A bug: {type(problem).__name__}: {problem} ({places}). Please report it.", {"exit_code": 70})


def _say(level: int, event: str, message: str, fields: dict[str, Any]) -> None:
    name = str(sys._getframe(2).f_globals.get("__name__", ""))  # who speaks: a record bears the name of its module
    logger = logging.getLogger(name if name.partition(".")[0] == NAME else f"{NAME}.{name}")
    if logger.isEnabledFor(level):
        clean = {key: _clean(value) if isinstance(value, str) else value for key, value in fields.items()}
        # No arguments: a message may hold a percent sign.
        logger.log(level, _clean(message), extra={"event": event, "fields": clean}, stacklevel=3)


def _clean(text: str) -> str:
    """Without secrets, and such that any handler can encode it: a message's value may hold a lone surrogate."""
    return scrub(text).encode("utf-8", "backslashreplace").decode()


def install() -> None:
    """Write what is said to stderr, a line each: in a run and in commands. (Elsewhere the program decides, as for any logger.)"""
    logger = logging.getLogger(NAME)
    if not any(isinstance(one, _Lines) for one in logger.handlers):
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO)
        logger.propagate = False  # a flow may have its own handlers for its own words


class _Lines(logging.Handler):
    """A sentence for a person on a terminal, else JSON."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        level, message = _LEVELS.get(record.levelno, "info"), record.getMessage()
        if terminal:
            line = scrub(f"{'' if level == 'info' else f'{level}: '}{message}")
        else:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            event = getattr(record, "event", record.name.rpartition(".")[2])
            said = {"time": f"{stamp}Z", "level": level, "event": event, "message": message, **getattr(record, "fields", {})}
            line = scrub(json.dumps(said, default=str, ensure_ascii=False))
        sys.stderr.write(line + "\n")  # one write, so that lines of threads don't mix
        sys.stderr.flush()
