"""idvl analyze: parse, run the workflow, print the tables or where the page is."""

from __future__ import annotations

import os
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, speak, write
from idvl.commands.options import flag, number, text
from idvl.commands.settings import DOT, SettingFlags, flag_of
from idvl.errors import UsageError, quoted

EPILOG = """[bold]Examples[/bold]

idvl analyze runs/blip-80 runs/blip-80-noid --output report.html

idvl analyze runs/* --table latex

idvl analyze runs/small --expect --output replication.html

idvl analyze --sensitivity builtin/blip --dataset shapes --output runs/sensitivity

A folder that is not a run stands for the runs in it.
The page is one file that needs no network. Figures are saved beside it.
With --sensitivity, --output is the run folder, and the page is in it."""

SENSITIVITY = "Sensitivity"
SETTINGS = SettingFlags(
    keys=(
        "prune.scope", "prune.profile", "data.samples", "eval.limit", "eval.batch_size", "data.dataset",
        "data.data_dir", "data.allow_outside", "data.seed", "model.device",
    ),
    changes={
        "data.samples": {"shown": "2000"},
        "eval.limit": {"description": "Measure the loss on N held-out samples.", "shown": "500"},
        "eval.batch_size": {"description": "Held-out samples per batch.", "value": "N"},
    },
    panel=SENSITIVITY,
)  # fmt: skip
# what makes sense with --sensitivity alone, beside the settings
MEASURING = ("ratios", "plan", "resume", "recipe", "set_")
PAGE = "report.html"
OUTPUT = "Write the report to this HTML file; with --sensitivity, the run folder to make, with the report in it."


def command(
    context: typer.Context,
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
    ] = None,
    *,
    page_at: Annotated[str | None, text(o.SHOWN, OUTPUT, "--output", metavar="PATH")] = None,
    table: Annotated[
        str | None,
        text(o.SHOWN, "Print the tables as markdown, latex or csv. [dim]\\[default: none][/dim]", metavar="FORMAT"),
    ] = None,
    json: Annotated[bool, flag(o.SHOWN, "Print all numbers, with the files they are from, as JSON.", "--json")] = False,
    expect: Annotated[bool, flag(o.SHOWN, "Show the paper's numbers beside the measured ones.", "--expect")] = False,
    sensitivity: Annotated[
        str | None,
        text(SENSITIVITY, "Prune one layer, or one modality, of this model at a time, in one shot.", metavar="MODEL"),
    ] = None,
    ratios: Annotated[
        list[float] | None,
        number(SENSITIVITY, "Sparsity of what is pruned; repeatable. [dim]\\[default: 0.2 to 0.9][/dim]", "--ratio"),
    ] = None,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    plan: o.Plan = False,
    resume: o.Resume = False,
    overwrite: Annotated[bool, flag(o.RUN, "Replace what is at --output.", "--overwrite")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Compare runs: tables with intervals, figures, samples, and the settings of each run.

    Every number names the file that it is from.
    """
    from idvl.reporting.export import FORMATS

    o.check_text({**context.params, "folders": []})
    if table and json:
        raise UsageError("--table and --json exclude each other: both write to stdout")
    if table and table not in FORMATS:
        raise UsageError(f"--table is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {quoted(table)}")
    paths, page = list(folders or ()), o.at_home(page_at)
    if sensitivity is None:
        measuring = [name for name in context.params if DOT in name or name in MEASURING]
        if odd := [name for name in measuring if context.params[name]]:
            raise UsageError(f"{flag_of(context, odd[0])} is for --sensitivity MODEL: nothing else measures")
        if not paths:
            raise UsageError("name the folders of runs, as in idvl analyze runs/*, or a model to --sensitivity")
        if page_at and page_at.endswith(os.sep):
            raise UsageError(f"{quoted(page_at)} is a folder: name a file, as in --output {page / PAGE}")
        reporter = TerminalReporter(quiet=quiet)
        speak(reporter, debug=debug)
    else:
        reporter, run_folder = _measure(context, page)
        if run_folder is None:
            return
        paths, page = [run_folder, *paths], run_folder / PAGE
    from idvl.workflows import analyze

    analysis = analyze.run(paths, page_at=page, expect=expect, overwrite=overwrite, reporter=reporter)
    # a sensitivity run by itself tells its result too
    few = page is None or (sensitivity is not None and not folders)
    _show(analysis, table=table, json=json, tables=few, reporter=reporter)
    if page is not None:
        reporter.note(f"the report is {page}, its figures are in {analyze.figures_beside(page)}")


def _measure(context: typer.Context, folder: Path | None) -> tuple[TerminalReporter, Path | None]:
    """Carry out --sensitivity: the reporter, and the folder; None after a plan, and beside the first process."""
    params = context.params
    reporter, recipe = o.begin(context, model=params["sensitivity"], output_dir=folder)
    from idvl.downloads import to_json
    from idvl.workflows import sensitivity

    ratios = {"ratios": params["ratios"]} if params["ratios"] else {}
    options = {name: params[name] for name in ("resume", "overwrite")} | {"reads": params["folders"] or ()}
    with results_alone():
        result = sensitivity.run(
            recipe, folder=folder, reporter=reporter, plan_only=params["plan"], **options, **ratios
        )
    if params["plan"] and rank() == 0:
        if params["json"]:
            write(dumps(result.plan.to_json() | to_json(result.downloads), indent=2) + "\n")
        else:
            lines = (*result.plan.lines(), *(each.line() for each in result.downloads))
            write("\n".join(lines) + "\n")
    return reporter, result.folder


def _show(analysis: Any, *, table: str | None, json: bool, tables: bool, reporter: TerminalReporter) -> None:
    """The tables as they were asked for; on the terminal where there is no page of them. What is wrong with runs."""
    from idvl.reporting.export import terminal, written
    from idvl.workflows.analyze import document

    for name, why in analysis.overview.troubles[len(analysis.study.refused) :]:
        reporter.note(f"{name}: {why}")
    if json:
        write(dumps(document(analysis), indent=2) + "\n")
    elif table:
        write(written(analysis.tables, table))
    elif tables:
        for each in analysis.tables:
            output().print(terminal(each))
