"""Every example runs, and prunes as much as it says."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
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
    model, masks, loss = main("recover_trainer.py", steps=40, folder=str(tmp_path))
    assert loss < 0.6 and type(model.get_submodule(next(iter(masks.shapes)))) is nn.Linear


def test_tuxpaint(tmp_path: Path) -> None:
    stamps = tmp_path / "stamps" / "animals"
    stamps.mkdir(parents=True)
    for name in ("frog", "frog_mirror", "silent", "blank"):
        Image.new("RGBA", (8, 6), (0, 255, 0, 0 if name == "frog" else 255)).save(stamps / f"{name}.png")
    for name, text in (("frog", "A frog.\nfr.utf8=Une grenouille."), ("frog_mirror", "A frog."), ("blank", "\n")):
        (stamps / f"{name}.txt").write_text(text)
    assert main("tuxpaint.py", folder=tmp_path / "data", stamps=stamps.parent) == 1
    rows = [json.loads(line) for line in (tmp_path / "data" / "metadata.jsonl").read_text().splitlines()]
    assert rows == [{"file_name": "animals-frog.png", "text": "A frog."}]
    assert Image.open(tmp_path / "data" / "animals-frog.png").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(SystemExit, match="no captioned stamps"):
        main("tuxpaint.py", folder=tmp_path / "none", stamps=tmp_path / "empty")
    assert not (tmp_path / "none").exists()
