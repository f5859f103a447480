"""Places that a source calls by tokens, kept by each database: what is read again, and from where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from typing_extensions import override

from sinks import Append, SqlTarget, sink
from sources import read
from sources.kit import Log, Place, Run
from sources.memory import MemorySource
from tests.conformance.place import ON_THREE
from tests.conformance.place import Place as Database
from tests.conformance.writing.test_starts import Record, at, names, play, settings
from waxwing import operators as ww

BINARY = b"\x00\xff'\\"


class Told(MemorySource):
    """Says from where it was read; its tokens are bytes that no text could be. `forgets`: its server keeps no log."""

    forgets = False

    @override
    def describe(self) -> Sequence[Log]:
        logs = super().describe()
        return [Log(one.source, one.source_id, token=one.token, kept=False) for one in logs] if self.forgets else logs

    @override
    def _token(self, offset: int) -> bytes | None:
        token = super()._token(offset)
        return None if token is None else BINARY + token

    @override
    def read(self, place: Place) -> Iterator[Run]:
        assert place.token is not None
        token = place.token.removeprefix(BINARY)
        self.places = [(place.offset, token)]
        yield from super().read(Place(place.stream, place.offset, token))


@ON_THREE
def test_a_database_keeps_the_place_that_a_source_is_read_from(place: Database) -> None:
    tables: list[sa.Table] = []

    def run(steps: int, data: list[int], tokens: Collection[int] = (), *, kept: bool = True, again: bool = True) -> object:
        source = Told([{"id": n} for n in data], topic=topic, batch_records=3, tokens=tokens, replayable=again)
        source.forgets = not kept
        graph = Dataflow(flow)
        rows = ww.map("row", ww.parse("parse", read("in", graph, source), Record), lambda record: (record.id,))
        for number, table in enumerate(tables[:steps]):
            sink(f"step_{number}", rows, at(place, SqlTarget(settings(place), table, Append())))
        play(graph)
        (found,) = source.places
        return found

    def anew() -> tuple[str, str]:
        tables[:] = [place.table(sa.Column("id", sa.Integer)) for _ in range(2)]
        flow, _, topic = names()
        return flow, topic

    def written(steps: int = 2) -> list[list[int]]:
        return [[n for (n,) in place.read(table)] for table in tables[:steps]]

    flow, topic = anew()
    numbers = list(range(12))
    assert run(1, numbers[:5], {4}) == (0, b"0")
    assert run(1, numbers[:7], {4}) == (4, b"4"), "and cut off at 5, where the table stands"
    assert run(2, numbers[:8], {4}) == (0, b"0"), "a step that is added begins where the first began"
    assert run(2, numbers[:9], {4, 8}) == (4, b"4")
    assert run(2, numbers, {4, 8}) == (8, b"8")
    assert written() == [numbers, numbers]

    flow, topic = anew()  # a log that is not kept: the step that is added begins where the first can be read from
    assert run(1, numbers[:7], {4}, kept=False) == (0, b"0")
    assert run(2, numbers, {4}, kept=False) == (4, b"4")
    assert written() == [numbers, numbers[4:]]

    flow, topic = anew()  # what can't be read again: what lies below the token is another thing by now
    assert run(1, numbers[:5], again=False) == (0, b"0")
    assert run(1, [99] * 5 + numbers[5:], again=False) == (5, b"5")
    assert written(1) == [numbers]
