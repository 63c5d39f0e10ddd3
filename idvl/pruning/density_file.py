"""The densities of layers from a file: `sparsity` or `density` of each by name, as YAML or JSON."""

from __future__ import annotations

from collections.abc import Mapping

from idvl import yaml_file
from idvl.errors import UsageError, listed, quoted
from idvl.models.layers import Layer, find_layers
from idvl.models.loading import Loaded
from idvl.recipe import PruneSection


def densities_of(prune: PruneSection, loaded: Loaded, layers: Mapping[str, Layer]) -> dict[str, float]:
    """The density of each of `layers` in the file that an allocation names; the file may hold others of the model.

    UsageError for anything else than numbers from 0 to 1, for zeros alone, for layers that the model does not have, and
    missing ones.
    """
    path = prune.allocation.partition(":")[2]
    document = yaml_file.read(path, "allocation")
    kind, values = next(iter(document.items())) if isinstance(document, dict) and len(document) == 1 else (None, None)
    if kind not in ("sparsity", "density") or not isinstance(values, dict):
        raise UsageError(f"the allocation {quoted(path)} must hold sparsity: or density: with a number a layer")
    if unknown := [str(name) for name in values if name not in find_layers(loaded.model, loaded.family)]:
        raise UsageError(f"{loaded.name} does not have {len(unknown)} layers of {quoted(path)}: {listed(unknown)}")
    if missing := [name for name in layers if name not in values]:
        raise UsageError(f"{quoted(path)} lacks {len(missing)} layers in scope: {listed(missing)}")
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UsageError(f"the {kind} of {name} in {quoted(path)} must be from 0 to 1, not {quoted(value)}")
    densities = {name: float(values[name] if kind == "density" else 1 - values[name]) for name in layers}
    if not any(densities.values()):
        raise UsageError(f"every layer in scope has density 0 in {quoted(path)}: they are relative, give some above 0")
    return densities
