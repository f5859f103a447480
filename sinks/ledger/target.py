"""Targets whose positions a ledger keeps, in the transaction that writes the rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, TypeVar

from typing_extensions import override

from waxwing.batch import Stream
from waxwing.change import Position, Start, sources_of
from waxwing.errors import ConfigError, TargetError
from waxwing.ledger.ledger import Ledger
from waxwing.ledger.owners import LedgerOwners
from waxwing.ledger.store import OwnersStore, OwnersTransaction, Race, Step, Store, Transaction
from waxwing.settings import SinkSettings
from waxwing.target import Target

T = TypeVar("T")

Form = Literal["rows", "live", "closed"]
_WRITES: Mapping[Form, str] = {"rows": "rows", "live": "windows as records came", "closed": "windows when they had closed"}

# Several processes may store first positions, or make tables, at once; all but one are refused, and look again.
RACES_MAX = 8


class LedgerTarget(Target):
    """A target over a store. A subclass opens stores, says what is made at the start, and writes rows.

    Attributes:
        owned: whether the store keeps owners' records: others may write there, too.
        form: what the step writes; closed windows are, by whoever stands in front of this target.
    """

    owned = True
    form: Form = "rows"

    def __init__(self, settings: SinkSettings) -> None:
        super().__init__(settings)
        self._owners: tuple[Step, LedgerOwners] | None = None
        # Has a session met dead letters of an earlier step of this name? (All do as the first, whose connection may be gone.)
        self.letters_again = False

    @abstractmethod
    def open_store(self, *, briefly: bool = False) -> Store:
        """A connection of its own, made when it is first asked. `briefly`: one that waits for locks as shortly as can be."""

    @property
    def keeps_state(self) -> bool:
        """Whether something is kept with the positions: open windows are."""
        return self.form == "closed"

    @property
    def own_step(self) -> Step:
        """The step that it serves."""
        return Step(self.flow, self.step)

    @property
    def ledger(self) -> Ledger:
        """Of the step."""
        return Ledger(self.own_step, self.name)

    @override
    def owners(self) -> LedgerOwners | None:
        if not self.owned:
            return None
        if self._owners is None or self._owners[0] != self.own_step:
            name, stale_ms = f"{self.step}: {self.name}", self.settings.owner_stale_s * 1000
            store = self.open_store(briefly=True)
            assert isinstance(store, OwnersStore)
            made = self.owners_kind(name, stale_ms, store, self.prepare_once, self.end_sessions)
            self._owners = self.own_step, made
        return self._owners[1]

    @property
    def owners_kind(self) -> type[LedgerOwners]:
        """Keeps the owners' records."""
        return LedgerOwners

    def prepare_once(self) -> None:
        """Make or check the tables, if that has not been done: where no source was given this target."""

    def end_sessions(self) -> None:
        """End what holds the positions of an owner that was found stale. Never raises."""

    def in_transaction(self, call: Callable[[Transaction], T]) -> T:
        """What the call returns, committed; another process may make the same at the same time."""
        for _ in range(RACES_MAX):
            store = self.open_store()
            try:
                with store.transaction() as transaction:
                    done = call(transaction)
                    transaction.commit()
                    return done
            except Race as error:
                race = error
            finally:
                store.close()
        # Whoever comes second finds on its next try what the first has made: this is something else, and would last.
        raise TargetError(f"{self.name}: {race}, {RACES_MAX} times in succession.", step=self.step) from race

    # -- what a source asks ------------------------------------------------------------------------

    @override
    def steps(self) -> Mapping[str, int]:
        return self.in_transaction(lambda transaction: transaction.steps())

    @override
    def positions(self) -> Sequence[Position]:
        return self.in_transaction(_positions)

    @override
    def begin(self, starts: Sequence[Start]) -> Sequence[Position]:
        def begin(transaction: Transaction) -> list[Position]:
            self.beginning(transaction, starts)
            self.begun(transaction, self.ledger.begin(transaction, starts))
            return [position for position in _positions(transaction) if position.stream.source in sources_of(starts)]

        return self.in_transaction(begin)

    def beginning(self, transaction: Transaction, starts: Sequence[Start]) -> None:  # noqa: ARG002 - subclasses look
        """These streams are about to begin, or to go on: refuse what can't be."""
        began = self.form != "rows" and bool(transaction.positions())  # first: another process may store both at once
        defined, was = transaction.defined(), self.form
        if defined is not None:
            was = "closed" if defined.buckets else "live"
        elif began:
            was = "rows"
        if was != self.form:
            said = f"So far step {self.step} wrote {_WRITES[was]} into {self.name}, and now it is to write {_WRITES[self.form]}."
            raise begin_anew(said, self)

    def begun(self, transaction: Transaction, starts: Sequence[Start]) -> None:
        """These streams are new, in the same transaction."""

    @override
    def alive(self, steps: Collection[str]) -> str:
        stale_ms = self.settings.owner_stale_s * 1000

        def alive(transaction: Transaction) -> str:
            assert isinstance(transaction, OwnersTransaction)
            found = (one for step in steps for one in transaction.of(Step(self.flow, step)).owners() if one.fresh(stale_ms))
            return next((record.place for record in found), "")

        return self.in_transaction(alive) if self.owned and steps else ""

    def demand_stopped(self, transaction: Transaction) -> None:
        """Raises ConfigError where an owner of the step is alive."""
        if isinstance(transaction, OwnersTransaction):
            demand_stopped(transaction, self.flow, self.settings.owner_stale_s)

    @override
    def jump(self, stream: Stream, stood_at: int, offset: int) -> None:
        self.in_transaction(lambda transaction: self.ledger.jump(transaction, stream, offset))


def demand_stopped(transaction: OwnersTransaction, flow: str, stale_s: float) -> None:
    """Raises ConfigError where an owner of the transaction's step is alive."""
    for record in transaction.owners():
        if record.fresh(stale_s * 1000):
            raise ConfigError(f"Flow {flow} runs ({record.place}).", hint=f"Stop it first; after a kill, wait {stale_s:.0f} s.")


def begin_anew(message: str, target: LedgerTarget) -> ConfigError:
    """The error of a step that did something else so far."""
    return ConfigError(
        message,
        hint="Go back to that; or begin anew: empty what it wrote, forget the step "
        f"({target.forgets(*target.own_step)}), and start.",
    )


def _positions(transaction: Transaction) -> list[Position]:
    return [row.position for row in transaction.positions()]
