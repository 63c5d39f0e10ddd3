"""A pruned block is trained towards the dense one: nearer to it, never farther, and within its mask."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from idvl.pruning.reconstruct import BlockError, reconstruct

BATCHES, SAMPLES, TOKENS, WIDTH = 3, 4, 5, 8


class Block(nn.Module):
    """Two linear maps with a residual; it returns its states and something else, as blocks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.down(torch.relu(self.up(self.norm(x)))), None


class Pruned:
    """A dense block, its error, and then half of its weights gone."""

    def __init__(self, classes=lambda batch, output: [None], dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.block = Block().to(dtype)
        self.inputs = [torch.randn(SAMPLES, TOKENS, WIDTH).to(dtype) for _ in range(BATCHES)]
        self.dense = copy.deepcopy(self.block)
        self.error = BlockError([partial(self.block, x) for x in self.inputs], classes)
        self.weights = {"up": self.block.up.weight, "down": self.block.down.weight}
        self.kept = {name: torch.rand_like(weight) > 0.5 for name, weight in self.weights.items()}
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.mul_(self.kept[name])

    def by_definition(self) -> float:
        """The error in float64."""
        block, dense = copy.deepcopy(self.block).double(), copy.deepcopy(self.dense).double()
        with torch.no_grad():
            pairs = [(block(x.double())[0], dense(x.double())[0]) for x in self.inputs]
        return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs))


def test_the_error_is_relative_to_the_dense_output() -> None:
    pruned = Pruned()
    assert pruned.error.total() == pytest.approx(pruned.by_definition(), rel=1e-5)


def test_training_lowers_the_error_within_the_mask_and_moves_nothing_else() -> None:
    pruned = Pruned()
    others = {name: value.clone() for name, value in pruned.block.named_parameters() if name[-4:] == "bias"}
    before, after = reconstruct(pruned.error, pruned.weights, pruned.kept, epochs=20)
    assert after < 0.5 * before
    assert after == pytest.approx(pruned.by_definition(), rel=1e-4)
    for name, weight in pruned.weights.items():
        assert not weight[~pruned.kept[name]].any()
    for name, value in others.items():
        assert torch.equal(value, dict(pruned.block.named_parameters())[name])
    assert all(parameter.grad is None for parameter in pruned.block.parameters())


def test_the_best_state_is_kept_where_training_makes_it_worse(monkeypatch) -> None:
    monkeypatch.setattr("idvl.pruning.reconstruct.LEARNING_RATE", 100.0)
    pruned = Pruned()
    start = {name: weight.detach().clone() for name, weight in pruned.weights.items()}
    before, after = reconstruct(pruned.error, pruned.weights, pruned.kept, epochs=2)
    assert after == before == pytest.approx(pruned.by_definition(), rel=1e-5)
    assert all(torch.equal(weight, start[name]) for name, weight in pruned.weights.items())


def test_classes_of_tokens_count_alike_and_padding_not_at_all() -> None:
    image = torch.zeros(SAMPLES, TOKENS, dtype=torch.bool)
    image[:, :3] = True
    text = torch.zeros_like(image)
    text[:, 3] = True  # the last token is padding
    pruned = Pruned(lambda batch, output: [image, text])
    with torch.no_grad():
        pairs = [(pruned.block(x)[0], pruned.dense(x)[0]) for x in pruned.inputs]
    errors = [
        sum((a - b)[mask].square().sum() for a, b in pairs) / sum(b[mask].square().sum() for _, b in pairs)
        for mask in (image, text)
    ]
    assert pruned.error.total() == pytest.approx(float(sum(errors)) / 2, rel=1e-5)


def test_a_bfloat16_block_learns_from_float32_masters() -> None:
    pruned = Pruned(dtype=torch.bfloat16)
    before, after = reconstruct(pruned.error, pruned.weights, pruned.kept, epochs=10)
    assert after < 0.7 * before and pruned.weights["up"].dtype == torch.bfloat16
