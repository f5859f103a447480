"""The README's tour, its very commands, on real servers."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.watch import produce, taken_in
from tests.servers import Kafka, PostgreSQL
from tests.servers.process import until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def commands() -> list[str]:
    """The indented lines of the tour, without their comments."""
    tour = README.partition("## Five minutes")[2].partition("\n## ")[0]
    lines = [line.strip().partition(" #")[0].strip() for line in tour.splitlines() if line.startswith("    ")]
    return [line for line in lines if not line.startswith((".", "#"))]


def words(command: str) -> list[str]:
    """The command by this Python, in place of an activated environment."""
    first, *rest = shlex.split(command)
    return [sys.executable, *(["-c", "from waxwing.cli import main; main()"] if first == "waxwing" else []), *rest]


def test_the_tour_works_command_by_command(kafka: Kafka, postgresql: PostgreSQL, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("KAFKA_", "DATABASE_"))}
    url = postgresql.new_database()
    given = {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap(), "DATABASE_URL": url}
    told = commands()
    exports = [line.removeprefix("export ").partition("=")[0] for line in told if line.startswith("export ")]
    assert exports == list(given)
    env |= {**given, "PYTHONPATH": str(ROOT)}
    produced = 0
    for command in (line for line in told if not line.startswith("export ")):
        with (
            (tmp_path / "output").open("w+b") as out,
            subprocess.Popen(words(command), env=env, cwd=tmp_path, stdout=out, stderr=out) as run,
        ):
            if "produce" in command:
                produced += int(command.split("--count ")[1].split()[0])
            else:
                # Some more, so that it is seen to work before it is stopped.
                produce(kafka.bootstrap(), "raw_orders", 1_000, bad=0.0, seed=produced)
                produced += 1_000
                until(lambda: taken_in(url) == produced, timeout_s=300, what="the orders to be taken in")  # noqa: B023 - called here
                run.send_signal(signal.SIGINT)
            code = run.wait(60)
            out.seek(0)
            output = out.read().decode()
        assert code == 0, f"{command}: {output}"
        assert "Traceback" not in output
    status = subprocess.run(
        words("waxwing status orders"), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert "raw_orders" in status.stdout


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/your-own-flow.md", "docs/kafka.md"])
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for target in LINK.findall(file.read_text()):
        assert (file.parent / target).exists(), f"{page}: {target}"
