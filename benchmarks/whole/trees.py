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


# Whoever runs the bench may keep Python from writing what it has compiled; users of a flow do not.
CACHED = {"PYTHONDONTWRITEBYTECODE": ""}
OURS = Tree("this tree", ROOT, CACHED)
# What flows import, so that the first that is measured does not compile it.
IMPORTS = "import bytewax.run, waxwing, sources, sinks, dataflows.orders, benchmarks.flows.windows, psycopg, pymysql"


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Tree]:
    """That commit in a working tree of its own, run by the Python that runs us; removed at the end."""
    # An option would be one of git's.
    commit = _git("rev-parse", "--verify", "--short", "--end-of-options", f"{commit}^{{commit}}")
    root = folder / f"base-{commit}"
    _git("worktree", "add", "--detach", str(root), commit)
    try:
        yield Tree(commit, root, {**CACHED, "PYTHONPATH": str(root)})
    finally:
        _git("worktree", "remove", "--force", str(root))


def compiled(tree: Tree) -> Tree:
    """The tree, its modules compiled. They must be its own, though this tree's are installed."""
    for folder in ("waxwing", "sources", "sinks", "dataflows", "benchmarks"):
        subprocess.run([sys.executable, "-m", "compileall", "-q", folder], cwd=tree.root, check=True)
    code = f"{IMPORTS}; print(waxwing.__file__, sources.__file__, sinks.__file__, dataflows.orders.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree.root, env={**os.environ, **tree.env}, stdout=subprocess.PIPE, text=True, check=True)
    if not all(Path(file).is_relative_to(tree.root) for file in done.stdout.split()):
        raise SystemExit(f"a run of {tree.title} would not be its own code, but {done.stdout.strip()}")
    return tree


def other_packages(tree: Tree) -> bool:
    """Does it ask for other packages than those installed here, with which it is run all the same?"""
    return (tree.root / LOCK).read_bytes() != (ROOT / LOCK).read_bytes()


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
