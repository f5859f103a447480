"""The package deltalake, in one place: imported when the first table is opened, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

from waxwing.errors import ConfigError
from waxwing.tables.files import arrow

EXTRA = "delta"


class Library:
    """What is used of it, and of pyarrow."""

    def __init__(self) -> None:
        pyarrow = arrow.load(EXTRA)
        try:
            import deltalake  # noqa: PLC0415 - see the module's docstring
            from deltalake import exceptions, transaction  # noqa: PLC0415
            from deltalake.fs import DeltaStorageHandler  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(
                f"deltalake can't be loaded: {error}.", hint=f"Install it: pip install waxwing-streams[{EXTRA}]"
            ) from error
        self.pyarrow: Any = pyarrow
        self.parquet, self.compute, self._fs = (import_module(f"pyarrow.{name}") for name in ("parquet", "compute", "fs"))
        self.DeltaTable, self.Schema = deltalake.DeltaTable, deltalake.Schema
        self.AddAction = transaction.AddAction
        self.CommitFailedError, self.DeltaError = exceptions.CommitFailedError, exceptions.DeltaError
        self.TableNotFoundError = exceptions.TableNotFoundError
        self._properties, self._transaction = deltalake.CommitProperties, deltalake.Transaction
        self._handler = _writable(DeltaStorageHandler, pyarrow.PythonFile)

    def properties(self, numbers: Mapping[str, int]) -> Any:
        """Of a commit that replaces the numbers of these application ids. (No time in them: it would let them expire.)

        They stand in its history as well, where they tell which version it became. The library may try again on top of others'
        commits: it looks for numbers that these replaced, and gives up then.
        """
        return self._properties(
            app_transactions=[self._transaction(name, number) for name, number in numbers.items()],
            custom_metadata={"waxwing": {name: str(number) for name, number in numbers.items()}},
        )

    def first(self) -> Any:
        """Of the commit that makes a table. It is not tried again: on top of another's it would make the table anew."""
        return self._properties(max_commit_retries=0)

    def file_system(self, url: str, options: dict[str, str]) -> Any:
        """The files below a URL."""
        return self._fs.PyFileSystem(self._handler(url, options))

    def selector(self, path: str) -> Any:
        """All that is right in a folder, which need not be there."""
        return self._fs.FileSelector(path, allow_not_found=True)


def _writable(handler: Any, python_file: Any) -> Any:
    """Of the package's files, those that are written take bytes alone, and newer releases of pyarrow give them its buffers."""

    class Handler(handler):  # type: ignore[misc]
        def open_output_stream(self, path: str, metadata: dict[str, str] | None = None) -> Any:
            return python_file(_Bytes(self._handler.open_output_stream(path, metadata)))

    return Handler


class _Bytes:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(bytes(data))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@cache
def load() -> Library:
    """The library.

    Raises:
        ConfigError: it, or pyarrow, is not installed.
    """
    return Library()
