"""The steps of a flow as its database remembers them, for the operator's commands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from sinks.sql import step_store, window_store
from sinks.sql.step_store import Kept, Step
from sinks.sql.target import SqlTarget, check_names
from waxwing.databases import ledger
from waxwing.errors import ConfigError
from waxwing.settings import SqlSettings
from waxwing.tables.modes import Append
from waxwing.target import Position

__all__ = ["Kept", "SqlSteps", "refuse_own"]

# The commands touch Waxwing's own tables only; a target wants a table of yours as well.
_NO_TABLE = sa.Table(ledger.progress.name, sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True, autoincrement=False))


class SqlSteps(SqlTarget):
    """What one database remembers of a flow.

    Args:
        settings: where the database is.
        flow: the flow's name.
    """

    def __init__(self, settings: SqlSettings, flow: str) -> None:
        self.sql_settings = settings.model_copy(update={"database_table": ""})
        super().__init__(self.sql_settings, _NO_TABLE, Append())
        self.bind(flow, "")

    def kept(self) -> Mapping[str, Kept]:
        """Each step of which something is kept; nothing where no flow has run yet."""

        def kept(connection: sa.Connection) -> Mapping[str, Kept]:
            if not sa.inspect(connection).has_table(ledger.progress.name):
                return {}
            return step_store.kept(connection, self.flow)

        return self._in_transaction(kept)

    def positions_of(self, step: str) -> Sequence[Position]:
        """The positions of a step."""
        return self._in_transaction(lambda connection: step_store.positions(connection, Step(self.flow, step)))

    def dead_letters(self) -> tuple[int, int]:
        """How many dead letters the flow has, and of how many records."""
        return self._in_transaction(lambda connection: step_store.refused_letters(connection, self.flow))

    def dead_letter_reasons(self, step: str) -> Sequence[tuple[str, str, int]]:
        """Stage, reason and number of a step's dead letters, the most frequent first. Late records are one reason."""
        t = ledger.dead_letters
        count = sa.func.count().label("count")
        reason = sa.case((t.c.stage == "late", sa.literal_column("'too late for a window'")), else_=t.c.reason).label("why")
        inner = sa.select(t.c.stage, reason).where(ledger.of_step(t, self.flow, step)).subquery()
        query = sa.select(inner.c.stage, inner.c.why, count).group_by(inner.c.stage, inner.c.why).order_by(count.desc())
        return self._in_transaction(lambda connection: [(row[0], row[1], row[2]) for row in connection.execute(query)])

    def accept_bad_rows(self, step: str, records: int) -> int:
        """Let the next records of each partition of a step pass without limits on bad rows. Returns the number of partitions."""
        progress = ledger.progress

        def accept(connection: sa.Connection) -> int:
            anew = {"records_seen": 0, "records_bad": 0, "bad_run": 0, "version": progress.c.version + 1}
            changed = progress.update().where(ledger.of_step(progress, self.flow, step))
            partitions = connection.execute(changed.values(limits_from=progress.c.offset_next + records, **anew)).rowcount
            # Buckets of windows count their emissions; records are counted by the streams that they take in.
            return window_store.accept_bad_records(connection, self.flow, step, records) or partitions

        return self._in_transaction(accept)

    def to_give_way(self, step: str, *, flow: str, name: str) -> int:
        """How many dead letters of a step of that name a rename of `step` would replace."""
        pair = Step(self.flow, step), Step(flow, name)
        return self._in_transaction(lambda connection: len(step_store.meeting(connection, *pair)))

    def drop(self, step: str, *, dead_letters: bool) -> None:
        """Forget a step; its dead letters only where it is asked for.

        Raises:
            ConfigError: the flow runs.
        """

        def drop(connection: sa.Connection) -> None:
            self._demand_stopped(connection, self.flow, [step])
            step_store.drop(connection, Step(self.flow, step), dead_letters=dead_letters)

        self._in_transaction(ledger.make)
        self._in_transaction(drop)

    def rename(self, old: Sequence[str], *, flow: str, steps: Sequence[str]) -> int:
        """Give all that is kept of these steps to these of another flow, or of another name, in one transaction.

        Returns:
            How many dead letters of earlier steps of these names were replaced, since they are of the same records.

        Raises:
            ConfigError: the flow runs, or the other has positions of its own.
        """

        for step in steps:
            check_names(flow, step, self._database.dialect)
        if (flow, *steps) == (self.flow, *old):
            raise ConfigError(f"That is its name already: flow {flow}, step {', '.join(steps)}.")

        def rename(connection: sa.Connection) -> int:
            self._demand_stopped(connection, self.flow, old)
            self._demand_stopped(connection, flow, steps)
            there = step_store.kept(connection, flow)
            own = [step for step in there if there[step].positions and (flow != self.flow or step in steps)]
            refuse_own(self.place, flow, own)
            size = window_store.part_bytes(self._database.value_bytes_max(connection))
            pairs = zip(old, steps, strict=True)
            return sum(step_store.rename(connection, Step(self.flow, a), Step(flow, b), size) for a, b in pairs)

        self._in_transaction(ledger.make)
        return self._in_transaction(rename)

    def _demand_stopped(self, connection: sa.Connection, flow: str, steps: Sequence[str]) -> None:
        now_ms: sa.ColumnElement[int] = sa.literal_column(self._database.dialect.now_ms_sql, sa.BigInteger)
        for step in steps:
            if alive := ledger.alive(connection, flow, step, now_ms, self.settings.owner_stale_s):
                raise ConfigError(
                    f"Flow {flow} runs ({alive}).",
                    hint=f"Stop it first; after a kill, wait {self.settings.owner_stale_s:.0f} s.",
                )


def refuse_own(place: str, flow: str, steps: Collection[str]) -> None:
    """Raises ConfigError where there are steps to whose names others are to be renamed."""
    if steps:
        drops = "; ".join(f"waxwing step drop {flow} {step}" for step in steps)
        raise ConfigError(
            f"Flow {flow} has positions of its own in {place}, of {', '.join(steps)}.", hint=f"Forget them first: {drops}"
        )
