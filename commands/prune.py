"""idvl prune: parse, run the workflow, print what is left."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.choices import Allocation, Compat, Criterion, IdWeight, MissingId, Precision, ScheduleName
from idvl.commands import matrix as matrices
from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, write
from idvl.commands.options import choices, flag, number, text
from idvl.errors import UsageError

EPILOG = """[bold]Examples[/bold]

idvl prune builtin/blip --dataset shapes --sparsity 0.8

idvl prune ./my-checkpoint --dataset ./my-images --criterion magnitude --output runs/mine

idvl prune --recipe recipes/blip-coco-platon-id-80.yaml --set prune.sparsity=0.9

accelerate launch -m idvl prune --recipe recipes/blip-coco-platon-id-80.yaml

idvl prune --matrix recipes/small/core.yaml --output runs/core --budget 2h --resume

Flags win over --set, --set over the recipe file, the file over the defaults. Every setting of a recipe can be
given with --set."""

PRUNE, TRAIN, EVALUATION = "Pruning", "Training", "Evaluation"

# recipe section -> the flags that set its keys
SETTINGS = {
    "model": ("revision", "device", "trust_remote_code", "cache_dir", "local_files_only"),
    "data": (
        "dataset", "data_dir", "dataset_id", "image_column", "text_column", "label_column", "answers_column",
        "second_image_column", "allow_outside", "split", "samples", "seed", "force",
    ),
    "estimate": ("memory",),
    "prune": (
        "sparsity", "criterion", "id_weight", "id_exponent", "profile", "missing_id", "refresh_profile", "scope",
        "allocation", "structure", "floor", "ceiling", "min_keep", "schedule", "initial", "final", "mask_every",
        "monotone", "compat",
    ),
    "train": (
        "epochs", "max_steps", "batch_size", "accumulate", "learning_rate", "weight_decay", "clip", "mixed_precision",
        "gradient_checkpointing", "distill", "checkpoint_every", "report_to", "new_head",
    ),
    "eval": ("task", "every", "limit", "after"),
}  # fmt: skip


def command(
    context: typer.Context,
    model: o.Model = None,
    *,
    sparsity: Annotated[
        float | None, number(PRUNE, "Share of the weights in scope that become zero; 0.8 by default.")
    ] = None,
    criterion: Annotated[
        Criterion | None, text(PRUNE, f"What a weight is worth: {choices(Criterion)}.", metavar="WORD")
    ] = None,
    id_weight: Annotated[
        IdWeight | None, text(PRUNE, f"Its layer's dimension: {choices(IdWeight)}.", metavar="WORD")
    ] = None,
    id_exponent: Annotated[float | None, number(PRUNE, "Power of the dimension; 1 by default.")] = None,
    profile: Annotated[
        str | None, text(PRUNE, "auto (estimated first), a file, or published:blip-coco.", metavar="PROFILE")
    ] = None,
    missing_id: Annotated[
        MissingId | None, text(PRUNE, f"Layers without a sound dimension: {choices(MissingId)}.", metavar="WORD")
    ] = None,
    refresh_profile: Annotated[int | None, number(PRUNE, "Estimate anew every N epochs.", min=1)] = None,
    scope: Annotated[
        str | None,
        text(PRUNE, "all, vision, language, language-without-cross, or a pattern of names.", metavar="SCOPE"),
    ] = None,
    allocation: Annotated[
        Allocation | None, text(PRUNE, f"One threshold, or each layer alike: {choices(Allocation)}.", metavar="WORD")
    ] = None,
    structure: Annotated[str | None, text(PRUNE, "unstructured (default), or N:M, as in 2:4.", metavar="WORD")] = None,
    floor: Annotated[float | None, number(PRUNE, "Least sparsity of a layer.")] = None,
    ceiling: Annotated[float | None, number(PRUNE, "Greatest sparsity of a layer.")] = None,
    min_keep: Annotated[int | None, number(PRUNE, "Weights that every layer keeps.", min=0)] = None,
    schedule: Annotated[
        ScheduleName | None, text(PRUNE, f"How sparsity grows: {choices(ScheduleName)}.", metavar="WORD")
    ] = None,
    initial: Annotated[float | None, number(PRUNE, "Share of the steps before pruning starts.")] = None,
    final: Annotated[float | None, number(PRUNE, "Share of the steps after it has ended.")] = None,
    mask_every: Annotated[int | None, number(PRUNE, "Steps between two masks; 10, fewer in short runs.", min=1)] = None,
    monotone: Annotated[bool | None, flag(PRUNE, "What is pruned never returns.", "--monotone")] = None,
    compat: Annotated[Compat | None, text(PRUNE, "icml24: set masks as the paper's code does.", metavar="WORD")] = None,
    epochs: Annotated[int | None, number(TRAIN, "Passes over the training samples; 5 by default.", min=0)] = None,
    max_steps: Annotated[int | None, number(TRAIN, "Optimizer steps, instead of epochs.", min=1)] = None,
    batch_size: Annotated[int | None, number(TRAIN, "Samples of one process's batch; 20 by default.", min=1)] = None,
    accumulate: Annotated[int | None, number(TRAIN, "Batches of one optimizer step.", min=1)] = None,
    learning_rate: Annotated[float | None, number(TRAIN, "Peak; 1e-5, or the built-in model's own.")] = None,
    weight_decay: Annotated[float | None, number(TRAIN, "AdamW's; 0 by default.")] = None,
    clip: Annotated[float | None, number(TRAIN, "Largest norm of the gradient.")] = None,
    mixed_precision: Annotated[Precision | None, text(TRAIN, f"{choices(Precision)}.", metavar="WORD")] = None,
    gradient_checkpointing: Annotated[
        bool | None, flag(TRAIN, "Less memory, more time.", "--gradient-checkpointing")
    ] = None,
    distill: Annotated[float | None, number(TRAIN, "Weight of learning from the dense model.")] = None,
    checkpoint_every: Annotated[
        int | None, number(TRAIN, "Steps between two checkpoints; 500 by default.", min=1)
    ] = None,
    report_to: Annotated[list[str] | None, text(TRAIN, "tensorboard, wandb or trackio.", metavar="NAME")] = None,
    new_head: Annotated[bool | None, flag(TRAIN, "A classifier for this dataset's labels.", "--new-head")] = None,
    task: Annotated[
        str | None, text(EVALUATION, "caption, retrieval, ...; what model and dataset are for.", metavar="WORD")
    ] = None,
    every: Annotated[int | None, number(EVALUATION, "Evaluate every N steps.", "--eval-every", min=1)] = None,
    limit: Annotated[int | None, number(EVALUATION, "On so many samples only.", "--eval-limit", min=1)] = None,
    after: Annotated[
        bool | None,
        typer.Option("--eval/--no-eval", help="Evaluate the pruned model; on.", rich_help_panel=EVALUATION),
    ] = None,
    dataset: o.Dataset = None,
    data_dir: o.DataDir = None,
    dataset_id: o.DatasetId = None,
    image_column: o.ImageColumn = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    answers_column: o.AnswersColumn = None,
    second_image_column: o.SecondImageColumn = None,
    allow_outside: o.AllowOutside = None,
    split: Annotated[str | None, text(o.DATA, "Split to train and estimate on; train by default.")] = None,
    samples: Annotated[
        int | None, number(o.DATA, "How many the dimensions are estimated from; 2,000 by default.", min=1)
    ] = None,
    seed: o.Seed = None,
    force: o.Force = None,
    memory: o.Memory = None,
    revision: o.Revision = None,
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
    matrix: Annotated[
        Path | None, text(o.RUN, "Run every cell of a matrix of recipes, each in its own folder.", metavar="FILE")
    ] = None,
    budget: Annotated[
        str | None, text(o.RUN, "Start no cell that would end later, as in 2h or 90m.", metavar="TIME")
    ] = None,
    push_to_hub: Annotated[
        str | None, text(o.RUN, "Upload the pruned model to this repository of the Hub.", metavar="ID")
    ] = None,
    public: Annotated[bool, flag(o.RUN, "Make a new repository public.", "--public")] = False,
    json: Annotated[bool, flag(o.SHOWN, "The report alone, on stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Prune a model while it trains, weight importance multiplied by each layer's intrinsic dimension.

    Leaves a run folder: model/ opens with from_pretrained, masks.safetensors and report.json say what went.
    """
    if matrix or budget:
        matrices.carry_out(context.params, SETTINGS)
        return
    if public and push_to_hub is None:
        raise UsageError("--public is for an upload: add --push-to-hub ID, or leave it out")
    reporter, asked = o.begin(context.params, SETTINGS)
    if profile is not None and asked.prune.id_weight == "none":
        raise UsageError(f"--profile {profile} and id_weight none: no dimension is used; leave --profile out")
    from idvl.workflows import prune

    with results_alone():
        result = prune.run(
            asked,
            folder=output_dir,
            reporter=reporter,
            resume=resume,
            overwrite=overwrite,
            plan_only=plan,
            push_to=push_to_hub,
            private=not public,
        )
    if rank() == 0:
        _show(result, json=json, reporter=reporter)


def _show(result: Any, *, json: bool, reporter: TerminalReporter) -> None:
    """Print what a run came to, or its plan."""
    from idvl.reporting.results import rests_on, results_table
    from idvl.reporting.sparsity import plan_table, result_table

    console = output()
    if json:
        write(dumps(result.report or result.plan.to_json(), indent=2) + "\n")
    elif result.report is None:
        console.print(plan_table(result.plan.report))
        for line in result.plan.lines():
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
