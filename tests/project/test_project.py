"""The project's own files: what is locked, built, composed and checked."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.txt", "requirements-dev.txt"]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def locked(name: str) -> dict[str, str]:
    """Package to version."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def wanted(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[=<>]", requirement)[0].strip() for requirement in requirements}
    assert names
    return names


@pytest.mark.slow
@pytest.mark.parametrize("check", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"], ["lint-imports"]], ids=" ".join)
def test_the_code_passes(check: list[str]) -> None:
    run(BIN / check[0], *check[1:])


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_locked_with_its_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    entries = [entry for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE) if not entry.startswith("#")]
    # Of one package there may be two versions, for different Pythons.
    assert {entry.partition("==")[0] for entry in entries} == locked(name).keys()
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = PROJECT["project"]
    extras = [one for extra in project["optional-dependencies"].values() for one in extra]
    runtime = wanted(project["dependencies"]) | wanted(extras)
    assert runtime <= locked("requirements.txt").keys()
    groups = PROJECT["dependency-groups"]
    dev = [one for one in groups["dev"] if isinstance(one, str)]  # the others include the group `build`
    assert wanted(groups["build"]) <= locked("requirements.txt").keys()
    assert wanted(dev) <= locked("requirements-dev.txt").keys()


def test_both_locks_agree_so_that_tests_see_the_versions_that_run() -> None:
    assert locked("requirements.txt").items() <= locked("requirements-dev.txt").items()


@pytest.mark.slow
def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    run(BIN / "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    (wheel,) = tmp_path.glob("waxwing_streams-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entry_points = next(archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"waxwing", "sources", "sinks"}
    assert "waxwing/py.typed" in names
    assert "waxwing = waxwing.cli:main" in entry_points
    modules = {str(path.relative_to(ROOT)) for package in top for path in (ROOT / package).rglob("*.py")}
    assert modules <= set(names)


def test_the_compose_file_fits_its_schema() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_the_compose_file_opens_ports_on_this_machine_only() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    ports = re.findall(r"^ +- (\S*\d+:\d+)$", text, re.MULTILINE)
    assert ports == ["127.0.0.1:9092:9092", "127.0.0.1:5432:5432", "127.0.0.1:1433:1433"]


def test_the_compose_file_runs_the_broker_that_the_tests_run() -> None:
    version = re.search(
        r"<artifactId>kafka-tools</artifactId>\s*<version>([\d.]+)<", (ROOT / "tests/servers/kafka/pom.xml").read_text()
    )
    assert version
    assert f"image: apache/kafka:{version[1]}\n" in (ROOT / "docker-compose.yml").read_text()


def test_the_image_is_built_as_one_should() -> None:
    run(BIN / "hadolint", "deploy/Dockerfile")


def test_the_image_copies_every_package_of_the_wheel() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert re.findall(r"^COPY (\w+) \./\1$", dockerfile, re.MULTILINE) == [*packages, "dataflows"]


def test_every_target_of_make_does_its_own_set_up() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("run", "test", "lint", "bench"):
        assert re.search(rf"^{target}: \.venv/\.installed-(run|dev)$", makefile, re.MULTILINE), target


# Where a product's name has to stand outside its folder, and why.
NAMES_PRODUCTS = {
    "waxwing/databases/__init__.py": "which URL means which folder",
    "waxwing/databases/address.py": "examples of URLs; a file is no server",
    "waxwing/databases/types_page.py": "a page of all of them",
    "waxwing/settings/__init__.py": "settings that bear their names",
    "waxwing/settings/groups.py": "settings that bear their names",
    "waxwing/settings/checking.py": "settings that bear their names",
    "waxwing/cli/places.py": "settings that bear their names",
    "waxwing/cli/drivers.py": "a command about the drivers of one",
    "waxwing/steps/instead.py": "a URL that leads nowhere",
    "waxwing/recovery.py": "Bytewax keeps its own store so",
    "waxwing/running/mistakes.py": "Bytewax keeps its own store so",
}
PRODUCT = re.compile(r"postgres|mysql|mariadb|sqlserver|mssql|sqlite|sql server|psycopg|pyodbc", re.IGNORECASE)
FILES_MAX = 12


def sources_of(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def test_no_product_is_named_outside_its_folder() -> None:
    found = set()
    for file in sources_of("waxwing", "sinks", "sources"):
        if file.is_relative_to(ROOT / "waxwing/databases") and file.parent.name not in {"databases", "ledger"}:
            continue
        tokens = tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
        code = [token for token in tokens if token.type in (tokenize.NAME, tokenize.STRING)]
        if any(PRODUCT.search(token.string) for token in code if not token.string.startswith('"""')):
            found.add(str(file.relative_to(ROOT)))
    assert found == NAMES_PRODUCTS.keys()


def test_bytewax_is_imported_where_the_decision_says_and_its_tests_exist() -> None:
    said = (ROOT / "docs/adr/0024-what-we-rely-on-of-bytewax.md").read_text()
    listed, relied_on = said.split("By its words alone", 1)
    importing = {
        str(file.relative_to(ROOT))
        for file in sources_of("waxwing", "sources", "sinks", "dataflows")
        if re.search(r"^\s*(from|import) bytewax\b", file.read_text(), re.MULTILINE)
    }
    assert importing == set(re.findall(r"`([a-z_/]+\.py)`", listed))
    tests = re.findall(r"(tests/\S+\.py)::(\w+)", relied_on)
    assert len(tests) > 15
    for file, name in tests:
        assert f"def {name}(" in (ROOT / file).read_text(), name
    missing = re.findall(r"^def (test_\w+)", (ROOT / "tests/project/test_bytewax.py").read_text(), re.MULTILINE)
    assert set(missing) <= {name for _, name in tests}


@pytest.mark.parametrize("folder", ["benchmarks", "dataflows", "sinks", "sources", "waxwing", "tests"])
def test_a_folder_holds_what_fits_a_screen(folder: str) -> None:
    sizes = Counter(file.parent for file in sources_of(folder))
    assert {path: size for path, size in sizes.items() if size > FILES_MAX} == {}
