"""A database of the kind that a test asks for, and what comes of the topic where nothing was taken in before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bytewax.testing import run_main

from tests.migration import dump
from tests.migration.dump import Database
from tests.migration.going_on import other, visited


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(request.param, request, tmp_path)


@pytest.fixture(scope="session")
def anew(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, ...]]]:
    """What the flow of sessions and overlapping windows makes of it."""
    url = f"sqlite:///{tmp_path_factory.mktemp('anew')}/visits.sqlite"
    run_main(other(dump.facts_of(dump.file("9766af2", "sqlite", "on_close")), url))
    return visited(url)
