"""Every example runs, and prunes as much as it says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

EXAMPLES = Path(__file__).parents[1] / "examples"


def main(name: str, **arguments: object) -> tuple:
    return runpy.run_path(str(EXAMPLES / name))["main"](**arguments)


def test_own_loop() -> None:
    report, masks, _ = main("own_loop.py", steps=40)
    assert list(report["layers"]) == list(masks.shapes) == ["0", "2"]
    assert report["total"]["zeros"] == round(0.8 * (2 * 64 + 64 * 64)) == sum(masks.zeros.values())


def test_own_criterion() -> None:
    model, report, masks = main("own_criterion.py", steps=40)
    assert report["total"]["zeros"] == round(0.7 * 8 * 32)
    assert isinstance(model, nn.Sequential) and ((model[0].weight == 0) >= ~masks.kept("0")).all()


def test_trainer(tmp_path: Path) -> None:
    report, _ = main("trainer.py", steps=10, folder=str(tmp_path))
    assert report["total"]["sparsity"] == pytest.approx(0.5, abs=1e-4) and len(report["layers"]) == 12
    assert set(report["modalities"]) == {"vision"}


def test_recover_loop() -> None:
    model, masks, pruned, recovered = main("recover_loop.py", steps=200)
    assert recovered > pruned + 0.1
    assert all(torch.equal(model.get_submodule(name).weight != 0, masks.kept(name)) for name in masks.shapes)


def test_recover_trainer(tmp_path: Path) -> None:
    model, masks, loss = main("recover_trainer.py", steps=10, folder=str(tmp_path))
    assert loss < 0.7 and type(model.get_submodule(next(iter(masks.shapes)))) is nn.Linear
