"""Asking a target, or a source, at the start: one that is away is asked again, within bounds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from waxwing import log
from waxwing.errors import TransientError

T = TypeVar("T")

RETRY_FIRST_S = 0.2
RETRY_WAIT_MAX_S = 10.0


def ask(call: Callable[[], T], retry_max_s: float, pause: Callable[[float], None], event: str = "target_away") -> T:
    """What the call returns, as soon as it does.

    Raises:
        TransientError: it still failed after `retry_max_s`.
    """
    began_s, pause_s = time.monotonic(), RETRY_FIRST_S
    while True:
        try:
            return call()
        except TransientError as error:
            if time.monotonic() - began_s + pause_s > retry_max_s:
                raise
            log.lasting(event, error.message, f"{error.message.rstrip('.')}; still trying.", **error.context)
        pause(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 2, RETRY_WAIT_MAX_S)
