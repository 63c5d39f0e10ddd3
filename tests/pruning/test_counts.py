"""Budgets of modalities: exact in each and together, by sparsities or by a ratio."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from idvl.errors import UsageError
from idvl.models.layers import Layer
from idvl.pruning.counts import check_limits, groups_of, parts_of, target, zeros_of
from idvl.pruning.settings import resolve_pruning
from idvl.recipe import PruneSection, load


def layer(name: str, modality: str, rows: int, columns: int) -> Layer:
    module = torch.nn.Linear(columns, rows, bias=False)
    about = {"modality": modality, "block": name.rpartition(".")[0] or None}
    return Layer(name=name, module=module, in_features=columns, out_features=rows, **about)


LAYERS = {
    each.name: each
    for each in (
        layer("vision.0.qkv", "vision", 30, 10), layer("vision.0.out", "vision", 7, 10),
        layer("vision.1.qkv", "vision", 31, 10), layer("text.0.query", "language", 20, 20),
        layer("text.0.key", "cross", 20, 10), layer("text.1.query", "language", 21, 21),
    )
}  # fmt: skip
SIZES = {name: each.module.weight.numel() for name, each in LAYERS.items()}
VISION = [name for name in LAYERS if name.startswith("vision")]


def prune(**settings: Any) -> PruneSection:
    return resolve_pruning(PruneSection(criterion="wanda", **settings))


def zeros(section: PruneSection, layers: dict[str, Layer] = LAYERS) -> dict[str, int]:
    check_limits(section, layers)
    values = {group: 1.0 + number for number, group in enumerate(groups_of(section, layers).values())}
    return zeros_of(section, layers, values)


@pytest.mark.parametrize("allocation", ["uniform", "depth", "owl", "alpha", "ecoflap"])
def test_each_modality_has_its_own_budget(allocation: str) -> None:
    section = prune(sparsity="vision=0.5, language=0.7", allocation=allocation)
    assert section.sparsity is None and section.modality_sparsity == "vision=0.5,language=0.7"
    counts = zeros(section)
    vision, total = sum(SIZES[name] for name in VISION), sum(SIZES.values())
    assert sum(counts[name] for name in VISION) == round(0.5 * vision)
    assert sum(counts.values()) - round(0.5 * vision) == round(0.7 * (total - vision))
    assert target(section, LAYERS) == pytest.approx((0.5 * vision + 0.7 * (total - vision)) / total)
    assert list(counts) == list(LAYERS)


def test_cross_attention_goes_with_language_unless_it_is_named() -> None:
    parts = parts_of(prune(sparsity={"vision": 0, "language": 0.7, "cross": 0.1}), LAYERS)
    assert {word: (list(part.layers), part.sparsity) for word, part in parts.items()} == {
        "vision": (VISION, 0.0), "language": (["text.0.query", "text.1.query"], 0.7), "cross": (["text.0.key"], 0.1)
    }  # fmt: skip
    together = groups_of(prune(sparsity="vision=0.5,language=0.7", allocation="owl"), LAYERS)
    assert together["text.0.key"] == together["text.0.query"] == "text.0"
    apart = groups_of(prune(sparsity="vision=0.5,language=0.7,cross=0.2", allocation="owl"), LAYERS)
    assert (apart["text.0.key"], apart["text.0.query"]) == ("text.0 (cross)", "text.0 (language)")
    assert apart["text.1.query"] == "text.1" and zeros(prune(sparsity="vision=0,language=0.5"))["vision.0.qkv"] == 0


def test_a_ratio_keeps_the_total() -> None:
    """At every ratio the same number of zeros, and sparsities in that ratio."""
    draw, total = random.Random(0), sum(SIZES.values())
    for ratio in ("10:90", "30:70", "50:50", "70:30", "1:3"):
        sparsity = draw.uniform(0.2, 0.4)
        counts = zeros(prune(sparsity=sparsity, sparsity_ratio=ratio))
        assert sum(counts.values()) == round(sparsity * total)
        pruned = sum(counts[name] for name in VISION) / sum(SIZES[name] for name in VISION)
        rest = [name for name in LAYERS if name not in VISION]
        other = sum(counts[name] for name in rest) / sum(SIZES[name] for name in rest)
        one, two = map(int, ratio.split(":"))
        assert pruned / other == pytest.approx(one / two, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": "vision=0.5", "criterion": "magnitude"}, "sparsity vision=0.5 is for pruning from calibration"),
        ({"sparsity": "vision=0.5,language=0.7", "structure": "2:4"}, "structure 2:4: every layer gets the sparsity"),
        ({"sparsity_ratio": "1:2", "structure": "2:4"}, "1:2 and structure 2:4: every layer gets the sparsity"),
        ({"modality_sparsity": "vision=0.5", "sparsity": 0.3}, "vision=0.5 and sparsity 0.3: set one of the two"),
        ({"sparsity": "vision=0.5", "sparsity_ratio": "1:2"}, "vision=0.5 and sparsity_ratio 1:2: set one of the two"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_pruning(PruneSection(**{"criterion": "wanda", **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsity": "vision=0.5"}, "vision=0.5 leaves language open: add language=..., or set the scope"),
        (
            {"sparsity": "vision=0.5,language=0.7", "ceiling": 0.6, "allocation": "depth"},
            "^language: sparsity 0.7 cannot be reached: floor 0.0, ceiling 0.6 and min_keep 1 allow 0 to 0.6",
        ),
        ({"sparsity": 0.6, "sparsity_ratio": "90:10"}, "prunes more of one than there is: at this ratio use less than"),
    ],
)
def test_budgets_that_cannot_be_met(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        zeros(prune(**settings))


def test_the_reachable_sparsity_of_a_ratio_is_reachable() -> None:
    with pytest.raises(UsageError) as refused:
        zeros(prune(sparsity=0.9, sparsity_ratio="90:10"))
    most = float(str(refused.value).rpartition(" ")[2])
    zeros(prune(sparsity=most - 0.002, sparsity_ratio="90:10"))
    with pytest.raises(UsageError):
        zeros(prune(sparsity=most + 0.002, sparsity_ratio="90:10"))
    with pytest.raises(UsageError, match="no language layer is in scope"):
        zeros(prune(sparsity=0.3, sparsity_ratio="1:2"), {name: LAYERS[name] for name in VISION})


@pytest.mark.parametrize("text", ["vision=1.0", "vision=-0.1", "vision=0.5,vision=0.6", "eyes=0.5", "vision=", "=0.5"])
def test_sparsities_of_modalities_are_checked_where_they_are_read(text: str) -> None:
    with pytest.raises(UsageError, match="prune.modality_sparsity takes sparsities below 1 of vision, language, cross"):
        load(None, {"model.name": "builtin/blip", "prune.sparsity": text})


def test_a_recipe_reads_back_what_it_wrote(tmp_path) -> None:
    recipe = load(None, {"model.name": "builtin/blip", "prune.sparsity": "vision=0.5,language=0.7"})
    recipe.save(tmp_path / "recipe.yaml")
    assert load(tmp_path / "recipe.yaml") == recipe
    assert SimpleNamespace(**recipe.to_dict()["prune"]).modality_sparsity == "vision=0.5,language=0.7"
