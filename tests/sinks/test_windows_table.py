"""Windows and tables: which go together."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from sinks.windows.table import WindowTable
from waxwing.errors import ConfigError
from waxwing.operators.windows import Calendar, Count, Hopping, Rows, Session, Tumbling, Windows


def define(**changes: Any) -> Windows:
    plain: dict[str, Any] = {"by": ("key",), "time": "time", "kind": Tumbling(60), "aggregates": {"n": Count()}, "lateness_s": 5}
    return Windows(**plain | changes)


def table(*keys: str, **nullable: bool) -> sa.Table:
    kinds: dict[str, Any] = {"window_start": sa.BigInteger, "window_end": sa.BigInteger, "key": sa.String(9), "n": sa.BigInteger}
    takes_null = {name: nullable.get(name, name not in keys) for name in kinds}
    columns = [sa.Column(name, kind, primary_key=name in keys, nullable=takes_null[name]) for name, kind in kinds.items()]
    return sa.Table("totals", sa.MetaData(), *columns)


@pytest.mark.parametrize("refused", [table("window_start", "key"), table(key=False)])
def test_a_column_that_takes_no_null_needs_what_stands_for_one(refused: sa.Table) -> None:
    with pytest.raises(ConfigError, match="key can't be null") as caught:
        WindowTable(refused, define(null_keys="group"))
    assert 'null_keys={"key": ""}' in caught.value.hint
    for good in ("reject", {"key": ""}):
        WindowTable(refused, define(null_keys=good))
    WindowTable(table(), define(null_keys="group"))


@pytest.mark.parametrize(
    ("keys", "lacks"),
    [
        (("window_start",), "lacks key"),
        (("key",), "lacks window_start"),
        (("n",), "lacks window_start, key"),
    ],
)
def test_a_primary_key_that_would_let_rows_overwrite_each_other_is_refused(keys: tuple[str, ...], lacks: str) -> None:
    with pytest.raises(ConfigError, match=lacks):
        WindowTable(table(*keys), define())


@pytest.mark.parametrize("keys", [(), ("window_start", "key"), ("window_end", "key"), ("window_start", "window_end", "key")])
def test_no_primary_key_or_one_that_tells_rows_apart_is_taken(keys: tuple[str, ...]) -> None:
    assert WindowTable(table(*keys), define()).keys == keys


def test_sessions_need_their_start_in_the_primary_key() -> None:
    made = table("window_end", "key").to_metadata(sa.MetaData())
    with pytest.raises(ConfigError, match="lacks window_start"):
        WindowTable(made, define(kind=Session(5)))


def test_what_differs_is_told_with_the_side_that_lacks_it() -> None:
    with pytest.raises(ConfigError, match="Table totals lacks columns that its windows fill: k, total"):
        WindowTable(table(), define(by=("k",), aggregates={"n": Count(), "total": Count("v")}))
    other = table("window_start", "key")
    other.append_column(sa.Column("shop", sa.String(9), primary_key=True))
    with pytest.raises(ConfigError, match="primary key: they lack shop"):
        WindowTable(other, define())
    assert WindowTable(other, define(), {"shop": "x"}).keys == ("window_start", "key", "shop")


def test_a_column_of_yours_holds_the_windows_start_whatever_its_name() -> None:
    kinds: dict[str, Any] = {"minute": sa.DateTime, "key": sa.String(9), "till": sa.DateTime, "n": sa.BigInteger}
    made = sa.Table(
        "totals", sa.MetaData(), *(sa.Column(name, kind, primary_key=name in ("minute", "key")) for name, kind in kinds.items())
    )
    rows = Rows(define().names, [[60_000_000], [120_000_000], ["a"], [3], [0]])
    begins, ends = datetime(1970, 1, 1, 0, 1), datetime(1970, 1, 1, 0, 2)  # noqa: DTZ001 - as the column keeps it
    for names, till in (({"window_end": "till"}, [ends]), ({"window_start": "minute", "window_end": "till"}, [ends]), (None, [])):
        one = WindowTable(made, define(), names=names)
        assert one.keys == ("minute", "key")
        assert one.names == ["minute", *(["till"] if till else []), "key", "n"]
        assert one.tuples(rows, one.names) == [(begins, *till, "a", 3)]
    for wrong, why in (
        ({"start": "minute"}, "not what windows call"),
        ({"window_start": "hour"}, "no column hour"),
        ({"window_end": "n"}, "filled twice"),
    ):
        with pytest.raises(ConfigError, match=why):
            WindowTable(made, define(), names=wrong)
    of_days = sa.Table(
        "days",
        sa.MetaData(),
        sa.Column("day", sa.String(9), primary_key=True),
        sa.Column("key", sa.String(9), primary_key=True),
        sa.Column("n", sa.BigInteger),
    )
    with pytest.raises(ConfigError, match="they lack day") as caught:
        WindowTable(of_days, define())
    assert 'names={"window_start": "day"}' in caught.value.hint


def test_windows_of_whole_days_begin_at_a_date() -> None:
    made = sa.Table(
        "days",
        sa.MetaData(),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key", sa.String(9), primary_key=True),
        sa.Column("n", sa.BigInteger),
    )
    day_us = 86_400_000_000
    rows = Rows(define().names, [[31 * day_us, -day_us], [33 * day_us, day_us], ["a", "b"], [3, 4], [0, 0]])
    for kind in (Tumbling(2 * 86_400), Hopping(2 * 86_400, 86_400)):
        for names in (None, {"window_start": "day"}):
            one = WindowTable(made, define(kind=kind), names=names)
            assert one.tuples(rows, one.names) == [(date(1970, 2, 1), "a", 3), (date(1969, 12, 31), "b", 4)]
    for other in (Tumbling(43_200), Hopping(86_400, 3_600), Session(86_400)):
        with pytest.raises(ConfigError, match="day"):
            WindowTable(made, define(kind=other))
        with pytest.raises(ConfigError, match="can't keep a window's time") as caught:
            WindowTable(made, define(kind=other), names={"window_start": "day"})
        assert "whole days, Date" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "starts", "days"),
    [
        (Calendar("day", "Europe/Berlin"), ["2026-03-28T23:00", "2026-03-29T22:00"], ["2026-03-29", "2026-03-30"]),
        (Calendar("week", "Europe/Berlin"), ["2026-03-22T23:00", "2026-03-29T22:00"], ["2026-03-23", "2026-03-30"]),
        (Calendar("month", "Asia/Tokyo", 3), ["2026-03-31T15:00", "2026-06-30T15:00"], ["2026-04-01", "2026-07-01"]),
        (Calendar("day", "America/Sao_Paulo"), ["2018-11-04T03:00", "2018-11-05T02:00"], ["2018-11-04", "2018-11-05"]),
        (Calendar("day", "Pacific/Apia"), ["2011-12-29T10:00", "2011-12-30T10:00"], ["2011-12-29", "2011-12-31"]),
        (Calendar("day", "America/St_Johns"), ["2006-10-29T02:30", "2006-10-30T03:30"], ["2006-10-29", "2006-10-30"]),
        (Calendar("day", "UTC"), ["1969-12-31T00:00", "1970-01-01T00:00"], ["1969-12-31", "1970-01-01"]),
    ],
    ids=repr,
)
def test_windows_of_a_calendar_begin_at_a_date_of_their_zone_or_at_a_moment_in_utc(
    kind: Calendar, starts: list[str], days: list[str]
) -> None:
    definition = define(kind=kind)
    moments = [datetime.fromisoformat(start).replace(tzinfo=UTC) for start in starts]
    times = [round(moment.timestamp()) * 1_000_000 for moment in moments]
    # The end of the one is the start of the other.
    rows = Rows(definition.names, [[times[0]], [times[1]], ["a"], [3], [0]])
    dates = [date.fromisoformat(day) for day in days]
    for kept, expected in (
        (sa.Date, dates),
        (sa.BigInteger, [time // 1_000_000 for time in times]),
        (sa.DateTime, [moment.replace(tzinfo=None) for moment in moments]),
        (sa.DateTime(timezone=True), moments),
    ):
        made = sa.Table(
            "totals",
            sa.MetaData(),
            sa.Column("window_start", kept, primary_key=True),
            sa.Column("window_end", kept),
            sa.Column("key", sa.String(9), primary_key=True),
            sa.Column("n", sa.BigInteger),
        )
        one = WindowTable(made, definition)
        assert one.tuples(rows, one.names) == [(*expected, "a", 3)]
    by_name = sa.Table(
        "days",
        sa.MetaData(),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key", sa.String(9), primary_key=True),
        sa.Column("n", sa.BigInteger),
    )
    one = WindowTable(by_name, definition)
    assert one.tuples(rows, one.names) == [(dates[0], "a", 3)]
