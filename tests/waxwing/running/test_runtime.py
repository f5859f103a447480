"""What the running process makes of Bytewax's errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from waxwing import log, runtime
from waxwing.running.panics import peer_is_gone
from waxwing.running.state import current


@pytest.mark.parametrize(
    "text",  # as seen when a process of a mesh was killed
    [
        "timely communication error: reading data: socket closed",
        (
            "(src/run.rs:292:17) panicked at /x/timely-dataflow-4c0cc365061cd263/432ef57/communication/src/allocator/zero_copy/"
            "bytes_exchange.rs:55:48:\nMergeQueue poisoned. ()"
        ),
    ],
)
def test_a_process_of_the_mesh_that_is_gone_is_known_by_what_bytewax_says(text: str) -> None:
    assert peer_is_gone(RuntimeError(text))


def test_an_error_of_a_step_is_no_process_that_is_gone() -> None:
    assert not peer_is_gone(RuntimeError("(src/operators.rs:240:32) error calling `flat_map_batch` mapper in step orders.parse"))


@pytest.mark.parametrize(("command", "code"), [(["-m", "waxwing", "run", "slow"], 0), (["slow.py"], -signal.SIGTERM)])
def test_a_run_that_is_asked_to_stop_while_it_imports_has_nothing_to_finish(
    command: list[str], code: int, tmp_path: Path
) -> None:
    tmp_path.joinpath("slow.py").write_text("import waxwing, time\nprint('imported', flush=True)\ntime.sleep(60)\n")
    path = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}"}
    with subprocess.Popen([sys.executable, *command], cwd=tmp_path, env=path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"imported\n"
        process.terminate()
        assert process.wait(180) == code


def test_all_who_may_know_better_are_asked_though_each_takes_itself_out() -> None:
    asked = []

    class Knows:
        def better(self, error: BaseException) -> BaseException:
            runtime.no_longer(self.better)
            asked.append(self)
            return ValueError("better") if len(asked) == 1 else error

    both = [Knows(), Knows()]
    for one in both:
        runtime.before_failing(one.better)
    assert str(current().better(KeyError("first"))) == "better"
    assert asked == both


def test_what_is_said_can_be_encoded_whatever_a_record_holds(caplog: pytest.LogCaptureFixture) -> None:
    log.warning("odd", "a lone surrogate: \ud800", key="\udfff")
    record = caplog.records[-1]
    assert record.getMessage() == "a lone surrogate: \\ud800"
    assert vars(record)["fields"] == {"key": "\\udfff"}
