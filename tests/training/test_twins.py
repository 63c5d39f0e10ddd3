"""Two processes prune what one would prune: at the first update the same weights, after 30 steps almost the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from idvl.sparsity.masks import Masks
from tests import tiny
from tests.training.twins import CRITERIA

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    tiny.save("blip", folder / "blip")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    pair = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    for launcher in ([], pair):
        command = [sys.executable, *launcher, "-m", "tests.training.twins", str(folder)]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=200)
    return folder


@pytest.mark.parametrize("criterion", CRITERIA)
def test_two_processes_prune_what_one_prunes(folder, criterion):
    first, last = (
        [Masks.load(folder / f"{criterion}-{processes}-{when}.safetensors") for processes in (1, 2)]
        for when in ("first", "last")
    )
    assert 0 < sum(first[0].zeros.values()) < sum(last[0].zeros.values()) == round(0.8 * last[0].total)
    assert first[0].hash() == first[1].hash()
    equal = sum(int((last[0].kept(name) == last[1].kept(name)).sum()) for name in last[0].shapes)
    assert equal / last[0].total >= 0.995
