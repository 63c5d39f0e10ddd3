"""What a sensitivity run found, as numbers: the growth of the loss, and whether it goes with the dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idvl.reporting.collect import Run
from idvl.reporting.statistics import Correlation, spearman


def ratios(run: Run) -> list[float]:
    """The sparsities that every part was pruned to, ascending."""
    return sorted({one["ratio"] for layer in run.sensitivity["layers"].values() for one in layer["losses"]})


def growth(run: Run, part: Mapping[str, Any], ratio: float) -> float | None:
    """The loss with a layer or a modality pruned minus that of the dense model; None where either is no number."""
    dense = run.sensitivity["dense"]["loss"]
    loss = next((one["loss"] for one in part["losses"] if one["ratio"] == ratio), None)
    return None if loss is None or dense is None else loss - dense


def correlation(run: Run, ratio: float, modality: str | None = None) -> Correlation | None:
    """Dimension against growth of the loss, over all layers or those of a modality. None for too few."""
    pairs = [
        (layer["dimension"], grown)
        for layer in run.sensitivity["layers"].values()
        if modality in (None, layer["modality"])
        and layer["dimension"] is not None
        and (grown := growth(run, layer, ratio)) is not None
    ]
    return spearman([x for x, _ in pairs], [y for _, y in pairs])
