"""What a user did, told by what Python or Bytewax made of it: each becomes a ConfigError that says where, and what to do."""

from __future__ import annotations

import os
import re
import socket
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path
from traceback import walk_tb
from types import ModuleType, TracebackType
from typing import Any

from waxwing import log
from waxwing.errors import ConfigError, TransientError, TryLater, WaxwingError, is_disk_full

_OURS = Path(__file__).parents[2]
_INSTALLED = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
_NOT_THE_USERS = tuple(f"{folder}{os.sep}" for folder in (_OURS / "waxwing", _OURS / "sinks", _OURS / "sources", *_INSTALLED))
_NETWORKING = "failed to initialize networking: "
_RECOVERY = ("NoPartitionsError", "MissingPartitionsError", "InconsistentPartitionsError")
_RECOVERY_HINT = (
    "-r needs a folder with recovery partitions that this process can write: make it by `python -m bytewax.recovery FOLDER 1`, "
    "or start without -r: the targets remember."
)


def in_flow(error: Exception) -> ConfigError:
    """An error of the user's own module or `flow()`, with its file and line."""
    if isinstance(error, SyntaxError):
        line = f":{error.lineno}" if error.lineno else ""
        name = f"{Path(error.filename).name}{line}" if error.filename else "What stands for the flow"
        return ConfigError(f"{name} is no Python: {error.msg}.", hint="Correct it.")
    if isinstance(error, ImportError | AttributeError) and (hidden := _hidden(error)):
        name, file = hidden
        whose = (
            "Waxwing's package" if name in _PACKAGES else "Python's module" if name in sys.stdlib_module_names else "the package"
        )
        own = f"folder {file.parent}" if file.name == "__init__.py" else f"file {file}"
        return ConfigError(
            f"The {own} of your own hides {whose} {name}.", hint="Give it another name, or start the flow from elsewhere."
        )
    if isinstance(error, ModuleNotFoundError):
        return ConfigError(f"A package is missing: {error}.", hint="Install it, or run this in the folder that holds it.")
    text = " ".join(str(error).split()).removesuffix(".")
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    place = place_of(error.__traceback__)
    return ConfigError(
        f"The flow can't be built: {told}{f' ({place})' if place else ''}.", hint="Correct it there, then start again."
    )


_PACKAGES = ("sinks", "sources", "waxwing")


def _hidden(error: ImportError | AttributeError) -> tuple[str, Path] | None:
    """The package or module that was not found as it is, and the file of the user's that stands in its place."""
    candidates: list[tuple[str, Any]] = []
    if isinstance(error, ImportError):
        name = (error.name or "").partition(".")[0]
        candidates.append((name, error.path or getattr(sys.modules.get(name), "__file__", None)))
    elif isinstance(error.obj, ModuleType):
        candidates.append((error.obj.__name__, getattr(error.obj, "__file__", None)))
    if "partially initialized" in str(error):  # a file that imports what needs the module that the file hides
        frames = [frame.f_globals for frame, _ in walk_tb(error.__traceback__)]
        candidates += [(str(one.get("__name__")), one.get("__file__")) for one in frames]
    for name, file in candidates:
        there = PathFinder.find_spec(name, [*_INSTALLED, *([str(_OURS)] if name in _PACKAGES else [])])
        if file and there and there.origin and not Path(file).is_relative_to(Path(there.origin).parent):
            return name, Path(file)
    return None


def place_of(traceback: TracebackType | None) -> str:
    """The innermost line of the user's own code, such as `payments.py:72 in flow`; empty where there is none."""
    place = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(("<", *_NOT_THE_USERS)):
            place = f"{Path(code.co_filename).name}:{traceback.tb_lineno} in {code.co_name}"
        traceback = traceback.tb_next
    return place


def of_bytewax(error: BaseException) -> WaxwingError | None:
    """What an error of Bytewax's own means that the command line or the folders brought about; None: something else."""
    text = str(error)
    if "is not in this worker's routing map" in text:  # Bytewax's recovery store knows a partition that is gone
        return ConfigError(
            "The recovery store (-r) was made with more lanes than there are now.",
            hint="With -r, LANES may only rise; set it as it was, or start without -r: the targets remember.",
        )
    if full := _STORE_FULL.search(text):
        return TryLater(
            f"The recovery store (-r) can't be written: {full[1]}.",
            hint="Make room on the disk of its folder, then start again: the targets remember where to go on.",
        )
    if type(error).__name__ in _RECOVERY or "recovery directory" in text or "readonly database" in text:
        return ConfigError(f"The recovery store (-r) can't be used: {text.partition(';')[0]}.", hint=_RECOVERY_HINT)
    if _NETWORKING not in text:
        return None
    reason = text.rpartition(_NETWORKING)[2]
    if "already in use" in reason:  # by an earlier run that is about to end, perhaps
        return TransientError(
            "Another process listens at this process's address (-a).",
            hint="Does this process of the flow run already? Otherwise give it another port.",
        )
    return ConfigError(
        f"This process can't listen at its address (-a): {reason}.",
        hint="-a takes host:port of every process, with semicolons between; -i says which of them this one is, from 0.",
    )


# Bytewax's recovery store is SQLite's: its disk is full, or does not answer.
_STORE_FULL = re.compile(r"SqliteFailure\(Error \{ code: (?:DiskFull|SystemIoFailure|CannotOpen)[^}]*\}, Some\(\"([^\"]*)")


def of_no_flow(error: BaseException) -> ConfigError | None:
    """What Bytewax says of a `flow()` that gives no flow, or one without a beginning or an end."""
    if found := _NO_FLOW.search(str(error)):
        return ConfigError(f"{found[1]} gives no Dataflow.", hint="Does flow() end with `return flow`?")
    if found := _NO_STEP.search(str(error)):
        return ConfigError(f"The flow has no {found[1]} step.", hint=f"Add it: {_STEPS[found[1]]}.")
    return None


_STEPS = {"input": "op.input, with a source", "output": "sink or window_sink, with a target"}
_NO_FLOW = re.compile(r"A valid Bytewax dataflow was not obtained from '([^']*)'")
_NO_STEP = re.compile(r"Dataflow needs to contain at least one (input|output) step")


def of_system(error: BaseException) -> WaxwingError | None:
    """What the operating system says of a disk, wherever it is met: a log, a file of the user's own."""
    if is_disk_full(error):
        return TryLater(f"There is no room: {error}.", hint="Make room on that disk (or quota), then start again.")
    return None


def check_command_line() -> None:
    """Look at what bytewax.run was told and does not check itself, where this process is it.

    Raises:
        ConfigError: no workers, a process that none of the addresses is for, a port of metrics that is taken.
    """
    main = sys.modules["__main__"]
    if getattr(getattr(main, "__spec__", None), "name", "") != "bytewax.run" or not hasattr(main, "_parse_args"):
        return
    told: Any = main._parse_args()
    workers = told.workers_per_process
    if workers is not None and workers < 1:
        raise ConfigError(f"-w {workers} leaves nobody to work.", hint="Give at least one worker.")
    addresses = (told.addresses or "").split(";")
    if told.process_id is not None and not 0 <= told.process_id < len(addresses):
        raise ConfigError(
            f"-i {told.process_id} is none of the {len(addresses)} addresses that -a gives.",
            hint=f"Processes are counted from 0: -i 0 to {len(addresses) - 1}.",
        )
    if os.environ.get("BYTEWAX_DATAFLOW_API_ENABLED") is not None:
        _check_metrics_port(os.environ.get("BYTEWAX_DATAFLOW_API_PORT", "3030"), alone=not told.process_id)


def _check_metrics_port(text: str, *, alone: bool) -> None:
    """Bytewax would go on without its metrics, and say nothing."""
    if not text.isdecimal() or not 0 < int(text) < 65_536:
        raise ConfigError(f"BYTEWAX_DATAFLOW_API_PORT is {text!r}.", hint="It is a port, 1 to 65535.")
    try:
        socket.create_server(("0.0.0.0", int(text))).close()  # noqa: S104 - the address that Bytewax takes
    except OSError as error:
        message = f"The metrics can't be served at port {text}: {(error.strerror or str(error)).lower()}."
        hint = "Give another one by BYTEWAX_DATAFLOW_API_PORT, or unset BYTEWAX_DATAFLOW_API_ENABLED."
        if alone:
            raise ConfigError(message, hint=hint) from error
        log.warning("no_metrics", f"{message} {hint}")  # the first process of this machine serves its own there
