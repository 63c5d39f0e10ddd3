"""What a sensitivity run found: the loss with a part pruned, and whether it goes with the dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import model_validator

from idvl.json_file import Schema
from idvl.reporting.run_record import RunRecord
from idvl.schemas import Cost

# ratios of a run: each takes thousands of permutations
RATIOS = 100
PERMUTATIONS = 10_000


class Loss(Schema):
    """The loss with a part pruned; None where it was no number."""

    ratio: float
    loss: float | None


class SensitivityFile(Schema):
    """sensitivity.json."""

    NAME: ClassVar[str] = "idvl/sensitivity/1"

    class Dense(Schema):
        loss: float | None = None

    class Layer(Schema):
        modality: str
        weights: int
        dimension: float | None
        stderr: float | None
        losses: list[Loss]

    class Part(Schema):
        layers: int
        losses: list[Loss]
        weights: int | None = None

    dense: Dense
    layers: dict[str, Layer]
    modalities: dict[str, Part]
    provenance: Cost

    @model_validator(mode="after")
    def _few_ratios(self) -> Self:
        ratios = {loss.ratio for layer in self.layers.values() for loss in layer.losses}
        if len(ratios) > RATIOS:
            raise ValueError(f"it has {len(ratios):,} ratios, more than {RATIOS}")
        return self


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of n pairs, and the share of permutations that are at least as far from 0."""

    rho: float
    p: float
    n: int


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


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Spearman's rho with a two-sided permutation test of `PERMUTATIONS` draws.

    p = (1 + draws at least as extreme) / (1 + draws), so it is never 0. None for fewer than 4 pairs, or where all of x
    or all of y are the same.
    """
    from scipy.stats import rankdata

    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    centred = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    a, b = (ranks / np.linalg.norm(ranks) for ranks in centred)
    rho = float(a @ b)
    drawn = np.random.default_rng(0).permuted(np.tile(b, (PERMUTATIONS, 1)), axis=1) @ a
    extreme = int(np.count_nonzero(np.abs(drawn) >= abs(rho) - 1e-12))
    return Correlation(rho=rho, p=(1 + extreme) / (1 + PERMUTATIONS), n=len(a))
