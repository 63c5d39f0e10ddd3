"""idvl prune: parse, run the workflow, print what is left."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from idvl.commands import matrix as matrices
from idvl.commands import options as o
from idvl.commands.console import output, rank, results_alone, write
from idvl.commands.options import flag, text
from idvl.commands.pruned import show
from idvl.commands.settings import SettingFlags, flag_values
from idvl.errors import UsageError

EPILOG = """[bold]Examples[/bold]

idvl prune builtin/blip --dataset shapes --sparsity 0.8

idvl prune ./my-checkpoint --dataset ./my-images --criterion magnitude --output runs/mine

idvl prune --recipe blip-coco-platon-id-80 --set prune.sparsity=0.9

accelerate launch -m idvl prune --recipe blip-coco-platon-id-80

idvl prune builtin/blip --plan --allocation uniform,id,owl,alpha,ecoflap

idvl prune MODEL --dataset coco --criterion wanda --structure 2:4 --recover lora --distill 0.1

idvl prune --matrix small/core --output runs/core --budget 2h --resume

Flags override --set, and --set overrides the recipe file.
--set takes every setting of a recipe, also those without a flag."""

SETTINGS = SettingFlags(
    keys=(
        *("prune", "train", "recover.method", "recover.rank"),
        *(
            "eval.task",
            "eval.every",
            "eval.limit",
            "eval.after",
            "data",
            "estimate.memory",
            "estimate.offload",
            "model",
        ),
    ),
    without=("data.batch_size", "model.dtype"),
    changes={
        "eval.limit": {"flag": "--eval-limit"},
        "data.split": {"shown": "train"},
        "recover.method": {
            "flag": "--recover",
            "description": "Recover the pruned model by this method, as idvl recover does.",
            "shown": "no recovery",
        },
    },
)


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
    matrix: Annotated[
        Path | None,
        text(
            o.RUN,
            "Run every combination that this YAML file, or packaged matrix, lists, each in its own folder.",
            metavar="FILE|NAME",
            known="matrix",
        ),
    ] = None,
    budget: Annotated[
        str | None, text(o.RUN, "With --matrix, start no run that would end later, as in 2h or 90m.", metavar="TIME")
    ] = None,
    push_to_hub: Annotated[
        str | None, text(o.RUN, "Upload the pruned model to this Hub repository.", metavar="ID")
    ] = None,
    public: o.Public = False,
    json: Annotated[bool, flag(o.SHOWN, "Print the report as JSON to stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Prune a model while it trains, guided by the intrinsic dimension of its layers, or from calibration samples.

    Leaves a run folder: model/ opens with from_pretrained, masks.safetensors and report.json say what went.
    """
    if matrix or budget:
        matrices.execute(context.params)
        return
    o.check_upload(push_to_hub, public=public)
    several = [name.strip() for name in (context.params["prune__allocation"] or "").split(",")]
    if len(several) > 1:
        _compare(context, several)
        return
    reporter, resolved = o.begin(context)
    from idvl import recipe as recipes
    from idvl.pruning.settings import refuse_idle
    from idvl.workflows import prune, prune_recover

    refuse_idle(resolved.prune, recipes.parse_assignments(set_ or []) | flag_values(context.params))
    with results_alone():
        result = (prune_recover if resolved.recover.method else prune).run(
            resolved,
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


def _compare(context: typer.Context, names: list[str]) -> None:
    """Compare several allocations, and print the table of their sparsities."""
    params = context.params
    if not params["plan"]:
        raise UsageError("several allocations are compared, and nothing is pruned: add --plan, or choose one")
    if params["resume"] or params["push_to_hub"]:
        raise UsageError("several allocations are compared with --plan: leave --resume and --push-to-hub out")
    reporter, recipe = o.begin(context, prune__allocation=names[0])
    from idvl.workflows import compare_allocations

    with results_alone():
        result = compare_allocations.run(
            recipe, names, folder=params["output_dir"], reporter=reporter, overwrite=params["overwrite"]
        )
    if rank() == 0:
        from idvl.reporting.allocations import table

        if params["json"]:
            write(dumps(result.document, indent=2) + "\n")
        else:
            output().print(table(result.document))
        reporter.note(f"{' and '.join(compare_allocations.FILES)} are in {result.folder}; nothing is pruned")
