"""Where a step's files lie: the folder of the rows, and beside it those of dead letters and of what is remembered.

```
orders/date=2026-01-31/hour=12/*.parquet      what readers see
orders_dead_letters/*.parquet                 as above, of dead letters
.orders.waxwing/<step>/anchor/                who owns the step: a record a change of owners or of streams
                       chains/<run>/          what each lane has committed: a record a commit
                       staging/               what no commit has moved in yet, and what windows keep
                       beats/                 heartbeats
```

A record is made by link() to its name, which fails where the name is taken: that is the compare-and-set of all that follows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sinks.parquet.records import File
from waxwing.errors import ConfigError, DataError, RightsError, TryLater, WaxwingError, is_disk_full
from waxwing.ledger.store import Step
from waxwing.ledger.whole_file import sync_folder

# On these link() or fsync() may lie, or what another machine has just done is not seen.
_NETWORKED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"}
)
_ESCAPED = re.compile(r"\\([0-7]{3})")
_DIGITS = 10


class Place:
    """The folders of one step.

    Args:
        folder: of the rows.
        step: the step.
    """

    def __init__(self, folder: Path, step: Step) -> None:
        self.folder = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay: they are the user's names
        self.letters = self.folder.with_name(f"{self.folder.name}_dead_letters")
        self.all = self.folder.with_name(f".{self.folder.name}.waxwing")
        digest = hashlib.sha256(repr(tuple(step)).encode()).hexdigest()[:8]
        self.prefix = digest  # of the names of all files of the step
        readable = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{step.flow}.{step.name}")[:100]
        self.own = self.all / f"{readable}-{digest}"
        self.anchor, self.chains = self.own / "anchor", self.own / "chains"
        self.staging, self.beats = self.own / "staging", self.own / "beats"
        self._synced: set[Path] = set()  # folders of rows whose own names outlive a crash

    # -- at the start --------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the folders, and see whether they do what is asked of them.

        Raises:
            ConfigError: they can't be made or written, or lie on a file system that does not.
            TryLater: there is no room.
        """
        with self.speaking():
            folders = (self.folder, self.letters, self.anchor, self.chains, self.staging, self.beats)
            made = {each for folder in folders for each in (folder, *folder.parents) if not each.exists()}
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            for folder in {each.parent for each in made}:
                sync_folder(folder)
            self._refuse_networked()
            self._try()

    def _refuse_networked(self) -> None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:  # not Linux
            return
        found = [line.split(" ")[1:3] for line in mounts.splitlines()]
        points = {Path(_ESCAPED.sub(lambda code: chr(int(code[1], 8)), point)): kind for point, kind in found}
        here = self.own.resolve()
        kind = next((points[folder] for folder in (here, *here.parents) if folder in points), "")
        if kind in _NETWORKED:
            raise ConfigError(
                f"{self.folder} lies on a network file system ({kind}), whose links and fsync can't be relied on.",
                hint="Write to a local disk, and copy the files from there; or write a Delta table.",
            )

    def _try(self) -> None:
        probe, linked = self.own / f"probe-{secrets.token_hex(8)}", self.own / f"probe-{secrets.token_hex(8)}"
        moved = self.folder / f".waxwing-{probe.name}"
        probe.touch()
        try:
            self._try_links(probe, linked)
            linked.unlink()
            linked.mkdir()  # an empty folder, which no reader of files sees
            try:
                linked.rename(moved)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise ConfigError(
                    f"{self.folder} lies on another file system than {self.all}: files could not be moved in at once.",
                    hint=f"Give a folder below it: {self.folder / 'rows'}.",
                ) from error
        finally:
            probe.unlink(missing_ok=True)
            for left in (linked, moved):
                with contextlib.suppress(OSError):
                    left.rmdir() if left.is_dir() else left.unlink(missing_ok=True)

    def _try_links(self, probe: Path, linked: Path) -> None:
        own = "Write to a local disk with a file system of the system's own (ext4, xfs, btrfs, zfs)."
        try:
            os.link(probe, linked)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS) or is_disk_full(error):
                raise
            raise ConfigError(
                f"{self.own} lies on a file system that makes no hard links ({error.strerror}), which its records need.", hint=own
            ) from error
        with contextlib.suppress(FileExistsError):
            os.link(probe, linked)
            raise ConfigError(
                f"{self.own} lies on a file system that gives one name twice: its records would not be exclusive.", hint=own
            )

    @contextlib.contextmanager
    def speaking(self) -> Iterator[None]:
        """What the operating system refuses meanwhile is raised as what it means for the flow."""
        try:
            yield
        except OSError as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> WaxwingError:
        """What an error of the operating system means for the flow."""
        if is_disk_full(error):
            return TryLater(
                f"There is no room for {self.folder}: {error.strerror or error}.",
                hint="Make room on that disk (or quota), then start again: it goes on from the stored positions.",
            )
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return RightsError(
                f"{self.folder} can't be written: {error}.",
                hint=f"It needs the right to write into {self.folder.parent}, and into {self.folder.name}, "
                f"{self.letters.name} and {self.all.name} there.",
            )
        if error.errno == errno.ENOENT:
            return self.gone(Path(error.filename or self.own))
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG):
            return ConfigError(f"{self.folder} can't be a folder of files: {error}.", hint="Give another one.")
        return TryLater(
            f"{self.folder} can't be written: {error}.",
            hint="Look at the disk, then start again: it goes on from the stored positions.",
        )

    # -- records -------------------------------------------------------------------------------------

    def link(self, path: Path, packed: bytes, number: int, token: str, *, sync: bool = True) -> bool:
        """Make a record, durably (but for a seal), unless its name is taken or its folder is gone: then False.

        `number`, `token`: of who makes it: what it leaves behind is removed by who takes the step from it.
        """
        made = self.staging / staged_name(number, token)
        write(made, packed)
        try:
            try:
                os.link(made, path)
            except FileNotFoundError:
                return False
            except FileExistsError:
                if not path.samefile(made):  # it is ours: the answer was lost on its way
                    return False
            if sync:
                sync_folder(path.parent)
            return True
        except FileNotFoundError:  # it was taken, and has been removed since
            return False
        finally:
            made.unlink(missing_ok=True)

    def read(self, path: Path) -> bytes | None:
        """A record; None: there is none."""
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def numbers(self) -> list[int]:
        """Of all anchors, rising."""
        return sorted(int(path.name) for path in self.anchor.iterdir() if path.name.isdigit())

    def anchor_path(self, number: int) -> Path:
        """Of an anchor."""
        return self.anchor / f"{number:0{_DIGITS}}"

    # -- files ---------------------------------------------------------------------------------------

    def _to(self, file: File) -> Path:
        return (self.letters if file.letters else self.folder) / file.to

    def move(self, files: Iterable[File]) -> None:
        """Move files in, unless somebody else has; durably."""
        folders = {}
        for file in files:
            to = self._to(file)
            self._demand(to.parent)
            try:
                (self.staging / file.staged).rename(to)
            except FileNotFoundError:
                if not (self.staging / file.staged).exists():
                    continue
                self._synced.discard(to.parent)  # somebody has removed an empty folder
                self._demand(to.parent)
                (self.staging / file.staged).rename(to)
            folders[to.parent] = True
        for folder in folders:
            sync_folder(folder)

    def _demand(self, folder: Path) -> None:
        """Make a folder below that of the rows, so that it outlives a crash."""
        if folder in self._synced:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for each in (folder, *folder.parents):
            sync_folder(each)
            if each in (self.folder, self.letters):
                break
        self._synced.add(folder)

    def left(self, files: Sequence[File]) -> tuple[File, ...]:
        """Those that are still to be moved in; that the others are is durable then."""
        missing = [file for file in files if not (self.staging / file.staged).exists()]
        for folder in {self._to(file).parent for file in missing}:
            with contextlib.suppress(FileNotFoundError):
                self._synced.discard(folder)
                if folder.exists():
                    self._demand(folder)
        gone = set(missing)
        return tuple(file for file in dict.fromkeys(files) if file not in gone)

    def clean(self, number: int, tokens: Iterable[str], needed: Iterable[str], folders: Iterable[str]) -> None:
        """Remove what those have left who took the step before the anchor of this number, and are no owners (`tokens`) now."""
        alive, needs, keeps = set(tokens), set(needed), set(folders)
        for path in self.staging.iterdir():
            if path.name not in needs and is_of_others(path.name, number, alive):
                path.unlink(missing_ok=True)
        for path in self.chains.iterdir():
            if path.name not in keeps and is_of_others(path.name, number, ()):
                shutil.rmtree(path, ignore_errors=True)

    def gone(self, path: Path) -> DataError:
        """The error of what is missing that no process of ours removes."""
        return DataError(
            f"{path} is gone, without which nobody knows what {self.folder} holds.",
            hint=f"Was something removed from {self.own} by hand? Restore it from a backup, with the folder of the rows; or "
            f"begin anew: empty {self.folder}, remove {self.own}, and start.",
        )


def staged_name(number: int, token: str) -> str:
    """A name in staging that nobody else has: by it whoever takes the step knows what it may remove."""
    return f"{number:0{_DIGITS}}-{token}-{secrets.token_hex(8)}"


def run_folder(number: int, token: str) -> str:
    """The name of the folder of a run's chains; of nobody else, since the number is: whoever is second makes another."""
    return f"{number:0{_DIGITS}}-{token}-{secrets.token_hex(4)}"


def is_of_others(name: str, number: int, tokens: Iterable[str]) -> bool:
    """Was it made no later than for the anchor of this number, by none of these?"""
    of, _, rest = name.partition("-")
    return of.isdigit() and int(of) <= number and rest.partition("-")[0] not in tokens


def write(path: Path, packed: bytes) -> None:
    """A new file, durable but for its name."""
    with path.open("xb") as file:
        file.write(packed)
        file.flush()
        os.fsync(file.fileno())
