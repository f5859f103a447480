"""Windows on every database: rows, late records, restarts, faults in every transaction, zombies, live totals."""

from __future__ import annotations

import random
import string
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import count, cycle
from typing import Any, cast
from zoneinfo import ZoneInfo

import bytewax.operators as op
import msgspec
import pytest
import sqlalchemy as sa
from bytewax.dataflow import Dataflow
from bytewax.testing import run_main
from pydantic import SecretStr

from sinks import SqlLiveWindows, SqlWindows, window_sink
from sinks.sql.steps import SqlSteps
from sinks.windows import admission as window_admission
from sources.memory import MemorySource
from tests.conformance.place import ON_THREE, Place, around_commits
from waxwing.batch import Stream
from waxwing.change import Change, Start
from waxwing.databases.ledger import schema
from waxwing.errors import ConfigError, Fenced, TransientError
from waxwing.ledger.windows import BUCKETS_SOURCE
from waxwing.metrics import counters
from waxwing.operators import parse
from waxwing.operators.windows import Calendar, Count, Max, Mean, Sum, Tumbling, Windows
from waxwing.settings import SqlSettings, SqlWindowSettings

LENGTH_S, LATENESS_S, GRACE_S, FIRST_S = 10, 3, 6, 1_700_000_000
KEYS = ("a", "b", "c", None)


class Sale(msgspec.Struct, frozen=True):
    time: int
    key: str | None
    value: Decimal


DEFINITION = Windows(
    by=("key",),
    time="time",
    kind=Tumbling(LENGTH_S),
    aggregates={"n": Count("value"), "total": Sum("value"), "largest": Max("value"), "mean": Mean("value", places=2)},
    lateness_s=LATENESS_S,
    grace_s=GRACE_S,
    null_keys={"key": ""},
)
LIVE = replace(DEFINITION, grace_s=0)
Data = dict[int, list[dict[str, Any]]]
# Key (None: empty) and window's start -> n, total, largest, mean.
Totals = dict[tuple[str, int], tuple[Any, ...]]


def sales(seed: int, size: int = 40, first_s: int = FIRST_S, partitions: int = 3, most: int = 999) -> Data:
    """Records of each partition, out of order, some late within the grace, some for good."""
    rng = random.Random(seed)
    data: Data = {}
    for partition in range(partitions):
        data[partition], clock = [], first_s
        for _ in range(size):
            clock += rng.randint(0, 3)
            time = clock - rng.choice((0, 0, 0, 1, 2, 3, 8, 14, 30))
            data[partition].append({"time": time, "key": rng.choice(KEYS), "value": f"{rng.randint(1, most)}.25"})
    return data


def recomputed(
    data: Mapping[int, list[dict[str, Any]]], *, grace_s: int = GRACE_S, live: bool = False
) -> tuple[Totals, list[tuple[int, int]]]:
    """Totals, and the places of late records: plain loops."""
    values: dict[tuple[str, int], list[Decimal]] = defaultdict(list)
    late = []
    for partition, records in data.items():
        highest = -1 << 60
        for offset, record in enumerate(records):
            start = record["time"] // LENGTH_S * LENGTH_S
            if not live and highest - LATENESS_S - grace_s >= start + LENGTH_S:
                late.append((partition, offset))
            else:
                values[record["key"] or "", start].append(Decimal(record["value"]))
            highest = max(highest, record["time"])
    return {at: (len(some), sum(some), max(some), mean(some, live=live)) for at, some in values.items()}, late


def mean(values: list[Decimal], *, live: bool) -> Decimal:
    """A database rounds half up, a core half to even."""
    return (sum(values, Decimal(0)) / len(values)).quantize(Decimal("0.01"), "ROUND_HALF_UP" if live else "ROUND_HALF_EVEN")


_numbers = count(1)


class Case:
    """A table and a step of their own on a place."""

    def __init__(self, place: Place, *, start: Any = sa.DateTime, largest: Any = None, live: bool = False) -> None:
        self.place, self.live, number = place, live, next(_numbers)
        self.flow = f"windows-{number}"
        self.table = sa.Table(
            f"totals_{number}",
            sa.MetaData(),
            sa.Column("window_start", start, primary_key=True, autoincrement=False),
            sa.Column("scope", sa.String(8), primary_key=True),
            sa.Column("key", sa.String(70), primary_key=True),
            sa.Column("n", sa.BigInteger),
            sa.Column("total", sa.Numeric(12, 2)),
            sa.Column("largest", largest or sa.Numeric(12, 2)),
            sa.Column("mean", sa.Numeric(12, 2)),
        )

    def target(self, definition: Windows | None = None, **settings: Any) -> SqlWindows | SqlLiveWindows:
        url = SecretStr(self.place.url.render_as_string(hide_password=False))
        # A transaction for each batch.
        some = {"flush_interval_s": 0.0, "window_snapshot_interval_s": 0.0, "flush_rows_max": 1, "window_buckets": 2, "lanes": 3}
        made = SqlWindowSettings(database_url=url, **(some | {"owner_stale_s": 1.0} | settings))
        kind, windows = (SqlLiveWindows, LIVE) if self.live else (SqlWindows, DEFINITION)
        target = kind(made, self.table, definition or windows, fixed={"scope": "key"})
        target.place.database, target.place.engine = self.place.database, self.place.engine
        return target

    def run(
        self,
        data: Data,
        target: SqlWindows | SqlLiveWindows | None = None,
        *,
        ends: bool = True,
        size: int = 7,
        topic: str = "memory",
    ) -> None:
        """The flow over what there is."""
        target = target or self.target()
        flow = Dataflow(self.flow)
        source = MemorySource(data, topic=topic, feeds=[target], batch_records=size, lanes=3, ends=ends)
        window_sink("totals", parse("parse", op.input("in", flow, source), Sale), target)
        try:
            run_main(flow)
        finally:
            self.place.stopped(self.flow)

    def bound(self) -> SqlWindows | SqlLiveWindows:
        """A target that knows its step, as for a command."""
        target = self.target()
        target.bind(self.flow, "totals")
        return target

    def steps(self) -> SqlSteps:
        """What the database remembers of the flow, for a command."""
        target = self.target()
        made = SqlSteps(cast("SqlSettings", target.settings), self.flow)
        made.place.database, made.place.engine = target.place.database, target.place.engine
        return made

    def begin(self, starts: dict[int, int]) -> None:
        """Store where each partition is to begin."""
        target = self.bound()
        target.prepare()
        target.begin([Start(Stream(self.flow, "memory", "name:memory", p), at, None) for p, at in starts.items()])

    def totals(self) -> Totals:
        out = {}
        for row in self.place.read(self.table):
            start, scope, key, n, *money = row
            assert scope == "key"
            start_s = start if isinstance(start, int) else round(start.replace(tzinfo=UTC).timestamp())
            assert (key, start_s) not in out
            out[key, start_s] = (n, *(Decimal(str(one)).quantize(Decimal("0.01")) for one in money))
        return out

    def letters(self, stage: str = "late") -> list[Any]:
        t = schema.dead_letters
        query = sa.select(t).where(t.c.flow == self.flow, t.c.stage == stage).order_by(t.c.source_partition, t.c.source_offset)
        with self.place.engine.connect() as connection:
            return list(connection.execute(query))

    def late(self) -> list[tuple[int, int]]:
        return [(letter.source_partition, letter.source_offset) for letter in self.letters()]

    def state_parts(self) -> int:
        t = schema.state
        with self.place.engine.connect() as connection:
            return int(connection.scalar(sa.select(sa.func.max(t.c.part)).where(t.c.flow == self.flow)) or 0) + 1

    def check(self, data: Data) -> None:
        """Everything is there, once."""
        totals, late = recomputed(data, live=self.live)
        found = self.totals()
        if self.live and self.place.database.dialect.name == "sqlite":  # it divides floats
            assert all(abs(found[at][3] - row[3]) <= Decimal("0.01") for at, row in totals.items())
            found, totals = {at: row[:3] for at, row in found.items()}, {at: row[:3] for at, row in totals.items()}
        assert found == totals
        assert self.late() == late


@ON_THREE
@pytest.mark.parametrize("start", [sa.DateTime, sa.BigInteger])
def test_closed_rows_are_those_of_a_plain_recomputation(place: Place, start: Any) -> None:
    case, data = Case(place, start=start), sales(1)
    case.run(data)
    case.check(data)
    letters = case.letters()
    assert len(letters) > 3
    one = letters[0]
    record = data[one.source_partition][one.source_offset]
    assert msgspec.json.decode(one.message_value) == record
    start_s = record["time"] // LENGTH_S * LENGTH_S
    begins, ends = (datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for at in (start_s, start_s + LENGTH_S))
    assert f"from {begins} to {ends}" in one.reason


@ON_THREE
def test_late_records_can_be_counted_only(place: Place) -> None:
    case, data = Case(place), sales(1)
    case.run(data, case.target(late_records="count"))
    assert case.totals() == recomputed(data)[0]
    assert case.letters() == []


@ON_THREE
def test_a_window_is_corrected_within_the_grace(place: Place) -> None:
    case = Case(place)
    on_time = [{"time": FIRST_S + at, "key": "a", "value": "1.00"} for at in (0, 1, 13)]
    case.run({0: on_time}, ends=False)
    assert case.totals() == {("a", FIRST_S): (2, Decimal(2), Decimal(1), Decimal(1))}
    late = [{"time": FIRST_S + at, "key": "a", "value": "4.00"} for at in (2, 19)]  # the last one ends the grace
    case.run({0: on_time + late}, ends=False)
    assert case.totals() == {("a", FIRST_S): (3, Decimal(6), Decimal(4), Decimal(2))}
    assert case.letters() == []


def test_a_row_that_does_not_fit_is_a_dead_letter_and_the_others_are_written(place: Place) -> None:
    case, data = Case(place, largest=sa.Numeric(4, 2)), sales(2, most=130)
    case.run(data, case.target(replace(DEFINITION, grace_s=0)))
    totals, late = recomputed(data, grace_s=0)
    fits = {at: row for at, row in totals.items() if row[2] < 100}
    assert case.totals() == fits
    letters = case.letters("sink")
    assert len(letters) == len(totals) - len(fits) > 3
    gone = {(row["key"], Decimal(row["total"])) for row in (msgspec.json.decode(letter.message_value) for letter in letters)}
    assert gone == {(key, row[1]) for (key, _), row in totals.items() if row[2] >= 100}
    assert case.late() == late


@ON_THREE
def test_no_number_of_late_records_stops_the_flow(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_admission, "RATIO_BLOCK_RECORDS", 20)
    case = Case(place)
    late = [{"time": FIRST_S, "key": key, "value": "1.00"} for key in ("a", "b", "c") for _ in range(40)]
    case.run({0: [{"time": FIRST_S + 1_000, "key": "a", "value": "1.00"}, *late]})
    assert len(case.late()) == 120
    assert len(case.totals()) == 1


@ON_THREE
def test_too_many_rejected_records_stop_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_admission, "RATIO_BLOCK_RECORDS", 20)
    case = Case(place)
    future = [{"time": FIRST_S * 10, "key": "a", "value": "1.00"} for _ in range(40)]
    with pytest.raises(BaseException, match=r"bad records|error") as caught:
        case.run({0: future})
    assert "waxwing resume" in _story(caught.value)
    assert 0 < len(case.letters("totals")) <= 10


class Faults:
    """Something happens in the n-th COMMIT: a crash or a lost connection, before it or behind it."""

    def __init__(self, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan(0, "")
        around_commits(engine, monkeypatch, self._around)

    def plan(self, at: int, kind: str) -> None:
        self._at, self._kind, self.commits = at, kind, 0
        self.ends_run = False  # it struck where a crash must end the run

    def _around(self, commit: Callable[[], None]) -> None:
        self.commits += 1
        strikes = self.commits == self._at
        if not strikes or "behind" in self._kind:
            commit()
        if strikes:
            callers = {frame.name for frame in traceback.extract_stack()}
            # A session is let go, and an idle one beats, when all is durable: the run may be over before anybody hears of it.
            self.ends_run = "crash" in self._kind and callers.isdisjoint({"release", "beat"})
            raise TransientError("lost") if "lost" in self._kind else RuntimeError("crash")


KINDS = ("crash before", "lost behind", "crash behind", "lost before")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "live"),
    # SQL Server's test server needs seconds for each start: its COMMIT in doubt is in test_sql_target.py.
    [(place, live) for place in ("sqlite", "postgresql", "mariadb") for live in (False, True)],
    indirect=["place"],
)
def test_a_fault_in_any_transaction_changes_nothing(place: Place, monkeypatch: pytest.MonkeyPatch, live: bool) -> None:
    monkeypatch.setattr("sinks.writer.writer.LITTLE", 0)  # each lane has transactions of its own, so that there are many
    data, faults, ended = sales(3, size=20), Faults(place.engine, monkeypatch), 0
    half = {partition: records[:10] for partition, records in data.items()}
    stride = 9  # not in step with the kinds
    for at, kind in zip(range(1, 40, stride), cycle(KINDS), strict=False):
        case = Case(place, live=live)
        faults.plan(at, kind)
        restarts = 0
        for some, ends in ((half, False), (data, True)):
            for _ in range(3):
                try:
                    case.run(some, ends=ends, size=4)
                    break
                except BaseException as error:
                    if not isinstance(error, Exception) and "Panic" not in type(error).__name__:
                        raise
                    restarts += 1
        assert faults.commits >= at, "nothing happened"
        assert restarts >= faults.ends_run
        ended += faults.ends_run
        case.check(data)
    assert ended, "no crash struck where it ends a run"


@ON_THREE
def test_a_run_goes_on_from_the_stored_state_however_it_was_cut(place: Place) -> None:
    case, data = Case(place), sales(4)
    for size, until in ((3, 9), (7, 10), (5, 25), (40, 31), (1, 40)):
        case.run({partition: records[:until] for partition, records in data.items()}, ends=until == 40, size=size)
    case.check(data)
    case.run(data)  # and there is nothing more to do
    case.check(data)


@ON_THREE
def test_bounded_runs_follow_each_other(place: Place) -> None:
    case, first, second = Case(place), sales(5, 20), sales(6, 20, FIRST_S + 100_000)
    case.run(first)
    case.check(first)
    both = {partition: first[partition] + second[partition] for partition in first}
    case.run(both)
    assert case.totals().keys() >= recomputed(first)[0].keys()
    case.check(both)


@ON_THREE
def test_a_partition_that_was_added_is_taken_in_from_its_start(place: Place) -> None:
    case, data = Case(place), sales(7)
    case.run({0: data[0][:20], 1: data[1][:20]}, ends=False)
    case.run({0: data[0], 1: data[1], 2: data[2]})
    totals, late = recomputed(data)
    found = case.totals()
    # What it brings for windows that were closed without it comes as late aggregates: nothing is lost, nothing twice.
    for letter in case.letters():
        if letter.source == BUCKETS_SOURCE:
            row = msgspec.json.decode(letter.message_value)
            at = row["key"] or "", row["window_start"] // 1_000_000
            n, total, *_ = found.get(at, (0, Decimal(0)))
            found[at] = (n + row["n"], total + Decimal(row["total"]))
    assert {at: row[:2] for at, row in found.items()} == {at: row[:2] for at, row in totals.items()}
    assert [(letter.source_partition, letter.source_offset) for letter in case.letters() if letter.source == "memory"] == late


@ON_THREE
def test_records_that_the_log_lost_are_passed_over(place: Place) -> None:
    case, data = Case(place), sales(8, partitions=1)
    case.run({0: data[0][:14]}, ends=False)
    target = case.target()
    target.bind(case.flow, "totals")
    (stream,) = {position.stream for position in target.positions()}
    target.jump(stream, 14, 21)
    assert {position.offset_next for position in target.positions()} == {21}
    before, left_out = case.totals(), counters.tally.left_out
    case.run(data)
    kept = recomputed({0: data[0][:14] + data[0][21:]})[0]
    # What was lost may have belonged to any window that began before the place behind it.
    begins = data[0][21]["time"] + LATENESS_S
    whole = {at: row for at, row in kept.items() if at in before or at[1] > begins}
    assert case.totals() == whole
    assert counters.tally.left_out - left_out == len(kept) - len(whole) > 0


def orderly(seed: int, partitions: int = 3) -> Data:
    """Records of which none is late."""
    data = sales(seed, partitions=partitions)
    for records in data.values():
        highest = 0
        for record in records:
            record["time"] = max(record["time"], highest - LATENESS_S)
            highest = max(highest, record["time"])
    return data


@ON_THREE
@pytest.mark.parametrize("live", [False, True], ids=["on_close", "live"])
def test_windows_that_began_before_the_place_where_reading_begins_are_left_out(place: Place, live: bool) -> None:
    case, data = Case(place, live=live), orderly(31)
    case.run(data)
    case.check(data)
    case.steps().drop("totals", dead_letters=True)
    with place.engine.begin() as connection:
        connection.execute(case.table.delete() if live else case.table.update().values(n=-1))
    # The log of partition 1 is there as a whole.
    starts = {0: 17, 1: 0, 2: 9}
    case.begin(starts)
    # Live rows can't wait for more than the first batch, here of two and three records.
    behind = {0: data[0][17:19], 2: data[2][9:12]} if live else {p: data[p][at:] for p, at in starts.items() if at}
    begins = max(min(record["time"] for record in records) for records in behind.values()) + LATENESS_S
    left_out = counters.tally.left_out
    for until in (12, 25, 40):
        case.run({p: records[: max(until, starts[p] + 2)] for p, records in data.items()}, ends=until == 40, size=4)
    totals = recomputed(data, live=live)[0]
    whole = {at: row[:3] for at, row in totals.items() if at[1] > begins}
    assert len(whole) > 10
    assert {at: row[:3] for at, row in case.totals().items() if row[0] >= 0} == whole
    assert counters.tally.left_out > left_out
    assert case.letters() == []


@ON_THREE
def test_a_topic_that_is_no_longer_read_holds_nothing_open(place: Place) -> None:
    case = Case(place)
    first = {p: [{"time": FIRST_S + at, "key": "a", "value": "1.00"} for at in (p, 12)] for p in range(3)}
    case.run(first, ends=False)
    assert case.totals() == {}
    second = {p: [{"time": FIRST_S + at, "key": "a", "value": "1.00"} for at in (13, 60)] for p in range(2)}
    case.run(second, ends=False, topic="another")
    n = {at - FIRST_S: row[0] for (_, at), row in case.totals().items()}
    assert n == {0: 3, 10: 5}
    assert case.letters() == []


@ON_THREE
def test_buckets_that_stand_apart_jump_each_from_its_place(place: Place) -> None:
    case, data = Case(place), sales(19, partitions=1)
    case.run({0: data[0][:14]}, ends=False)
    target = case.target()
    assert isinstance(target, SqlWindows)
    target.bind(case.flow, "totals")
    (stream,) = {position.stream for position in target.positions()}
    target.jump(stream, 20, 30)
    assert {position.offset_next for position in target.positions()} == {14}
    target.jump(stream, 14, 16)
    assert {position.offset_next for position in target.positions()} == {16}


@ON_THREE
def test_another_definition_is_refused_with_what_to_do(place: Place) -> None:
    case, data = Case(place), sales(9, 10)
    case.run(data, ends=False)
    with pytest.raises(BaseException, match=r"another definition|error") as caught:
        case.run(data, case.target(replace(DEFINITION, kind=Tumbling(20))))
    assert f"waxwing step drop {case.flow} totals" in _story(caught.value)


@ON_THREE
def test_another_number_of_buckets_is_refused(place: Place) -> None:
    case, data = Case(place), sales(9, 10)
    case.run(data, ends=False)
    if case.target().parts_max == 1:  # one bucket, whatever the setting says
        case.run(data, case.target(window_buckets=5))
        case.check(data)
        return
    with pytest.raises(BaseException, match=r"buckets|error") as caught:
        case.run(data, case.target(window_buckets=5))
    assert "WINDOW_BUCKETS=2" in _story(caught.value)


def _story(error: BaseException | None) -> str:
    said = []
    while error is not None:
        said.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(said)


def test_a_state_of_megabytes_is_kept_in_parts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    case, rng = Case(place), random.Random(11)
    letters = string.ascii_letters + string.digits
    many = [{"time": FIRST_S, "key": "".join(rng.choices(letters, k=64)), "value": "1.00"} for _ in range(25_000)]

    def target() -> SqlWindows | SqlLiveWindows:
        return case.target(flush_rows_max=100_000, window_buckets=1)

    case.run({0: many}, target(), ends=False, size=10_000)
    assert case.totals() == {}
    parts = case.state_parts()
    assert parts > 1
    # A server that takes less.
    monkeypatch.setattr(place.database, "value_bytes_max", lambda connection: 300_000)
    case.run({0: [*many, many[0]]}, target(), ends=False, size=10_000)
    assert case.state_parts() > 2 * parts
    case.run({0: [*many, many[0]]}, target(), size=10_000)
    assert len(case.totals()) == 25_000


@ON_THREE
def test_of_two_writers_of_a_bucket_the_older_is_fenced(place: Place) -> None:
    case, data = Case(place), sales(12, 10)
    case.run(data, ends=False)
    # They beat so seldom that the old one can be made to look as if it stood still.
    old, new = case.target(owner_stale_s=600.0), case.target(owner_stale_s=600.0)
    for one in (old, new):
        one.bind(case.flow, "totals")
    assert isinstance(old, SqlWindows)
    bucket = old.bucket_stream(0)
    assert not old.ownership.take()
    older, newer = old.connect("bucket-000", old.token()), new.connect("bucket-000", new.token())
    before = older.take_over(bucket)
    place.run("UPDATE waxwing_owners SET heartbeat_ms = 1 WHERE heartbeat_ms > 0")  # as if it had stood still since
    assert not new.ownership.take()
    taken = newer.take_over(bucket)
    assert taken.state == before.state
    after = before._replace(offset_next=before.offset_next + 1, state=b"nonsense")
    with pytest.raises(Fenced):
        older.commit(Change([], {bucket: before}, {bucket: after}))
    assert newer.take_over(bucket) == taken
    for session in (older, newer):
        session.close()
    for one in (old, new):
        one.ownership.release()
    case.run(data)
    case.check(data)


@ON_THREE
def test_windows_of_two_kinds_share_a_table(place: Place) -> None:
    case, data = Case(place), sales(13, 20)
    of_all = replace(DEFINITION, by=(), null_keys="reject")
    all_target = case.target()
    second = SqlWindows(all_target.settings, case.table, of_all, fixed={"scope": "all", "key": ""})  # type: ignore[arg-type]  # for windows
    second.place.database, second.place.engine = place.database, place.engine
    flow = Dataflow(case.flow)
    source = MemorySource(data, feeds=[all_target, second], batch_records=5, lanes=3)
    parsed = parse("parse", op.input("in", flow, source), Sale)
    window_sink("totals", parsed, all_target)
    window_sink("all", parsed, second)
    run_main(flow)
    n: dict[str, int] = defaultdict(int)
    for _, scope, _, orders, *_ in case.place.read(case.table):
        n[scope] += orders
    totals, late = recomputed(data)
    assert n == {"key": sum(row[0] for row in totals.values()), "all": sum(row[0] for row in totals.values())}
    assert sorted(case.late()) == sorted(late * 2)


def test_live_totals_are_exact_and_nothing_is_late(place: Place) -> None:
    case, data = Case(place, live=True), sales(14)
    case.run({partition: records[:11] for partition, records in data.items()}, ends=False)
    case.run(data, ends=False)
    case.check(data)


@ON_THREE
def test_live_windows_of_another_definition_are_refused(place: Place) -> None:
    case, data = Case(place, live=True), sales(15, 10)
    case.run(data, ends=False)
    with pytest.raises(BaseException, match=r"another definition|error") as caught:
        case.run(data, case.target(replace(LIVE, kind=Tumbling(3_600))))
    assert f"waxwing step drop {case.flow} totals" in _story(caught.value)


@ON_THREE
@pytest.mark.parametrize("live_first", [True, False])
def test_a_step_that_was_written_the_other_way_is_refused(place: Place, live_first: bool) -> None:
    case, data = Case(place, live=live_first), sales(16, 10)
    case.run(data, ends=False)
    before = case.totals()
    case.live = not live_first
    with pytest.raises(BaseException, match=r"So far step|error") as caught:
        case.run(data)
    assert f"empty what it wrote, forget the step (waxwing step drop {case.flow} totals)" in _story(caught.value)
    assert case.totals() == before


def test_keys_that_the_table_takes_for_equal_are_refused(place: Place) -> None:
    case = Case(place)
    kind = place.database.dialect.name
    columns = {
        "sqlite": "VARCHAR(70) COLLATE NOCASE",
        "postgresql": "CITEXT",
        "mysql": "VARCHAR(70) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "mariadb": "VARCHAR(70) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        "sqlserver": "NVARCHAR(70)",
    }
    if kind == "postgresql":
        place.run("CREATE EXTENSION IF NOT EXISTS citext")
    when = {"sqlite": "TIMESTAMP", "postgresql": "TIMESTAMP", "sqlserver": "DATETIME2"}.get(kind, "DATETIME(6)")
    place.run(
        f"CREATE TABLE {case.table.name} (window_start {when} NOT NULL, scope VARCHAR(8) NOT NULL, {_KEY[kind]} {columns[kind]} "
        f"NOT NULL, n BIGINT, total NUMERIC(12,2), largest NUMERIC(12,2), mean NUMERIC(12,2), "
        f"PRIMARY KEY (window_start, scope, {_KEY[kind]}))"
    )
    with pytest.raises(BaseException, match=r"takes keys for equal|error") as caught:
        case.run(sales(17, 5))
    assert "takes keys for equal that differ (key)" in _story(caught.value)
    assert f"an exact collation ({place.database.dialect.collation_exact})" in _story(caught.value)


_KEY = {"sqlite": '"key"', "postgresql": '"key"', "mysql": "`key`", "mariadb": "`key`", "sqlserver": "[key]"}


@ON_THREE
def test_a_running_flow_is_not_divided_anew(place: Place) -> None:
    case, data = Case(place), sales(18, 10)
    case.run(data, ends=False)
    target, divided = case.target(), case.target(window_buckets=3)
    if target.parts_max == 1:
        return  # it has one bucket for ever
    assert isinstance(target, SqlWindows)
    assert isinstance(divided, SqlWindows)
    for one in (target, divided):
        one.bind(case.flow, "totals")
    assert not target.ownership.take()
    with pytest.raises(ConfigError, match=r"Flow .* runs"):
        divided.rebucket()
    target.ownership.release()
    place.stopped(case.flow)
    assert divided.rebucket() == 2
    case.run(data, case.target(window_buckets=3))
    case.check(data)


@ON_THREE
def test_refused_rows_stop_it_like_bad_records(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_admission, "RATIO_BLOCK_RECORDS", 20)
    case = Case(place, largest=sa.Numeric(4, 2))
    data = {0: [{"time": FIRST_S + at, "key": "a", "value": "100.00"} for at in range(0, 2_000, LENGTH_S)]}
    with pytest.raises(BaseException, match=r"bad rows|error") as caught:
        case.run(data)
    assert "waxwing resume" in _story(caught.value)


@ON_THREE
def test_bad_records_in_a_row_stop_it_across_batches_and_starts(place: Place) -> None:
    case = Case(place)
    good, bad = [{"time": FIRST_S, "key": "a", "value": "1.00"}], [{"time": FIRST_S, "key": "a", "value": "none"}]
    data = {0: good * 5 + bad * 15, 1: bad * 15 + good + bad * 15 + good}
    case.run(data, case.target(bad_run_max=20), ends=False)
    data[1] += bad * 6 + good  # another partition's run, which a start does not take for this one's
    case.run(data, case.target(bad_run_max=20), ends=False)
    data[0] += bad * 6 + good
    with pytest.raises(BaseException, match=r"in a row|error") as caught:
        case.run(data, case.target(bad_run_max=20), ends=False)
    assert "memory[0]: 21 bad records in a row, up to offset 25" in _story(caught.value)
    case.run(data, case.target(bad_run_max=21))
    assert [n for n, *_ in case.totals().values()] == [9]
    assert len(case.letters("parse")) == 57


@ON_THREE
@pytest.mark.parametrize("live", [False, True], ids=["on_close", "live"])
def test_a_resume_counts_the_records_of_each_partition(place: Place, live: bool) -> None:
    case = Case(place, live=live)
    good, bad = [{"time": FIRST_S, "key": "a", "value": "1.00"}], [{"time": FIRST_S, "key": "a", "value": "none"}]
    data = {0: good * 7 + bad * 60 + good, 1: good * 3}

    def stops_at(offset: int) -> None:
        with pytest.raises(BaseException, match=r"in a row|error") as caught:
            case.run(data, case.target(bad_run_max=10))
        assert f"memory[0]: 11 bad records in a row, up to offset {offset};" in _story(caught.value)

    def stands() -> int:
        return next(p.offset_next for p in case.bound().positions() if p.stream.partition == 0)

    stops_at(17)
    stood = stands()
    assert case.steps().accept_bad_rows("totals", 25) == 2
    case.run({0: data[0][: stood + 20], 1: data[1]}, case.target(bad_run_max=10), ends=False)
    assert stands() == stood + 20
    for _ in range(2):  # a start changes nothing
        stops_at(stood + 25 + 10)
    case.steps().accept_bad_rows("totals", 1_000)
    case.run(data, case.target(bad_run_max=10))
    assert [n for n, *_ in case.totals().values()] == [11]
    assert len(case.letters("parse")) == 60


@ON_THREE
@pytest.mark.parametrize("live", [False, True], ids=["on_close", "live"])
def test_lateness_and_grace_may_be_said_anew(place: Place, live: bool) -> None:
    case, data = Case(place, live=live), orderly(32)
    before = LIVE if live else DEFINITION
    after = replace(before, kind=Tumbling(float(LENGTH_S)), lateness_s=8, grace_s=60)
    case.run({p: records[:20] for p, records in data.items()}, ends=False)
    case.run({p: records[:30] for p, records in data.items()}, case.target(after), ends=False)
    t = schema.windows
    with place.engine.connect() as connection:
        kept = connection.scalar(sa.select(t.c.definition).where(t.c.flow == case.flow))
    assert kept == after.text
    case.run(data, case.target(replace(before, lateness_s=2.5)))
    case.check(data)


BERLIN, HOUR_S = ZoneInfo("Europe/Berlin"), 3_600
DAYS = replace(DEFINITION, kind=Calendar("day", "Europe/Berlin"), lateness_s=3 * HOUR_S, grace_s=6 * HOUR_S)


@ON_THREE
@pytest.mark.parametrize("live", [False, True], ids=["on_close", "live"])
@pytest.mark.parametrize("start", [sa.Date, sa.DateTime])
def test_days_of_a_zone_stay_open_over_restarts_and_are_as_long_as_the_clock_makes_them(
    place: Place, start: Any, live: bool
) -> None:
    case, rng = Case(place, start=start, live=live), random.Random(33)
    definition = replace(DAYS, grace_s=0) if live else DAYS
    first_s, data = round(datetime(2023, 10, 27, 20, tzinfo=UTC).timestamp()), cast("Data", {})
    for partition in range(3):
        hours = [
            hour - rng.choice((0, 0, 0, 2, 5, 8, 30)) for hour in range(0, 90, 2)
        ]  # some late within the grace, some for good
        times = [first_s + hour * HOUR_S + rng.randrange(HOUR_S) for hour in hours]
        data[partition] = [{"time": at, "key": rng.choice(KEYS), "value": f"{rng.randint(1, 99)}.25"} for at in times]
    for until in (9, 17, 18, 30):
        case.run({p: records[:until] for p, records in data.items()}, case.target(definition), ends=False)
    case.run(data, case.target(definition))

    totals, late = cast("dict[tuple[str, date], list[Decimal]]", defaultdict(list)), []
    for partition, records in data.items():
        highest = -(10**12)
        for offset, record in enumerate(records):
            day = datetime.fromtimestamp(record["time"], BERLIN).date()
            end_s = datetime.combine(day + timedelta(days=1), time(), BERLIN).timestamp()
            if not live and highest - 9 * HOUR_S >= end_s:
                late.append((partition, offset))
            else:
                totals[record["key"] or "", day].append(Decimal(record["value"]))
            highest = max(highest, record["time"])
    found = {}
    for begins, scope, key, n, total, *_ in place.read(case.table):
        assert scope == "key"
        kept = begins
        if start is sa.DateTime:
            local = begins.replace(tzinfo=UTC).astimezone(BERLIN)
            assert local.time() == time()
            kept = local.date()
        found[key, kept] = n, Decimal(str(total)).quantize(Decimal("0.01"))
    assert found == {at: (len(values), sum(values)) for at, values in totals.items()}
    assert date(2023, 10, 29) in {day for _, day in found}, "a day of 25 hours"
    assert case.late() == late
    assert live or len(late) > 3


class Reading(msgspec.Struct, frozen=True):
    time: int
    key: str
    value: Any


def test_a_text_for_a_live_maximum_is_a_dead_letter_alone_and_a_column_of_any_name_holds_the_start(place: Place) -> None:
    case = Case(place, live=True)
    given = case.target()
    kinds: dict[str, Any] = {"minute": sa.DateTime, "key": sa.String(70), "n": sa.BigInteger, "most": sa.Integer}
    columns = [sa.Column(name, kind, primary_key=name in ("minute", "key")) for name, kind in kinds.items()]
    case.table = sa.Table(f"{case.table.name}_own", sa.MetaData(), *columns)
    windows = replace(LIVE, aggregates={"n": Count(), "most": Max("value")}, null_keys="reject")
    target = SqlLiveWindows(given.settings, case.table, windows, names={"window_start": "minute"})  # type: ignore[arg-type]  # for windows
    target.place.database, target.place.engine = place.database, place.engine
    flow = Dataflow(case.flow)
    values = [5, "many", 7, None, [1], True, 3]
    data = {0: [{"time": FIRST_S, "key": "a", "value": value} for value in values]}
    window_sink("totals", parse("parse", op.input("in", flow, MemorySource(data, feeds=[target])), Reading), target)
    run_main(flow)
    ((start, key, n, most),) = place.read(case.table)
    assert (start.replace(tzinfo=UTC).timestamp(), key, n, most) == (FIRST_S, "a", 4, 7)
    letters = {letter.source_offset: letter.reason for letter in case.letters("windows")}
    assert letters.keys() == {1, 4, 5}
    assert letters[1] == "value: a str can't be merged into its column, which takes Decimal, float, int"
