"""A database of the kind that a test asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migration.dump import Database


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return Database(request.param, request, tmp_path)
