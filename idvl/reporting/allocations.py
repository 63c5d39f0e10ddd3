"""allocations.json: the sparsities that allocations give the layers of a model, as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from rich.table import Table

from idvl.json_file import Schema
from idvl.profile import MODALITIES
from idvl.reporting.figure import Figure, Panel, Series, make
from idvl.reporting.table import number_table


class AllocationsFile(Schema):
    """allocations.json. `sparsity` of an allocation: that of each layer; `seconds`: what measuring its signal took."""

    NAME: ClassVar[str] = "idvl/allocations/1"

    class Counted(Schema):
        modality: str
        block: str | None
        weights: int

    class Sparsities(Schema):
        seconds: float
        sparsity: dict[str, float]

    sparsity: float
    layers: dict[str, Counted]
    allocations: dict[str, Sparsities]


def table(document: Mapping[str, Any]) -> Table:
    """A row per allocation: the lowest and highest sparsity of a layer, their spread, and each modality's sparsity.

    The spread is the standard deviation over weights.
    """
    weights = {name: layer["weights"] for name, layer in document["layers"].items()}
    modalities = _modalities(document)
    rows = []
    for name, allocation in document["allocations"].items():
        sparsity = allocation["sparsity"]
        mean = _mean(sparsity, weights)
        spread = math.sqrt(_mean({layer: (value - mean) ** 2 for layer, value in sparsity.items()}, weights))
        parts = [_mean(sparsity, {layer: weights[layer] for layer in inside}) for inside in modalities.values()]
        shares = (min(sparsity.values()), max(sparsity.values()), spread, *parts, mean)
        rows.append((name, *(f"{100 * share:.2f} %" for share in shares), f"{allocation['seconds']:.1f} s"))
    return number_table(("allocation", "lowest", "highest", "spread", *modalities, "all", "measuring"), rows)


def figure(document: Mapping[str, Any]) -> Figure:
    """The sparsity of each layer in the order of running, a panel per modality and a curve per allocation."""
    places = {name: number for number, name in enumerate(document["layers"])}

    def panels() -> Iterator[Panel]:
        for modality, layers in _modalities(document).items():
            yield Panel(name=modality, series=tuple(_curves(document, layers, places)))

    return make(
        panels(), key="allocations", title="Sparsity of each layer by allocation", paper=None,
        x_label="layers in the order in which they run", y_label="sparsity, %", zero=False,
    )  # fmt: skip


def _curves(document: Mapping[str, Any], layers: list[str], places: Mapping[str, int]) -> Iterator[Series]:
    for number, (name, allocation) in enumerate(document["allocations"].items()):
        yield Series(
            name=name, tone=f"{number}", names=tuple(layers), x=tuple(float(places[layer]) for layer in layers),
            y=tuple(100 * allocation["sparsity"][layer] for layer in layers),
        )  # fmt: skip


def _modalities(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The layers of each modality that there is."""
    layers = document["layers"]
    inside = {word: [name for name, layer in layers.items() if layer["modality"] == word] for word in MODALITIES}
    return {word: names for word, names in inside.items() if names}


def _mean(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    return sum(values[name] * count for name, count in weights.items()) / sum(weights.values())
