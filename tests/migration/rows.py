"""What a migration makes of the rows of an earlier release's own tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.migration.dump import Content

RENAMED = {"topic": "source", "topic_id": "source_id", "topic_partition": "source_partition", "topic_offset": "source_offset"}


def check_rows(before: Content, after: Content) -> None:
    """Every row is what it was, under its new names."""
    new = {"token": None, "token_offset": None, "rows_seen": 0, "rows_bad": 0, "rows_bad_run": 0, "replayed_at": None}
    for name in ("waxwing_progress", "waxwing_dead_letters", "waxwing_windows"):
        old_rows = [{RENAMED.get(key, key): value for key, value in row.items()} for row in named(before, name)]
        added = {key: new[key] for key in named(after, name)[0].keys() - old_rows[0].keys()}
        assert alike(named(after, name)) == alike([{**row, **added} for row in old_rows])
        assert (len(old_rows), len(added)) == (len(before[name]), {"progress": 5, "dead_letters": 1, "windows": 0}[name[8:]])
    states = [
        {"source_id": "waxwing:windows", "source_partition": row.pop("bucket"), **row}
        for row in named(before, "waxwing_window_state")
    ]
    assert alike(named(after, "waxwing_state")) == alike(states)
    written = [(row["flow"], row["step"], row["table_name"]) for row in named(after, "waxwing_tables")]
    assert sorted(written) == sorted(before.get("waxwing_steps", []))


def named(found: Content, table: str) -> list[dict[str, Any]]:
    """The rows of a table, by their columns."""
    columns = [name for (name,) in found[f"columns of {table}"]]
    return [dict(zip(columns, row, strict=True)) for row in found[table]]


def alike(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


def places(found: Content) -> Iterator[tuple[str, str]]:
    """Step and place of those owners of the flow `visits` that beat until the year 2100."""
    columns = [name for (name,) in found["columns of waxwing_owners"]]
    for row in found["waxwing_owners"]:
        facts = dict(zip(columns, row, strict=True))
        if facts["flow"] == "visits" and facts["heartbeat_ms"] == 4102444800000:
            yield facts["step"], facts["place"]
