"""How many weights a calibrated run prunes of each layer: the budget, its limits, and the allocation's signal."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from idvl.errors import UsageError
from idvl.models.layers import Layer
from idvl.recipe import PruneSection
from idvl.sparsity import allocation as allocations
from idvl.sparsity.budget import Budget
from idvl.sparsity.structure import parse


def zeros_of(prune: PruneSection, layers: Mapping[str, Layer], values: Mapping[str, float]) -> dict[str, int]:
    """How many weights are pruned of each layer, by the signal of each group that the allocation reads."""
    budget = _budget(prune, layers, prune.allocation, values)
    bounds = budget.bounds(budget.quota(prune.sparsity), dict.fromkeys(layers, 0))
    return {name: units * parse(prune.structure).zeros for name, (units, _) in bounds.items()}


def check_limits(prune: PruneSection, layers: Mapping[str, Layer]) -> None:
    """UsageError where structure or limits do not allow the sparsity, whatever the allocation."""
    structure = parse(prune.structure)
    for layer in layers.values() if structure.grouped else ():
        if oriented(layer, layer.module.weight) is not layer.module.weight:
            raise UsageError(f"{prune.structure} groups inputs, which {layer.name} stores as rows")
    structure.check({name: layer.module.weight.shape for name, layer in layers.items()})
    _budget(prune, layers, "uniform", {})


def groups_of(prune: PruneSection, layers: Mapping[str, Layer]) -> dict[str, str]:
    """The group of each layer: its block, or where the allocation goes by layers, or outside of blocks, itself."""
    by = prune.allocate_by or allocations.load(prune.allocation).by[0]
    return {name: (layer.block or name) if by == "block" else name for name, layer in layers.items()}


def oriented(layer: Layer, tensor: Tensor) -> Tensor:
    """A tensor like a layer's weight as (out, in), or one of (out, in) as the layer stores its weight: a view."""
    return tensor if isinstance(layer.module, nn.Linear) else tensor.T


def _budget(prune: PruneSection, layers: Mapping[str, Layer], allocation: str, values: Mapping[str, float]) -> Budget:
    return Budget(
        {name: layer.module.weight.numel() for name, layer in layers.items()},
        sparsity=prune.sparsity,
        structure=parse(prune.structure),
        allocation=allocation,
        floor=prune.floor,
        ceiling=prune.ceiling,
        min_keep=prune.min_keep,
        values=values,
        groups=groups_of(prune, layers),
        spread=prune.spread,
    )
