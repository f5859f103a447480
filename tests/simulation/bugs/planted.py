"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.parts import Parts


@dataclass(frozen=True)
class Planted:
    """A bug: what is wrong, the parts with it, and a schedule that met it when it was last looked for."""

    what: str
    parts: Parts
    seed: int = 0
