"""idvl analyze: parse, run the workflow, print the tables or where the page is."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, speak, write
from idvl.commands.options import flag, number, text
from idvl.errors import UsageError, quoted

EPILOG = """[bold]Examples[/bold]

idvl analyze runs/blip-80 runs/blip-80-noid --output report.html

idvl analyze runs/* --table latex

idvl analyze runs/small --expect --output replication.html

idvl analyze --sensitivity builtin/blip --dataset shapes --output runs/sensitivity

A folder that is no run stands for the runs in it. The page is one file that needs no network; the figures are drawn as
PNG and SVG into a folder beside it. With --sensitivity, --output is the folder of that run, and the page is in it."""

SENSITIVITY = "Sensitivity"
# recipe section -> the flags that set its keys
SETTINGS = {
    "model": ("device",),
    "data": ("dataset", "data_dir", "allow_outside", "samples", "seed"),
    "prune": ("scope", "profile"),
    "eval": ("limit", "batch_size"),
}
# what makes sense with --sensitivity alone
MEASURING = ("ratios", "plan", "resume", "recipe", "set_", *(name for names in SETTINGS.values() for name in names))
PAGE = "report.html"


def command(
    context: typer.Context,
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)
    ] = None,
    *,
    page: Annotated[
        Path | None, text(o.SHOWN, "Write the report, one HTML file.", "--output", metavar="FILE", callback=o.at_home)
    ] = None,
    table: Annotated[str | None, text(o.SHOWN, "The tables as markdown, latex or csv.", metavar="FORMAT")] = None,
    json: Annotated[bool, flag(o.SHOWN, "All numbers, with their files.", "--json")] = False,
    expect: Annotated[bool, flag(o.SHOWN, "The paper's numbers beside the measured ones.", "--expect")] = False,
    sensitivity: Annotated[
        str | None,
        text(SENSITIVITY, "Prune each layer, and each modality, of this model alone, one-shot.", metavar="MODEL"),
    ] = None,
    ratios: Annotated[
        list[float] | None,
        number(SENSITIVITY, "Sparsity of what is pruned; repeatable. 0.2 to 0.9 by default.", "--ratio"),
    ] = None,
    scope: Annotated[str | None, text(SENSITIVITY, "As of idvl prune; all by default.")] = None,
    profile: Annotated[
        str | None, text(SENSITIVITY, "auto (estimated first), a file, or published:blip-coco.", metavar="PROFILE")
    ] = None,
    samples: Annotated[int | None, number(SENSITIVITY, "Samples of the estimate; 2000 by default.", min=1)] = None,
    limit: Annotated[int | None, number(SENSITIVITY, "Held-out samples of the loss; 500 by default.", min=1)] = None,
    batch_size: Annotated[int | None, number(SENSITIVITY, "Held-out samples at a time.", min=1)] = None,
    dataset: o.Dataset = None,
    data_dir: o.DataDir = None,
    allow_outside: o.AllowOutside = None,
    seed: o.Seed = None,
    device: o.Device = None,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    plan: o.Plan = False,
    resume: o.Resume = False,
    overwrite: Annotated[bool, flag(o.RUN, "Replace what is at --output.", "--overwrite")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Show what runs found, side by side: tables with intervals, figures, samples, and how each was made.

    Every number names the file that it is from.
    """
    from idvl.reporting.export import FORMATS

    o.check_text({**context.params, "folders": []})
    if table and json:
        raise UsageError("--table and --json exclude each other: both write to stdout")
    if table and table not in FORMATS:
        raise UsageError(f"--table is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, not {quoted(table)}")
    places = list(folders or ())
    if sensitivity is None:
        if odd := [name for name in MEASURING if context.params[name]]:
            name = odd[0].strip("_").replace("_", "-").replace("ratios", "ratio")
            raise UsageError(f"--{name} is for --sensitivity MODEL: nothing else measures")
        if not places:
            raise UsageError("name the folders of runs, as in idvl analyze runs/*, or a model to --sensitivity")
        reporter = TerminalReporter(quiet=quiet)
        speak(reporter, debug=debug)
    else:
        reporter, measured = _measure(context.params)
        if measured is None:
            return
        places, page = [measured, *places], measured / PAGE
    from idvl.workflows import analyze

    found = analyze.run(places, page_at=page, expect=expect, overwrite=overwrite, reporter=reporter)
    # a sensitivity run by itself tells its result too
    few = page is None or (sensitivity is not None and not folders)
    _show(found, table=table, json=json, tables=few, reporter=reporter)
    if page is not None:
        reporter.note(f"the report is {page}, its figures are in {analyze.figures_beside(page)}")


def _measure(params: dict[str, Any]) -> tuple[TerminalReporter, Path | None]:
    """Carry out --sensitivity: the reporter, and the folder; None after a plan, and beside the first process."""
    reporter, asked = o.begin({**params, "model": params["sensitivity"], "output_dir": params["page"]}, SETTINGS)
    from idvl.pruning import sensitivity

    given = {"ratios": params["ratios"]} if params["ratios"] else {}
    how = {name: params[name] for name in ("resume", "overwrite")}
    with results_alone():
        done = sensitivity.run(
            asked, folder=params["page"], reporter=reporter, plan_only=params["plan"], **how, **given
        )
    if params["plan"] and rank() == 0:
        lines = dumps(done.plan.to_json(), indent=2) if params["json"] else "\n".join(done.plan.lines())
        write(f"{lines}\n")
    return reporter, done.folder


def _show(found: Any, *, table: str | None, json: bool, tables: bool, reporter: TerminalReporter) -> None:
    """The tables as they were asked for; on the terminal where there is no page of them. What is wrong with runs."""
    from idvl.reporting.export import terminal, written
    from idvl.workflows.analyze import document

    for name, why in found.made.troubles[len(found.study.refused) :]:
        reporter.note(f"{name}: {why}")
    if json:
        write(dumps(document(found), indent=2) + "\n")
    elif table:
        write(written(found.tables, table))
    elif tables:
        for shown in found.tables:
            output().print(terminal(shown))
