"""Two processes prune what one would prune: at the first update the same weights, after 15 steps almost the same."""

from pathlib import Path

import pytest

from idvl.sparsity.masks import Masks
from tests.support import processes, tiny
from tests.support.twins import CRITERIA

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    tiny.save("blip", folder / "blip")
    for size in (1, 2):
        ended = processes.team("-m", "tests.support.twins", folder, size=size)
        assert all(process.wait() == 0 for process in ended), ended[0].stderr
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
