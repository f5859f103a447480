"""What a step's transactions leave behind, and who looks at it at every commit: one for each step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.database import Database, Opened
    from tests.simulation.world import World


class Judge(ABC):
    """Holds what was written for a step, and says whether it is what the logs demand."""

    def __init__(self, world: World, database: Database, step: str) -> None:
        self.world, self.database, self.step = world, database, step

    @abstractmethod
    def commit(self, opened: Opened) -> None:
        """Make durable what a transaction wrote, and look at it: positions are moved, letters stored."""

    @abstractmethod
    def check_end(self) -> None:
        """Look at all of it, when every log was taken in."""

    @abstractmethod
    def is_complete(self) -> bool:
        """Has the step taken in all that there is?"""

    def wrong(self, where: object, what: str) -> None:
        """The protocol is broken."""
        self.world.violated(f"{self.step} {where}: {what}")
