"""The figures of profiles: dimension against depth (the paper's Figure 2), and against scale, with diagnostics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from idvl.profile import MODALITIES, LayerProfile
from idvl.reliability import unsound_reason
from idvl.reporting.collect import Study
from idvl.reporting.entry import Z
from idvl.reporting.figure import DEPTH, INTERLEAVED, Figure, Panel, Series, blocks, make, share
from idvl.reporting.labels import points, protocol
from idvl.reporting.lineage import MeasuredProfile, profiles_of

# profiles shown: each has a curve for every layer
MOST_SCALES = 6
LEGEND = "bands and bars are 95 % intervals of each estimate, grey stripes every other block"
DIAGNOSTICS = {
    "mle": "maximum likelihood",
    "linear": "linear fit",
    "r_squared": "R² of the linear fit",
    "ks_distance": "Kolmogorov-Smirnov distance to the Pareto law",
    "linear_mle_gap": "relative gap of linear fit and maximum likelihood",
    "per_doubling": "relative rise with twice the points",
    "ties": "points with r1 = r2",
}


def by_depth(study: Study) -> Figure:
    """A panel for each distinct profile, a curve for each modality; layers of pruned models tell their sparsity."""
    weights, profiles = _weights(study), profiles_of(study)

    def panels() -> Iterator[Panel]:
        for one, title in zip(profiles, _titles(profiles), strict=True):
            profile = one.profile
            sparsity = {name: layer["sparsity"] for name, layer in _pruned_layers(one, study).items()}
            groups: dict[tuple[str, bool], dict[str, LayerProfile]] = {}
            for name, layer in profile.layers.items():
                if layer.estimate.dimension is not None:
                    groups.setdefault((layer.modality, layer.reads_image), {})[name] = layer
            order = sorted(groups, key=lambda key: (MODALITIES.index(key[0]), key[1]))
            missing = sum(layer.estimate.dimension is None for layer in profile.layers.values())
            series = tuple(_dimensions(one.source, key, groups[key], weights, sparsity) for key in order)
            unreliable = sum(unsound_reason(layer) is not None for layer in profile.layers.values())
            caption = f"{len(profile.layers)} layers" + (f", {missing} without an estimate" if missing else "")
            caption += f", {unreliable} unreliable" if unreliable else ""
            how = protocol(profile) | {"points": f"{points(profile)} points"}
            yield Panel(
                name=title,
                series=series,
                shaded=blocks(profile),
                caption=f"{caption}; {', '.join(how.values())}; {LEGEND}",
            )

    return make(
        panels(), key="depth", title="Intrinsic dimension against depth", paper="Figure 2",
        x_label=DEPTH, y_label="intrinsic dimension",
        same_y=len({(one.profile.model.get("class"), one.profile.model.get("parameters")) for one in profiles}) == 1,
    )  # fmt: skip


def _titles(profiles: Sequence[MeasuredProfile]) -> list[str]:
    """The title of each profile, with what of its protocol is not that of all."""
    protocols = [protocol(one.profile) for one in profiles]
    titles = []
    for one, own in zip(profiles, protocols, strict=True):
        odd = [word for key, word in own.items() if any(other[key] != word for other in protocols)]
        titles.append(one.title + (f" ({', '.join(odd)})" if odd else ""))
    return titles


def _dimensions(
    source: str, key: tuple[str, bool], layers: Mapping[str, LayerProfile], weights: Mapping[str, int],
    sparsity: Mapping[str, float],
) -> Series:  # fmt: skip
    modality, reads_image = key
    estimates = [layer.estimate for layer in layers.values()]
    errors = [Z * estimate.stderr if estimate.stderr is not None else None for estimate in estimates]
    values = [estimate.dimension or 0.0 for estimate in estimates]
    facts = {}
    if any(name in weights for name in layers):
        facts["weights"] = tuple(f"{weights[name]:,}" if name in weights else "–" for name in layers)
    if any(name in sparsity for name in layers):
        facts["sparsity"] = tuple(share(sparsity.get(name)) for name in layers)
    return Series(
        name=f"{modality}: keys, values (image tokens)" if reads_image else modality, tone=modality,
        x=tuple(float(layer.depth) for layer in layers.values()), y=tuple(values),
        low=tuple(None if e is None else v - e for v, e in zip(values, errors, strict=True)),
        high=tuple(None if e is None else v + e for v, e in zip(values, errors, strict=True)),
        names=tuple(layers), facts=facts, unsound=tuple(map(unsound_reason, layers.values())), sources=(source,),
        hollow=reads_image, joined=modality != INTERLEAVED,
    )  # fmt: skip


def _pruned_layers(measured: MeasuredProfile, study: Study) -> dict[str, Any]:
    """What a report says of these layers: of the model measured, or of the one run that rests on the profile."""
    if measured.pruned:
        return measured.pruned.report.get("layers") or {}
    profile = measured.profile
    same = profile.model.get("fingerprint")
    own = [
        other
        for other in study.of("prune")
        if other.profile and other.profile.model.get("fingerprint") == same and other.profile.layers == profile.layers
    ]
    return own[0].report.get("layers") or {} if len(own) == 1 else {}


def _weights(study: Study) -> dict[str, int]:
    """How many weights a layer has, from any report; a name that has several numbers is left out."""
    numbers: dict[str, set[int]] = {}
    for run in study.runs:
        for name, layer in (run.report.get("layers") or {}).items():
            numbers.setdefault(name, set()).add(layer.get("weights"))
    return {name: counts.pop() for name, counts in numbers.items() if len(counts) == 1}


def by_scale(study: Study) -> Figure:
    """The dimension of each layer at growing numbers of neighbours, and what its estimator says about it."""

    def panels() -> Iterator[Panel]:
        profiles = profiles_of(study)
        for one, title in zip(profiles, _titles(profiles), strict=True):
            curves = (_scale(name, layer, one.source) for name, layer in one.profile.layers.items())
            yield Panel(name=title, series=tuple(series for series in curves if series))

    return make(
        panels(), most=MOST_SCALES, key="scale", title="Dimension against scale, and diagnostics of a layer",
        paper=None, x_label="neighbour rank 2m (ratio r_2m / r_m)", y_label="intrinsic dimension",
        log_x=True, picked=True,
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
    numbers = {title: estimate.diagnostics.get(key) for key, title in DIAGNOSTICS.items()}
    about = {
        "modality": layer.modality,
        "dimension": "none" if estimate.dimension is None else f"{estimate.dimension:.2f}",
        "standard error": "none" if estimate.stderr is None else f"{estimate.stderr:.2f}",
        **({"no estimate": estimate.reason} if estimate.reason else {}),
        **({"unreliable": unsound} if (unsound := unsound_reason(layer)) else {}),
        "points": f"{estimate.n_points:,}", "duplicates removed": f"{estimate.n_duplicates:,}",
        "features of a point": "not known" if layer.n_features is None else f"{layer.n_features:,}",
        "estimator": estimate.estimator,
        **({} if neighbors is None else {"points with certified neighbours": f"{neighbors:,}"}),
        **{title: f"{value:.4g}" for title, value in numbers.items() if isinstance(value, int | float)},
    }  # fmt: skip
    return Series(
        name=name, tone=layer.modality, x=tuple(float(one["neighbors"][1]) for one in scales),
        y=tuple(one["dimension"] for one in scales),
        names=tuple(f"neighbours {one['neighbors'][0]} to {one['neighbors'][1]}" for one in scales),
        facts={"mean distance": tuple(f"{one.get('mean_distance') or 0:.4g}" for one in scales)},
        about=about, sources=(source,),
    )  # fmt: skip
