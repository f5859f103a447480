"""Before positions are read: the targets are made or checked, and taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sources.kit.starting.positions import Answers, at_once
from waxwing import log
from waxwing.errors import ConfigError
from waxwing.target import Target


def own_feeds(feeds: Sequence[Target], pause: Callable[[float], None], answers: Answers = at_once) -> None:
    """Become the owner of all of the flow's targets: before positions are read, so that nobody moves them any more.

    Raises:
        Fenced: another process has taken them meanwhile.
        TransientError: another process is alive, and still was after RETRY_MAX_S.
    """
    # They are taken together: the most patient of them says for how long one that is away is waited for.
    patient = sorted(feeds, key=lambda target: target.settings.retry_max_s)
    for target in {id(target.ownership): target for target in patient}.values():
        answers(target, partial(target.ownership.stand_by, pause, target.settings.retry_max_s))


def let_go(feeds: Sequence[Target]) -> None:
    """Be the owner of nothing any more."""
    for target in feeds:
        target.ownership.release()


def prepare_feeds(feeds: Sequence[Target], flow: str, answers: Answers = at_once, *, anew: bool = False) -> None:
    """Make or check the targets' tables, and look for positions that a step of another name left behind.

    With `anew` (BEGIN=anew) these are only named.

    Raises:
        ConfigError: a table does not fit; another flow of this name is alive; or positions of this flow stand under a step that
            it no longer has (read from the start again they would be doubled).
    """
    steps = {step for target in feeds for step in target.flow_steps}
    for target in feeds:
        if not target.step:
            raise ConfigError("A target in feeds=[...] serves no step.", hint='Write to it: sink("step", batches, target).')
        answers(target, target.prepare)
        held = answers(target, target.steps)
        # One that goes on has its positions here; that another step has moved to another place is told by where that begins.
        has = steps if not held or target.step in held else target.steps_here
        if not (left := sorted(step for step in held if step not in has)):
            continue
        if where := answers(target, partial(target.alive, left)):
            raise ConfigError(
                f"A flow of the name {flow} is alive ({where}) and writes into {target.name} by steps that this one lacks: "
                f"{', '.join(left)}.",
                hint="Is it another flow? Give one of the two another FLOW_NAME. An earlier version of this one? Stop it first "
                f"(after a kill, wait {target.settings.owner_stale_s:.0f} s).",
            )
        elsewhere = [step for step in left if step in steps]
        what = (
            f"{target.name} holds positions of flow {flow} under steps that it no longer has{' there' if elsewhere else ''}: "
            f"{', '.join(left)}; it has {', '.join(sorted(has))}."
        )
        drops = "; ".join(target.forgets(flow, step) for step in left)
        taken_out = f"Steps that were taken out: {drops}"
        if anew:
            log.warning("steps_left", f"{what} They stay as they are (BEGIN=anew). {taken_out}")
            continue
        if elsewhere:
            raise ConfigError(
                what,
                hint=f"Were steps renamed? Give the positions their names: waxwing step rename {flow} {left[0]} {target.step} "
                "(where two have changed places, through a third name). Are two addresses one database? Write them alike. Did a "
                "step move, and what it left there is not wanted? Start with BEGIN=anew.",
            )
        renamed = f"A renamed step would begin anew and double its rows: waxwing step rename {flow} {left[0]} {target.step}. "
        other = ". Are they another flow's of this name? Give one of the two another FLOW_NAME"
        raise ConfigError(what, hint=f"{'' if target.step in held else renamed}{taken_out}{other}.")
