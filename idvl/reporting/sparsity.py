"""What is going to be pruned, and what was, as tables for the terminal. They show a report; they count nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from idvl.reporting.table import GAP, INDENT, NARROWEST, NOTE, folded, grid, number_table

# the denominators of a report, in words: its key and what it counts
WHOLE = (("prunable", "all prunable"), ("model", "all weights"))


def plan_table(plan: Mapping[str, Any]) -> Table:
    """A row per modality: layers, weights, their share of those in scope, and the sparsity asked for."""
    total = plan["total"]
    rows = [
        (name, part["layers"], part["weights"], part["weights"] / total["weights"], part["asked"])
        for name, part in {**plan["modalities"], "in scope": total}.items()
    ]
    rows += [
        (name, None, total[f"{key}_weights"], None, total["asked"] * total["weights"] / total[f"{key}_weights"])
        for key, name in WHOLE
    ]
    shown = [(name, _count(n), _count(w), _percent(share, 1), _percent(asked)) for name, n, w, share, asked in rows]
    return number_table(("", "layers", "weights", "share", "asked"), shown)


def result_table(report: Mapping[str, Any]) -> Group:
    """A row per layer, then a row per modality and one for each denominator."""
    total = report["total"]
    rows = [
        (name, part["layers"], part["weights"], part["zeros"], part["asked"], part["sparsity"])
        for name, part in {**report["modalities"], "in scope": total}.items()
    ]
    rows += [
        (name, None, total[f"{key}_weights"], total["zeros"], None, total[f"{key}_sparsity"]) for key, name in WHOLE
    ]
    shown = [
        (name, _count(n), _count(weights), _count(zeros), _percent(asked), _percent(sparsity))
        for name, n, weights, zeros, asked, sparsity in rows
    ]
    return Group(LayerTable(report), number_table(("", "layers", "weights", "zeros", "asked", "sparsity"), shown))


@dataclass(frozen=True)
class LayerTable:
    """The layers of a report for a rich console, grouped by modality and block; names fold where it is narrow."""

    report: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        layers = self.report["layers"]
        header = ["layer", "ID", "factor", "sparsity", "zeros", "weights", ""]
        cells = [header, *(_cells(name, layer, 0) for name, layer in layers.items())]
        numbers = [max(map(len, column)) for column in list(zip(*cells, strict=True))[1:-1]]
        taken = sum(numbers) + GAP * (len(numbers) + 1) + NOTE
        longest = max((len(_inner(name, layer)) for name, layer in layers.items()), default=0) + INDENT
        widths = [max(NARROWEST, min(longest, options.max_width - taken)), *numbers]
        yield grid([header], widths, style="bold")
        yield Rule(style="dim", characters="─")
        for modality in self.report["modalities"]:
            yield Text(modality, style="bold")
            inside = [item for item in layers.items() if item[1]["modality"] == modality]
            for block, rows in groupby(inside, key=lambda item: item[1]["block"]):
                if block is not None:
                    yield Text(f" {block}", style="dim", overflow="fold")
                yield grid([_cells(name, layer, widths[0]) for name, layer in rows], widths)
            yield Text()


def _cells(name: str, layer: Mapping[str, Any], width: int) -> list[str]:
    return [
        folded(_inner(name, layer), width),
        _decimal(layer["dimension"]),
        _decimal(layer["factor"]),
        _percent(layer["sparsity"]),
        _count(layer["zeros"]),
        _count(layer["weights"]),
        layer["substituted"] or "",
    ]


def _inner(name: str, layer: Mapping[str, Any]) -> str:
    return name if layer["block"] is None else name.removeprefix(f"{layer['block']}.")


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _decimal(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def _percent(share: float | None, digits: int = 2) -> str:
    return "" if share is None else f"{share:.{digits}%}".replace("%", " %")
