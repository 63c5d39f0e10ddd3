"""The JSON documents of run folders that reports read. One that is not what it says is refused, with what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from idvl.errors import quoted
from idvl.profile import finite

NUMBER = (int, float, type(None))
LOSSES = [{"ratio": (int, float), "loss": NUMBER}]
TEXT = (str, type(None))
# what reports rely on in a document of a schema. "*" stands for every key, a list for any number of its one item; what
# ends with "?" may be missing
SHAPES: dict[str, dict[str, Any]] = {
    "idvl/report/1": {
        "layers": {"*": {"modality": str, "weights": int, "sparsity": NUMBER, "dimension": NUMBER, "stderr?": NUMBER}},
        "modalities": {"*": {"sparsity": NUMBER}},
        "total": {"sparsity": NUMBER, "prunable_sparsity": NUMBER, "model_sparsity": NUMBER, "model_weights": NUMBER},
        "made": {"seconds": NUMBER, "peak_memory": NUMBER},
        "evaluation?": {"skipped?": TEXT},
    },
    "idvl/results/1": {
        "task": str,
        "headline?": TEXT,
        "metrics": {"*": {}},
        "settings?": {},
        "model": {"name?": TEXT, "fingerprint?": TEXT},
        "dataset": {},
        "samples": NUMBER,
        "limit": NUMBER,
        "seconds": NUMBER,
        "peak_memory": NUMBER,
    },
    "idvl/sensitivity/1": {
        "dense": {"loss": NUMBER},
        "layers": {"*": {"modality": str, "weights": int, "dimension": NUMBER, "stderr": NUMBER, "losses": LOSSES}},
        "modalities": {"*": {"layers": int, "weights?": NUMBER, "losses": LOSSES}},
        "provenance": {"seconds": NUMBER, "peak_memory": NUMBER},
    },
}


PROFILE = {
    **{
        "model": {"name?": TEXT, "fingerprint?": TEXT},
        "dataset": {"dataset?": TEXT},
        "provenance": {"seconds?": NUMBER},
    },
    "layers": {
        "*": {
            **{"modality": str, "block": TEXT, "depth": int, "n_features": NUMBER, "reads_image": bool},
            "estimate": {
                **{"dimension": NUMBER, "stderr": NUMBER, "n_points": int, "n_duplicates": int, "reason": TEXT},
                "diagnostics": {
                    "scales?": [{"neighbors": [int], "dimension": NUMBER, "mean_distance?": NUMBER}],
                    "neighbors?": {"certified_rows?": NUMBER},
                },
            },
        }
    },
}
RECORD = {"versions?": {}, "started?": TEXT, "signature?": {"class?": TEXT}}
RECIPE = {
    "model?": {"name?": TEXT},
    "data?": {"dataset?": TEXT, "data_dir?": TEXT},
    "prune?": {},
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
        troubles.append(f"{path.name} has the schema {quoted(found)}; this idvl reads {quoted(schema)}")
        return {}
    values = finite(values)
    if wrong := misfit(values, SHAPES[schema]):
        troubles.append(f"{path.name} is damaged: {wrong}")
        return {}
    return values


def misfit(value: Any, shape: Any, place: str = "it") -> str | None:
    """The first part of a value that has not its shape, in words; None if all have."""
    if isinstance(shape, type | tuple):
        return None if isinstance(value, shape) else f"{place} is {value!r:.40}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{place} is no list"
        return next(filter(None, (misfit(item, shape[0], f"an item of {place}") for item in value)), None)
    if not isinstance(value, dict):
        return f"{place} is no object"
    if "*" in shape:
        parts = [(key, item, shape["*"]) for key, item in value.items()]
    else:
        names = {key.removesuffix("?"): key for key in shape}
        parts = [(name, value.get(name), shape[key]) for name, key in names.items() if name == key or name in value]
    return next(filter(None, (misfit(item, part, f"{quoted(name)} of {place}") for name, item, part in parts)), None)
