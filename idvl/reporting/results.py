"""Results of evaluations as tables for the terminal. They show results; they compute nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from idvl.reporting.table import number_table


def results_table(results: Mapping[str, Any]) -> Table:
    """A row per metric that has a value: it, its interval, and the difference to the run compared with."""
    compared = results.get("compared")
    level = f"{results['bootstrap']['level']:.0%} interval".replace("%", " %")
    header = ["", results["task"], level, *([f"minus {compared['model']}", level] if compared else [])]
    rows = []
    for name, metric in results["metrics"].items():
        if metric["value"] is None:
            continue
        row = [name, f"{metric['value']:.2f}", _interval(metric)]
        if compared and (difference := compared["differences"].get(name)):
            row += [f"{difference['value']:+.2f}", _interval(difference, "+")]
        rows.append(row)
    rows += [[name, *(f"{value}" for value in found.values())] for name, found in _others(results)]
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
        for found in results.get("other_metrics", {}).values()
        for key, value in found.items()
        if isinstance(value, int | float | str)
    ]


def _interval(found: Mapping[str, Any], sign: str = "") -> str:
    return f"{found['low']:{sign}.2f} to {found['high']:{sign}.2f}"


def rests_on(results: Mapping[str, Any]) -> list[str]:
    """What the numbers rest on, in words: samples, limit, tokenizer; and metrics that were skipped."""
    dataset = results.get("dataset", {})
    named = f" of {dataset['dataset']}, split {dataset['split']}" if dataset else ""
    lines = [f"{results['samples']:,} samples{named}"]
    if results.get("limit"):
        lines.append(f"LIMITED to {results['limit']:,} samples: not comparable with numbers on the whole split")
    for reason, count in (results.get("left_out") or {}).items():
        lines.append(f"left out: {count:,} samples with {reason}")
    if results.get("scoring"):
        lines.append(", ".join(f"{key} {value}" for key, value in results["scoring"].items()))
    for key, (ours, theirs) in results.get("compared", {}).get("settings", {}).items():
        lines.append(f"the run compared with has another {key}: {theirs} there, {ours} here")
    for name, metric in results["metrics"].items():
        if metric["value"] is None:
            why = (metric.get("skipped") or "not a number", metric.get("hint"))
            lines.append(f"{name} skipped: {'; '.join(filter(None, why))}")
    return lines
