"""Work in a process of its own: what it returns, how it fails, and that it ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idvl.sweep import worker
from idvl.sweep.worker import Failed, isolated
from tests.support import isolated_work
from tests.support.reporter import Silent

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def light(monkeypatch):
    monkeypatch.setattr(worker, "PRELOADED", [])


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_work_returns_from_another_process_and_warns_by_name(capfd):
    reporter = Silent()
    found = isolated(isolated_work.tell, 7, reporter=reporter, name="cell")
    assert found["value"] == 7 and found["pid"] != os.getpid()
    assert (reporter.warnings, reporter.notes) == (["cell: heard"], [])
    out, err = capfd.readouterr()
    assert out == "" and "what a library prints" in err


@pytest.mark.parametrize(
    ("kind", "reason", "lasting"),
    [
        ("usage", "no good", True),
        ("other", "ValueError: no good", False),
        ("killed", "the process ended with signal 9, as systems do when memory is short", False),
    ],
)
def test_a_failure_is_one_line_and_harms_nobody(kind, reason, lasting):
    with pytest.raises(Failed) as failure:
        isolated(isolated_work.fail, kind, reporter=Silent(), name="cell")
    assert (str(failure.value), failure.value.lasting) == (reason, lasting)
    assert kind == "killed" or "isolated_work.py" in failure.value.trace


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_work_is_asked_to_end_when_its_parent_ends(tmp_path, number):
    said = tmp_path / "said"
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.support.isolated_work", str(said)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    until(lambda: said.exists() and said.read_text())
    pid = int(said.read_text())
    parent.send_signal(number)
    parent.wait(30)
    until(lambda: said.read_text() == "asked to end")
    until(lambda: not Path(f"/proc/{pid}").exists() or "State:\tZ" in Path(f"/proc/{pid}/status").read_text())
