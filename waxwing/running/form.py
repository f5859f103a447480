"""`@waxwing.flow(Settings)`: what a flow's file says, made into what Bytewax, a test and a program can run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from bytewax.dataflow import Dataflow

from waxwing.errors import ConfigError
from waxwing.running.process import starting
from waxwing.settings import Group
from waxwing.settings.checking import load
from waxwing.steps.instead import standing

S = TypeVar("S", bound=Group)
# Modules whose process is a run (or looks at one) once a flow is built there.
_RUNNERS = ("bytewax.run", "bytewax.visualize")


@runtime_checkable
class Flow(Protocol[S]):
    """A flow, as `waxwing.flow` makes it."""

    kind: type[S]

    def __call__(self, settings: S | None = None, /, **steps: object) -> Dataflow:
        """Build it.

        Args:
            settings: by default what the environment and `.env` say.
            steps: sources and targets by the names of the steps that they stand for: `flow(kafka=MemorySource([...]),
                table=MemoryTarget())` is the flow over memory. With any, settings are not read: they are those given, or
                defaults.

        Raises:
            ConfigError: as `load`; what the definition shows to be wrong; `steps` names one that the flow lacks.
        """


def flow(kind: type[S]) -> Callable[[Callable[[S], Dataflow]], Flow[S]]:
    """Give a flow its form: from its settings to its Dataflow.

        @waxwing.flow(Settings)
        def flow(settings):
            flow = Dataflow("payments")
            ...
            return flow

    Nothing is done when its module is imported. `python -m bytewax.run` and `waxwing run` find it by the name `flow`, read its
    settings, and make the process a run: what is wrong is one message and an exit code. Called anywhere else, it raises.
    """

    def form(build: Callable[[S], Dataflow]) -> Flow[S]:
        # A function, for that is what Bytewax calls.
        def flow(settings: S | None = None, /, **steps: object) -> Dataflow:
            if settings is not None and not isinstance(settings, kind):
                raise ConfigError(f"The flow's settings are {kind.__name__}, not {type(settings).__name__}.")
            if steps:
                with standing(steps, kind() if settings is None else settings) as addressed:
                    return build(addressed)
            if settings is not None:
                return build(settings)
            if _is_runner():
                with starting():
                    return build(load(kind))
            return build(load(kind))

        update_wrapper(flow, build)
        made: Any = flow
        made.kind = kind
        return cast("Flow[S]", made)

    return form


def _is_runner() -> bool:
    return getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "") in _RUNNERS
