"""What a sensitivity run found, as numbers: the loss, and whether it goes with the dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from idvl.reporting.collect import RunRecord
from idvl.reporting.statistics import Correlation, spearman


def ratios(run: RunRecord) -> list[float]:
    """The sparsities that every part was pruned to, ascending."""
    return sorted({one["ratio"] for layer in run.sensitivity["layers"].values() for one in layer["losses"]})


def loss_of(part: Mapping[str, Any], ratio: float) -> float | None:
    """The loss with a layer or a modality pruned; None where there is none, or it is no number."""
    return next((one["loss"] for one in part["losses"] if one["ratio"] == ratio), None)


def correlation(run: RunRecord, ratio: float, modality: str | None = None) -> Correlation | None:
    """Dimension against the loss, over all layers or those of a modality. None for too few."""
    pairs = [
        (layer["dimension"], loss)
        for layer in run.sensitivity["layers"].values()
        if modality in (None, layer["modality"])
        and layer["dimension"] is not None
        and (loss := loss_of(layer, ratio)) is not None
    ]
    return spearman([x for x, _ in pairs], [y for _, y in pairs])
