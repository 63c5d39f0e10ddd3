"""What was measured: for every layer an estimate of its intrinsic dimension, and the protocol behind it.

A profile is plain data: it is written once by a run and read by everything after it (pruning, reports, comparisons).
It knows no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

SCHEMA = "idvl/profile/1"

Modality = Literal["vision", "language", "cross", "fusion", "connector"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The intrinsic dimension of one set of points.

    `dimension` is None when the points allow no estimate; `reason` then says why. `n_points` counts the points that
    the estimate rests on, `n_duplicates` those removed before. `stderr` is one standard deviation. `diagnostics` holds
    JSON values only.
    """

    dimension: float | None
    stderr: float | None
    n_points: int
    n_duplicates: int
    estimator: str
    reason: str | None = None
    diagnostics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One layer: what it is, and its estimate.

    `depth` counts the layers of the model in the order in which they run, from 0. `width` is the number of features of
    one token, `n_features` that of one point (all tokens of a sample when they are flattened).
    """

    modality: Modality
    block: str | None
    depth: int
    width: int
    n_features: int
    reads_image: bool
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The IDs of a model's layers, keyed by qualified module name in the order in which the layers run."""

    layers: dict[str, LayerProfile]
    model: dict[str, Any]
    dataset: dict[str, Any]
    protocol: dict[str, Any]
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The documented object: {"schema", "model", "dataset", "protocol", "provenance", "layers": {name: {...}}}."""
        return {"schema": SCHEMA, **asdict(self)}
