"""idvl estimate-id: parse, run the workflow, print the table."""

from __future__ import annotations

import contextlib
import sys
from json import dumps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from idvl.commands.console import Reporter, output, rank, speak
from idvl.errors import UsageError
from idvl.profile import MODALITIES, Capture, Dtype, EstimatorName, Knn, Tokens, compare, load_profile

EPILOG = """[bold]Examples[/bold]

idvl estimate-id builtin/blip

idvl estimate-id builtin/vit --dataset digits --estimator gride

idvl estimate-id Salesforce/blip-image-captioning-base --dataset coco --memory 8GiB

idvl estimate-id ./my-checkpoint --dataset ./my-images --samples 500 --output runs/mine

idvl estimate-id --recipe runs/mine/recipe.yaml --set estimate.tokens=mean

Flags go before --set, --set before the recipe file, the file before the defaults."""

# recipe section -> the flags that set its keys
SETTINGS = {
    "model": ("revision", "dtype", "device", "trust_remote_code", "cache_dir", "local_files_only"),
    "data": (
        "dataset", "data_dir", "dataset_id", "image_column", "text_column", "split", "samples", "seed", "batch_size",
        "force",
    ),
    "estimate": ("tokens", "capture", "estimator", "layers", "modality", "knn", "memory", "spill"),
}  # fmt: skip

DATA, MEASURE, MODEL, RUN, SHOWN = "Data", "Measurement", "Model", "Run", "What is shown"


def _choices(words: Any) -> str:
    """What a Literal allows; its first word is the default."""
    first, *others = get_args(words)
    return ", ".join([f"{first} (default)", *others])


def command(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="Hub id, local folder, builtin/blip or builtin/vit.", show_default=False)
    ] = None,
    *,
    dataset: Annotated[
        str | None,
        typer.Option(help="shapes, digits, coco, flickr30k, textvqa, or a local path.", rich_help_panel=DATA),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local copy of the dataset.", rich_help_panel=DATA)] = None,
    dataset_id: Annotated[
        str | None, typer.Option(help="Hub repository to read it from instead.", rich_help_panel=DATA)
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the images.", rich_help_panel=DATA)] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts.", rich_help_panel=DATA)] = None,
    split: Annotated[
        str | None, typer.Option(help="Split, the dataset's own by default.", rich_help_panel=DATA)
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="How many, the dataset's own number by default.", rich_help_panel=DATA),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Chooses the samples; 0 by default.", rich_help_panel=DATA)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Samples run at once; no number depends on it.", rich_help_panel=DATA),
    ] = None,
    force: Annotated[
        bool | None,
        typer.Option("--force", metavar="", help="Estimate from fewer than 100 samples.", rich_help_panel=DATA),
    ] = None,
    tokens: Annotated[
        Tokens | None,
        typer.Option(metavar="WORD", help=f"What one point is: {_choices(Tokens)}.", rich_help_panel=MEASURE),
    ] = None,
    capture: Annotated[
        Capture | None,
        typer.Option(metavar="WORD", help=f"Which side of a layer: {_choices(Capture)}.", rich_help_panel=MEASURE),
    ] = None,
    estimator: Annotated[
        EstimatorName | None, typer.Option(metavar="WORD", help=f"{_choices(EstimatorName)}.", rich_help_panel=MEASURE)
    ] = None,
    layers: Annotated[
        str | None, typer.Option(metavar="PATTERN", help="Only layers of these names.", rich_help_panel=MEASURE)
    ] = None,
    modality: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD", help=f"Only {', '.join(MODALITIES)}; repeatable.", rich_help_panel=MEASURE),
    ] = None,
    knn: Annotated[
        Knn | None,
        typer.Option(
            metavar="WORD",
            help=f"Who looks for neighbours: {_choices(Knn)}; all find the same.",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Budget, as in 8GiB; a quarter of what is free.", rich_help_panel=MEASURE),
    ] = None,
    spill: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Put on disk what exceeds memory.", rich_help_panel=MEASURE)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.", rich_help_panel=MODEL)] = None,
    dtype: Annotated[
        Dtype | None, typer.Option(metavar="WORD", help=f"{_choices(Dtype)}.", rich_help_panel=MODEL)
    ] = None,
    device: Annotated[str | None, typer.Option(help="As in cpu or cuda:0.", rich_help_panel=MODEL)] = None,
    trust_remote_code: Annotated[
        bool | None,
        typer.Option("--trust-remote-code", metavar="", help="Run code of the repository.", rich_help_panel=MODEL),
    ] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Where downloads are kept.", rich_help_panel=MODEL)] = None,
    local_files_only: Annotated[
        bool | None, typer.Option("--local-files-only", metavar="", help="Download nothing.", rich_help_panel=MODEL)
    ] = None,
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="Settings in YAML.", rich_help_panel=RUN)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting of the recipe; repeatable.", rich_help_panel=RUN),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", metavar="", help="Show the plan and stop.", rich_help_panel=RUN)
    ] = False,
    output_dir: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Run folder; new under runs/.", rich_help_panel=RUN)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", metavar="", help="Continue the run in --output.", rich_help_panel=RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Replace the run in --output.", rich_help_panel=RUN)
    ] = False,
    compare_with: Annotated[
        Path | None,
        typer.Option(
            "--compare", metavar="FILE", help="A profile, run folder, or blip-coco (published).", rich_help_panel=SHOWN
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", metavar="", help="The profile alone, on stdout.", rich_help_panel=SHOWN)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", metavar="", help="Result and warnings only.", rich_help_panel=SHOWN)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", metavar="", help="Log and traceback.", rich_help_panel=SHOWN)
    ] = False,
) -> None:
    """Estimate the intrinsic dimension of every layer of a model on a dataset.

    Shows a table and leaves a run folder with profile.json, profile.png and the recipe that repeats the run.
    """
    if (resume or overwrite) and output_dir is None:
        raise UsageError(f"--{'resume' if resume else 'overwrite'} needs the folder of the run: --output DIR")
    reporter = Reporter(quiet=quiet)
    speak(reporter, debug=debug)
    from idvl import recipe as recipes

    asked = recipes.load(recipe, recipes.parse_assignments(set_ or []) | _flags(context.params))
    other = load_profile(compare_with) if compare_with else None
    from idvl.workflows import estimate_id

    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the result, whatever a library prints
        result = estimate_id.run(
            asked,
            folder=output_dir,
            reporter=reporter,
            resume=resume,
            overwrite=overwrite,
            plan_only=plan,
            compare=compare_with,
        )
    if rank() == 0:
        _show(result, other, str(compare_with), json=json, reporter=reporter)


def _flags(params: dict[str, Any]) -> dict[str, Any]:
    """The settings that were given as flags: recipe key -> value."""
    given = {"model.name": params["model"]}
    given |= {f"{section}.{name}": params[name] for section, names in SETTINGS.items() for name in names}
    return {key: value for key, value in given.items() if value is not None and value not in ([], ())}


def _show(result: Any, other: Any, label: str, *, json: bool, reporter: Reporter) -> None:
    """Print what a run came to."""
    from idvl.reporting.table import summary, table

    console = output()
    if result.profile is None and json:
        sys.stdout.write(dumps(result.plan.to_json(), indent=2) + "\n")
        return
    if result.profile is None:
        for line in result.plan.lines():
            console.print(line, soft_wrap=True)
        return
    if json:
        sys.stdout.write(result.profile.dumps())
    else:
        console.print(table(result.profile, other, label))
        for line in summary(result.profile):
            console.print(line, soft_wrap=True)
    if other is not None:
        differing = compare(other, result.profile)
        if differing.settings:
            reporter.note(f"measured otherwise in {label}: {', '.join(differing.settings)}")
        if differing.only_first or differing.only_second:
            reporter.note(
                f"{len(differing.only_first)} layers are in {label} only, {len(differing.only_second)} in this run only"
            )
    reporter.note(f"profile.json, profile.png and recipe.yaml are in {result.folder}")
