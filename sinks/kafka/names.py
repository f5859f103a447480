"""What a step's own topic, and its transactions, are called."""

from __future__ import annotations

import re

from waxwing.errors import ConfigError
from waxwing.ledger.store import Step

TOPIC_CHARACTERS_MAX = 249
_PREFIX, _SUFFIX = "waxwing.", ".positions"


def positions_topic(step: Step) -> str:
    """The compacted topic in which a step keeps its positions: waxwing.FLOW.STEP.positions.

    Whatever is neither a letter, a digit nor a hyphen is written as _ and two digits of each of its bytes (a blank: _20).

    Raises:
        ConfigError: the names are too long for a topic.
    """
    name = f"{_PREFIX}{_escaped(step.flow)}.{_escaped(step.name)}{_SUFFIX}"
    if len(name) > TOPIC_CHARACTERS_MAX:
        raise ConfigError(
            f"Flow {step.flow}, step {step.name}: the topic of its positions would be called {name}, which is too long.",
            hint=f"Shorten them (FLOW_NAME): a topic's name has {TOPIC_CHARACTERS_MAX} characters at most.",
            step=step.name,
        )
    return name


def step_of(topic: str) -> Step | None:
    """The step whose positions are in a topic of this name; None: it is no such topic."""
    if not (topic.startswith(_PREFIX) and topic.endswith(_SUFFIX)):
        return None
    flow, dot, name = topic[len(_PREFIX) : -len(_SUFFIX)].partition(".")
    return Step(_plain(flow), _plain(name)) if dot and flow and name else None


def transactional_id(step: Step, owner: str = "", number: int = 0) -> str:
    """Of the anchor; or of one writer of an owner."""
    whose = f"waxwing:{step.flow}:{step.name}"
    return f"{whose}:{owner}:{number}" if owner else whose


def _escaped(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9-]", lambda found: "".join(f"_{byte:02x}" for byte in found[0].encode()), name)


def _plain(name: str) -> str:
    return re.sub(r"(?:_[0-9a-f]{2})+", lambda found: bytes.fromhex(found[0].replace("_", "")).decode(errors="replace"), name)
