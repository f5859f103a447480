"""What all tests share: real servers, and skips that can't hide.

With WAXWING_NO_SKIPS=1 (set by .ci/run) a skipped test fails, unless it is marked as needing a server
that can't be had there.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator, Iterator
from types import FrameType
from typing import TypeVar

import hypothesis
import pytest

from tests.servers import Kafka, MariaDB, PostgreSQL, Server, SQLServer, Unavailable
from waxwing import log, secrets
from waxwing.running.state import current

NO_SKIPS = os.environ.get("WAXWING_NO_SKIPS") == "1"
MAY_SKIP = {"real_mssql", "real_mysql"}
S = TypeVar("S", bound=Server | SQLServer)
_served: list[Server | SQLServer] = []

# How long an example takes is a matter of the machine. Where nothing may fail by chance, the examples are the same each time.
hypothesis.settings.register_profile(
    "waxwing",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=NO_SKIPS,
    print_blob=True,
)
hypothesis.settings.load_profile("waxwing")


def pytest_configure(config: pytest.Config) -> None:
    """A SIGTERM ends the run as Ctrl-C does: fixtures are torn down, servers stopped."""
    signal.signal(signal.SIGTERM, _terminated)
    log.install()  # what is said is read from stderr, as in a run
    # A sixth of the CPU of tests that run in this process: hypothesis and SQLAlchemy make many objects that stay.
    gc.set_threshold(100_000, 50, 100)


def _terminated(number: int, frame: FrameType | None) -> None:
    # (pytest.exit would raise an Exception, which whatever is under test may suppress.)
    raise KeyboardInterrupt(signal.Signals(number).name)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A real broker, one for all tests; each test makes topics of its own (`kafka.new_topic()`)."""
    with _serve(Kafka) as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real PostgreSQL, one for all tests; each test makes a database of its own (`postgresql.new_database()`)."""
    with _serve(PostgreSQL) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A real MariaDB, one for all tests; each test makes a database of its own (`mariadb.new_database()`)."""
    with _serve(MariaDB) as server:
        yield server


@pytest.fixture(scope="session")
def sqlserver() -> Iterator[SQLServer]:
    """The SQL Server that WAXWING_TEST_SQLSERVER or MSSQL_URL names, one for all tests (`sqlserver.new_database()`)."""
    with _serve(SQLServer) as server:
        yield server


def _serve(kind: type[S]) -> S:
    try:
        server = kind()
    except Unavailable as missing:
        pytest.skip(str(missing))
    _served.append(server)
    return server


@pytest.fixture(autouse=True)
def _servers_run_again() -> Iterator[None]:
    """What a test has stopped, killed or frozen runs again for the next one."""
    yield
    for server in _served:
        server.heal()


@pytest.fixture(autouse=True)
def _secrets_are_forgotten() -> Iterator[None]:
    """What one test plants as a secret is an ordinary word in the next."""
    yield
    secrets._known.clear()


@pytest.fixture(autouse=True)
def _who_crashed_is_not_asked() -> Iterator[None]:
    """What a process that a test let crash (the simulation's) would say before it fails is not asked for in the next."""
    yield
    current().know_better.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail") and not MAY_SKIP.intersection(item.keywords):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be (WAXWING_NO_SKIPS=1): {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be (WAXWING_NO_SKIPS=1): {_reason(report)}"
    return report


# Outermost, so that the list stands behind everything else, right before pytest's closing line.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_sep("=", "skipped, and why")
    for report in skipped:
        terminalreporter.write_line(f"{report.nodeid}: {_reason(report)}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    # (path, line, "Skipped: reason")
    longrepr = report.longrepr
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ")
