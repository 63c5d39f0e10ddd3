"""The JSON documents of run folders that reports read. One that is not what it says is refused, with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from idvl.profile import finite

NUMBER = (int, float, type(None))
LOSSES = [{"ratio": (int, float), "loss": NUMBER}]
# what reports rely on in a document of a schema. "*" stands for every key, a list for any number of its one item
SHAPES: dict[str, dict[str, Any]] = {
    "idvl/report/1": {
        "layers": {"*": {"modality": str, "weights": int, "sparsity": NUMBER, "dimension": NUMBER}},
        "modalities": {"*": {"sparsity": NUMBER}},
        "total": {"sparsity": NUMBER, "prunable_sparsity": NUMBER, "model_sparsity": NUMBER, "model_weights": NUMBER},
        "made": {"seconds": NUMBER, "peak_memory": NUMBER},
    },
    "idvl/results/1": {
        "task": str,
        "metrics": {"*": {}},
        "model": {},
        "dataset": {},
        "samples": NUMBER,
        "limit": NUMBER,
        "seconds": NUMBER,
        "peak_memory": NUMBER,
    },
    "idvl/sensitivity/1": {
        "dense": {"loss": NUMBER},
        "layers": {"*": {"modality": str, "weights": int, "dimension": NUMBER, "stderr": NUMBER, "losses": LOSSES}},
        "modalities": {"*": {"layers": int, "losses": LOSSES}},
        "provenance": {"seconds": NUMBER, "peak_memory": NUMBER},
    },
}


def read(path: Path, schema: str, troubles: list[str]) -> dict[str, Any]:
    """The document at `path`; {} with the trouble told for one that is damaged or newer. {} where there is none.

    NaN, which our files never hold, becomes None.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        troubles.append(f"{path.name} cannot be read: {error}")
        return {}
    found = values.get("schema") if isinstance(values, dict) else None
    if found != schema:
        troubles.append(f"{path.name} has the schema {found!r}; this idvl reads {schema!r}")
        return {}
    values = finite(values)
    if wrong := _misfit(values, SHAPES[schema]):
        troubles.append(f"{path.name} is damaged: {wrong}")
        return {}
    return values


def _misfit(value: Any, shape: Any, place: str = "it") -> str | None:
    """The first part of a value that has not its shape, in words; None if all have."""
    if isinstance(shape, type | tuple):
        return None if isinstance(value, shape) else f"{place} is {value!r:.40}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        return next(filter(None, (_misfit(item, shape[0], f"an item of {place}") for item in value)), None)
    if not isinstance(value, dict):
        return f"{place} is no object"
    keys = value if "*" in shape else shape
    parts = (_misfit(value.get(key), shape.get(key, shape.get("*")), f"{key!r} of {place}") for key in keys)
    return next(filter(None, parts), None)
