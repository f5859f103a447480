"""What users do wrong outside of settings: told in one sentence, with the place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import waxwing
from waxwing.cli.app import app
from waxwing.cli.flows import demand, import_string, module
from waxwing.cli.positions import rebucket
from waxwing.errors import ConfigError
from waxwing.running import mistakes
from waxwing.running.mistakes import in_flow


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the user's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_folder_that_hides_one_of_ours_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sinks").mkdir()
    (folder / "sinks" / "__init__.py").write_text("")
    for name in [name for name in sys.modules if name.partition(".")[0] == "sinks"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError) as refused:
        exec("from sinks import SqlTarget")
    assert str(in_flow(refused.value)) == (
        f"The folder {folder}/sinks of your own hides Waxwing's package sinks. "
        "Give it another name, or start the flow from elsewhere."
    )


def test_a_file_that_hides_a_part_of_ours_or_a_module_of_python_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text, code, whose in (
        ("sources", "", "from sources.memory import MemorySource", "Waxwing's package"),
        ("queue", "", "import queue; queue.Empty", "Python's module"),
        ("msgspec", "", "from msgspec import Struct", "the package"),
        ("queue", "import beside", "import queue", "Python's module"),  # beside needs it, too
    ):
        (folder / f"{name}.py").write_text(text)
        (folder / "beside.py").write_text("from queue import Empty")
        with monkeypatch.context() as context:
            for there in [there for there in sys.modules if there.partition(".")[0] in (name, "beside")]:
                context.delitem(sys.modules, there)
            with pytest.raises((ImportError, AttributeError)) as refused:
                exec(code)
            assert str(in_flow(refused.value)).startswith(f"The file {folder}/{name}.py of your own hides {whose} {name}.")
            for there in [there for there in sys.modules if there.partition(".")[0] in (name, "beside")]:
                del sys.modules[there]
        (folder / f"{name}.py").unlink()
    (folder / "plain.py").write_text("import queue; queue.nothing")
    with pytest.raises(ConfigError, match=r"has no attribute 'nothing' \(plain.py:1 in <module>\)"):
        module("plain")


def test_a_module_beside_is_found_as_well_as_one_in_dataflows(folder: Path) -> None:
    (folder / "payments_beside.py").write_text("")
    assert import_string("payments_beside") == "payments_beside"
    demand("payments_beside")
    assert import_string("orders") == "dataflows.orders"
    assert import_string("payments_beside:flow") == "payments_beside:flow"
    with pytest.raises(ConfigError, match=r"no module dataflows\.payments_nowhere"):
        demand("payments_nowhere")


def test_a_file_is_found_however_its_path_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "in_package").mkdir()
    (folder / "in_package" / "__init__.py").write_text("")
    for file, name in (
        ("beside_a.py", "beside_a"),
        ("a name.py", "a name"),
        ("in_package/beside_b.py", "in_package.beside_b"),
        ("no_package/beside_c.py", "beside_c"),
    ):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("")
        for path in (file, f"./{file}", f"../{folder.name}/{file}", f"{folder}/{file}", f"./{file.removesuffix('.py')}"):
            demand(path)
            assert module(path).__name__ == name
            assert import_string(path) == path
    for nowhere, why in (("./none.py", f"no file {folder}/none.py"), ("/none/x.py", "no file"), ("..up", "no module's name")):
        for call in (demand, module):
            with pytest.raises(ConfigError, match=why):
                call(nowhere)


def test_an_error_of_the_package_s_own_is_told_with_its_place(folder: Path) -> None:
    for package, text, why in (
        ("breaks", "raise KeyError('x')", r"KeyError: 'x' \(__init__.py:1 in <module>\)"),
        ("lacks", "import no_such_package", "A package is missing: No module named 'no_such_package'"),
    ):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(text)
        (folder / package / "flow.py").write_text("")
        (folder / f"{package}_alone.py").write_text(text)
        for call, name in ((demand, f"{package}.flow"), (module, f"{package}.flow"), (module, f"{package}_alone")):
            with pytest.raises(ConfigError, match=why.replace("__init__", "[a-z_]+")):
                call(name)


def test_what_bytewax_says_of_a_flow_that_is_none_is_the_users_to_mend() -> None:
    for text, told in (
        ("A valid Bytewax dataflow was not obtained from 'shop:flow'", "shop:flow gives no Dataflow. Does flow() end"),
        ("Dataflow needs to contain at least one input step; add with `x`", "The flow has no input step."),
        ("Dataflow needs to contain at least one output step; add with `x`", "The flow has no output step."),
    ):
        error = mistakes.of_no_flow(RuntimeError(text))
        assert isinstance(error, ConfigError)
        assert told in str(error)


def test_windows_of_a_flow_that_is_none_are_not_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{folder}/x")
    for name, text in (("nothing", ""), ("forgets", "def flow(): pass")):
        (folder / f"{name}.py").write_text(text)
        with pytest.raises(ConfigError, match=f"Flow '{name}' gives no Dataflow"):
            rebucket(name)


def test_the_version_is_told() -> None:
    assert waxwing.__version__ == "0.1.0"
    assert CliRunner().invoke(app, ["--version"]).output == "waxwing 0.1.0\n"
