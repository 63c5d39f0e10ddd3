"""Several processes share rows and sums as one process would hold them."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from idvl import distributed as processes
from idvl.distributed import Team
from idvl.errors import RunError, UsageError
from tests.support import processes as forked

COUNTS = [3, 2, 4]


def rows():
    return torch.arange(sum(COUNTS) * 7, dtype=torch.float32).view(-1, 7)


def _refuse(rank):
    raise UsageError(f"refused by {rank}")


def _work(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    team = Team(rank, 3)
    start = sum(COUNTS[:rank])
    local = rows()[start : start + COUNTS[rank]]
    assert team.counts(len(local)) == COUNTS
    mine = team.share(local, COUNTS)
    total = team.reduce(mine.double() @ mine.double().T)
    expected = rows().double() @ rows().double().T
    assert torch.equal(total, expected)
    # fewer columns than processes: some get none, and nothing breaks
    narrow = team.share(local[:, :1], COUNTS)
    assert narrow.shape[0] == sum(COUNTS)
    assert torch.equal(team.reduce(narrow.sum(1)), rows()[:, 0])
    assert team.first(lambda: {"rank": rank}) == {"rank": 0}
    with pytest.raises(UsageError, match="by 0"):
        team.first(lambda: _refuse(rank))
    assert team.each(lambda: rank) == rank
    with pytest.raises(UsageError, match="by 2"):
        team.each(lambda: _refuse(rank) if rank == 2 else None)
    with pytest.raises(
        KeyError if rank == 1 else RunError, match="here" if rank == 1 else "process 1: KeyError: 'here'"
    ):
        team.each(lambda: {}["here"] if rank == 1 else None)
    assert list(team.part(10)) == [list(range(3)), list(range(3, 6)), list(range(6, 10))][rank]
    dist.destroy_process_group()


def test_three_processes_hold_what_one_would(tmp_path):
    work = "import os, sys\nfrom tests.test_distributed import _work\n_work(int(os.environ['RANK']), sys.argv[1])"
    for process in forked.team("-c", work, tmp_path, size=3):
        assert process.wait() == 0, process.stderr


def test_alone_everything_is_the_identity():
    team = Team()
    assert team.share(rows(), [9]) is not None and torch.equal(team.share(rows(), [9]), rows())
    assert team.counts(5) == [5]
    assert list(team.part(4)) == [0, 1, 2, 3]
    assert team.first(lambda: "x") == team.each(lambda: "x") == "x"


def test_a_broken_exchange_tells_what_broke_it(monkeypatch):
    def wait(seconds):
        if seconds != processes.ALONE:
            raise RuntimeError("the connection is gone")

    monkeypatch.setattr(processes, "wait", wait)
    with pytest.raises(RuntimeError, match="reset by peer"), processes.patient():
        raise RuntimeError("Connection reset by peer")


LEFT = """
import os, sys
import idvl.__main__ as process

def exchange():
    import torch
    import torch.distributed as dist
    dist.init_process_group("gloo", init_method="env://")
    if dist.get_rank() == 0:
        os.kill(os.getpid(), 9)
    for broken in (lambda: dist.all_reduce(torch.ones(1)), dist.new_group):  # the exchange, and the store
        try:
            broken()
        except RuntimeError:
            print("broken", file=sys.stderr)
    return 0

process._run = exchange
process.main()
"""


@pytest.mark.slow
def test_torch_prints_no_frames_where_the_first_process_is_killed():
    """In processes that import torch themselves, which reads the level of its log then."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", LEFT]
    started = [
        subprocess.Popen(command, env={**os.environ, **place, "RANK": rank}, stderr=subprocess.PIPE) for rank in "01"
    ]
    (_, _), (_, said) = (process.communicate(timeout=60) for process in started)
    assert said.split() == [b"broken"] * 2 and started[1].returncode == 0
