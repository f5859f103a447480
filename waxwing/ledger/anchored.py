"""A ledger whose owners write their positions by a way of their own, which a newcomer closes: in a topic, in files.

Owners, and where streams begin, stand in one record, the anchor, which is replaced by compare-and-set. Whoever replaces it takes
the step: it fences the earlier owners' ways first, and knows then where they stopped. Heartbeats lie beside: they come often, and
nothing else waits for them.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable

from typing_extensions import override

from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.store import OwnersStore
from waxwing.ledger.whole import Whole, WholeStore


class Anchored(Whole):
    """Where it lives. `save` raises Race where the anchor is no longer what it was when it was loaded."""

    @abstractmethod
    def beat(self, token: str) -> bool:
        """Say that this owner is alive; False: the anchor says that it has lost the step.

        Raises:
            TransientError: the place is away.
        """

    @abstractmethod
    def stop(self, token: str) -> None:
        """Say that this owner has stopped, if that can be done at once."""


class AnchoredOwners(LedgerOwners):
    """Owners' records in an anchor."""

    def __init__(
        self, name: str, stale_ms: float, store: OwnersStore, prepare: Callable[[], None], end_sessions: Callable[[], None]
    ) -> None:
        super().__init__(name, stale_ms, store, prepare, end_sessions)
        assert isinstance(store, WholeStore)
        assert isinstance(store.whole, Anchored)
        self._anchored = store.whole

    @override
    def beat(self, token: str) -> bool:
        return self._anchored.beat(token)

    @override
    def release(self, token: str) -> None:
        with contextlib.suppress(Exception):
            self._anchored.stop(token)
