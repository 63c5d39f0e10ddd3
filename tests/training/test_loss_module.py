"""Distillation beside a loss: over target tokens, as a mean, or as SparseLoRA's code weighs it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from idvl.models.families.base import TrainingTask
from idvl.models.labels import IGNORED
from idvl.models.losses import over_labels
from idvl.training.loss_module import LossModule


class Rows(nn.Module):
    """Logits that are looked up: (batch, tokens, classes)."""

    def __init__(self, seed: int):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(30, 5, generator=torch.Generator().manual_seed(seed)))


def loss(model, inputs, gather):
    return over_labels(model.logits[inputs["tokens"]], inputs["labels"])


def batch(padding: int) -> dict[str, torch.Tensor]:
    tokens = torch.arange(3 * 6).view(3, 6)
    labels = torch.randint(0, 5, (3, 6), generator=torch.Generator().manual_seed(2))
    labels[0, 4:] = IGNORED
    more = torch.full((3, padding), IGNORED)
    return {"tokens": torch.cat([tokens, torch.full((3, padding), 29)], 1), "labels": torch.cat([labels, more], 1)}


@pytest.mark.parametrize("compat", ["none", "ressa"])
def test_it_is_the_formula_and_knows_no_padding(compat):
    student, teacher = Rows(0), Rows(1)
    options = {"teacher": lambda: nullcontext(teacher), "distill": 0.3, "temperature": 2.0, "compat": compat}
    module = LossModule(student, TrainingTask(loss=loss, inputs=None), **options)
    inputs = batch(0)
    total = module(inputs)
    torch.testing.assert_close(module(batch(7)), total, rtol=1e-6, atol=0)
    real = inputs["labels"] != IGNORED
    p, q = ((model.logits[inputs["tokens"][real]] / 2).log_softmax(-1) for model in (teacher, student))
    kl = (p.exp() * (p - q)).sum()
    task = loss(student, inputs, None).total
    count, samples = 16, 3
    expected = task + 0.3 * 4 * kl if compat == "none" else 0.7 * task + 0.3 * count * kl / samples
    torch.testing.assert_close(total, expected)
    total.backward()
    assert teacher.logits.grad is None
