"""A Delta table's log: a snapshot of it, the numbers in it, and commits on that very snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sinks.delta.files import Files, Folder, failed, said, sync
from sinks.delta.library import load
from waxwing import log
from waxwing.errors import ConfigError, DataError, TransientError


class Conflict(Exception):
    """Somebody else has changed the table since the snapshot, or it may be so: what a new snapshot says counts."""


class Unknown(Exception):
    """No answer that says what became of a commit: what a new snapshot says counts."""


class DeltaLog:
    """One table. Used by one thread at a time.

    Args:
        folder: of the table.
        options: of the package deltalake, for an object store.
    """

    def __init__(self, folder: Folder, options: Mapping[str, str]) -> None:
        self.folder, self._options = folder, dict(options)
        self._opened: Any = None
        self._id = ""

    @property
    def table(self) -> Any:
        """The deltalake.DeltaTable of the last snapshot; a commit does not move it on."""
        return self._opened

    @property
    def version(self) -> int:
        """Of the snapshot."""
        version: int = self._opened.version()
        return version

    def exists(self) -> bool:
        """Is there a table? Takes a snapshot then.

        Raises:
            TransientError: the place is away.
        """
        try:
            self._refresh()
        except load().TableNotFoundError:
            return False
        return True

    def is_to_be_made(self, files: Files) -> bool:
        """Is there still no table?

        Args:
            files: in its place.

        Raises:
            ConfigError: they belong to none.
        """
        found = set(files.listed()) | set(files.folders()) - {"_delta_log"}
        if self.exists():  # another process has just made it
            return False
        if not found:
            return True
        raise ConfigError(
            f"{self.folder.path} holds files, and is no Delta table.",
            hint="Name another folder; or make a table of them first (deltalake.convert_to_deltalake).",
        )

    def create(self, schema: Any, partition_by: Sequence[str]) -> None:
        """Make the table, unless somebody has just done so.

        Raises:
            TransientError: the place is away.
        """
        try:
            with self._asked():
                load().DeltaTable.create(
                    self.folder.path,
                    schema,
                    mode="error",
                    partition_by=list(partition_by),
                    storage_options=self._options,
                    commit_properties=load().first(),
                )
        except load().TableNotFoundError as error:
            raise failed(self.folder.path, "can't be made", error) from error
        except TransientError:
            if not self.exists():
                raise
        self.refresh()

    def refresh(self) -> None:
        """Take a new snapshot.

        Raises:
            TransientError: the place is away.
            DataError: it is gone, or another one than it was.
        """
        try:
            self._refresh()
        except load().TableNotFoundError as error:
            raise DataError(
                f"The table {self.folder.path} is gone.",
                hint="Put it back as it was, and start again; to begin anew, start with BEGIN=anew.",
            ) from error

    def _refresh(self) -> None:
        with self._asked():
            opened, self._opened = self._opened, None
            if opened is None:
                opened = load().DeltaTable(self.folder.path, storage_options=self._options)
            else:
                opened.update_incremental()
                if not self._is_there(opened.version()):
                    opened = load().DeltaTable(self.folder.path, storage_options=self._options)
            found = str(opened.metadata().id)
        if self._id and found != self._id:
            raise DataError(
                f"The table {self.folder.path} was replaced by another one while the flow ran.",
                hint="Stop flows before a table is made anew. The next start finds the new one.",
            )
        self._opened, self._id = opened, found

    def _is_there(self, version: int) -> bool:
        """The library notices only what was added: not that a table was removed, or made anew."""
        names = (f"{version:020}.json", f"{version:020}.checkpoint.parquet")
        return not self.folder.is_local or any(Path(self.folder.path, "_delta_log", name).exists() for name in names)

    def number(self, name: str) -> int | None:
        """What the snapshot says of an application id; None: nothing."""
        found: int | None = self._opened.transaction_version(name)
        return found

    def stands(self, numbers: Mapping[str, int]) -> bool:
        """Does a new snapshot show all of these? Raises TransientError where nobody can say."""
        self.refresh()
        return all(self.number(name) == number for name, number in numbers.items())

    # -- commits on the snapshot -----------------------------------------------------------------------

    def append(self, numbers: Mapping[str, int], files: Sequence[Any] = ()) -> None:
        """Add data files (as AddActions), or none, and replace numbers.

        Raises:
            Conflict: somebody was faster.
            Unknown: there was no answer, or another one.
        """
        with self._committing():
            table = self._opened
            table.create_write_transaction(
                list(files), "append", table.schema(), self.partition_by, commit_properties=load().properties(numbers)
            )

    def delete(self, predicate: str, numbers: Mapping[str, int]) -> None:
        """Delete rows and replace numbers, in one commit. Raises as `append` does."""
        if not predicate:
            self.append(numbers)
            return
        before = self.version
        with self._committing():
            done = self._opened.delete(predicate, commit_properties=load().properties(numbers))
        if not done["num_deleted_rows"]:  # then it has committed nothing, and no number either
            if self.version != before:
                raise Conflict
            self.append(numbers)

    def add_columns(self, fields: Sequence[Any]) -> None:
        """Add columns (of the package's own Field), which are null in what was written before.

        Raises:
            TransientError: the place is away; or somebody else has altered the table just now.
        """
        try:
            with self._asked():
                self._opened.alter.add_columns(list(fields))
        finally:
            self.refresh()

    def holds_rows(self) -> bool:
        """Does the table have any data file?"""
        return bool(self._opened.get_add_actions().num_rows)

    @property
    def partition_by(self) -> list[str]:
        """The columns that the table is partitioned by."""
        return list(self._opened.metadata().partition_columns)

    @contextmanager
    def _committing(self) -> Iterator[None]:
        before = self.version
        try:
            yield
        except load().CommitFailedError as error:
            raise Conflict(said(error)) from error
        except (load().DeltaError, OSError) as error:
            reason = failed(self.folder.path, "can't be committed to", error)
            if isinstance(reason, TransientError):
                raise Unknown(said(error)) from error
            raise reason from error
        self.synced_from = before

    synced_from = 0

    def sync(self) -> None:
        """Make durable what was committed since the snapshot before the last commit: the library leaves that to the system."""
        if not self.folder.is_local:
            return
        folder = Path(self.folder.path, "_delta_log")
        for version in range(self.synced_from + 1, self.version + 1):
            at = folder / f"{version:020}.json"
            if at.exists():
                sync(at)
        sync(folder)

    # -- what others did -------------------------------------------------------------------------------

    def taken_back(self, looked_at: int, since: int, numbers: Mapping[str, int]) -> bool:
        """Was the table restored, behind version `looked_at`, to one below the commits of these numbers, all of them behind
        `since`?"""
        entries = self._entries(max(looked_at, since))
        if not _restores(entries):
            if looked_at <= since and len(entries) < self.version - since:
                log.warning(
                    "log_cleaned",
                    f"{self.folder.path}: its log was cleaned up behind version {since}, where this flow stood: whether the "
                    "table was restored to an earlier version meanwhile can't be told.",
                )
            return False
        entries = self._entries(since)
        restores = _restores(entries)
        wanted = {(name, str(number)) for name, number in numbers.items()}
        ours = [one["version"] for one in entries if wanted & set((one.get("waxwing") or {}).items())]
        if not ours:  # its name is cleaned up, and nobody can say which of them came first
            return True
        last, at = max(ours), self.version
        while restored := max((version for version in restores if last < version <= at), default=0):
            target = restores[restored]
            if target is None or target < last:
                return True
            at = target
        return False

    def _entries(self, since: int) -> list[dict[str, Any]]:
        """What the log says of the commits behind a version, as far as it still has them."""
        if self.version <= since:
            return []
        with self._asked():
            entries: list[dict[str, Any]] = self._opened.history(limit=self.version - since)
            return entries

    @contextmanager
    def _asked(self) -> Iterator[None]:
        library = load()
        try:
            yield
        except library.TableNotFoundError:
            raise
        except (library.DeltaError, OSError) as error:
            raise failed(self.folder.path, "can't be read or written", error) from error


def _restores(entries: Sequence[Mapping[str, Any]]) -> dict[int, int | None]:
    return {one["version"]: _target(one) for one in entries if one["operation"] == "RESTORE"}


def _target(entry: Mapping[str, Any]) -> int | None:
    """The version that a RESTORE goes back to; None: it does not say."""
    version = (entry.get("operationParameters") or {}).get("version")
    return int(version) if version is not None and str(version).isdecimal() else None
