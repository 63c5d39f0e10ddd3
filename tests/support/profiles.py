"""Profiles of layers, each with a dimension of its own."""

from __future__ import annotations

from collections.abc import Mapping

from idvl.models.layers import Layer
from idvl.profile import Estimate, LayerProfile, Profile


def profile_of(layers: Mapping[str, Layer], without: str | None = None, **changes: int) -> Profile:
    """Dimensions 2, 3, 4, ... in the order of the layers; `without`: the layer that has none."""

    def estimate(name: str, number: int) -> Estimate:
        facts = {"n_points": 500, "n_duplicates": 0, "estimator": "twonn"}
        if name == without:
            return Estimate(dimension=None, stderr=None, reason="constant output", **facts)
        return Estimate(dimension=float(number), stderr=0.25, **facts)

    rows = {
        name: LayerProfile(
            modality=layer.modality,
            block=layer.block,
            depth=number - 2,
            n_features=None,
            reads_image=layer.reads_image,
            estimate=estimate(name, number),
            **{"width": layer.out_features} | changes,
        )
        for number, (name, layer) in enumerate(layers.items(), 2)
    }
    return Profile(layers=rows, model={}, dataset={}, protocol={}, provenance={})
