"""Kill a start at every step of every migration that is kept: `python -m tests.migration.killed.every --databases sqlite`.

Of each dump and each of its statements, the start is killed before it (on MariaDB also while it is run); then the flows go on,
and what they make is held against a recount.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.migration import dump
from tests.migration.going_on import differences, go_on
from tests.migration.killed.starts import Starts
from tests.servers import MariaDB, PostgreSQL, SQLServer
from tests.servers.sqlserver import kept_connections

SERVERS = {"postgresql": PostgreSQL, "mariadb": MariaDB, "sqlserver": SQLServer}
KEPT_ALONE = "mariadb"  # where each statement is one transaction, and has a state of its own to go on from


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.migration.killed.every", description=__doc__)
    parser.add_argument("--databases", nargs="*", default=["sqlite", *SERVERS])
    parser.add_argument("--releases", nargs="*", default=dump.RELEASES)
    parser.add_argument("--totals", nargs="*", default=dump.OF_FORMS)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="waxwing-every-")))
        starts = stack.enter_context(Starts())
        stack.enter_context(kept_connections())
        for kind in arguments.databases:
            server = None if kind == "sqlite" else stack.enter_context(SERVERS[kind]())
            for release, totals in itertools.product(arguments.releases, arguments.totals):
                kills = 0
                for sent in (False, True)[: 2 if kind == KEPT_ALONE else 1]:
                    for number in itertools.count():
                        if number == 0 or kind == KEPT_ALONE:
                            name = f"{folder}/{release}-{totals}.sqlite"
                            url = f"sqlite:///{name}" if server is None else server.new_database()
                            facts = dump.load(dump.file(release, kind, totals), url)
                        if starts.killed(url, number, sent=sent) is None:
                            break
                        kills += 1
                        if kind == KEPT_ALONE:
                            _ends_well(facts, url)
                print(f"{kind}, {release}, {totals}: {kills} kills", end="; ", flush=True)
                print(_ends_well(facts, url), flush=True)


def _ends_well(facts: dump.Facts, url: str) -> str:
    go_on(facts, url)
    rows, sums = differences(facts, url)
    assert rows.equal, rows
    assert sums.equal, sums
    return f"equal: {rows.rows} rows, {rows.dead_letters} dead letters, {sums.rows} totals, {sums.late} late"


if __name__ == "__main__":
    main()
