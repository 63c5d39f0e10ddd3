"""Plans, reports and results as tables for the terminal. They show values; they compute nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from idvl.reporting.table import GAP, INDENT, NARROWEST, NOTE, folded, grid, number_table
from idvl.uncovered import in_words
from idvl.units import percent

# the denominators of a report, in words: its key and what it counts
WHOLE = (("prunable", "all prunable"), ("model", "all weights"))


def plan_table(plan: Mapping[str, Any]) -> Table:
    """A row per modality: layers, weights, their fraction of those in scope, and the target sparsity.

    What all weights come to is not known where some were zero before: which of them are pruned again is open.
    """
    total = plan["total"]
    known = not plan.get("before")
    rows = [
        (name, part["layers"], part["weights"], part["weights"] / total["weights"], part["asked"])
        for name, part in {**plan["modalities"], "in scope": total}.items()
    ]
    rows += [
        (
            *(name, None, total[f"{key}_weights"], None),
            total["asked"] * total["weights"] / total[f"{key}_weights"] if known else None,
        )
        for key, name in WHOLE
    ]
    shown = [(name, _count(n), _count(w), _percent(share, 1), _percent(target)) for name, n, w, share, target in rows]
    return number_table(("", "layers", "weights", "fraction", "target"), shown)


def result_table(report: Mapping[str, Any]) -> Group:
    """A row per layer, then a row per modality and one for each denominator."""
    total = report["total"]
    rows = [
        (name, part["layers"], part["weights"], part["zeros"], part["asked"], part["sparsity"])
        for name, part in {**report["modalities"], "in scope": total}.items()
    ]
    zeros = {key: total.get(f"{key}_zeros", total["zeros"]) for key, _ in WHOLE}
    rows += [(name, None, total[f"{key}_weights"], zeros[key], None, total[f"{key}_sparsity"]) for key, name in WHOLE]
    shown = [
        (name, _count(n), _count(weights), _count(zeros), _percent(target), _percent(sparsity))
        for name, n, weights, zeros, target, sparsity in rows
    ]
    table = number_table(("", "layers", "weights", "zeros", "target", "sparsity"), shown)
    more = zeros["model"] - total["zeros"]
    notes = [Text(f"all weights count {more:,} zeros that the masks do not have")] if more > 0 else []
    notes += [Text(in_words(report["not_covered"], total["model_weights"]))] if report.get("not_covered") else []
    if any(layer["factor"] is not None for layer in report["layers"].values()):
        notes.append(Text("factor: what the scores of a layer's weights are multiplied by", style="dim"))
    return Group(LayerTable(report), table, *notes)


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
    return "" if share is None else percent(share, digits)


def results_table(results: Mapping[str, Any]) -> Table:
    """A row per metric that has a value: it, its interval, and the difference to the run compared with."""
    compared = results.get("compared")
    level = f"{percent(results['bootstrap']['level'], 0)} interval"
    header = ["", results["task"], level, *([f"minus {compared['model']}", level] if compared else [])]
    rows = []
    for name, metric in results["metrics"].items():
        if metric["value"] is None:
            continue
        row = [name, f"{metric['value']:.2f}", _interval(metric)]
        if compared and (difference := compared["differences"].get(name)):
            row += [f"{difference['value']:+.2f}", _interval(difference, "+")]
        rows.append(row)
    rows += [[name, *(f"{value}" for value in values.values())] for name, values in _others(results)]
    return number_table(header, rows)


def catalogue(rows: Sequence[Mapping[str, Any]]) -> list[Text]:
    """Lines on each dataset that idvl knows by name: what it is for, where it lives, what is in it."""
    lines = []
    for row in rows:
        gated = ", gated: accept its terms and set HF_TOKEN" if row["gated"] else ""
        splits = ", ".join(
            f"{name}{f' {size:,}' if size else ''}{'*' if name == row['eval_split'] else ''}"
            for name, size in row["splits"].items()
        )
        columns = ", ".join(f"{kind} {column}" for kind, column in row["columns"].items())
        lines.append(Text(f"{row['name']}: {', '.join(row['tasks'])}", style="bold"))
        lines.append(Text(f"  {row['holds']}"))
        lines.append(Text(f"  {row['id'] or 'built in'}{gated}" + (f"; columns: {columns}" if columns else "")))
        lines.append(Text(f"  splits: {splits}; licence: {row['licence']}"))
        if row["notes"]:
            lines.append(Text(f"  {row['notes']}", style="dim"))
    lines.append(Text("* evaluated by default", style="dim"))
    return lines


def _others(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    return [
        (key, {"value": value})
        for values in results.get("other_metrics", {}).values()
        for key, value in values.items()
        if isinstance(value, int | float | str)
    ]


def _interval(metric: Mapping[str, Any], sign: str = "") -> str:
    return f"{metric['low']:{sign}.2f} to {metric['high']:{sign}.2f}"


def rests_on(results: Mapping[str, Any]) -> list[str]:
    """What the numbers rest on, in words: samples, limit, learnt or not, tokenizer; and metrics that were skipped."""
    dataset = results.get("dataset", {})
    source = f" of {dataset['dataset']}, split {dataset['split']}" if dataset else ""
    lines = [f"{results['samples']:,} samples{source}"]
    if results.get("limit"):
        lines.append(f"LIMITED to {results['limit']:,} samples: not comparable with numbers on the whole split")
    if learnt := dataset.get("learnt"):
        lines.append(f"NO TEST: samples of this split were used for {learnt} of the model")
    for reason, count in (results.get("left_out") or {}).items():
        lines.append(f"left out: {count:,} samples with {reason}")
    if results.get("scoring"):
        lines.append(", ".join(f"{key} {value}" for key, value in results["scoring"].items()))
    if results.get("compared"):
        lines.append("differences: intervals over samples; another training of a model, as by seed, moves them too")
    for key, (here, other) in results.get("compared", {}).get("settings", {}).items():
        lines.append(f"the run compared with has another {key}: {other} there, {here} here")
    for name, metric in results["metrics"].items():
        if metric["value"] is None:
            why = (metric.get("skipped") or "not a number", metric.get("hint"))
            lines.append(f"{name} skipped: {'; '.join(filter(None, why))}")
    return lines
