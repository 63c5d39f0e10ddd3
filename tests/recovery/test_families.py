"""Masked LoRA on a tiny model of every family that idvl trains: it starts as the pruned model and merges exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.recovery.adapters import attach_lora, merge_lora
from idvl.recovery.masked_lora import MaskedLoRA
from idvl.sparsity.masks import Masks
from idvl.training.batches import Collate
from tests.support import tiny

TRAINED = ["blip", "blip-vqa", "clip", "vit", "siglip", "vilt", "git", "gpt2", "t5", "llava", "blip2", "flava"]


@pytest.mark.parametrize("kind", TRAINED)
def test_the_update_starts_at_zero_and_merges_exactly(kind: str, tmp_path: Path) -> None:
    loaded = load(str(tiny.save(kind, tmp_path / kind)), device="cpu")
    task, model = loaded.family.training_task, loaded.model
    # torch's MultiheadAttention, SigLIP's head, computes other last bits where its weights are frozen
    model.requires_grad_(False)
    if kind == "vilt":
        model.config.label2id = {"two": 0}
    samples = [replace(sample, answers=("two",), label=i) for i, sample in enumerate(tiny.samples(3))]
    batch = Collate(loaded.family, loaded.processor, model.config)(samples)
    layers = find_layers(model, loaded.family)
    masks = Masks({name: layer.module.weight.shape for name, layer in layers.items()})
    for name, shape in masks.shapes.items():
        masks.set(name, torch.rand(shape) > 0.5)
    masks.enforce_({name: layer.module.weight for name, layer in layers.items()})

    def total() -> float:
        with torch.no_grad():
            return task.loss(model, batch, None).total.item()

    pruned, tied = total(), [name for name, _ in model.named_parameters()]
    adapters = attach_lora(model, masks, rank=2)
    assert total() == pruned
    for adapter in adapters:
        nn.init.normal_(adapter.lora_b, std=0.01)
    trained = total()
    task.loss(model, batch, None).total.backward()
    assert any(adapter.lora_a.grad is not None and adapter.lora_a.grad.any() for adapter in adapters)
    assert trained != pruned
    merge_lora(model)
    assert total() == pytest.approx(trained, rel=1e-6)
    assert not any(isinstance(module, MaskedLoRA) for module in model.modules())
    assert [name for name, _ in model.named_parameters()] == tied
    masks.verify({name: layer.module.weight for name, layer in layers.items()})
