"""Dimension against sensitivity: the loss when one layer alone, or one modality alone, is pruned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from idvl.profile import MODALITIES
from idvl.reporting.collect import Study
from idvl.reporting.entry import Z
from idvl.reporting.figure import DASHES, Figure, Panel, Series, make
from idvl.reporting.labels import percent
from idvl.reporting.run_record import RunRecord
from idvl.reporting.sensitivity import (
    HYPOTHESIS,
    SENSITIVITY,
    correlation,
    distinct,
    left_out,
    loss_of,
    ratios,
    subject,
)

LOSS = "loss (logarithmic)"
# the colour of modalities that were pruned together
TOGETHER = "6"


def figure(study: Study) -> Figure:
    """A panel for each run and ratio, the largest first: a point for each layer, with Spearman's rho."""

    def panels() -> Iterator[Panel]:
        for run in distinct(study.of("sensitivity")):
            for ratio in reversed(ratios(run)):
                groups = [_points(run, modality, ratio) for modality in MODALITIES]
                name = f"{percent(ratio)} of each layer alone: {subject(run)}"
                yield Panel(name=name, series=tuple(one for one in groups if one.x), caption=_caption(run, ratio))

    return make(
        panels(), key="sensitivity", title="Intrinsic dimension against what pruning a layer alone costs",
        paper=HYPOTHESIS, x_label="intrinsic dimension", y_label=LOSS, log_y=True,
        zero=False,
    )  # fmt: skip


def alone(study: Study) -> Figure:
    """The loss against the share pruned of each modality alone."""
    panels = (
        Panel(name=subject(run), series=tuple(one for one in _modalities(run) if one.x))
        for run in distinct(study.of("sensitivity"))
    )
    return make(
        panels, key="alone", title="What pruning one modality alone costs, one-shot", paper="Figures 1 and 4",
        x_label="sparsity of the modality, %", y_label=LOSS, log_y=True,
        zero=False, marks=True,
    )  # fmt: skip


def _points(run: RunRecord, modality: str, ratio: float) -> Series:
    points: list[tuple[str, float, float, Mapping[str, Any]]] = []
    for name, layer in run.sensitivity["layers"].items():
        loss = loss_of(layer, ratio)
        # a loss of 0, or a damaged one below, has no place on a logarithmic axis
        if layer["modality"] == modality and layer["dimension"] is not None and loss and loss > 0:
            points.append((name, layer["dimension"], loss, layer))
    errors = [None if layer["stderr"] is None else Z * layer["stderr"] for *_, layer in points]
    return Series(
        name=modality, tone=modality, joined=False,
        x=tuple(x for _, x, *_ in points), y=tuple(y for _, _, y, _ in points),
        names=tuple(name for name, *_ in points), sources=(run.source(SENSITIVITY),),
        unsound=tuple(layer.get("unsound") for *_, layer in points),
        facts={
            "± of the ID, 95 %": tuple("–" if error is None else f"{error:.2f}" for error in errors),
            "weights": tuple(f"{layer['weights']:,}" for *_, layer in points),
        },
    )  # fmt: skip


def _modalities(run: RunRecord) -> Iterator[Series]:
    for number, (modality, part) in enumerate(run.sensitivity["modalities"].items()):
        dense = run.sensitivity["dense"].get("loss")
        points = [("dense model", 0.0, dense)] * bool(dense and dense > 0)
        points += [
            (f"{percent(ratio)} of {modality}", 100 * ratio, loss)
            for ratio in ratios(run)
            if (loss := loss_of(part, ratio)) and loss > 0
        ]
        yield Series(
            name=f"{modality} ({part['layers']} layers)", tone=modality if modality in MODALITIES else TOGETHER,
            dash=DASHES[number % len(DASHES)],
            x=tuple(x for _, x, _ in points), y=tuple(y for *_, y in points), names=tuple(name for name, *_ in points),
            sources=(run.source(SENSITIVITY),),
        )  # fmt: skip


def _caption(run: RunRecord, ratio: float) -> str:
    result = correlation(run, ratio)
    if result is None:
        words = "too few layers with a reliable dimension for a correlation"
    else:
        words = f"Spearman's rho {result.rho:.2f}, p = {result.p:.4f} by permutation, {result.n} layers"
    return "; ".join(filter(None, (words, left_out([run]))))
