"""The dimension of each layer at growing numbers of neighbours, and what its estimator says about its soundness."""

from __future__ import annotations

from collections.abc import Iterator

from idvl.profile import LayerProfile
from idvl.reporting.collect import Study
from idvl.reporting.figures.panel import Figure, Panel, Series, make
from idvl.reporting.lineage import profiles_of

# profiles shown: each has a curve for every layer
MOST = 6


def figure(study: Study) -> Figure:
    """The dimension of each layer at growing numbers of neighbours, and what its estimator says about it."""

    def panels() -> Iterator[Panel]:
        for one in profiles_of(study):
            found = (_scale(name, layer, one.source) for name, layer in one.profile.layers.items())
            yield Panel(name=one.title, series=tuple(series for series in found if series))

    return make(
        panels(), most=MOST, key="scale", title="Dimension against scale, and diagnostics of a layer", paper=None,
        x_label="neighbours looked at", y_label="intrinsic dimension", log_x=True, picked=True,
    )  # fmt: skip


def _scale(name: str, layer: LayerProfile, source: str) -> Series | None:
    estimate = layer.estimate
    scales = [
        one
        for one in estimate.diagnostics.get("scales") or ()
        if one["dimension"] is not None and len(one["neighbors"]) == 2 and one["neighbors"][1] > 0
    ]
    if not scales:
        return None
    neighbors = (estimate.diagnostics.get("neighbors") or {}).get("certified_rows")
    numbers = {
        key: estimate.diagnostics.get(key)
        for key in ("mle", "linear", "r_squared", "ks_distance", "linear_mle_gap", "per_doubling", "ties")
    }
    about = {
        "modality": layer.modality,
        "dimension": "none" if estimate.dimension is None else f"{estimate.dimension:.2f}",
        "standard error": "none" if estimate.stderr is None else f"{estimate.stderr:.2f}",
        **({"no estimate": estimate.reason} if estimate.reason else {}),
        "points": f"{estimate.n_points:,}", "duplicates removed": f"{estimate.n_duplicates:,}",
        "features of a point": "not known" if layer.n_features is None else f"{layer.n_features:,}",
        "estimator": estimate.estimator,
        **({} if neighbors is None else {"certified points": f"{neighbors:,}"}),
        **{key.replace("_", " "): f"{value:.4g}" for key, value in numbers.items() if isinstance(value, int | float)},
    }  # fmt: skip
    return Series(
        name=name, tone=layer.modality, x=tuple(float(one["neighbors"][1]) for one in scales),
        y=tuple(one["dimension"] for one in scales),
        names=tuple(f"neighbours {one['neighbors'][0]} to {one['neighbors'][1]}" for one in scales),
        facts={"mean distance": tuple(f"{one.get('mean_distance') or 0:.4g}" for one in scales)},
        about=about, sources=(source,),
    )  # fmt: skip
