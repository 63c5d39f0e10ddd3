"""Masked LoRA: the pruned layer to begin with, exact gradients, and zeros that nothing fills."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from idvl.errors import RunError, UsageError
from idvl.recovery import masked_lora
from idvl.recovery.adapters import attach_lora, merge_lora
from idvl.recovery.masked_lora import MaskedLoRA
from idvl.sparsity.masks import Masks


def pruned(n_in: int = 24, n_out: int = 40, kind: str = "linear", dtype: torch.dtype = torch.float32):
    """A layer with half of its weights zero, and its mask."""
    torch.manual_seed(0)
    layer = nn.Linear(n_in, n_out) if kind == "linear" else Conv1D(n_out, n_in)
    layer = layer.to(dtype)
    nn.init.normal_(layer.bias)
    kept = torch.rand(layer.weight.shape) > 0.5
    layer.weight.data.masked_fill_(~kept, 0)
    return layer, kept


def trained(layer: nn.Module, kept: torch.Tensor | None, rank: int = 4) -> MaskedLoRA:
    """Masked LoRA somewhere on its way."""
    generator = torch.Generator().manual_seed(1)
    lora = MaskedLoRA(layer, kept, rank=rank, generator=generator)
    nn.init.normal_(lora.lora_b, generator=generator)
    return lora


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("precision", ["float32", "autocast"])
def test_it_begins_as_the_pruned_layer_bit_by_bit(kind, precision):
    layer, kept = pruned(kind=kind)
    x = torch.randn(3, 7, 24)
    with torch.autocast("cpu", enabled=precision == "autocast"):
        expected = layer(x)
        y = MaskedLoRA(layer, kept, rank=4)(x)
    assert y.dtype == expected.dtype and torch.equal(y, expected)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("tile", [8, 16, 256])
def test_gradients_are_those_of_the_formula(kind, tile, monkeypatch):
    monkeypatch.setattr(masked_lora, "TILE", tile)
    layer, kept = pruned(kind=kind, dtype=torch.float64)
    lora = trained(layer, kept)
    lora.bias.requires_grad_(True)
    x = torch.randn(2, 3, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: lora(x), (x, lora.bias, lora.lora_a, lora.lora_b))


def test_tiles_change_gradients_by_rounding_alone(monkeypatch):
    layer, kept = pruned()
    gradients = []
    for tile in (8, 256):
        monkeypatch.setattr(masked_lora, "TILE", tile)
        lora, x = trained(layer, kept), torch.ones(5, 24, requires_grad=True)
        lora(x).square().sum().backward()
        gradients.append((x.grad, lora.lora_a.grad, lora.lora_b.grad))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_autocast_keeps_gradients_near_those_of_float32():
    layer, kept = pruned(256, 128)
    gradients = []
    for enabled in (False, True):
        lora, x = trained(layer, kept), torch.randn(64, 256, generator=torch.Generator().manual_seed(2))
        x.requires_grad_(True)
        with torch.autocast("cpu", enabled=enabled):
            y = lora(x)
        y.float().square().mean().backward()
        gradients.append((x.grad, lora.lora_a.grad, lora.lora_b.grad))
    for exact, half in zip(*gradients, strict=True):
        assert half.dtype == torch.float32 and (half - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("poison", [float("inf"), float("nan"), 1e38])
def test_pruned_weights_stay_zero_whatever_the_product_holds(poison):
    layer, kept = pruned()
    kept[0] = False
    layer.weight.data[0] = 0
    lora = trained(layer, kept)
    lora.lora_b.data[0] = poison
    x = torch.randn(5, 24)
    y = lora(x)
    assert torch.equal(y[:, 0], layer.bias[0].expand(5)) and y.isfinite().all()
    y.sum().backward()
    assert lora.lora_b.grad[0].eq(0).all()
    lora.merge()
    assert torch.equal(layer.weight != 0, kept)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_the_merged_layer_computes_the_same(kind):
    layer, kept = pruned(kind=kind)
    model, masks = nn.Sequential(layer), Masks({"0": layer.weight.shape})
    masks.set("0", kept)
    attach_lora(model, masks, rank={"0": 4})
    nn.init.normal_(model[0].lora_b)
    x, before = torch.randn(5, 24), layer.weight.clone()
    expected = model(x)
    assert torch.equal(layer.weight, before)
    assert merge_lora(model)[0] is layer
    assert torch.equal(model(x), expected) and not torch.equal(layer.weight, before)
    masks.verify({"0": layer.weight})


def test_layers_that_share_a_weight_share_the_update():
    layer, kept = pruned(16, 16)
    twin = nn.Linear(16, 16)
    twin.weight = layer.weight
    # the first module stands in two places
    model, masks = nn.Sequential(layer, twin, layer), Masks({"0": (16, 16)})
    masks.set("0", kept)
    adapters = attach_lora(model, masks, rank={"0": 2})
    assert model[0] is model[2] and len(adapters) == 2
    assert [name for name, weight in model.named_parameters() if weight.requires_grad] == ["0.lora_a", "0.lora_b"]
    nn.init.normal_(model[0].lora_b)
    x = torch.randn(3, 16)
    expected = model(x)
    merge_lora(model)
    assert model[0].weight is model[1].weight and torch.equal(model(x), expected)
    assert torch.equal(layer.weight != 0, kept)


def test_a_dense_weight_is_masked_on_the_way_and_is_its_own_teacher():
    dense, kept = pruned()
    nn.init.normal_(dense.weight)
    sparse = copy.deepcopy(dense)
    sparse.weight.data.masked_fill_(~kept, 0)
    x, lora = torch.randn(5, 24), trained(dense, kept)
    lora.is_dense = True
    assert torch.equal(lora(x), dense(x)) and not lora(x).requires_grad
    lora.is_dense = False
    assert torch.equal(lora(x), trained(sparse, kept)(x))
    lora.merge()
    assert torch.equal(dense.weight != 0, kept)


def test_what_does_not_fit_is_refused():
    layer, kept = pruned()
    with pytest.raises(UsageError, match=r"rank 25 and a weight of \(40, 24\): use a rank from 1 to 24"):
        MaskedLoRA(layer, kept, rank=25)
    for rank in (1.5, "8", None, 0):
        with pytest.raises(UsageError, match="rank is a whole number from 1"):
            MaskedLoRA(layer, kept, rank=rank)
        with pytest.raises(UsageError, match="rank is a whole number from 1"):
            attach_lora(nn.Sequential(layer), Masks({"0": (40, 24)}), rank={"0": rank})
    refused = [{"alpha": alpha} for alpha in ("x", None, True, 0, float("nan"), float("inf"))]
    for options in (*refused, {"seed": "a"}, {"seed": 2**50}, {"seed": -1}, {"rank": {}}):
        with pytest.raises(
            UsageError, match="^(alpha is a number above 0|seed is a whole number from 0|rank names no)"
        ):
            attach_lora(nn.Sequential(layer), Masks({"0": (40, 24)}), **{"rank": 2} | options)
    with pytest.raises(UsageError, match="alpha is a number above 0, not 'x'"):
        MaskedLoRA(layer, kept, rank=4, alpha="x")
    assert layer.weight.requires_grad
    with pytest.raises(UsageError, match=r"a bool tensor \(40, 24\) as the weight, not torch.bool \(24, 40\)"):
        MaskedLoRA(layer, kept.T, rank=4)
    embedding = nn.Embedding(40, 24)
    embedding.weight = layer.weight
    model = nn.Sequential(embedding, layer)
    with pytest.raises(UsageError, match="no LoRA for 1: a Embedding computes with its weight; leave it out"):
        attach_lora(model, Masks({"1": (40, 24)}), rank={"1": 4})
    assert model[1] is layer and layer.weight.requires_grad


@pytest.mark.parametrize("model", ["runs/pruned", None])
def test_what_is_no_model_or_no_masks_is_refused(model):
    layer, kept = pruned()
    masks = Masks({"0": (40, 24)})
    for call in (lambda: attach_lora(model, masks, rank=4), lambda: merge_lora(model)):
        with pytest.raises(UsageError, match="model is a torch.nn.Module, not "):
            call()
    for given in (model, {"0": kept}):
        with pytest.raises(UsageError, match="masks are what idvl.load_masks returns, not "):
            attach_lora(nn.Sequential(layer), given, rank=4)
    for other in (nn.Conv2d(3, 3, 3), "layer"):
        with pytest.raises(UsageError, match="layer is a plain torch.nn.Linear or a Conv1D of transformers, not "):
            MaskedLoRA(other, rank=2)
    with pytest.raises(UsageError, match="no masked LoRA to merge"):
        merge_lora(nn.Sequential(layer))


def test_the_dense_model_is_refused():
    layer, kept = pruned()
    masks = Masks({"0": layer.weight.shape})
    masks.set("0", kept)
    with torch.no_grad():
        layer.weight[~kept] = 1
    model = nn.Sequential(layer)
    zeros = int((~kept).sum())
    with pytest.raises(UsageError, match=f"not the pruned one of these masks: {zeros} masked weights of 0 are not ze"):
        attach_lora(model, masks, rank=4)
    assert model[0] is layer and layer.weight.requires_grad


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
def test_an_update_that_is_not_finite_is_not_merged(poison):
    layers = [pruned()[0] for _ in range(2)]
    model, before = nn.Sequential(layers[0], nn.Linear(40, 24), layers[1]), [layer.weight.clone() for layer in layers]
    adapters = attach_lora(model, Masks.from_zeros({"0": layers[0].weight, "2": layers[1].weight}), rank=4)
    nn.init.normal_(adapters[0].lora_b)
    for factor in (adapters[1].lora_a, adapters[1].lora_b):
        nn.init.constant_(factor, poison)
    with pytest.raises(RunError, match="nothing is merged: 2 would hold NaN or infinity"):
        merge_lora(model)
    assert model[0] is adapters[0]
    assert all(torch.equal(layer.weight, old) for layer, old in zip(layers, before, strict=True))
