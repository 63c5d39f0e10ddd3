"""The report adds up: every share has its denominator, and the sums are those of the masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from idvl.checkpoints.report import counted, plan, report
from idvl.models.families import family_of
from idvl.models.layers import find_layers
from idvl.sparsity.masks import Masks
from tests.support import tiny
from tests.support.profiles import profile_of

FAMILY = family_of(transformers.BlipConfig(architectures=["BlipForConditionalGeneration"]))


@pytest.fixture(scope="module")
def blip():
    torch.manual_seed(0)
    model, _ = tiny.KINDS["blip"]()
    return model, find_layers(model, FAMILY)


def masks_of(layers, zeros: dict[str, int]) -> Masks:
    masks = Masks({name: layer.module.weight.shape for name, layer in layers.items()})
    for name, n in zeros.items():
        masks.set(name, torch.arange(layers[name].module.weight.numel()) >= n)
    return masks


def test_the_three_denominators(blip) -> None:
    model, layers = blip
    vision = {name: layer for name, layer in layers.items() if layer.modality == "vision"}
    made = report(plan(model, vision, family=FAMILY, asked=0.25), masks_of(vision, dict.fromkeys(vision, 100)))
    total = made["total"]
    # 2 blocks of qkv 32 x 96, projection 32 x 32, fc1 and fc2 32 x 64
    assert total["weights"] == 2 * (32 * 96 + 32 * 32 + 2 * 32 * 64)
    assert total["prunable_weights"] == sum(layer.module.weight.numel() for layer in layers.values())
    assert total["model_weights"] == sum(parameter.numel() for parameter in model.parameters())
    assert (total["layers"], total["zeros"], total["asked"]) == (8, 800, 0.25)
    for key, weights in (("sparsity", "weights"), ("prunable_sparsity", "prunable_weights")):
        assert total[key] == 800 / total[weights]
    assert total["model_sparsity"] == 800 / total["model_weights"]
    assert total["prunable_weights"] + sum(p["weights"] for p in made["not_covered"].values()) == total["model_weights"]


def test_zeros_without_a_mask_count_in_the_two_wider_denominators() -> None:
    model, _ = tiny.KINDS["blip"]()
    layers = find_layers(model, FAMILY)
    vision = {name: layer for name, layer in layers.items() if layer.modality == "vision"}
    inside, outside = next(iter(vision)), next(name for name in layers if name not in vision)
    before = {inside: 90, outside: 200}
    for name, zeros in before.items():
        layers[name].module.weight.data.view(-1)[:zeros] = 0
    masks = masks_of(vision, {inside: 70})
    for unreached, prunable in (((), 290), ((outside,), 90)):
        planned = plan(model, vision, family=FAMILY, unreached=unreached, asked=0.25, zeros=before)
        made = counted(report(planned, masks), model, FAMILY, unreached=unreached)
        total = made["total"]
        assert (total["zeros"], total["sparsity"]) == (70, 70 / total["weights"])
        for key, zeros in (("prunable", prunable), ("model", 290)):
            assert total[f"{key}_zeros"] == zeros
            assert total[f"{key}_sparsity"] == zeros / total[f"{key}_weights"]
        assert made["before"] == {"layers": 2, "zeros": 290}


def test_modalities_and_layers_add_up(blip) -> None:
    model, layers = blip
    zeros = {name: 7 * i for i, name in enumerate(layers)}
    made = report(plan(model, layers, family=FAMILY, asked=0.5), masks_of(layers, zeros))
    assert list(made["layers"]) == list(layers)
    assert list(made["modalities"]) == ["vision", "language", "cross"]
    for key in ("layers", "weights", "zeros"):
        assert sum(part[key] for part in made["modalities"].values()) == made["total"][key]
    assert {name: layer["zeros"] for name, layer in made["layers"].items()} == zeros
    assert made["total"]["zeros"] == sum(zeros.values())
    assert all(layer["sparsity"] == layer["zeros"] / layer["weights"] for layer in made["layers"].values())


def test_a_layer_has_its_dimension_its_factor_and_why_it_is_another(blip) -> None:
    model, layers = blip
    first, second = list(layers)[:2]
    made = report(
        plan(model, layers, family=FAMILY, asked=0.5),
        masks_of(layers, {}),
        profile=profile_of(layers, without=first),
        factors={name: float(i + 1) for i, name in enumerate(layers)},
        substituted={first: "no estimate: constant output"},
    )
    layer = made["layers"][first]
    assert (layer["dimension"], layer["stderr"], layer["factor"]) == (None, None, 1.0)
    assert layer["substituted"] == "no estimate: constant output"
    layer = made["layers"][second]
    assert (layer["dimension"], layer["stderr"], layer["factor"], layer["substituted"]) == (3.0, 0.25, 2.0, None)


def test_pruned_biases_are_counted_beside_the_weights(blip) -> None:
    model, layers = blip
    first, second = list(layers)[:2]
    biases = Masks({f"{name}.bias": (32,) for name in layers if name != second})
    biases.set(f"{first}.bias", torch.arange(32) >= 5)
    planned = plan(model, layers, family=FAMILY, asked=0.5)
    made = report(planned, masks_of(layers, {first: 7}), biases=biases)
    found = [(made["layers"][name]["biases"], made["layers"][name]["bias_zeros"]) for name in (first, second)]
    assert found == [(32, 5), (0, 0)]
    total = made["total"]
    assert (total["biases"], total["bias_zeros"], total["zeros"]) == (32 * (len(layers) - 1), 5, 7)
    assert made["modalities"]["vision"]["bias_zeros"] == 5
    assert "biases" not in report(planned, masks_of(layers, {}))["total"]


def test_without_a_profile_it_says_so(blip) -> None:
    model, layers = blip
    made = report(plan(model, layers, family=FAMILY, asked=0.5), masks_of(layers, {}))
    assert {layer["dimension"] for layer in made["layers"].values()} == {None}
    assert {layer["factor"] for layer in made["layers"].values()} == {None}


def test_asked_is_none_under_one_threshold_and_a_weighted_mean_where_it_is_fixed(blip) -> None:
    model, layers = blip
    free = plan(model, layers, family=FAMILY, asked=0.5)
    assert free["total"]["asked"] == 0.5
    assert {part["asked"] for part in free["modalities"].values()} == {None}
    by_layer = {name: 0.25 if layer.modality == "vision" else 0.75 for name, layer in layers.items()}
    fixed = plan(model, layers, family=FAMILY, asked=0.6, by_layer=by_layer)
    assert [part["asked"] for part in fixed["modalities"].values()] == [0.25, 0.75, 0.75]
    assert fixed["total"]["asked"] == 0.6


def test_it_is_plain_json(blip, tmp_path: Path) -> None:
    model, layers = blip
    made = report(plan(model, layers, family=FAMILY, asked=0.5), masks_of(layers, {}))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["schema"] == "idvl/report/1"
    assert list(made) == ["schema", "layers", "modalities", "total", "not_covered"]
