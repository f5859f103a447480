"""What `waxwing run` adds up from its processes."""

from __future__ import annotations

import io
import json

from waxwing.cli.display import Display


def test_records_are_added_up_by_step_because_each_step_takes_in_all_of_them() -> None:
    """The windows' first bucket is in one process only, and counts the records of both."""
    display = Display("orders", 2)
    for process, records_of in enumerate([{"rows": 2_090, "totals": 4_000}, {"rows": 1_910}]):
        event = {"event": "summary", "records": max(records_of.values()), "records_of": records_of, "rows": 7}
        display.read(process, io.BytesIO(json.dumps(event).encode() + b"\n"))
    assert display._counts() == {"records": 4_000, "rows": 14, "dead_letters": 0, "retries": 0}
    display.run_ended()
    assert display._counts()["records"] == 4_000
