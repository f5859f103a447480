"""Figures of several repeats: their middle, the least and the greatest; ratios are made within a repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """One figure of each repeat, in their order."""

    values: Sequence[float]

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)

    def over(self, other: Spread) -> Spread:
        """The ratio to another's, repeat by repeat."""
        return Spread([ours / theirs for ours, theirs in zip(self.values, other.values, strict=True)])

    def text(self, form: str) -> str:
        """As tables show it: the middle, and (least-greatest) where they differ."""
        least, most = (format(value, form) for value in (min(self.values), max(self.values)))
        return format(self.middle, form) + (f" ({least}-{most})" if least != most else "")


def cell(spread: Spread | None, form: str) -> str:
    """The same, of what was perhaps not measured."""
    return "" if spread is None else spread.text(form)
