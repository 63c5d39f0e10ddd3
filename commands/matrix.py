"""idvl prune --matrix: parse, run every cell, print a line for each."""

from __future__ import annotations

import re
from json import dumps
from typing import Any

from rich.table import Table

from idvl.commands import options as o
from idvl.commands.console import output, results_alone, write
from idvl.errors import RunError, UsageError, quoted

# flags of prune that make no sense for many runs at once
SINGLE = {"recipe": "--recipe", "push_to_hub": "--push-to-hub", "public": "--public"}
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def execute(params: dict[str, Any]) -> None:
    """Run a matrix as the flags of `idvl prune` ask. RunError, after the table, where cells failed."""
    if params["matrix"] is None:
        raise UsageError("--budget is for many runs: add --matrix FILE")
    if flags := [flag for name, flag in SINGLE.items() if params[name]]:
        raise UsageError(f"--matrix and {flags[0]} exclude each other: a matrix holds its recipe and uploads nothing")
    seconds = None if params["budget"] is None else parse_time(params["budget"])
    reporter, overrides = o.parsed_flags(params)
    from idvl.sweep import sweep

    with results_alone():
        result = sweep.run(
            params["matrix"],
            overrides=overrides,
            folder=params["output_dir"],
            reporter=reporter,
            budget=seconds,
            resume=params["resume"],
            overwrite=params["overwrite"],
            plan_only=params["plan"],
        )
    if params["json"]:
        write(dumps([line.to_json() for line in result.lines], indent=2) + "\n")
    else:
        output().print(_table(result.lines))
    if result.folder:
        reporter.note(f"a run folder a cell, and matrix.jsonl, are in {result.folder}")
    if failed := [line for line in result.lines if line.state == "failed"]:
        first = failed[0]
        raise RunError(f"{len(failed)} of {len(result.lines)} cells failed, {first.name} first: {first.reason}")


def parse_time(text: str) -> float:
    """Seconds of "2h", "90m", "1h30m" or "45s". UsageError for anything else."""
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text.strip().lower())
    if not parts or "".join(map("".join, parts)) != text.strip().lower():
        raise UsageError(f"--budget takes a time such as 2h, 90m or 1h30m, not {quoted(text)}")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def _table(lines: list[Any]) -> Table:
    table = Table("cell", "state", "metric", "value", "s", box=None, pad_edge=False, header_style="dim")
    for column in table.columns[3:]:
        column.justify = "right"
    for line in lines:
        value = f"{line.metrics[line.headline]:.2f}" if line.headline else ""
        seconds = "" if line.seconds is None else f"{line.seconds:.0f}"
        table.add_row(line.name, line.state, line.headline or line.reason or "", value, seconds)
    return table
