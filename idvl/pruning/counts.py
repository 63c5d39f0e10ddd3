"""How many weights a calibrated run prunes of each layer: the budget, its limits, and the allocation's signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from idvl.errors import UsageError, listed
from idvl.models.layers import Layer
from idvl.recipe import PruneSection
from idvl.recipe.values import shares
from idvl.sparsity import allocation as allocations
from idvl.sparsity.budget import Budget
from idvl.sparsity.structure import parse


@dataclass(frozen=True)
class PartBudget:
    """Layers with a budget of their own, and the sparsity of all their weights together."""

    layers: dict[str, Layer]
    sparsity: float


def parts_of(prune: PruneSection, layers: Mapping[str, Layer]) -> dict[str, PartBudget]:
    """The parts of a run by name: all layers as one, or a part a modality where the recipe sets sparsities of these.

    Cross-attention goes with language unless it has a sparsity of its own. UsageError for a modality without one, and
    for a ratio that would prune more of a modality than there is.
    """
    if prune.sparsity_ratio:
        return _by_ratio(prune, layers)
    if not prune.modality_sparsity:
        return {"all": PartBudget(dict(layers), prune.sparsity)}
    sparsities = shares(prune.modality_sparsity)
    named = {name: _named(layer.modality, sparsities) for name, layer in layers.items()}
    if lacking := sorted(set(named.values()) - set(sparsities)):
        raise UsageError(
            f"sparsity {prune.modality_sparsity} leaves {listed(lacking)} open: add {lacking[0]}=..., or set the scope"
        )
    return {
        word: PartBudget({name: layers[name] for name, part in named.items() if part == word}, sparsities[word])
        for word in sparsities
        if word in named.values()
    }


def _named(modality: str, sparsities: Mapping[str, float]) -> str:
    return "language" if modality == "cross" and "cross" not in sparsities else modality


def _by_ratio(prune: PruneSection, layers: Mapping[str, Layer]) -> dict[str, PartBudget]:
    """Vision and all other layers, with sparsities in the recipe's ratio and its number of zeros together."""
    words = {"vision": True, "language": False}
    parts = {
        word: {name: layer for name, layer in layers.items() if (layer.modality == "vision") == vision}
        for word, vision in words.items()
    }
    if empty := [word for word, inside in parts.items() if not inside]:
        raise UsageError(f"sparsity_ratio {prune.sparsity_ratio}: no {empty[0]} layer is in scope")
    sizes = {word: weights_in(inside) for word, inside in parts.items()}
    ratio = dict(zip(words, map(float, prune.sparsity_ratio.split(":")), strict=True))
    weighted, total = sum(ratio[word] * size for word, size in sizes.items()), sum(sizes.values())
    most = min(weighted / (total * ratio[word]) for word in words)
    zeros = {word: round(prune.sparsity * total * ratio[word] / weighted * sizes[word]) for word in ("vision",)}
    zeros["language"] = round(prune.sparsity * total) - zeros["vision"]
    if any(zeros[word] >= size for word, size in sizes.items()):
        raise UsageError(
            f"sparsity {prune.sparsity} in the ratio {prune.sparsity_ratio} of vision to language prunes more of one "
            f"than there is: at this ratio use less than {math.floor(most * 1000) / 1000:g}"
        )
    return {word: PartBudget(inside, zeros[word] / sizes[word]) for word, inside in parts.items()}


def weights_in(layers: Mapping[str, Layer]) -> int:
    """The number of weights of layers."""
    return sum(layer.module.weight.numel() for layer in layers.values())


def target(prune: PruneSection, layers: Mapping[str, Layer]) -> float:
    """The sparsity of all weights in scope together."""
    if not prune.modality_sparsity:
        return prune.sparsity
    parts = parts_of(prune, layers).values()
    return sum(part.sparsity * weights_in(part.layers) for part in parts) / weights_in(layers)


def zeros_of(prune: PruneSection, layers: Mapping[str, Layer], values: Mapping[str, float]) -> dict[str, int]:
    """How many weights are pruned of each layer, by the signal of each group that the allocation reads."""
    groups, zeros = groups_of(prune, layers), {}
    for part in parts_of(prune, layers).values():
        budget = _budget(prune, part, prune.allocation, values, groups)
        bounds = budget.bounds(budget.quota(part.sparsity), dict.fromkeys(part.layers, 0))
        zeros |= {name: units * parse(prune.structure).zeros for name, (units, _) in bounds.items()}
    return {name: zeros[name] for name in layers}


def nearly_empty(layers: Mapping[str, Layer], zeros: Mapping[str, int]) -> list[str]:
    """The layers that keep less than 1 % of their weights."""
    return [name for name, layer in layers.items() if zeros[name] > 0.99 * layer.module.weight.numel()]


def check_limits(prune: PruneSection, layers: Mapping[str, Layer]) -> None:
    """UsageError where structure or limits do not allow the sparsity, whatever the allocation."""
    structure = parse(prune.structure)
    for layer in layers.values() if structure.grouped else ():
        if oriented(layer, layer.module.weight) is not layer.module.weight:
            raise UsageError(f"{prune.structure} groups inputs, which {layer.name} stores as rows")
    structure.check({name: layer.module.weight.shape for name, layer in layers.items()})
    for word, part in parts_of(prune, layers).items():
        try:
            _budget(prune, part, "uniform", {}, {})
        except UsageError as error:
            raise UsageError(str(error) if word == "all" else f"{word}: {error}") from error


def groups_of(prune: PruneSection, layers: Mapping[str, Layer]) -> dict[str, str]:
    """The group of each layer: its block, or where the allocation goes by layers, or outside of blocks, itself.

    A block whose layers lie in several parts is a group in each.
    """
    by = prune.allocate_by or allocations.load(prune.allocation).by[0]
    groups = {name: (layer.block or name) if by == "block" else name for name, layer in layers.items()}
    parts = {name: word for word, part in parts_of(prune, layers).items() for name in part.layers}
    homes: dict[str, set[str]] = {}
    for name, group in groups.items():
        homes.setdefault(group, set()).add(parts[name])
    return {name: f"{group} ({parts[name]})" if len(homes[group]) > 1 else group for name, group in groups.items()}


def oriented(layer: Layer, tensor: Tensor) -> Tensor:
    """A tensor like a layer's weight as (out, in), or one of (out, in) as the layer stores its weight: a view."""
    return tensor if isinstance(layer.module, nn.Linear) else tensor.T


def _budget(
    prune: PruneSection, part: PartBudget, allocation: str, values: Mapping[str, float], groups: Mapping[str, str]
) -> Budget:
    return Budget(
        {name: layer.module.weight.numel() for name, layer in part.layers.items()},
        sparsity=part.sparsity,
        structure=parse(prune.structure),
        allocation=allocation,
        floor=prune.floor,
        ceiling=prune.ceiling,
        min_keep=prune.min_keep,
        values=values,
        groups=groups,
        spread=prune.spread,
    )
