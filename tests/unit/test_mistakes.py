"""What users do wrong outside of settings: told in one sentence, with the place."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import waxwing
from waxwing.cli.app import app
from waxwing.cli.flows import demand, import_string
from waxwing.errors import ConfigError
from waxwing.mistakes import in_flow


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


def test_a_module_beside_is_found_as_well_as_one_in_dataflows(folder: Path) -> None:
    (folder / "payments_beside.py").write_text("")
    assert import_string("payments_beside") == "payments_beside"
    demand("payments_beside")
    assert import_string("orders") == "dataflows.orders"
    assert import_string("payments_beside:flow") == "payments_beside:flow"
    with pytest.raises(ConfigError, match=r"no module dataflows\.payments_nowhere"):
        demand("payments_nowhere")


def test_the_version_is_told() -> None:
    assert waxwing.__version__ == "0.1.0"
    assert CliRunner().invoke(app, ["--version"]).output == "waxwing 0.1.0\n"
