"""Small disks, to be filled."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A folder that holds so much, open to every user; skips the test where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="waxwing-disk-", dir="/tmp"))  # where other users' servers get to
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(folder)], check=False)
    try:
        if mounted.returncode:
            pytest.skip("a small disk can't be mounted by this user")
        folder.chmod(0o777)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()
