"""The intrinsic dimension of every layer of a vision-language model.

The public names are imported when they are first used, so that `import idvl` is instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Estimate": "idvl.profile",
    "LayerProfile": "idvl.profile",
    "MaskedLoRA": "idvl.recovery.masked_lora",
    "Profile": "idvl.profile",
    "PruneCallback": "idvl.pruning.callback",
    "Pruner": "idvl.pruning.api",
    "RunError": "idvl.errors",
    "Sample": "idvl.data.samples",
    "UsageError": "idvl.errors",
    "attach_lora": "idvl.recovery.adapters",
    "compare": "idvl.profile",
    "estimate_id": "idvl.measurement.api",
    "evaluate": "idvl.workflows.api",
    "intrinsic_dimension": "idvl.geometry.intrinsic_dimension",
    "load_masks": "idvl.workflows.api",
    "load_profile": "idvl.profile",
    "load_report": "idvl.checkpoints.report",
    "load_results": "idvl.workflows.api",
    "merge_lora": "idvl.recovery.adapters",
    "plot": "idvl.reporting.plot",
    "prune": "idvl.workflows.api",
    "recover": "idvl.workflows.api",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'idvl' has no attribute {name!r}; it has {', '.join(_HOME)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
