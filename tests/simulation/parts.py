"""The code under test, with what is planted into it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sinks.windows.admission
import sinks.windows.sink
import sinks.writer.admission
import sinks.writer.commits
from sinks.windows.admission import WindowAdmission
from sinks.windows.sink import Lanes
from sinks.windows.target import WindowTarget
from sinks.writer.admission import Admission
from sinks.writer.commits import Commits
from tests.simulation.database import Database
from tests.simulation.steps.rows import RowsSession
from tests.simulation.steps.tables import TablesSession
from tests.simulation.store import ModelStore, ModelTransaction
from tests.simulation.truth import BLOCK_RECORDS
from tests.simulation.windows.step import LiveSession, WindowsSession
from waxwing.ledger.ledger import Ledger
from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.ownership import Ownership

if TYPE_CHECKING:
    from tests.simulation.world import World


@dataclass(frozen=True)
class Parts:
    """The code under test, and where a bug is planted into it: classes that replace those, names that are replaced in modules."""

    commits: type[Commits] = Commits
    admission: type[Admission] = Admission
    session: type[RowsSession] = RowsSession
    tables: type[TablesSession] = TablesSession
    windows: type[WindowsSession] = WindowsSession
    live: type[LiveSession] = LiveSession
    window_target: type[WindowTarget] = WindowTarget
    window_admission: type[WindowAdmission] = WindowAdmission
    lanes: type[Lanes] = Lanes
    database: type[Database] = Database
    store: type[ModelStore] = ModelStore
    transaction: type[ModelTransaction] = ModelTransaction
    ledger: type[Ledger] = Ledger
    owners: type[LedgerOwners] = LedgerOwners
    ownership: type[Ownership] = Ownership
    steps_polled: int = 1
    replaced: tuple[tuple[Any, str, Any], ...] = ()


SHIPPED = Parts()


class _Quiet:
    """Stands for the log and the metrics."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return _nothing


def _nothing(*args: object, **fields: object) -> None:
    """Say and count nothing."""


@contextlib.contextmanager
def shipped(world: World) -> Iterator[None]:
    """The shipped modules with the schedule's chance, without logs and metrics, with short blocks, and with what is planted."""
    quiet = _Quiet()
    replaced = [
        (sinks.writer.commits, "random", world.chance),
        (sinks.writer.commits, "log", quiet),
        (sinks.writer.commits, "counters", quiet),
        (sinks.windows.admission, "log", quiet),
        (sinks.windows.admission, "counters", quiet),
        (sinks.windows.sink, "_clock_us", lambda: round(world.clock_s * 1_000_000)),
        (sinks.writer.admission, "RATIO_BLOCK_RECORDS", BLOCK_RECORDS),
        *world.parts.replaced,
    ]
    with contextlib.ExitStack() as stack:
        for module, name, value in replaced:
            stack.callback(setattr, module, name, inspect.getattr_static(module, name))
            setattr(module, name, value)
        yield
