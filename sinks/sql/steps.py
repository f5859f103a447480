"""The steps of a flow as its database remembers them, for the operator's commands."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa

from sinks.ledger.target import demand_stopped
from sinks.sql.place import SqlPlace
from sinks.sql.target import check_names
from sinks.windows.held import held_by_buckets
from waxwing.change import Position
from waxwing.databases.ledger import schema
from waxwing.databases.ledger.making import demand_carried_over, make
from waxwing.databases.ledger.schema import OF_STEPS, dead_letters, of_step, owners, progress, tables
from waxwing.databases.ledger.transaction import LETTERS_AT_ONCE, SqlTransaction
from waxwing.errors import ConfigError
from waxwing.ledger.store import Step
from waxwing.ledger.windows import BUCKETS_SOURCE, Known
from waxwing.operators.windows.bucket import state
from waxwing.settings import SqlSettings

T = TypeVar("T")


class KeptOfStep(NamedTuple):
    """How much is kept of a step."""

    positions: int
    dead_letters: int


class SqlSteps:
    """What one database remembers of a flow.

    Args:
        settings: where the database is.
        flow: the flow's name.
    """

    def __init__(self, settings: SqlSettings, flow: str) -> None:
        self.settings, self.flow, self.place = settings, flow, SqlPlace(settings)
        check_names(flow, "", self.place.database.dialect)

    @property
    def _name(self) -> str:
        return f"Waxwing's own tables in {self.place}"

    def _in_transaction(self, call: Callable[[SqlTransaction], T], step: str = "") -> T:
        """What the call returns, committed; it sees a database whose tables are of this release."""

        def of_step_(connection: sa.Connection) -> T:
            outer = connection.get_transaction()
            assert outer is not None
            return call(SqlTransaction(connection, self.place.database, Step(self.flow, step), outer))

        return self.place.in_transaction(self._name, of_step_)

    def _make(self) -> None:
        def make_(connection: sa.Connection) -> None:
            self.place.database.lock_schema(connection)
            make(connection, self.place.database, self.settings.owner_stale_s)

        self.place.in_transaction(self._name, make_)

    def kept(self) -> Mapping[str, KeptOfStep]:
        """Each step of which something is kept; nothing where no flow has run yet.

        Raises:
            ConfigError: it is kept as an earlier release did.
        """

        def ready(connection: sa.Connection) -> bool:
            demand_carried_over(connection)
            return sa.inspect(connection).has_table(progress.name)

        if not self.place.in_transaction(self._name, ready):
            return {}
        self._make()
        return self._in_transaction(lambda transaction: _kept(transaction.connection, self.flow))

    def positions_of(self, step: str) -> Sequence[Position]:
        """The positions of a step; of one that keeps windows the lowest of each stream."""
        return self._in_transaction(_positions, step)

    def dead_letters(self) -> tuple[int, int]:
        """How many dead letters the flow has, and of how many records: two steps may have refused the same one."""
        of_flow = dead_letters.c.flow == self.flow
        c = dead_letters.c
        records = sa.select(c.source_id, c.source_partition, c.source_offset).where(of_flow).distinct()

        def count(transaction: SqlTransaction) -> tuple[int, int]:
            ask = transaction.connection.scalar
            number = ask(sa.select(sa.func.count()).select_from(dead_letters).where(of_flow))
            return int(number or 0), int(ask(sa.select(sa.func.count()).select_from(records.subquery())) or 0)

        return self._in_transaction(count)

    def dead_letter_reasons(self, step: str) -> Sequence[tuple[str, str, int]]:
        """Stage, reason and number of a step's dead letters, the most frequent first. Late records are one reason."""
        c = dead_letters.c
        count = sa.func.count().label("count")
        reason = sa.case((c.stage == "late", sa.literal_column("'too late for a window'")), else_=c.reason).label("why")
        inner = sa.select(c.stage, reason).where(of_step(dead_letters, Step(self.flow, step))).subquery()
        query = sa.select(inner.c.stage, inner.c.why, count).group_by(inner.c.stage, inner.c.why).order_by(count.desc())
        return self._in_transaction(lambda t: [(row[0], row[1], row[2]) for row in t.connection.execute(query)])

    def accept_bad_rows(self, step: str, records: int) -> int:
        """Let the next records of each partition of a step pass without limits on bad rows. Returns the number of partitions."""

        def accept(transaction: SqlTransaction) -> int:
            rows = transaction.positions()
            anew = dict.fromkeys(("records_seen", "records_bad", "bad_run", "rows_seen", "rows_bad", "rows_bad_run"), 0)
            for row in rows:
                at = row.position.offset_next
                transaction.amend(row.position.stream, limits_from=at + records, **anew)
            # Buckets of windows count their emissions; records are counted by the streams that they take in.
            return _accept_in_windows(transaction, records) or len(rows)

        return self._in_transaction(accept, step)

    def to_give_way(self, step: str, *, flow: str, name: str) -> int:
        """How many dead letters of a step of that name a rename of `step` would replace."""
        pair = Step(self.flow, step), Step(flow, name)
        return self._in_transaction(lambda transaction: len(_meeting(transaction.connection, *pair)))

    def drop(self, step: str, *, dead_letters: bool) -> None:
        """Forget a step; its dead letters only where it is asked for.

        Raises:
            ConfigError: the flow runs.
        """

        def drop(transaction: SqlTransaction) -> None:
            self._demand_stopped(transaction)
            for table in OF_STEPS:
                if table is not owners and (table is not schema.dead_letters or dead_letters):
                    transaction.connection.execute(table.delete().where(of_step(table, Step(self.flow, step))))

        self._make()
        self._in_transaction(drop, step)

    def rename(self, old: Sequence[str], *, flow: str, steps: Sequence[str]) -> int:
        """Give all that is kept of these steps to these of another flow, or of another name, in one transaction.

        Returns:
            How many dead letters of earlier steps of these names were replaced, since they are of the same records.

        Raises:
            ConfigError: the flow runs, or the other has positions of its own.
        """
        for step in steps:
            check_names(flow, step, self.place.database.dialect)
        if (flow, *steps) == (self.flow, *old):
            raise ConfigError(f"That is its name already: flow {flow}, step {', '.join(steps)}.")

        def rename(transaction: SqlTransaction) -> int:
            for one in (*(Step(self.flow, step) for step in old), *(Step(flow, step) for step in steps)):
                self._demand_stopped(transaction.of(one))
            there = _kept(transaction.connection, flow)
            own = [step for step in there if there[step].positions and (flow != self.flow or step in steps)]
            refuse_own(str(self.place), flow, own)
            pairs = zip(old, steps, strict=True)
            return sum(_rename(transaction, Step(self.flow, a), Step(flow, b)) for a, b in pairs)

        self._make()
        return self._in_transaction(rename)

    def _demand_stopped(self, transaction: SqlTransaction) -> None:
        demand_stopped(transaction, transaction.step.flow, self.settings.owner_stale_s)


def refuse_own(place: str, flow: str, steps: Collection[str]) -> None:
    """Raises ConfigError where there are steps to whose names others are to be renamed."""
    if steps:
        drops = "; ".join(f"waxwing step drop {flow} {step}" for step in steps)
        raise ConfigError(
            f"Flow {flow} has positions of its own in {place}, of {', '.join(steps)}.", hint=f"Forget them first: {drops}"
        )


def _kept(connection: sa.Connection, flow: str) -> dict[str, KeptOfStep]:
    """What is kept of each step of a flow; one that was dropped may still have dead letters."""
    out: dict[str, KeptOfStep] = {}
    for number, table in enumerate((progress, dead_letters)):
        count = sa.select(table.c.step, sa.func.count()).where(table.c.flow == flow).group_by(table.c.step)
        for step, rows in connection.execute(count):
            held = out.get(step, KeptOfStep(0, 0))
            out[step] = KeptOfStep(rows, 0) if number == 0 else held._replace(dead_letters=rows)
    return out


def _positions(transaction: SqlTransaction) -> list[Position]:
    found = [row.position for row in transaction.positions()]
    own = [one for one in found if one.stream.source_id != BUCKETS_SOURCE]
    defined = transaction.defined()
    if len(own) == len(found) or defined is None:
        return own
    buckets = held_by_buckets(transaction, transaction.step.flow)

    def lowest(stream: Any, known: Known) -> int:
        return min(one[stream].offset_next if stream in one else known.offset_start for one in buckets)

    return [Position(stream, lowest(stream, known), *known[:2]) for stream, known in defined.streams.items()]


def _accept_in_windows(transaction: SqlTransaction, records: int) -> int:
    """Let the next records of each stream that is read pass without limits. Returns the number of streams."""
    defined = transaction.defined(lock=True)
    if defined is None or not defined.buckets:
        return 0
    # From the first bucket's place on: rejects travel by it.
    first = held_by_buckets(transaction, transaction.step.flow)[0]
    stands = {s: first[s].offset_next if s in first else one.offset_start for s, one in defined.streams.items()}
    accepted = {s: one._replace(limits_from=stands[s] + records) for s, one in defined.streams.items()}
    transaction.define(defined._replace(streams=accepted))
    return sum(one.read for one in defined.streams.values())


def _rename(transaction: SqlTransaction, old: Step, new: Step) -> int:
    """Give all that is kept of a step to another name. Returns how many dead letters that stood there it replaced.

    Raises:
        ConfigError: late records of windows would meet others of an earlier step of that name.
    """
    execute = transaction.connection.execute
    replaced = _clear(transaction.connection, old, new)
    # Owners of an earlier step of that name: nobody is alive, and numbers go on from the positions' own.
    for table in (owners, tables):
        execute(table.delete().where(of_step(table, new)))
    for table in OF_STEPS:
        execute(table.update().where(of_step(table, old)).values(flow=new.flow, step=new.name))
    if old.flow != new.flow:
        renamed = transaction.of(new)
        for row in renamed.positions():  # the positions in a bucket's state bear the flow's name
            if packed := renamed.state(row.position.stream):
                renamed.keep(row.position.stream, state.renamed(packed, new.flow))
    return replaced


_LETTER = ("source_id", "source_partition", "source_offset", "row_index")


def _meeting(connection: sa.Connection, old: Step, new: Step) -> Sequence[Any]:
    """The places of a step's dead letters at which one of the new name left others behind."""
    former = dead_letters.alias()
    same = sa.and_(*(dead_letters.c[name] == former.c[name] for name in _LETTER))
    meet = sa.select(*(dead_letters.c[name] for name in _LETTER)).where(
        of_step(dead_letters, old), former.c.flow == new.flow, former.c.step == new.name, same
    )
    return connection.execute(meet).all()


def _clear(connection: sa.Connection, old: Step, new: Step) -> int:
    """Make room for the dead letters of a step among those that one of the new name left behind."""
    found = _meeting(connection, old, new)
    if any(row.source_id == BUCKETS_SOURCE for row in found):
        raise ConfigError(
            f"Step {new.name} of flow {new.flow} left late records behind, under the keys of those of step {old.name}.",
            hint="Copy them from waxwing_dead_letters, and forget them: "
            f"waxwing step drop {new.flow} {new.name} --with-dead-letters",
        )
    for first in range(0, len(found), LETTERS_AT_ONCE // 2):
        some = found[first : first + LETTERS_AT_ONCE // 2]
        at = [sa.and_(*(dead_letters.c[name] == getattr(row, name) for name in _LETTER)) for row in some]
        connection.execute(dead_letters.delete().where(of_step(dead_letters, new), sa.or_(*at)))
    return len(found)
