"""Verification finds every way in which a saved model can be wrong, and names the layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from idvl.checkpoints.verify import verify
from idvl.errors import RunError
from tests.support.pruned import Pruned

LAYER = "vision_model.encoder.layers.1.mlp.fc2"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pruned, Path]:
    root = tmp_path_factory.mktemp("saved")
    pruned = Pruned("blip", root)
    pruned.save(root / "run" / "model")
    return pruned, root / "run" / "model"


@pytest.fixture
def spoil(saved: tuple[Pruned, Path], tmp_path: Path) -> Callable[[Callable[[dict[str, Tensor]], None]], Path]:
    """change -> a copy of the saved folder whose tensors `change` has altered."""

    def spoiled(change: Callable[[dict[str, Tensor]], None]) -> Path:
        folder = shutil.copytree(saved[1], tmp_path / "model")
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return spoiled


def refusal(pruned: Pruned, folder: Path, **options: object) -> str:
    with pytest.raises(RunError) as refused:
        verify(folder, pruned.masks, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_right_passes(saved: tuple[Pruned, Path]) -> None:
    pruned, folder = saved
    verdict = verify(folder, pruned.masks, report=pruned.report, state=pruned.model.state_dict())
    assert (verdict.layers, verdict.weights) == (len(pruned.layers), pruned.masks.total)
    assert verdict.zeros == sum(int((~pruned.masks.kept(name)).sum()) for name in pruned.layers)
    assert verdict.tensors == len(pruned.model.state_dict())


def test_a_pruned_weight_that_came_back(saved, spoil) -> None:
    pruned, _ = saved
    place = tuple((~pruned.masks.kept(LAYER)).nonzero()[0])
    folder = spoil(lambda tensors: tensors[f"{LAYER}.weight"].__setitem__(place, 1e-30))
    assert refusal(pruned, folder) == f"1 masked weights of {LAYER} are not zero"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinities(saved, spoil, value: float) -> None:
    name = "vision_model.post_layernorm.bias"
    folder = spoil(lambda tensors: tensors[name].__setitem__(3, value))
    assert refusal(saved[0], folder) == f"{name}: 1 of 32 saved values are NaN or infinite"


@pytest.mark.parametrize("name", [f"{LAYER}.bias", "vision_model.post_layernorm.bias"])
def test_a_tensor_that_is_missing(saved, spoil, name: str) -> None:
    folder = spoil(lambda tensors: tensors.pop(name))
    assert name in refusal(saved[0], folder)


def test_tied_weights_that_came_apart(saved, spoil) -> None:
    pruned, _ = saved
    target, source = next(iter(pruned.model.get_expanded_tied_weights_keys(all_submodels=True).items()))

    def untie(tensors: dict[str, Tensor]) -> None:
        tied = tensors[target if target in tensors else source]
        tensors[target], tensors[source] = tied.clone(), tied + 1

    folder = spoil(untie)
    for options in ({}, {"state": pruned.model.state_dict()}):
        told = refusal(pruned, folder, **options)
        assert target in told and source in told and "are one weight, and two in the saved model" in told


def test_a_kept_weight_that_differs_from_memory(saved, spoil) -> None:
    pruned, _ = saved
    folder = spoil(lambda tensors: tensors["vision_model.post_layernorm.bias"].__setitem__(0, 0.125))
    verify(folder, pruned.masks)
    told = refusal(pruned, folder, state=pruned.model.state_dict())
    assert told == "vision_model.post_layernorm.bias is not in the saved model what it was in memory"


def test_a_report_of_other_numbers(saved) -> None:
    pruned, folder = saved
    report = json.loads(json.dumps(pruned.report))
    report["layers"][LAYER]["zeros"] += 1
    n = pruned.masks.zeros[LAYER]
    assert refusal(pruned, folder, report=report) == f"{LAYER}: {n} weights are masked, the report says {n + 1}"


def test_a_report_of_more_zero_biases(saved) -> None:
    pruned, folder = saved
    report = json.loads(json.dumps(pruned.report))
    zeros = int((pruned.model.get_submodule(LAYER).bias == 0).sum())
    report["layers"][LAYER]["bias_zeros"] = zeros
    assert verify(folder, pruned.masks, report=report)
    report["layers"][LAYER]["bias_zeros"] = zeros + 1
    assert refusal(pruned, folder, report=report) == f"{LAYER}: {zeros} biases are zero, the report says {zeros + 1}"


def test_a_folder_that_does_not_open(saved, tmp_path: Path) -> None:
    assert "the saved model does not open: " in refusal(saved[0], tmp_path)


def test_masks_of_another_model(saved, tmp_path: Path) -> None:
    _, folder = saved
    other = Pruned("vit", tmp_path)
    assert "the saved model has no layer " in refusal(other, folder)
    wider = {name: (*shape[:-1], shape[-1] * 2) for name, shape in saved[0].masks.shapes.items()}
    other.masks = type(other.masks)(wider)
    assert "the model has (96, 32)" in refusal(other, folder)


def test_what_is_zero_without_a_mask_is_counted(saved, spoil) -> None:
    pruned, _ = saved
    place = tuple(pruned.masks.kept(LAYER).nonzero()[0])
    folder = spoil(lambda tensors: tensors[f"{LAYER}.weight"].__setitem__(place, 0.0))
    assert verify(folder, pruned.masks).other_zeros == 1
