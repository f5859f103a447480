"""A clock that runs."""

from __future__ import annotations

import time
from itertools import count

import pytest

from sinks.parquet import beats


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks takes all others for dead."""
    now_ms = count(time.time_ns() // 1_000_000 + 1_000_000, 1_000_000)
    monkeypatch.setattr(beats.Beats, "now_ms", lambda self: next(now_ms))
