"""Bugs to be found: each is the shipped code, or the model of a session, with one thing wrong."""

from __future__ import annotations

from tests.simulation.bugs import protocol, tables, windows
from tests.simulation.bugs.planted import Planted

PLANTED: dict[str, Planted] = {**protocol.PLANTED, **tables.PLANTED, **windows.PLANTED}
# Of those that no schedule of the first few meets: one that did when it was last looked for.
MET = {
    "heartbeats-not-seen": 70,
    "no-compare-and-set": 71,
    "no-owner": 71,
    "doubt-forgotten": 106,
    "cut-on-any-batch": 29,
    "no-gap-check": 29,
    "cut-keeps-token": 32,
    "blames-at-once": 16,
    "blames-one-by-one": 30,
    "blames-by-table": 8,
    "one-table-refused": 8,
    "names-ignored": 8,
    "table-ignored": 8,
    "divided-of-first": 41,
    "divided-anywhere": 41,
    "emitted-again": 47,
    "emission-not-counted": 80,
    "highest-watermark": 14,
    "no-watermark": 57,
    "another-watermark": 10,
    "reopened": 9,
    "late-dropped": 93,
    "closed-to-forgotten": 1639,
}
