"""The model target: what sinks/sql/target.py does, on the database in memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

from typing_extensions import override

from tests.simulation.database import Lost, Progress
from tests.simulation.owners import ModelRecords
from tests.simulation.session import ModelSession
from waxwing.batch import Stream
from waxwing.errors import TransientError
from waxwing.settings import SinkSettings
from waxwing.target import Position, Start, Target

if TYPE_CHECKING:
    from tests.simulation.process import Process


class ModelTarget(Target):
    """One step's target, as one process has it."""

    def __init__(self, process: Process, settings: SinkSettings) -> None:
        super().__init__(settings)
        self.process, self.world, self.database = process, process.world, process.world.database
        # Where this step stood when the process opened its source.
        self.began: dict[Stream, int] = {}
        self._records: ModelRecords | None = None

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

    @override
    def prepare(self) -> None:
        self._statement("prepare")

    @override
    def steps(self) -> Mapping[str, int]:
        names = [step for step, _ in self.database.progress]
        return {name: names.count(name) for name in names}

    @override
    def positions(self) -> Sequence[Position]:
        self._statement("positions")
        return self._positions()

    def _positions(self) -> list[Position]:
        rows = self.database.progress.items()
        return [row.position for key, row in rows if key == self.database.key(self.step, row.position.stream)]

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        self._statement("begin")
        for stream, offset_start, *_ in starts:
            row = Progress(Position(stream, offset_start, offset_start))
            self.database.progress.setdefault(self.database.key(self.step, stream), row)
        stored = self._positions()
        self._statement("begin, commit")  # committed, and perhaps nobody hears of it
        self.began = {position.stream: position.offset_next for position in stored}
        return stored

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        raise NotImplementedError("logs lose nothing here")

    @override
    def records(self) -> ModelRecords:
        if self._records is None:
            self._records = self.world.parts.records(self)
        return self._records

    @override
    def connect(self, part: str, token: str) -> ModelSession:
        return self.world.parts.session(self, token)

    def _statement(self, what: str) -> None:
        try:
            self.process.point(f"{self.step}: {what}")
        except Lost as error:
            self.world.say(f"{self.process}: {error}")
            raise TransientError(str(error)) from error
