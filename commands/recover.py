"""idvl recover: parse, run the workflow, print the result."""

from __future__ import annotations

from typing import Annotated

import typer

from idvl.commands import options as o
from idvl.commands.console import rank, results_alone
from idvl.commands.options import flag, text
from idvl.commands.pruned import show
from idvl.commands.settings import SettingFlags

EPILOG = """[bold]Examples[/bold]

idvl recover runs/pruned --method lora --distill 0.1

idvl recover runs/pruned --method full --epochs 2 --learning-rate 1e-5

idvl recover ./pruned-by-others --masks zeros --dataset coco --data-dir ./coco

accelerate launch -m idvl recover runs/pruned --recipe instructblip-sparselora-24

MODEL is the folder of a run of idvl prune, or a model that has zeros.
Flags override --set, and --set overrides the recipe file."""

SETTINGS = SettingFlags(
    keys=(
        "recover",
        "prune.structure",
        "train",
        "eval.task",
        "eval.every",
        "eval.limit",
        "eval.after",
        "data",
        "model",
    ),
    without=("data.batch_size", "data.samples", "data.force", "model.dtype", "train.new_head"),
    changes={
        "eval.limit": {"flag": "--eval-limit"},
        "data.split": {"shown": "train"},
        "prune.structure": {
            "description": "Check that the masks have this structure, such as 2:4.",
            "shown": "that of the run that pruned the model",
        },
        "train.epochs": {"shown": "1"},
        "train.max_steps": {"shown": "none"},
        "train.learning_rate": {"shown": "1e-4; with method full a built-in model's own, else 1e-5"},
    },
)


def command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Run folder of a pruned model; with --masks also a local folder or a Hub id. "
            "Required unless the recipe names it.",
            show_default=False,
        ),
    ] = None,
    *,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    plan: o.Plan = False,
    output_dir: o.Output = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    push_to_hub: Annotated[
        str | None, text(o.RUN, "Upload the recovered model to this Hub repository.", metavar="ID")
    ] = None,
    public: o.Public = False,
    json: Annotated[bool, flag(o.SHOWN, "Print the report as JSON to stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a pruned model back under its masks: every zero stays, and --distill learns from the dense model.

    Leaves a run folder as idvl prune does.
    """
    o.check_upload(push_to_hub, public=public)
    reporter, parsed = o.begin(context)
    from idvl.workflows import recover

    with results_alone():
        result = recover.run(
            parsed,
            folder=output_dir,
            reporter=reporter,
            resume=resume,
            overwrite=overwrite,
            plan_only=plan,
            push_to=push_to_hub,
            private=not public,
        )
    if rank() == 0:
        show(result, json=json, reporter=reporter)
