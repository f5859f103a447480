"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.parts import Parts


@dataclass(frozen=True)
class Planted:
    """A bug: what is wrong, and the parts with it."""

    what: str
    parts: Parts
