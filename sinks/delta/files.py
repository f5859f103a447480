"""Folders that files lie in: of this machine, where each is synced, and of an object store, by the library's own client."""

from __future__ import annotations

import errno
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from typing_extensions import override

from sinks.delta.library import load
from waxwing.errors import ConfigError, RightsError, TransientError, TryLater, WaxwingError

# Stores of the package deltalake that refuse to make a file that is there already.
SCHEMES = ("s3", "s3a", "abfss", "abfs", "az", "azure", "gs")


class Folder(NamedTuple):
    """A place by its path or URL, without a slash at its end."""

    path: str

    @property
    def is_local(self) -> bool:
        """Is it on this machine, as far as its name says?"""
        return "://" not in self.path

    @property
    def name(self) -> str:
        """The last part."""
        return self.path.rpartition("/")[2]

    def beside(self, name: str) -> Folder:
        """Another one in the same place."""
        return Folder(f"{self.path.rpartition('/')[0]}/{name}")

    def within(self, *names: str) -> Folder:
        """One inside."""
        return Folder("/".join([self.path, *names]))


def folder_of(text: str | os.PathLike[str], what: str) -> Folder:
    """The folder that a path or URL names.

    Raises:
        ConfigError: it names none, or the whole of a bucket.
    """
    given = os.fspath(text)
    if given.startswith("file://"):
        given = given.removeprefix("file://")
    if "://" not in given:
        if not given:
            raise ConfigError(f"{what} is empty, where a folder or a URL is needed.")
        if found := re.search(r"%[0-9A-Fa-f]{2}", given):
            raise ConfigError(
                f"{what}: {given} holds {found[0]}, which the package deltalake reads as another character.",
                hint="Name another folder.",
            )
        return Folder(str(Path(given).expanduser().absolute()))
    scheme, _, rest = given.partition("://")
    parts = [part for part in rest.split("/") if part]
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{what}: {given} is of no store that is known here.", hint=f"There are {', '.join(SCHEMES)}, and folders."
        )
    if len(parts) < 2:
        raise ConfigError(f"{what}: {given} names no folder in a bucket or container.", hint=f"Such as {scheme}://bucket/orders.")
    return Folder(f"{scheme}://{'/'.join(parts)}")


def escaped(name: str) -> str:
    """The name of a flow or step as the name of a folder."""
    text = quote(name, safe="")
    return text.replace(".", "%2E") if text.startswith(".") else text


class Files(ABC):
    """The files of a folder, by their paths within, which have slashes in between.

    Methods that ask the place raise TransientError where it is away, RightsError where it refuses.
    """

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """What a file holds; None: there is none."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Is there such a file?"""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Make or replace a file, durably and all at once."""

    @abstractmethod
    def stamp(self, path: str, content: bytes) -> int:
        """Write a small file that may get lost: when that was, in milliseconds since 1970, by the place's clock."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Delete a file, if it is there."""

    @abstractmethod
    def listed(self, path: str = "") -> dict[str, int]:
        """The names of the files right in there, each with when it was written (as `stamp` tells it)."""

    @abstractmethod
    def folders(self, path: str = "") -> list[str]:
        """The names of the folders right in there."""

    @abstractmethod
    def asked(self, what: str) -> AbstractContextManager[None]:
        """Errors of the place within it as ours; `what`: read, written."""

    @abstractmethod
    def open_new(self, path: str) -> Any:
        """A file to be written from its beginning to its end, and closed by `finish`."""

    @abstractmethod
    def finish(self, path: str, file: Any) -> int:
        """Close it, durably. How many bytes it has."""


def files_in(folder: Folder, options: Mapping[str, str]) -> Files:
    """The files of a folder."""
    return LocalFiles(Path(folder.path)) if folder.is_local else StoreFiles(folder, options)


class LocalFiles(Files):
    """Those of a folder of this machine, which is made when it is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @override
    def read(self, path: str) -> bytes | None:
        with self.asked("read"):
            try:
                return (self._folder / path).read_bytes()
            except FileNotFoundError:
                return None

    @override
    def exists(self, path: str) -> bool:
        with self.asked("read"):
            return (self._folder / path).exists()

    @override
    def write(self, path: str, content: bytes) -> None:
        with self.asked("written"):
            at = self._ready(path)
            beside = at.with_name(f"{at.name}.{secrets.token_hex(4)}.part")
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(at)
            sync(at.parent)

    @override
    def stamp(self, path: str, content: bytes) -> int:
        with self.asked("written"):
            at = self._ready(path)
            at.write_bytes(content)
            return at.stat().st_mtime_ns // 1_000_000

    def _ready(self, path: str) -> Path:
        at = self._folder / path
        lacking, made = [], at.parent
        while not made.exists():
            lacking.append(made)
            made = made.parent
        if lacking:
            at.parent.mkdir(parents=True, exist_ok=True)
        for one in lacking:
            sync(one.parent)
        return at

    @override
    def remove(self, path: str) -> None:
        with self.asked("written"):
            (self._folder / path).unlink(missing_ok=True)

    @override
    def listed(self, path: str = "") -> dict[str, int]:
        found = {}
        for entry in self._entries(path):
            if entry.is_file():
                try:
                    found[entry.name] = entry.stat().st_mtime_ns // 1_000_000
                except FileNotFoundError:  # it has just gone
                    continue
        return found

    @override
    def folders(self, path: str = "") -> list[str]:
        return [entry.name for entry in self._entries(path) if entry.is_dir()]

    def _entries(self, path: str) -> list[os.DirEntry[str]]:
        with self.asked("read"):
            try:
                with os.scandir(self._folder / path) as found:
                    return list(found)
            except FileNotFoundError:
                return []

    @override
    def open_new(self, path: str) -> Any:
        with self.asked("written"):
            return self._ready(path).open("xb")

    @override
    def finish(self, path: str, file: Any) -> int:
        with self.asked("written"):
            file.flush()
            os.fsync(file.fileno())
            size: int = file.tell()
            file.close()
            sync((self._folder / path).parent)
            return size

    @contextmanager
    @override
    def asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise failed(str(self._folder), f"can't be {what}", error) from error


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class StoreFiles(Files):
    """Those below a prefix of an object store, by the client of the package deltalake: it takes the same options as the table."""

    def __init__(self, folder: Folder, options: Mapping[str, str]) -> None:
        self._url = folder.path
        with self.asked("opened"):
            self._system = load().file_system(folder.path, dict(options))

    @override
    def read(self, path: str) -> bytes | None:
        with self.asked("read"):
            try:
                with self._system.open_input_stream(path) as file:
                    content: bytes = file.read()
                    return content
            except FileNotFoundError:
                return None

    @override
    def exists(self, path: str) -> bool:
        with self.asked("read"):
            return bool(self._system.get_file_info(path).is_file)

    @override
    def write(self, path: str, content: bytes) -> None:
        with self.asked("written"), self._system.open_output_stream(path) as file:
            file.write(content)

    @override
    def stamp(self, path: str, content: bytes) -> int:
        self.write(path, content)
        with self.asked("read"):
            found: int = self._system.get_file_info(path).mtime_ns
            return found // 1_000_000

    @override
    def remove(self, path: str) -> None:
        with self.asked("written"):
            try:
                self._system.delete_file(path)
            except FileNotFoundError:
                return

    @override
    def listed(self, path: str = "") -> dict[str, int]:
        return {one.base_name: one.mtime_ns // 1_000_000 for one in self._infos(path) if one.is_file}

    @override
    def folders(self, path: str = "") -> list[str]:
        return [one.base_name for one in self._infos(path) if not one.is_file]

    def _infos(self, path: str) -> list[Any]:
        with self.asked("read"):
            found: list[Any] = self._system.get_file_info(load().selector(path))
            return found

    @override
    def open_new(self, path: str) -> Any:
        with self.asked("written"):
            return self._system.open_output_stream(path)

    @override
    def finish(self, path: str, file: Any) -> int:
        with self.asked("written"):
            size: int = file.tell()
            file.close()
            return size

    @contextmanager
    @override
    def asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, load().DeltaError) as error:
            raise failed(self._url, f"can't be {what}", error) from error


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# In what the package deltalake says: of a local disk, of a store.
_NUMBER = re.compile(r"\bos error (\d+)\b|\bOs { code: (\d+)\b")
_FORBIDDEN = re.compile(r"\b(401 Unauthorized|403 Forbidden)\b")
# The store's options, or the bucket, are not what they have to be: no waiting helps.
_MISSET = re.compile(
    r"\b(Generic Config error|builder error|NoSuchBucket|ContainerNotFound|Invalid Access Key|credential error|parsing Path)\b"
)
_ORNAMENTS = re.compile(r"\x1b\[[0-9;]*m|↳")


def said(error: Exception) -> str:
    """The words of an error, on one line."""
    return " ".join(_ORNAMENTS.sub("", str(error)).split())


def failed(where: str, what: str, error: Exception) -> WaxwingError:
    """What an error of a place means."""
    words, number = said(error), getattr(error, "errno", None)
    if number is None and (found := _NUMBER.search(words)):
        number = int(found[1] or found[2])
    if isinstance(error, PermissionError) or number in _REFUSED or _FORBIDDEN.search(words):
        return RightsError(f"{where} {what}: {words}.", hint="The flow reads, writes, lists and deletes files there.")
    if _MISSET.search(words):
        return ConfigError(
            f"{where} {what}: {words}.",
            hint="Correct the path, or DELTA_STORAGE_OPTIONS (plain http needs AWS_ALLOW_HTTP; the bucket has to be there).",
        )
    if number in (errno.ENOSPC, errno.EDQUOT):
        return TryLater(f"{where} {what}: {words}.", hint="Make room, and start again: nothing is lost.")
    return TransientError(f"{where} {what}: {words}")
