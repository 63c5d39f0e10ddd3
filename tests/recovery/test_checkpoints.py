"""Prune, recover and verify a checkpoint of every family that has a loss, and the built-in models."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from idvl.models.loading import Loaded, load
from idvl.recipe import load as load_recipe
from idvl.recovery import train
from idvl.sparsity.masks import Masks
from idvl.training.batches import Collate
from idvl.workflows import prune, recover, verify
from tests.coverage import data
from tests.coverage.architectures import architectures, build
from tests.support.reporter import Silent

FAST = ("blip2_t5",)
# one of each family, and of each task within it
KINDS = {
    "blip": ("blip_caption", "blip_vqa", "blip_itm"),
    "blip2": ("blip2_opt", "blip2_t5", "blip2_itm", "instructblip_vicuna"),
    "vilt": ("vilt_vqa", "vilt_itm", "vilt_nlvr2"),
    "fused": ("bridgetower", "llava", "paligemma", "smolvlm", "internvl", "qwen2_vl", "lfm2_vl", "git", "florence2"),
    "writes": ("pix2struct", "vit_gpt2"),
    "alone": ("clip", "siglip", "flava", "vit", "bert", "gpt2", "t5"),
}
# their losses have no softmax to distill
SIGMOIDS = ("vilt_vqa", "siglip")
TABLES = {"classification": "classes", "reasoning": "pairs", "vqa": "questions"}
ONE_SHOT = {"prune.criterion": "magnitude", "prune.schedule": "one-shot", "prune.initial": 0, "prune.final": 0}
STEPS = {"train.batch_size": 4, "eval.after": False}


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recover") / "data"
    data.write(folder)
    return folder


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in FAST else pytest.mark.slow)
        for kind in ("builtin/blip", "builtin/vit", *chain(*KINDS.values()))
    ],
)
def test_zeros_and_outputs_are_kept(kind: str, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked LoRA that learns from the dense model, for two steps."""
    torch.set_num_threads(1)
    model, settings = kind, {"train.samples": 16}
    if not kind.startswith("builtin/"):
        model = str(build(kind, tmp_path / "dense"))
        task = architectures()[kind].task or ""
        settings = {"data.dataset": str(tables / f"few_{TABLES.get(task, 'captions')}")}
    outputs: dict[str, Any] = {}
    monkeypatch.setattr(recover, "recover", _spy(outputs, recover.recover))
    options = {"reporter": Silent()}
    settings |= STEPS
    pruned = {"model.name": model, "prune.id_weight": "none", "train.max_steps": 1} | ONE_SHOT | settings
    prune.run(load_recipe(None, pruned), folder=tmp_path / "pruned", **options)
    recovered = {"model.name": str(tmp_path / "pruned"), "recover.rank": 2, "train.max_steps": 2} | settings
    recovered |= {"train.learning_rate": 1e-2, "train.distill": 0.0 if kind in SIGMOIDS else 0.1}
    recover.run(load_recipe(None, recovered), folder=tmp_path / "recovered", **options)

    before, after = (load(str(tmp_path / run / "model"), device="cpu") for run in ("pruned", "recovered"))
    masks = Masks.load(tmp_path / "recovered" / "masks.safetensors")
    changed = 0
    for name in masks.shapes:
        old, new = (loaded.model.get_submodule(name).weight for loaded in (before, after))
        assert torch.equal(new == 0, ~masks.kept(name)), name
        changed += not torch.equal(old, new)
    assert changed
    torch.testing.assert_close(outputs["merged"], outputs["unmerged"], rtol=1e-5, atol=1e-5)
    assert torch.equal(_outputs(after, outputs["batch"]), outputs["stored"])
    assert not torch.equal(_outputs(before, outputs["batch"]), outputs["stored"])
    assert verify.run(str(tmp_path / "recovered"), base=model, **options).defects == []


def _spy(outputs: dict[str, Any], run: Any) -> Any:
    """The recovery, which puts down a batch, and what the model makes of it at each stage."""
    merge = train.merge_lora

    def spy(job: Any, *arguments: Any, **named: Any) -> None:
        loaded = job.loaded
        outputs["batch"] = Collate(loaded.family, loaded.processor, loaded.model.config)(job.selection.samples[:4])

        def merging(model: Any) -> None:
            outputs["unmerged"] = _outputs(loaded, outputs["batch"])
            merge(model)
            outputs["merged"] = _outputs(loaded, outputs["batch"])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "merge_lora", merging)
            run(job, *arguments, **named)
        # the built-in models are stored in bfloat16
        stored = getattr(torch, loaded.description["stored_dtype"])
        for weight in loaded.model.parameters():
            weight.data = weight.data.to(stored).float()
        outputs["stored"] = _outputs(loaded, outputs["batch"])

    return spy


@torch.no_grad()
def _outputs(loaded: Loaded, batch: dict[str, Tensor]) -> Tensor:
    """The logits that the loss compares; the loss where there are none."""
    # torch's attention computes other last bits where its weights are frozen
    loaded.model.requires_grad_(False)
    total, _, logits = loaded.family.training_task.loss(loaded.model, batch, None)
    return total.reshape(1) if logits is None else logits()
