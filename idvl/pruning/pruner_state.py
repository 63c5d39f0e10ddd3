"""What the state of a Pruner says of its settings, and whether another pruner can take it over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from idvl.errors import UsageError, quoted
from idvl.recipe import PruneSection
from idvl.sparsity.criteria import Criterion

# settings that a state depends on, beside the schedule, and those of the criteria that have a name
OF_STATE = {
    *("id_weight", "id_exponent", "missing_id", "allocation", "structure", "monotone"),
    *("floor", "ceiling", "min_keep"),
}
OF_CRITERION = {"criterion", "beta1", "beta2", "window", "smoothing_dtype"}
PLAIN = (bool, int, float, str)


def settings_of(prune: PruneSection, criterion: str | Criterion, factors: Mapping[str, float]) -> dict[str, Any]:
    """The settings that a pruner's state depends on, beside the schedule."""
    if isinstance(criterion, str):
        own = prune.model_dump(include=OF_CRITERION)
    else:
        values = getattr(criterion, "__dict__", {}).items()
        own = {key: value for key, value in values if not key.startswith("_") and isinstance(value, PLAIN)}
        own["criterion"] = type(criterion).__name__
    by_layer = {f"factor of {name}": float(factor) for name, factor in factors.items()}
    return {**prune.model_dump(include=OF_STATE), **own, **by_layer}


def encoded(values: Mapping[str, Any]) -> Tensor:
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


def decoded(tensor: Tensor) -> dict[str, Any]:
    return json.loads(bytes(tensor.tolist()))


def refuse_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """UsageError, naming the first, for a setting that differs from that of the state."""
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            raise UsageError(
                f"the state is of a pruner with {name} {quoted(before.get(name))}, not {quoted(now.get(name))}: "
                "use the same settings"
            )
