"""A target in front of another one of the same step: what the one below says."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

from typing_extensions import override

from sinks.ledger import LedgerTarget
from waxwing.batch import Stream
from waxwing.change import Size
from waxwing.ledger.ownership import Owners
from waxwing.settings import SinkSettings
from waxwing.target import Session, Target


class InFront(Target):
    """It writes by the other one's sessions, into its place.

    Args:
        settings: of both.
        target: the one below.
    """

    def __init__(self, settings: SinkSettings, target: LedgerTarget) -> None:
        super().__init__(settings)
        self.target = target

    @override
    def alive(self, steps: Collection[str]) -> str:
        return self.target.alive(steps)

    @override
    def bind(self, flow: str, step: str, flow_targets: dict[str, Target] | None = None) -> None:
        self.target.bind(flow, step)
        super().bind(flow, step, flow_targets)
        self.target.stands_behind(self)

    @override
    def owners(self) -> Owners | None:
        return self.target.owners()

    @property
    @override
    def name(self) -> str:
        return self.target.name

    @property
    @override
    def store(self) -> Hashable:
        return self.target.store

    @property
    @override
    def parts_max(self) -> int | None:
        return self.target.parts_max

    @property
    @override
    def columns(self) -> Sequence[str]:
        return self.target.columns

    @property
    @override
    def resends(self) -> bool:
        return self.target.resends

    @property
    @override
    def size(self) -> Size:
        return self.target.size

    @property
    @override
    def resume_command(self) -> str:
        return self.target.resume_command

    @override
    def prepare(self) -> None:
        self.target.prepare()

    @override
    def steps(self) -> Mapping[str, int]:
        return self.target.steps()

    @override
    def taken_elsewhere(self, streams: Collection[Stream]) -> Sequence[tuple[str, str]]:
        return self.target.taken_elsewhere(streams)

    @override
    def forgets(self, flow: str, step: str) -> str:
        return self.target.forgets(flow, step)

    @override
    def renames(self, old: str, new: str) -> str:
        return self.target.renames(old, new)

    @override
    def left_behind(self) -> str:
        return self.target.left_behind()

    @override
    def connect(self, part: str, token: str) -> Session:
        return self.target.connect(part, token)
