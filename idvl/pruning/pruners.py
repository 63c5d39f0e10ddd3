"""What a section `prune` describes, made for some layers: their factors and targets, the criterion, the pruner."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.errors import UsageError
from idvl.models.layers import Layer, modalities_of
from idvl.profile import Profile
from idvl.recipe import PruneSection
from idvl.sparsity import allocation, criteria, icml24
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from idvl.sparsity.structure import parse
from idvl.sparsity.weighting import Multipliers, multipliers


def multipliers_of(prune: PruneSection, layers: Mapping[str, Layer], profile: Profile | None) -> Multipliers:
    """What each layer's scores are multiplied by. UsageError for a profile of another model."""
    return multipliers(
        profile, modalities_of(layers), mode=prune.id_weight, exponent=prune.id_exponent, missing=prune.missing_id
    )


def targets_of(prune: PruneSection, layers: Mapping[str, Layer]) -> dict[str, float] | None:
    """The target sparsity of each layer, None where one threshold over all layers decides."""
    sizes = {name: layer.in_features * layer.out_features for name, layer in layers.items()}
    # while a model trains, an allocation that gives each layer a density of its own gives all the same
    return (
        dict.fromkeys(allocation.densities(prune.allocation, sizes, density=1 - prune.sparsity), prune.sparsity) or None
    )


def criterion_of(prune: PruneSection) -> criteria.Criterion:
    """A new criterion as a recipe sets it."""
    load = icml24.load if prune.compat == "icml24" else criteria.load
    # a criterion of another package may have settings that no recipe has, which keep their defaults
    keys = [key for key in criteria.settings(prune.criterion) if key in PruneSection.model_fields]
    return load(prune.criterion, **{key: getattr(prune, key) for key in keys})


def pruner_of(
    prune: PruneSection,
    layers: Mapping[str, Layer],
    schedule: Schedule,
    factors: Mapping[str, float] | None,
    criterion: criteria.Criterion | None = None,
) -> WeightPruner:
    """A new pruner of `layers` as a resolved recipe sets it. `criterion`: one to use in place of the one it names.

    UsageError for layers that the structure does not fit.
    """
    for layer in layers.values() if parse(prune.structure).grouped else ():
        if layer.module.weight.shape[1] != layer.in_features:
            raise UsageError(f"{prune.structure} groups inputs, which {layer.name} stores as rows")
    return WeightPruner(
        {name: layer.module.weight for name, layer in layers.items()},
        criterion=criterion or criterion_of(prune),
        schedule=schedule,
        factors=factors,
        **prune.model_dump(include={"allocation", "structure", "floor", "ceiling", "min_keep", "monotone"}),
    )
