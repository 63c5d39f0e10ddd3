"""What was pruned, as plain data: by layer, by modality and in total, each share with its denominator.

Three denominators: the weights in scope (what `sparsity` refers to), all prunable weights of the model, and all of its
weights, embeddings, norms and biases included, tied ones once. The last two count every zero of a prunable layer, also
those that no mask has, as an earlier pruning leaves them. It writes nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from idvl import arguments, json_file
from idvl.files import reading
from idvl.models.layers import Layer, uncovered_layers, uncovered_weights
from idvl.models.offload import layer_weights
from idvl.profile import MODALITIES, Profile
from idvl.schemas import ReportFile
from idvl.sparsity.masks import Masks, unmasked_zeros

if TYPE_CHECKING:
    from idvl.models.families.base import Family
    from idvl.models.offload import Offload

# the file of a run folder
REPORT = "report.json"


def load_report(path: str | Path) -> dict[str, Any]:
    """The report of a pruning run: its folder, or its report.json. UsageError if there is none."""
    path = arguments.path("the report", path)
    file = path / REPORT if os.path.isdir(path) else path
    with reading(file, "report", invalid=f"is not a {REPORT} of idvl prune"):
        return json_file.read(file, ReportFile)


def plan(
    model: nn.Module,
    layers: Mapping[str, Layer],
    *,
    family: Family,
    unreached: Collection[str] = (),
    asked: float,
    by_layer: Mapping[str, float] | None = None,
    zeros: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What is going to be pruned: the report without what only the masks know.

    `layers` are those in scope; the model's prunable ones are all of its `family` that are not `unreached`. `asked` is
    the sparsity of all weights in scope; `by_layer` that of each layer where the allocation fixes it, None under one
    global threshold. `zeros`: those that layers of the model held before (`unmasked_zeros`).
    """
    rows = {
        name: {
            "modality": layer.modality,
            "block": layer.block,
            "weights": layer.in_features * layer.out_features,
            "asked": by_layer[name] if by_layer else None,
        }
        for name, layer in layers.items()
    }
    unreached = uncovered_layers(model, family, layers, unreached=unreached)
    not_covered = uncovered_weights(model, family, unreached=unreached)
    weights = sum(parameter.numel() for parameter in model.parameters())
    prunable = weights - sum(part["weights"] for part in not_covered.values())
    planned = _summed(rows, asked, {"prunable_weights": prunable, "model_weights": weights}, not_covered)
    return {**planned, **before(zeros or {})}


def before(zeros: Mapping[str, int]) -> dict[str, Any]:
    """The part of a report that says how many zeros layers of the model held before; {} where none did."""
    return {"before": {"layers": len(zeros), "zeros": sum(zeros.values())}} if zeros else {}


def report(
    planned: Mapping[str, Any],
    masks: Masks,
    *,
    biases: Masks | None = None,
    profile: Profile | None = None,
    factors: Mapping[str, float] | None = None,
    substituted: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The documented object of report.json: {"schema", "layers": {name: {...}}, "modalities": {...}, "total": {...},
    "not_covered": {kind: {...}}}, and "before" of a model that held zeros before it was pruned.

    A layer: modality, block, weights, asked (None under a global threshold), zeros (those of its mask), sparsity,
    dimension and stderr from `profile`, the factor that its scores were multiplied by, and the reason why this is not
    its own dimension's. With masks of `biases` ("<layer>.bias"), biases and bias_zeros too, which count in none of the
    shares. JSON values only.
    """
    rows = {}
    for name, layer in planned["layers"].items():
        estimate = profile.layers[name].estimate if profile and name in profile.layers else None
        zeros = masks.zeros[name]
        rows[name] = {
            **layer,
            "zeros": zeros,
            "sparsity": zeros / layer["weights"],
            "dimension": estimate.dimension if estimate else None,
            "stderr": estimate.stderr if estimate else None,
            "factor": factors[name] if factors else None,
            "substituted": (substituted or {}).get(name),
        }
        if biases is not None:
            bias = f"{name}.bias"
            there = bias in biases.shapes
            rows[name] |= {
                "biases": math.prod(biases.shapes[bias]) if there else 0,
                "bias_zeros": biases.zeros[bias] if there else 0,
            }
    total = planned["total"]
    everything = {key: total[key] for key in ("prunable_weights", "model_weights")}
    return planned | _summed(rows, total["asked"], everything, planned["not_covered"])


def counted(
    report: Mapping[str, Any],
    model: nn.Module,
    family: Family,
    *,
    unreached: Collection[str] = (),
    offload: Offload | None = None,
) -> dict[str, Any]:
    """A report whose wider denominators count every zero that the model's layers hold now, masked or not.

    `unreached` layers count in all weights alone.
    """
    total = dict(report["total"])
    zeros = unmasked_zeros(layer_weights(model, family, offload), least=0)
    every, uncovered = sum(zeros.values()), uncovered_layers(model, family, report["layers"], unreached=unreached)
    beside = sum(count for name, count in zeros.items() if name in uncovered)
    for word, count in (("prunable", every - beside), ("model", every)):
        total |= {f"{word}_zeros": count, f"{word}_sparsity": count / total[f"{word}_weights"]}
    return {**report, "total": total}


def _summed(
    rows: Mapping[str, dict[str, Any]], asked: float, everything: Mapping[str, int], not_covered: Mapping[str, Any]
) -> dict[str, Any]:
    """The rows with their sums, per modality in the order of MODALITIES and in total."""
    modalities = {}
    for modality in MODALITIES:
        inside = [row for row in rows.values() if row["modality"] == modality]
        if inside:
            modalities[modality] = _sum(inside)
    total = {**_sum(list(rows.values())), "asked": asked, **everything}
    if "zeros" in total:
        total |= {f"{word}_sparsity": total["zeros"] / everything[f"{word}_weights"] for word in ("prunable", "model")}
    parts = {"modalities": modalities, "total": total, "not_covered": dict(not_covered)}
    return {"schema": ReportFile.NAME, "layers": dict(rows), **parts}


def _sum(rows: list[dict[str, Any]]) -> dict[str, Any]:
    weights = sum(row["weights"] for row in rows)
    fixed = all(row["asked"] is not None for row in rows)
    summed = {
        "layers": len(rows),
        "weights": weights,
        "asked": sum(row["asked"] * row["weights"] for row in rows) / weights if fixed else None,
    }
    if all("zeros" in row for row in rows):
        zeros = sum(row["zeros"] for row in rows)
        summed |= {"zeros": zeros, "sparsity": zeros / weights}
    if all("biases" in row for row in rows):
        summed |= {key: sum(row[key] for row in rows) for key in ("biases", "bias_zeros")}
    return summed
