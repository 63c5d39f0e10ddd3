"""allocations.json: the sparsities that allocations give the layers of a model, as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from rich import table as rich

from idvl.json_schema import Schema
from idvl.profile import MODALITIES
from idvl.reporting.entry import Table, TableEntry
from idvl.reporting.run_record import RunRecord
from idvl.reporting.table import number_table

ALLOCATIONS = "allocations.json"
Share = Annotated[float, Field(ge=0, le=1)]


class AllocationsFile(Schema):
    """allocations.json. `sparsity` of an allocation: that of each layer; `seconds`: what measuring its signal took."""

    NAME: ClassVar[str] = "idvl/allocations/1"

    class Counted(Schema):
        modality: str
        block: str | None
        weights: Annotated[int, Field(gt=0)]

    class Sparsities(Schema):
        seconds: float
        sparsity: dict[str, Share]

    sparsity: Share
    layers: Annotated[dict[str, Counted], Field(min_length=1)]
    allocations: dict[str, Sparsities]

    @model_validator(mode="after")
    def _of_all_layers(self) -> Self:
        for name, allocation in self.allocations.items():
            if allocation.sparsity.keys() != self.layers.keys():
                raise ValueError(f"allocations.{name} is of other layers")
        return self


def table(document: Mapping[str, Any]) -> rich.Table:
    """A row per allocation, for the terminal."""
    rows = [
        (name, *(f"{value:.2f} %" for value in values), f"{document['allocations'][name]['seconds']:.1f} s")
        for name, values in _rows(document).items()
    ]
    return number_table(("allocation", *_columns(document), "measuring"), rows)


def allocation_tables(runs: Sequence[RunRecord]) -> Iterator[Table]:
    """A table for each comparison of allocations."""
    for number, run in enumerate(runs, 1):
        document, source = run.allocations, (run.source(ALLOCATIONS),)
        rows = tuple(
            ((name,), tuple(TableEntry(value=value, n=1, sources=source, decimals=2) for value in values))
            for name, values in _rows(document).items()
        )
        yield Table(
            key=f"allocations-{number}", title=f"Sparsity in % by allocation: {run.model} on {run.dataset}",
            paper=None, labels=("allocation",), columns=_columns(document), rows=rows,
            notes=("lowest and highest: of a layer; spread: the standard deviation over weights",),
        )  # fmt: skip


def by_modality(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """The layers of each modality that there is, in the order of running."""
    layers = document["layers"]
    inside = {word: [name for name, layer in layers.items() if layer["modality"] == word] for word in MODALITIES}
    return {word: names for word, names in inside.items() if names}


def _columns(document: Mapping[str, Any]) -> tuple[str, ...]:
    return ("lowest", "highest", "spread", *by_modality(document), "all")


def _rows(document: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """A number for each of `_columns` of every allocation, in per cent."""
    weights = {name: layer["weights"] for name, layer in document["layers"].items()}
    modalities, rows = by_modality(document).values(), {}
    for name, allocation in document["allocations"].items():
        sparsity = allocation["sparsity"]
        mean = _mean(sparsity, weights)
        spread = math.sqrt(_mean({layer: (value - mean) ** 2 for layer, value in sparsity.items()}, weights))
        parts = [_mean(sparsity, {layer: weights[layer] for layer in inside}) for inside in modalities]
        shares = (min(sparsity.values()), max(sparsity.values()), spread, *parts, mean)
        rows[name] = tuple(100 * share for share in shares)
    return rows


def _mean(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    return sum(values[name] * count for name, count in weights.items()) / sum(weights.values())
