"""What idvl prune and idvl recover print of the model that they leave behind."""

from __future__ import annotations

from json import dumps
from typing import Any

from idvl.commands.console import TerminalReporter, output, write


def show(result: Any, *, json: bool, reporter: TerminalReporter) -> None:
    """Print the results of a run, or its plan."""
    from idvl.downloads import to_json
    from idvl.reporting.terminal import plan_table, rests_on, result_table, results_table

    console = output()
    if json:
        write(dumps(result.report or result.plan.to_json() | to_json(result.downloads), indent=2) + "\n")
    elif result.report is None:
        console.print(plan_table(result.plan.report))
        for line in (*result.plan.lines(), *(each.line() for each in result.downloads)):
            console.print(line, soft_wrap=True)
    else:
        console.print(result_table(result.report))
        evaluation = result.report.get("evaluation")
        if evaluation and "skipped" not in evaluation:
            console.print()
            console.print(results_table(evaluation))
            for line in rests_on(evaluation):
                console.print(line, soft_wrap=True)
    if result.folder:
        reporter.note(f"model/, masks.safetensors, report.json and README.md are in {result.folder}")
