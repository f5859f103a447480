"""What tests against real servers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sinks import MemoryTarget
from tests.faults.reading import Reading, Start


@pytest.fixture
def read(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts readings of the broker, and closes them."""
    started: list[Reading] = []

    def start(topic: str, *feeds: MemoryTarget, **settings: Any) -> Reading:
        if "kafka_bootstrap_servers" not in settings:
            settings["kafka_bootstrap_servers"] = request.getfixturevalue("kafka").bootstrap()
        started.append(Reading(topic, *feeds, **settings))
        return started[-1]

    yield start
    for reading in started:
        reading.close()
