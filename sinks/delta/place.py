"""Where a Delta target is: its table, the table of its dead letters, and the folder beside that remembers."""

from __future__ import annotations

import os
import re
from functools import cached_property

from sinks.delta.files import Files, Folder, files_in, folder_of
from sinks.delta.letters import LettersTable
from sinks.delta.log import DeltaLog
from waxwing import secrets
from waxwing.errors import ConfigError
from waxwing.settings import DeltaSettings

LETTERS_SUFFIX = "_dead_letters"
# Options that messages may quote.
_PUBLIC = re.compile(r"(region|endpoint|url|account_name|bucket|container_name)$", re.IGNORECASE)


class DeltaPlace:
    """The three of them. Nothing is opened before it is asked.

    Args:
        settings: how the store is reached.
        path: of the table.

    Raises:
        ConfigError: the path names none, or what is remembered would lie inside the table.
    """

    def __init__(self, settings: DeltaSettings, path: str | os.PathLike[str]) -> None:
        self._options = {name: value.get_secret_value() for name, value in settings.delta_storage_options.items()}
        for name, value in self._options.items():  # the library's errors may quote them
            secrets.remember(value, whole=_PUBLIC.search(name) is None)
        self.table = folder_of(path, "The path of a Delta table")
        self._given = folder_of(given, "DELTA_STATE_PATH") if (given := settings.delta_state_path) else None
        if self._given is not None and f"{self._given.path}/".startswith(f"{self.table.path}/"):
            raise ConfigError(
                f"{settings.name_of('delta_state_path')} lies inside the table {self.table.path}, where a vacuum removes it.",
                hint="Name a folder beside it.",
            )

    @property
    def letters_folder(self) -> Folder:
        """Of the dead letters' table."""
        return self.table.beside(f"{self.table.name}{LETTERS_SUFFIX}")

    @cached_property
    def rows(self) -> DeltaLog:
        """The table's log."""
        return DeltaLog(self.table, self._options)

    @cached_property
    def data(self) -> Files:
        """The table's data files."""
        return files_in(self.table, self._options)

    @cached_property
    def letters(self) -> LettersTable:
        """The dead letters."""
        return LettersTable(self.letters_folder, files_in(self.letters_folder, self._options), self._options)

    @cached_property
    def state_at(self) -> str:
        """The folder that remembers. One that is named may serve many tables: each has a folder of its own there, by its id."""
        if self._given is None:
            return self.table.beside(f".{self.table.name}.waxwing").path
        if self.rows.table is None:
            self.rows.refresh()
        return self._given.within(str(self.rows.table.metadata().id)).path

    @cached_property
    def state(self) -> Files:
        """The files in it."""
        return files_in(Folder(self.state_at), self._options)
