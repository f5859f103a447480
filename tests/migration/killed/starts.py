"""A flow's start, as far as it touches tables; and starts that are killed on the way, by kill -9.

`python -m tests.migration.killed.starts` reads one a line (JSON: the URL, a number, whether "sent") and lets a process of its own
make it, which ends itself right before the statement of that number, of those that change something; or when that one has been
sent, and nobody waits for its answer. COMMIT is one of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from types import TracebackType
from typing import IO, Any, Self

import sqlalchemy as sa
from pydantic import SecretStr
from pymysql.connections import Connection as PyMySQL

from dataflows import orders as orders_flow
from sinks import SqlTarget, Upsert

CHANGES = ("ALTER", "CREATE", "DELETE", "DROP", "EXEC", "INSERT", "UPDATE")
COMMIT = "COMMIT"


def start(url: str, **settings: Any) -> None:
    """What a flow's start does with the tables."""
    more: dict[str, Any] = {"retry_max_s": 0.0, "database_lock_timeout_s": 5.0, **settings}
    target = SqlTarget(orders_flow.OrdersSettings(database_url=SecretStr(url), **more), orders_flow.orders, Upsert(keys=("id",)))
    target.bind("orders", "orders")
    target.prepare()


def two_at_once(url: str, **settings: Any) -> None:
    """Two starts at the same moment; what either raises is raised."""
    together = threading.Barrier(2)

    def starting() -> None:
        together.wait(60)
        start(url, **settings)

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(starting) for _ in range(2)]:
            one.result()


class Starts:
    """Starts in processes of their own, one after the other."""

    def __enter__(self) -> Self:
        # Everything is imported once, by a process that does nothing else and so has one thread: it may fork.
        command = [sys.executable, "-m", "tests.migration.killed.starts"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for pipe in (self._stdin, self._stdout):
            pipe.close()
        assert self._process.wait(60) == 0

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def killed(self, url: str, number: int, *, sent: bool = False) -> str | None:
        """Start, and be killed right before this statement (or with it): which one it was; None if there are not so many.

        Raises:
            AssertionError: it ended otherwise.
        """
        self._stdin.write(json.dumps([url, number, sent]) + "\n")
        statement, status = json.loads(self._stdout.readline())
        assert status == (-signal.SIGKILL if statement else 0), (statement, status)
        return str(statement) or None


def _dies(number: int, *, sent: bool, out: int) -> None:
    """Let this process end itself there, and say before where that is."""
    numbers, armed = count(), []

    def changing(statement: str) -> None:
        text = " ".join(statement.split())
        if text.upper().startswith((*CHANGES, COMMIT)) and not text.endswith(" WHERE 0") and next(numbers) == number:
            os.write(out, text[:100].encode())
            if not sent:
                os.kill(os.getpid(), signal.SIGKILL)
            armed.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", lambda _, __, statement, *___: changing(statement))
    sa.event.listen(sa.Engine, "commit", lambda _: changing(COMMIT))
    if sent:
        send = PyMySQL._execute_command  # type: ignore[attr-defined]  # where its statements go out; no other driver lets us

        def last(self: PyMySQL[Any], command: int, text: Any) -> None:
            send(self, command, text)
            if armed:
                os.kill(os.getpid(), signal.SIGKILL)

        PyMySQL._execute_command = last  # type: ignore[attr-defined]


def _forked(url: str, number: int, *, sent: bool) -> Iterator[str | int]:
    """What the statement was, and how the process ended."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        with contextlib.suppress(BaseException):
            _dies(number, sent=sent, out=writing)
            start(url, database_statement_timeout_s=120.0)
            code = 0
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        yield pipe.read()
    yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    for line in sys.stdin:
        url, number, sent = json.loads(line)
        print(json.dumps(list(_forked(url, number, sent=sent))), flush=True)


if __name__ == "__main__":
    main()
