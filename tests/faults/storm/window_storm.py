"""Storms over windows: the orders flow with its totals per minute, held against what polars makes of the topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tests.faults.storm.run import Storm
from tests.faults.storm.told import StormError
from tests.faults.storm.window_totals import WindowDifference, accepted, compare_totals

# Often, so that a kill finds an emission under way.
SNAPSHOT_INTERVAL_S = "0.2"


class OnClose(Storm):
    """Totals written when their minute has passed."""

    form: Literal["on_close", "live"] = "on_close"
    settings: Mapping[str, str] = {"ORDER_TOTALS": "on_close", "WINDOW_SNAPSHOT_INTERVAL_S": SNAPSHOT_INTERVAL_S}

    def difference(self) -> WindowDifference:
        if not (orders := super().difference()).equal:
            raise StormError(str(orders))
        places = self._places
        return compare_totals(places.url, accepted(places.kafka.bootstrap(), places.topic), self.form)


class Live(OnClose):
    """Totals that are added to with every transaction."""

    form = "live"
    settings: Mapping[str, str] = {"ORDER_TOTALS": "live"}
