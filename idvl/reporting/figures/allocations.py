"""The sparsity of each layer in the order of running, by allocation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from idvl.reporting.allocations import ALLOCATIONS, by_modality
from idvl.reporting.collect import Study
from idvl.reporting.figure import Figure, Panel, Series, make


def figure(study: Study) -> Figure:
    """A panel for each modality of each comparison, and a curve per allocation."""
    return _of(
        panel
        for run in study.of("allocations")
        for panel in _panels(run.allocations, f": {run.model} on {run.dataset}", (run.source(ALLOCATIONS),))
    )


def of_document(document: Mapping[str, Any]) -> Figure:
    """The figure of one allocations.json."""
    return _of(_panels(document, "", ()))


def _of(panels: Iterator[Panel]) -> Figure:
    return make(
        panels, key="allocations", title="Sparsity of each layer by allocation", paper=None,
        x_label="layers in the order in which they run", y_label="sparsity, %", zero=False,
    )  # fmt: skip


def _panels(document: Mapping[str, Any], of: str, sources: tuple[str, ...]) -> Iterator[Panel]:
    places = {name: number for number, name in enumerate(document["layers"])}
    for modality, layers in by_modality(document).items():
        curves = (
            Series(
                name=name,
                tone=f"{number}",
                names=tuple(layers),
                x=tuple(float(places[layer]) for layer in layers),
                y=tuple(100 * allocation["sparsity"][layer] for layer in layers),
                sources=sources,
            )
            for number, (name, allocation) in enumerate(document["allocations"].items())
        )
        yield Panel(name=f"{modality}{of}", series=tuple(curves))
