"""What an SQL database remembers of whole steps: which table each writes, how much it keeps of them; renamed and forgotten."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from sinks.sql import window_store
from waxwing import log
from waxwing.batch import Stream
from waxwing.databases import ledger
from waxwing.errors import ConfigError
from waxwing.operators.windows import state
from waxwing.tables.dialect import Dialect
from waxwing.target import Position

# Keys of dead letters in one statement: each is two comparisons, and SQLite nests no more than 1,000.
LETTERS_AT_ONCE = 200

letters, progress, steps, windows = ledger.dead_letters, ledger.progress, ledger.steps, ledger.windows
# All that belongs to a step, positions last: whoever still writes finds them gone.
TABLES = (ledger.owners, ledger.window_state, windows, steps, letters, progress)


class Step(NamedTuple):
    """A step of a flow."""

    flow: str
    name: str


class Kept(NamedTuple):
    """How much is kept of a step."""

    positions: int
    dead_letters: int


# -- the table that a step writes ------------------------------------------------------------------


def table_name(connection: sa.Connection, table: sa.Table, dialect: Dialect) -> str:
    """The table's name with its schema, so that the same table has the same name. The schema that Waxwing's own tables are in
    has none: a database that was restored under another name (which is MySQL's schema) holds the same tables."""
    default = _kept_name(sa.inspect(connection).default_schema_name or "", table.name, dialect)
    named = _kept_name(table.schema or "", table.name, dialect)
    return _kept_name("", table.name, dialect) if named == default else named


def _kept_name(schema: str, table: str, dialect: Dialect) -> str:
    name = f"{schema}.{table}"
    return (name if dialect.case_sensitive else name.lower()).encode("ascii", "backslashreplace").decode()[:2_000]


def _is_there(connection: sa.Connection, name: str, dialect: Dialect) -> bool:
    """Is there a table (or view) still of this name, as it was kept?"""
    inspector = sa.inspect(connection)
    default = inspector.default_schema_name
    for schema in inspector.get_schema_names():
        prefix = "" if schema == default else schema
        if name.startswith(_kept_name(prefix, "", dialect)):
            tables = [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]
            if any(_kept_name(prefix, table, dialect) == name for table in tables):
                return True
    return False


def remember_table(connection: sa.Connection, step: Step, name: str, others: Mapping[str, str]) -> None:
    """Keep which table the step writes. One that wrote another so far goes on in this one, which is said.

    `others` are the tables that the flow's other steps write now.

    Raises:
        ConfigError: another step filled this one, and now writes another: they have changed places.
    """
    of_step = ledger.of_step(steps, *step)
    known = connection.scalar(sa.select(steps.c.table_name).where(of_step))
    if known is None:
        connection.execute(steps.insert().values(flow=step.flow, step=step.name, table_name=name))
    elif known != name:
        for other, now in others.items():
            wrote = connection.scalar(sa.select(steps.c.table_name).where(ledger.of_step(steps, step.flow, other)))
            if wrote == name != now:
                raise ConfigError(
                    f"Flow {step.flow}: step {step.name} wrote {known.lstrip('.')} so far, and is to write {name.lstrip('.')}, "
                    f"which step {other} filled, and that one another: each would go on at the other's position.",
                    hint="Were the steps renamed? Give the positions their new names (waxwing step rename, through a third "
                    "name), or give the steps their former tables.",
                )
        log.warning(
            "table_changed",
            f"Flow {step.flow}, step {step.name}: it goes on in table {name.lstrip('.')}; what it wrote so far stands in "
            f"{known.lstrip('.')}.",
            step=step.name,
        )
        connection.execute(steps.update().where(of_step).values(table_name=name))


def taken_elsewhere(
    connection: sa.Connection, step: Step, table: sa.Table, dialect: Dialect, streams: Collection[Stream]
) -> Sequence[Step]:
    """Steps of other flows that took these topics into this table.

    A table that is not empty may be theirs under another name: where theirs is gone. (It was renamed with the flow.) And where
    a step ran under an earlier Waxwing only, its table is not known: then one of the same name counts.
    """
    name = table_name(connection, table, dialect)
    topic_ids = {stream.source_id for stream in streams}
    others = sa.select(progress.c.flow, progress.c.step).where(progress.c.flow != step.flow, progress.c.topic_id.in_(topic_ids))
    taken = {Step(*row) for row in connection.execute(others.distinct())}
    for row in connection.execute(sa.select(windows).where(windows.c.flow != step.flow, windows.c.buckets > 0)):
        if topic_ids & {stream.source_id for stream in window_store.load_streams(row.flow, row.streams)}:
            taken.add(Step(row.flow, row.step))
    if not taken:
        return []
    known = {Step(row.flow, row.step): row.table_name for row in connection.execute(sa.select(steps))}
    found = [one for one in taken if known.get(one) == name]
    unknown = [
        one
        for one in taken.difference(found)
        if (not _is_there(connection, known[one], dialect) if one in known else one.name == step.name)
    ]
    if unknown and connection.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first() is not None:
        found += unknown
    return sorted(found)


def positions(connection: sa.Connection, step: Step) -> list[Position]:
    """The positions of a step; of one that keeps windows the lowest of each stream."""
    query = sa.select(progress).where(ledger.of_step(progress, *step))
    found = [ledger.position(row) for row in connection.execute(query)]
    own = [one for one in found if one.stream.source_id != ledger.BUCKETS_TOPIC_ID]
    return own if len(own) == len(found) else window_store.positions(connection, *step)


# -- for the operator's commands -------------------------------------------------------------------


def kept(connection: sa.Connection, flow: str) -> dict[str, Kept]:
    """What is kept of each step of a flow; one that was dropped may still have dead letters."""
    out: dict[str, Kept] = {}
    for number, table in enumerate((progress, letters)):
        count = sa.select(table.c.step, sa.func.count()).where(table.c.flow == flow).group_by(table.c.step)
        for step, rows in connection.execute(count):
            held = out.get(step, Kept(0, 0))
            out[step] = Kept(rows, 0) if number == 0 else held._replace(dead_letters=rows)
    return out


def refused_letters(connection: sa.Connection, flow: str) -> tuple[int, int]:
    """How many dead letters a flow has, and of how many records they are: two steps may have refused the same one."""
    of_flow = letters.c.flow == flow
    records = sa.select(letters.c.topic_id, letters.c.topic_partition, letters.c.topic_offset).where(of_flow).distinct()
    number = connection.scalar(sa.select(sa.func.count()).select_from(letters).where(of_flow))
    of_records = connection.scalar(sa.select(sa.func.count()).select_from(records.subquery()))
    return int(number or 0), int(of_records or 0)


def drop(connection: sa.Connection, step: Step, *, dead_letters: bool) -> None:
    """Forget a step."""
    for table in TABLES:
        if table is not ledger.owners and (table is not letters or dead_letters):
            connection.execute(table.delete().where(ledger.of_step(table, *step)))


def rename(connection: sa.Connection, old: Step, new: Step, part_bytes: int) -> int:
    """Give all that is kept of a step to another name. Returns how many dead letters that stood there it replaced.

    Raises:
        ConfigError: late records of windows would meet others of an earlier step of that name.
    """
    replaced = _clear(connection, old, new)
    # Owners of an earlier step of that name: nobody is alive, and numbers go on from the positions' own.
    connection.execute(ledger.owners.delete().where(ledger.of_step(ledger.owners, *new)))
    connection.execute(steps.delete().where(ledger.of_step(steps, *new)))
    for table in TABLES:
        changed = table.update().where(ledger.of_step(table, *old))
        connection.execute(changed.values(flow=new.flow, step=new.name))
    if old.flow != new.flow:
        row = window_store.kept(connection, *new)
        for number in range(row.buckets if row is not None else 0):  # the positions in the state bear the flow's name
            packed = window_store.load(connection, *new, number)
            window_store.save(connection, *new, number, state.renamed(packed, new.flow), part_bytes)
    return replaced


def meeting(connection: sa.Connection, old: Step, new: Step) -> Sequence[Any]:
    """The places of a step's dead letters at which one of the new name left others behind."""
    former = letters.alias()
    key = ("topic_id", "topic_partition", "topic_offset", "row_index")
    same = sa.and_(*(letters.c[name] == former.c[name] for name in key))
    meet = sa.select(*(letters.c[name] for name in key)).where(
        ledger.of_step(letters, *old), former.c.flow == new.flow, former.c.step == new.name, same
    )
    return connection.execute(meet).all()


def _clear(connection: sa.Connection, old: Step, new: Step) -> int:
    """Make room for the dead letters of a step among those that one of the new name left behind."""
    found = meeting(connection, old, new)
    if any(topic_id == ledger.BUCKETS_TOPIC_ID for topic_id, *_ in found):
        raise ConfigError(
            f"Step {new.name} of flow {new.flow} left late records behind, under the keys of those of step {old.name}.",
            hint="Copy them from waxwing_dead_letters, and forget them: "
            f"waxwing step drop {new.flow} {new.name} --with-dead-letters",
        )
    delete_letters(connection, new, ((Stream(new.flow, "", id_, number), at, row) for id_, number, at, row in found))
    return len(found)


def delete_letters(connection: sa.Connection, step: Step, places: Iterable[tuple[Stream, int, int]]) -> None:
    """Delete the dead letters of a step at these streams, offsets and rows."""
    of_streams: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for stream, offset, row in places:
        of_streams.setdefault((stream.source_id, stream.partition), []).append((offset, row))
    for (topic_id, partition), keys in of_streams.items():
        of_stream = sa.and_(
            ledger.of_step(letters, *step), letters.c.topic_id == topic_id, letters.c.topic_partition == partition
        )
        for first in range(0, len(keys), LETTERS_AT_ONCE):
            some = keys[first : first + LETTERS_AT_ONCE]
            at = [sa.and_(letters.c.topic_offset == offset, letters.c.row_index == row) for offset, row in some]
            connection.execute(letters.delete().where(of_stream, sa.or_(*at)))


def emission_after(connection: sa.Connection, step: Step) -> int:
    """The first number of emissions that no late record which an earlier step of this name left behind bears."""
    last = sa.select(sa.func.max(letters.c.topic_offset)).where(
        ledger.of_step(letters, *step), letters.c.topic_id == ledger.BUCKETS_TOPIC_ID
    )
    highest = connection.scalar(last)
    return 0 if highest is None else int(highest) + 1
