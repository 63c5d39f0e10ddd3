"""idvl estimate-id: parse, run the workflow, print the table."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, write
from idvl.commands.options import MEASURE, choices, flag, number, text
from idvl.profile import MODALITIES, Capture, EstimatorName, Knn, Tokens, compare, load_profile

EPILOG = """[bold]Examples[/bold]

idvl estimate-id builtin/blip

idvl estimate-id builtin/vit --dataset digits --estimator gride

idvl estimate-id Salesforce/blip-image-captioning-base --dataset coco --memory 8GiB

idvl estimate-id ./my-checkpoint --dataset ./my-images --samples 500 --output runs/mine

idvl estimate-id --recipe runs/mine/recipe.yaml --set estimate.tokens=mean

Flags win over --set, --set over the recipe file, the file over the defaults."""

# recipe section -> the flags that set its keys
SETTINGS = {
    "model": ("revision", "dtype", "device", "trust_remote_code", "cache_dir", "local_files_only"),
    "data": (
        "dataset", "data_dir", "dataset_id", "image_column", "text_column", "label_column", "answers_column",
        "second_image_column", "allow_outside", "split", "samples", "seed", "batch_size", "force",
    ),
    "estimate": ("tokens", "capture", "estimator", "layers", "modality", "knn", "memory", "spill"),
}  # fmt: skip


def command(
    context: typer.Context,
    model: o.Model = None,
    *,
    dataset: o.Dataset = None,
    data_dir: o.DataDir = None,
    dataset_id: o.DatasetId = None,
    image_column: o.ImageColumn = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    answers_column: o.AnswersColumn = None,
    second_image_column: o.SecondImageColumn = None,
    allow_outside: o.AllowOutside = None,
    split: Annotated[str | None, text(o.DATA, "Split, the dataset's own by default.")] = None,
    samples: Annotated[int | None, number(o.DATA, "How many, the dataset's own number by default.", min=1)] = None,
    seed: o.Seed = None,
    batch_size: Annotated[
        int | None, number(o.DATA, "Samples run at once; changes results by rounding only.", min=1)
    ] = None,
    force: o.Force = None,
    tokens: Annotated[Tokens | None, text(MEASURE, f"What one point is: {choices(Tokens)}.", metavar="WORD")] = None,
    capture: Annotated[
        Capture | None, text(MEASURE, f"Which side of a layer: {choices(Capture)}.", metavar="WORD")
    ] = None,
    estimator: Annotated[EstimatorName | None, text(MEASURE, f"{choices(EstimatorName)}.", metavar="WORD")] = None,
    layers: Annotated[str | None, text(MEASURE, "Only layers of these names.", metavar="PATTERN")] = None,
    modality: Annotated[
        list[str] | None, text(MEASURE, f"Only {', '.join(MODALITIES)}; repeatable.", metavar="WORD")
    ] = None,
    knn: Annotated[
        Knn | None, text(MEASURE, f"Neighbour search: {choices(Knn)}, auto the faster; same result.", metavar="WORD")
    ] = None,
    memory: o.Memory = None,
    spill: Annotated[Path | None, text(MEASURE, "Put on disk what exceeds memory.", metavar="DIR")] = None,
    revision: o.Revision = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    trust_remote_code: o.TrustRemoteCode = None,
    cache_dir: o.CacheDir = None,
    local_files_only: o.LocalFilesOnly = None,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    plan: o.Plan = False,
    output_dir: o.Output = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    compare_with: Annotated[
        Path | None,
        text(o.SHOWN, "A profile, run folder, or blip-coco (published).", "--compare", metavar="FILE"),
    ] = None,
    json: Annotated[bool, flag(o.SHOWN, "The profile alone, on stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Estimate the intrinsic dimension of every layer of a model on a dataset.

    Shows a table and leaves a run folder with profile.json, profile.png and the recipe that repeats the run.
    """
    reporter, asked = o.begin(context.params, SETTINGS)
    other = load_profile(compare_with) if compare_with else None
    from idvl.workflows import estimate_id

    with results_alone():
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


def _show(result: Any, other: Any, label: str, *, json: bool, reporter: TerminalReporter) -> None:
    """Print what a run came to."""
    from idvl.reporting.table import summary, table

    console = output()
    if result.profile is None and json:
        write(dumps(result.plan.to_json(), indent=2) + "\n")
        return
    if result.profile is None:
        for line in result.plan.lines():
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
        if differing.only_first or differing.only_second:
            reporter.note(
                f"{len(differing.only_first)} layers are in {label} only, {len(differing.only_second)} in this run only"
            )
    reporter.note(f"profile.json, profile.png and recipe.yaml are in {result.folder}")
