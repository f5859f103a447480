"""Heartbeats of owners: a file each, by the clock of the file system that they lie on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from waxwing.errors import TransientError

_CLOCK = "clock"
_STOPPED, _BEATS = b"stopped", b"beats"


class Beats:
    """Of one step.

    Args:
        folder: of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self.touch(_CLOCK)

    def touch(self, token: str) -> int:
        """This owner is alive; when that was.

        Raises:
            TransientError: it can't be said.
        """
        path = self._folder / token
        try:
            path.write_bytes(_BEATS)  # it may have said that it had stopped, and taken the step again
            return path.stat().st_mtime_ns // 1_000_000
        except OSError as error:
            raise TransientError(f"{self._folder} can't be written: {error}.") from error

    def stop(self, token: str) -> None:
        """This owner has stopped."""
        (self._folder / token).write_bytes(_STOPPED)

    def of(self, token: str, heartbeat_ms: int) -> int:
        """The last heartbeat of an owner whose record says this: 0 if it has stopped, negative if it has lost the step."""
        path = self._folder / token
        try:
            if heartbeat_ms <= 0 or path.read_bytes() == _STOPPED:
                return min(heartbeat_ms, 0)
            return max(path.stat().st_mtime_ns // 1_000_000, heartbeat_ms)
        except FileNotFoundError:
            return heartbeat_ms

    def clean(self, known: Collection[str]) -> None:
        """Remove those of owners that nobody knows any more."""
        for path in self._folder.iterdir():
            if path.name not in known and path.name != _CLOCK:
                path.unlink(missing_ok=True)
