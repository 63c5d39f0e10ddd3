"""Layers that a loss does not reach are those that get no gradient."""

from __future__ import annotations

import pytest
import torch

from idvl.models.layers import find_layers
from idvl.models.loading import wrap
from idvl.training.reach import unreached
from tests.coverage.architectures import architectures
from tests.support import tiny

# the features of LLaVA's picture are those of its last block but one; FLAVA's loss is that of its towers
UNREACHED = {"llava": "vision_tower", "flava": "multimodal_model", "clip": None, "janus": "generation_aligner"}


@pytest.mark.parametrize("name", UNREACHED)
def test_unreached_layers_get_no_gradient(name):
    torch.manual_seed(0)
    loaded = wrap(*architectures()[name].make())
    samples, layers = tiny.samples(2), find_layers(loaded.model, loaded.family)
    found = unreached(loaded, samples, layers)
    assert not loaded.model.training and all(weight.grad is None for weight in loaded.model.parameters())
    task, length = loaded.family.training_task, loaded.family.text_length(loaded.processor, samples)
    task.loss(loaded.model, task.inputs(loaded.processor, samples, length, loaded.model.config), None).total.backward()
    assert found == [name for name, layer in layers.items() if layer.module.weight.grad is None]
    assert bool(found) == (UNREACHED[name] is not None)
    assert all(UNREACHED[name] in each or "_to_mm_" in each for each in found)
