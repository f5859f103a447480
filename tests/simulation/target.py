"""The model target: a step's ledger and rows in the database in memory. All but the rows is the shipped code."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from sinks.ledger import LedgerSession, LedgerTarget
from tests.simulation.database import Lost
from tests.simulation.store import ModelStore
from waxwing.batch import Stream
from waxwing.change import Change, Position, Start
from waxwing.errors import TransientError
from waxwing.ledger.ledger import Ledger
from waxwing.ledger.owners import LedgerOwners
from waxwing.settings import SinkSettings

if TYPE_CHECKING:
    from tests.simulation.process import Process


class ModelTarget(LedgerTarget):
    """One step's target, as one process has it."""

    def __init__(self, process: Process, settings: SinkSettings) -> None:
        super().__init__(settings)
        self.process, self.world, self.database = process, process.world, process.world.database
        # Where this step stood when the process opened its source.
        self.began: dict[Stream, int] = {}

    @property
    @override
    def name(self) -> str:
        return "model"

    @property
    @override
    def store(self) -> Hashable:
        return id(self.database)

    @property
    @override
    def parts_max(self) -> int | None:
        return 1 if self.world.one_writer else None

    @property
    @override
    def ledger(self) -> Ledger:
        return self.world.parts.ledger(self.own_step, self.name)

    @property
    @override
    def owners_kind(self) -> type[LedgerOwners]:
        return self.world.parts.owners

    @override
    def open_store(self, *, briefly: bool = False) -> ModelStore:
        return self.world.parts.store(self)

    @override
    def prepare(self) -> None:
        try:
            self.process.point(f"{self.step}: prepare")
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            raise TransientError(str(error)) from error

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        stored = super().begin(starts)
        self.began = {position.stream: position.offset_next for position in stored}
        return stored

    @override
    def connect(self, part: str, token: str) -> LedgerSession:
        return self.world.parts.session(self, token)


class ModelSession(LedgerSession):
    """One partition's connection."""

    takes_deletes = True

    def __init__(self, target: ModelTarget, token: str) -> None:
        super().__init__(target, target.open_store(), token)
        self.process, self.world, self.database, self._step = target.process, target.world, target.database, target.step

    @override
    def prepared(self, change: Change) -> Change:
        return change
