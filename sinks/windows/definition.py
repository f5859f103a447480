"""Windows of one definition in one place: of whichever form, they go on under no other."""

from __future__ import annotations

from sinks.ledger.target import LedgerTarget, begin_anew
from waxwing.ledger.windows import Defined
from waxwing.operators.windows import Windows


def check_definition(windows: Windows, kept: Defined, target: LedgerTarget) -> None:
    """Raises ConfigError where those that are kept mean something else."""
    if not windows.means_the_same(kept.text):
        raise begin_anew(
            f"The windows kept in {target.name} are of another definition: {kept.text}; now it is {windows.text}.",
            target,
        )
