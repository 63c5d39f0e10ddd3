"""Processes that were launched together find each other, and end."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from idvl.distributed import waiting
from idvl.errors import UsageError
from tests.support import processes

PROGRAM = """
import atexit, os
from pathlib import Path

def gloo():
    return [name for name in (path.read_text() for path in Path("/proc/self/task").glob("*/comm")) if "gloo" in name]

atexit.register(lambda: print(gloo()))  # called after those that are registered later
from idvl.distributed import join_team

device, team = join_team("cpu")
import transformers.models.blip.modeling_blip

assert team.counts(team.rank) == [0, 1] and gloo()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_thread_of_the_team_outlives_it():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", PROGRAM]
    processes = [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    assert [process.communicate()[0] for process in processes] == ["[]\n", "[]\n"]
    assert [process.returncode for process in processes] == [0, 0]


@pytest.mark.parametrize("said", ["soon", "0", "nan", "1e9"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(monkeypatch, said):
    monkeypatch.setenv("IDVL_TIMEOUT", said)
    with pytest.raises(UsageError, match=f"IDVL_TIMEOUT takes seconds, above 0 and at most 43200, not '{said}'"):
        waiting()


ALONE = """
from datetime import timedelta
from idvl import distributed as launch

launch.MEETING = timedelta(seconds=1)
try:
    launch.join_team("cpu")
except launch.UsageError as error:
    print(error)
"""


def test_fewer_processes_than_were_said_are_told_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **place, "ACCELERATE_USE_CPU": "true"}
    done = processes.run("-c", ALONE, env=environment)
    assert done.stdout.startswith("2 processes were launched, but not all came within 1 s: use `")
    assert done.stdout.count("\n") == 1
