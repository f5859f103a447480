"""The code that runs: this tree, and beside it the commit that BASE= names, checked out for as long as it is measured."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.cluster import ROOT

LOCK = "requirements.txt"


@dataclass(frozen=True)
class Tree:
    """Where a flow's modules lie; `env` makes Python find them there, whatever is installed."""

    title: str
    root: Path = ROOT
    env: Mapping[str, str] = field(default_factory=dict, hash=False)


OURS = Tree("this tree")


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Tree]:
    """That commit in a working tree of its own, run by the Python that runs us; removed at the end."""
    # An option would be one of git's.
    commit = _git("rev-parse", "--verify", "--short", "--end-of-options", f"{commit}^{{commit}}")
    root = folder / f"base-{commit}"
    _git("worktree", "add", "--detach", str(root), commit)
    try:
        # Its files are new, so the first run would compile them all.
        subprocess.run([sys.executable, "-m", "compileall", "-q", "."], cwd=root, check=True)
        tree = Tree(commit, root, {"PYTHONPATH": str(root)})
        _holds(tree)
        yield tree
    finally:
        _git("worktree", "remove", "--force", str(root))


def _holds(tree: Tree) -> None:
    """It must be that tree's code, though this tree's is installed."""
    code = (
        "import sys; sys.path.insert(0, ''); import waxwing, sinks, sources, dataflows; print(waxwing.__file__, sinks.__file__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree.root, env={**os.environ, **tree.env}, capture_output=True, text=True, check=True)
    if not all(Path(file).is_relative_to(tree.root) for file in done.stdout.split()):
        raise SystemExit(f"the base's run would not be its own code, but {done.stdout.strip()}")


def other_packages(tree: Tree) -> bool:
    """Does it ask for other packages than those installed here, with which it is run all the same?"""
    return (tree.root / LOCK).read_bytes() != (ROOT / LOCK).read_bytes()


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
