"""A step that writes several tables, whose rows have keys of two columns and are deleted by them. A table joins while it runs.

Which row goes where, what of a change is written at all, and what a delete deletes: the shipped code says so (`SqlSession`,
`RowMaker`); the statements alone are the model's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import sqlalchemy as sa
from typing_extensions import override

from sinks.ledger import LedgerSession
from sinks.sql.session import SqlSession, Writes
from tests.simulation.steps.fed import FedByLane
from tests.simulation.steps.rows import StreamsJudge
from tests.simulation.target import ModelTarget
from tests.simulation.truth import Record, Row
from waxwing.batch import Batch, Delete, Into, Reject
from waxwing.change import Position
from waxwing.errors import RowError
from waxwing.ledger.store import Transaction
from waxwing.settings import SinkSettings
from waxwing.tables.dialect import MEMORY
from waxwing.tables.modes import Upsert
from waxwing.tables.plan import Nature
from waxwing.tables.planning import plan
from waxwing.tables.rows import RowMaker

if TYPE_CHECKING:
    from sources.kit.words import Raw
    from tests.simulation.database import Opened
    from tests.simulation.process import Process
    from tests.simulation.store import ModelTransaction
    from tests.simulation.truth import Log
    from tests.simulation.world import World

# The last one joins; the others are there from the start.
TABLES = ("seconds", "firsts", "joins")
KEYS = ("a", "b")
# Keys of a partition lie apart from those of others: which of two partitions comes first is nobody's business.
KEYS_APART = 10

Key = tuple[int, int]


class Op(NamedTuple):
    """What a row of a message does: the row of a key in a table becomes this one; or goes, by a key that is named so."""

    table: str
    key: Key
    deletes: bool = False
    names: tuple[str, ...] = ()


def draw_ops(chance: random.Random, log: Log) -> dict[int, list[Op]]:
    """By offset what each row of a message does. A message that deletes does nothing else."""

    def op(**more: Any) -> Op:
        key = chance.randrange(2), chance.randrange(2)
        at = log.stream.partition * KEYS_APART
        return Op(chance.choice(TABLES), (at + key[0], at + key[1]), **more)

    out = {}
    for record in log.records:
        ops = [op() for _ in range(record.rows)]
        if ops and chance.random() < 0.35:
            ops = [op(deletes=True, names=chance.choice(((), KEYS, KEYS[::-1])))]
        out[record.offset] = ops
    return out


def is_unfit(row: Row) -> bool:
    """Of the bad rows: is it one that the column can't hold, so that it is found before anything is sent?"""
    return sum(row) % 2 == 0


def tables_batch(world: World, read: Raw, found: Sequence[Record]) -> Batch[Any]:
    """What reaches the step of a batch that was read."""
    partition = read.stream.partition
    rows: list[Any] = []
    at: list[int] = []
    deletes = []
    for number, record in enumerate(found):
        for n, op in enumerate(() if record.rejected else world.ops[partition][record.offset]):
            if op.deletes:
                key = op.key[::-1] if op.names == KEYS[::-1] else op.key
                deletes.append(Delete(number, key, op.names, op.table))
                continue
            unfit = world.is_bad(partition, (record.offset, n)) and is_unfit((record.offset, n))
            rows.append(Into(op.table, (*op.key, record.offset, None if unfit else n)))
            at.append(number)
    rejects = [Reject(n, "parse", "bad") for n, record in enumerate(found) if record.rejected]
    return read.with_records(rows, at, rejects, deletes)


def rows_of_table(name: str, *, rows_alone: bool) -> RowMaker:
    """The shipped code that makes rows and keys to delete of a table's records."""
    columns = [sa.Column(column, sa.BigInteger, primary_key=column in KEYS, autoincrement=False) for column in KEYS]
    columns += [sa.Column(column, sa.BigInteger, nullable=False) for column in ("source_offset", "n")]
    table = sa.Table(name, sa.MetaData(), *columns)
    wanted = plan(table, Upsert(keys=KEYS, delete_on_tombstone=True), dialect=MEMORY)
    wanted = replace(wanted, nature=Nature(keys_exact=True, rows_alone=rows_alone, rows_numbered=False))
    return RowMaker(wanted, [column.name for column in wanted.columns], MEMORY)


class FedTables(FedByLane):
    """The step in a process."""

    @override
    def batch(self, read: Raw, found: list[Record]) -> Batch[Any]:
        return tables_batch(self.world, read, found)


class TablesTarget(ModelTarget):
    """The target of such a step."""

    several = True

    def __init__(self, process: Process, settings: SinkSettings) -> None:
        super().__init__(process, settings)
        self._tables = list(TABLES[:-1])

    @property
    def names(self) -> Sequence[str]:
        """As an SQL target gives them."""
        return list(self._tables)

    def join(self, name: str) -> None:
        """Make a table that is asked for, outside of any transaction that writes."""
        if name not in self._tables:
            self.process.point(f"{self.step}: make table {name}", may_lose=False)
            self.database.tables.add(name)
            self._tables.append(name)

    @override
    def prepare(self) -> None:
        super().prepare()
        self.database.tables |= set(self._tables)

    @override
    def connect(self, part: str, token: str) -> TablesSession:
        return self.world.parts.tables(self, token)


class TablesSession(SqlSession):
    """The shipped session, with the model's statements."""

    def __init__(self, target: TablesTarget, token: str) -> None:
        super().__init__(target, cast("Any", target), cast("Any", target.open_store()), token)
        self.model, self.world = target, target.world

    @override
    def _table(self, name: str) -> Any:
        self.model.join(name)
        return self.world.table(name)

    @override
    def write_rows(self, transaction: Transaction, prepared: Writes) -> None:
        opened = cast("ModelTransaction", transaction)
        for rows, (written, deletes, before) in cast("Any", prepared):
            stands = 0
            for key, behind in zip(deletes, before, strict=True):
                self._put(opened, rows.name, written[stands:behind])
                opened.statement(f"delete from {rows.name}")
                self._write(opened, rows.name, key, None)
                stands = behind
            self._put(opened, rows.name, written[stands:])

    def _put(self, opened: ModelTransaction, table: str, rows: Sequence[Any]) -> None:
        if rows:
            opened.statement(f"upsert into {table}")
        for a, b, offset, n in rows:
            if self.world.is_bad(a // KEYS_APART, (offset, n)):
                raise RowError("bad row")
            self._write(opened, table, (a, b), (offset, n))

    def _write(self, opened: ModelTransaction, table: str, key: Key, row: Row | None) -> None:
        if table not in self.world.database.tables:
            self.world.violated(f"{self.model.step}: {table} is written, and was not made")
        opened.opened.written.append((key[0] // KEYS_APART, table, key, row))

    check_rows = LedgerSession.check_rows
    commit = LedgerSession.commit
    attempt = LedgerSession.attempt
    close = LedgerSession.close


class Made(NamedTuple):
    """A table: stands for the shipped TableRows, of which only the rows are wanted."""

    name: str
    rows: RowMaker


class TablesJudge(StreamsJudge):
    """Each table holds what is left when the records up to the position are taken in one after the other."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._held: dict[int, dict[tuple[str, Key], Row]] = {}

    @override
    def take(self, opened: Opened) -> None:
        for partition, table, key, row in opened.written:
            held = self._held.setdefault(partition, {})
            if row is None:
                held.pop((table, key), None)
            else:
                held[table, key] = row

    @override
    def check_rows(self, where: str, log: Log, position: Position, end: int) -> None:
        partition = log.stream.partition
        if (self.step, partition) in self.world.torn:
            return
        held, buried = self._held.get(partition, {}), self.buried(log)
        rows: dict[tuple[str, Key], Row] = {}
        # Bad rows that nobody met: a later row of their key was written in their place.
        unmet: dict[tuple[str, Key], Row] = {}
        letters: set[Row] = set()
        for record in log.between(position.offset_start, end):
            if record.rejected:
                letters.add((record.offset, 0))
                continue
            for n, op in enumerate(self.world.ops[partition][record.offset]):
                place, row = (op.table, op.key), (record.offset, n)
                if not op.deletes and self.world.is_bad(partition, row):
                    if row in buried or is_unfit(row):
                        letters.add(row)
                    else:
                        unmet[place] = row
                    continue
                unmet.pop(place, None)
                rows.pop(place, None)
                if not op.deletes:
                    rows[place] = row
        if unmet:
            self.wrong(where, f"bad rows are neither buried nor written over: {unmet}")
        if letters != buried:
            self.wrong(where, f"dead letters are {sorted(buried)}, expected {sorted(letters)}")
        if held != rows:
            self.wrong(where, f"(table, key) to (offset, row): held are {held}, expected {rows}")
        self.check_counters(where, log, position, buried)
