"""idvl estimate-id: parse, run the workflow, print the table."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, write
from idvl.commands.options import flag, text
from idvl.commands.settings import SettingFlags

EPILOG = """[bold]Examples[/bold]

idvl estimate-id builtin/blip

idvl estimate-id builtin/vit --dataset digits --estimator gride

idvl estimate-id Salesforce/blip-image-captioning-base --dataset coco --memory 8GiB

idvl estimate-id ./my-checkpoint --dataset ./my-images --samples 500 --output runs/mine

idvl estimate-id --recipe runs/mine/recipe.yaml --set estimate.tokens=mean

Flags override --set, and --set overrides the recipe file."""

SETTINGS = SettingFlags(keys=("data", "estimate", "model"))


def command(
    context: typer.Context,
    model: o.Model = None,
    *,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    plan: o.Plan = False,
    output_dir: o.Output = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    compare_with: Annotated[
        Path | None,
        text(
            o.SHOWN,
            "Compare with a profile, a run folder, or published:blip-coco. [dim]\\[default: none][/dim]",
            "--compare",
            metavar="FILE",
        ),
    ] = None,
    json: Annotated[bool, flag(o.SHOWN, "Print the profile as JSON to stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Estimate the intrinsic dimension of every layer of a model on a dataset.

    Shows a table and leaves a run folder with profile.json, profile.png and the recipe that repeats the run.
    """
    reporter, resolved = o.begin(context)
    from idvl.profile import load_profile

    other = load_profile(compare_with) if compare_with else None
    from idvl.workflows import estimate_id

    with results_alone():
        result = estimate_id.run(
            resolved,
            folder=output_dir,
            reporter=reporter,
            resume=resume,
            overwrite=overwrite,
            plan_only=plan,
            compare=compare_with,
        )
    if rank() == 0:
        _show(result, other, str(compare_with), json=json, reporter=reporter)


def _show(result: Any, other: Any, label: str, *, json: bool, reporter: TerminalReporter) -> None:
    """Print the results of a run."""
    from idvl.downloads import to_json
    from idvl.profile import compare
    from idvl.reporting.table import summary, table
    from idvl.uncovered import in_words

    console = output()
    if result.profile is None and json:
        plan = {**result.plan.to_json(), "not_covered": result.model["not_covered"], **to_json(result.downloads)}
        write(dumps(plan, indent=2) + "\n")
        return
    if result.profile is None:
        lacking = (each.line() for each in result.downloads)
        for line in (*result.plan.lines(), *lacking, in_words(result.model["not_covered"], result.model["parameters"])):
            console.print(line, soft_wrap=True)
        return
    if json:
        write(result.profile.dumps())
    else:
        console.print(table(result.profile, other, label))
        for line in summary(result.profile):
            console.print(line, soft_wrap=True)
    if other is not None:
        differing = compare(other, result.profile)
        if differing.settings:
            reporter.note(f"measured otherwise in {label}: {', '.join(differing.settings)}")
        if unstated := [name for name in ("estimator", "tokens", "capture") if name not in other.protocol]:
            reporter.note(f"{label} does not state its {', '.join(unstated)}: it may be measured otherwise")
        if differing.only_first or differing.only_second:
            reporter.note(
                f"{len(differing.only_first)} layers are in {label} only, {len(differing.only_second)} in this run only"
            )
    reporter.note(f"profile.json, profile.png and recipe.yaml are in {result.folder}")
