"""A source of one's own that says what can't be is told so by its name, at once: 78, whatever the target."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from typing_extensions import override

import waxwing
from sinks import Append, MemoryTarget, MemoryWindows, SqlTarget, sink, window_sink
from sources import read
from sources.kit import Log, Options, Place, Run, Source, numbered
from sources.kit.reading.by_stream import OneByOne
from sources.kit.starting.described import described, listed
from sources.memory import MemorySource
from waxwing import operators as ww
from waxwing.batch import Stream
from waxwing.errors import ConfigError, DataError, WaxwingError
from waxwing.operators.windows import Count, Tumbling, Windows
from waxwing.settings import SourceSettings, SqlSettings
from waxwing.target import Target

ROWS = [b'{"n":%d}' % n for n in range(5)]


class Item(msgspec.Struct):
    n: int


class Own(Source):
    """Five records, and whatever a test has it say."""

    def __init__(
        self, logs: Any = (), runs: Callable[[Place], Any] | None = None, *, names: Sequence[str] = ("a",), **options: Any
    ) -> None:
        super().__init__(*names, options=Options(**{"until": "end", "lanes": 1, **options}))
        self.logs, self.runs = logs or [Log("a", "1", token=b"0")], runs

    @override
    def describe(self) -> Sequence[Log]:
        given: Sequence[Log] = self.logs() if callable(self.logs) else self.logs
        return given

    @override
    def read(self, place: Place) -> Iterator[Run | None]:
        found: Iterator[Run | None] = self.runs(place) if self.runs else rest(place)
        return found

    @override
    def close(self) -> None:
        """Nothing is open."""


def rest(place: Place) -> Iterator[Run]:
    at = place.offset if place.token is None else int(place.token)
    if at < len(ROWS):
        yield numbered(place.offset, ROWS[at:], token=None if place.token is None else b"%d" % len(ROWS))


def run(source: Source, target: Target) -> None:
    def flow() -> Dataflow:
        made = Dataflow("flow")
        sink("out", ww.parse("parse", read("in", made, source), Item), target)
        return made

    waxwing.run(flow)


def refused(kind: type[WaxwingError], source: Source, target: Target, told: str) -> None:
    with pytest.raises(kind) as caught:
        run(source, target)
    assert told in caught.value.message, caught.value.message
    assert caught.value.hint


def table_of(file: Path) -> SqlTarget:
    settings = SqlSettings.model_validate({"database_url": f"sqlite:///{file}", "retry_max_s": 1.0})
    return SqlTarget(settings, sa.Table("t", sa.MetaData(), sa.Column("n", sa.Integer)), Append())


def one(**values: Any) -> Any:
    return [Log(**{"source": "a", "source_id": "1", "token": b"0", **values})]


def runs(*given: Any) -> Callable[[Place], Any]:
    return lambda place: iter(given)


MISTAKES: dict[str, tuple[Callable[[], Source], str]] = {
    "an id that is no text": (lambda: Own(one(source_id=17)), "source 'a': source_id is 17, and has to be a str"),
    "no id": (lambda: Own(one(source_id="")), "it can't be empty"),
    "a long id": (lambda: Own(one(source_id="x" * 256)), "source_id has 256 characters"),
    "a long name": (lambda: Own(one(source="é" * 256), names=["é" * 256]), "the source has 256 characters"),
    "a name of no characters": (lambda: Own(one(source="b\udcff"), names=["b\udcff"]), "'b\\udcff', is no text that could"),
    "a blank behind an id": (lambda: Own(one(source_id="1 ")), "ends with a blank"),
    "a partition of text": (lambda: Own(one(partition="0")), "partition is '0'"),
    "a first of text": (lambda: Own(one(first="0")), "first is '0'"),
    "an end of text": (lambda: Own(one(end="5")), "end is '5'"),
    "a token of text": (lambda: Own(one(token="0")), "token is '0', and has to be bytes"),
    "a long token": (lambda: Own(one(token=b"0" * 4_097)), "token has 4,097 bytes"),
    "an end's token of text": (lambda: Own(one(end=5, end_token="5")), "end_token is '5'"),
    "no list": (lambda: Own(lambda: None), "Own.describe() gave None"),
    "a list of texts": (lambda: Own(["a"]), "Own.describe() gave 'a', which is no Log"),
    "one twice": (lambda: Own([*one(), *one()]), "gave 'a', partition 0, twice"),
    "one id of two": (
        lambda: Own([*one(), *one(source="b")], names=["a", "b"]),
        "'a' and 'b' have one source_id, '1', so their positions would be one",
    ),
    "a name that nobody announced": (
        lambda: Own([*one(), *one(source="b", source_id="2")]),
        "gave 'b', which is not among what Own said that it reads: a",
    ),
    "a run's token of text": (lambda: Own(runs=runs(numbered(0, ROWS, token="5"))), "the token of a Run is '5'"),  # type: ignore[arg-type]  # the mistake
    "a value of text": (lambda: Own(runs=runs(numbered(0, ["x"], token=b"5"))), "the value of offset 0 is 'x'"),  # type: ignore[list-item]  # the mistake
    "a key of text": (lambda: Own(runs=runs(numbered(0, ROWS, keys="abcde"))), "the key of offset 0 is 'a'"),  # type: ignore[arg-type]  # the mistake
    "an offset of text": (lambda: Own(runs=runs(Run(numbered(0, []).messages, "5"))), "offset_next of a Run is '5'"),  # type: ignore[arg-type]  # the mistake
    "no run": (lambda: Own(runs=runs(ROWS)), "which is no Run"),
    "nothing to read": (lambda: Own(runs=lambda place: None), "a[0]: read() gave None"),
}


def first_run(source: Source) -> None:
    """All that is asked of a source up to its first run."""
    listed(source)
    (log,) = described(source)
    reader = OneByOne(source.read, source.options)
    reader.open([Place(Stream("flow", log.source, log.source_id, 0), log.first, log.token)])
    reader.read(100)


@pytest.mark.parametrize("case", MISTAKES)
def test_what_can_t_be_is_told_by_its_name(case: str) -> None:
    make, told = MISTAKES[case]
    with pytest.raises(ConfigError) as caught:
        first_run(make())
    assert told in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("case", ["an id that is no text", "no list", "a value of text"])
def test_it_is_told_before_anything_is_done_with_it_whatever_the_target(case: str, tmp_path: Path) -> None:
    make, told = MISTAKES[case]
    memory, table = MemoryTarget(), table_of(tmp_path / "t.sqlite")
    for target in (memory, table):
        refused(ConfigError, make(), target, told)
    assert memory.rows == []


def test_what_can_be_is_read(tmp_path: Path) -> None:
    def two(place: Place) -> Iterator[Run]:
        yield numbered(place.offset, [], token=place.token)  # a run of nothing
        yield from rest(place)

    for source in (Own(one(source_id="x" * 255, token=b"0")), Own(one(token=None, end=5)), Own(runs=two)):
        target = MemoryTarget()
        run(source, target)
        assert [record.n for record in target.rows] == list(range(5))


def windows() -> Windows:
    return Windows(by=(), time="n", kind=Tumbling(60), aggregates={"total": Count()}, lateness_s=0)


def test_an_id_that_is_stored_under_another_name_is_refused_and_goes_on_under_its_own(tmp_path: Path) -> None:
    tables, memory = [table_of(tmp_path / "t.sqlite") for _ in range(4)], MemoryTarget()
    old, new = one(source="old", end=5), [Log("new", "1", token=b"0", end=5)]
    for targets in ([memory] * 3, tables):
        run(Own(old, names=["old"]), targets[0])
        refused(DataError, Own(new, names=["new"]), targets[1], "step out knows old[0] by the id '1', which new[0] has now")
        run(Own(old, names=["old"]), targets[2])
    assert len(memory.rows) == 5
    with sa.create_engine(f"sqlite:///{tmp_path / 't.sqlite'}").connect() as connection:
        assert connection.execute(sa.text("SELECT count(*), max(n) FROM t")).one() == (5, 4)


def test_windows_refuse_an_id_under_another_name_too() -> None:
    target = MemoryWindows(windows())

    def flow(name: str) -> Dataflow:
        made = Dataflow("flow")
        source = Own([Log(name, "1", token=b"0")], names=[name])
        window_sink("totals", ww.parse("parse", read("in", made, source), Item), target)
        return made

    waxwing.run(lambda: flow("old"))
    with pytest.raises(DataError, match=r"knows old\[0\] by the id '1', which new\[0\] has now"):
        waxwing.run(lambda: flow("new"))


def test_two_sources_that_give_one_id_to_one_step_are_told_at_once(tmp_path: Path) -> None:
    def flow() -> Dataflow:
        made = Dataflow("flow")
        both = [read(f"in_{name}", made, MemorySource(ROWS, topic=name, source_id="1")) for name in "ab"]
        sink("out", ww.parse("parse", op.merge("both", *both), Item), table_of(tmp_path / "t.sqlite"))
        return made

    with pytest.raises(DataError, match="by the id '1', which"):
        waxwing.run(flow)


# -- what it is told, and how it is made ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"until": "ende"}, "until is 'ende'"),
        ({"begin": "new"}, "begin is 'new'"),
        ({"on_data_loss": "go on"}, "on_data_loss is 'go on'"),
        ({"on_unknown": ""}, "on_unknown is ''"),
        ({"start": "2026-01-31"}, "start is '2026-01-31'"),
        ({"start": None}, "start is None"),
        ({"poll_interval_s": -1}, "poll_interval_s is -1"),
        ({"away_max_s": "300"}, "away_max_s is '300'"),
        ({"batch_records_max": 0}, "batch_records_max is 0"),
    ],
)
def test_options_that_can_t_be_are_told(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        Options(**wrong)
    assert caught.value.hint


def test_options_come_from_settings_and_know_whether_start_was_given() -> None:
    given = SourceSettings.model_validate({"start": "latest", "until": "end", "lanes": 2, "on_data_loss": "continue"})
    made = Options.of(given, poll_interval_s=0.1)
    assert (made.start, made.start_given, made.until, made.lanes) == ("latest", True, "end", 2)
    assert (made.on_data_loss, made.begin, made.poll_interval_s) == ("continue", "", 0.1)
    assert Options.of(SourceSettings()) == Options()


def test_a_pattern_that_is_no_regular_expression_is_told() -> None:
    with pytest.raises(ConfigError, match=r"the pattern '\*\.csv' is no regular expression") as caught:
        MemorySource(sources={"a.csv": {}}, pattern="*.csv")
    assert r".+\.csv" in caught.value.hint


def test_a_source_that_is_not_made_by_its_base_says_what_to_call() -> None:
    class Bare(Own):
        def __init__(self) -> None:
            """Calls nothing."""

    refused(ConfigError, Bare(), MemoryTarget(), "Bare.__init__ does not call super().__init__.")


@pytest.mark.parametrize(("end", "advice"), [(None, "START=earliest."), (5, "START=earliest or latest.")])
def test_what_knows_no_times_advises_what_it_can(end: int | None, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(Own(one(end=end), start="2026-01-31T00:00:00Z"), MemoryTarget())
    assert caught.value.hint == f"Take {advice}"
