"""Bugs to be found: each is the shipped code, or the model of a session, with one thing wrong."""

from __future__ import annotations

from tests.simulation.bugs import protocol, tables, windows
from tests.simulation.bugs.planted import Planted

PLANTED: dict[str, Planted] = {**protocol.PLANTED, **tables.PLANTED, **windows.PLANTED}
