"""idvl eval: parse, run the workflow, print the numbers."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, write
from idvl.commands.options import flag, text
from idvl.commands.settings import DOT, PANELS, SettingFlags, flag_of, flag_values
from idvl.errors import UsageError

EPILOG = """[bold]Examples[/bold]

idvl eval builtin/blip --task caption --dataset shapes

idvl eval runs/blip-80/model --dataset coco --data-dir ./coco --split test --compare runs/dense/results.json

idvl eval --score runs/blip-80/eval/predictions.jsonl

accelerate launch -m idvl eval openai/clip-vit-large-patch14 --task retrieval --dataset flickr30k

Values are in percent, and CIDEr is multiplied by 100, as in papers.
Flags override --set, and --set overrides the recipe file."""

SETTINGS = SettingFlags(
    keys=("eval", "data", "model"),
    without=("eval.every", "eval.after", "data.split", "data.samples", "data.batch_size", "data.force"),
)
EVALUATION = PANELS["eval"]
# options that --score refuses, and the settings that it reads
UNSCORED = ("output_dir", "resume", "overwrite", "recipe")
SCORED = ("eval.task", "eval.metrics", "eval.resamples", "data.seed", "model.trust_remote_code")


def command(
    context: typer.Context,
    model: o.Model = None,
    *,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    compare: Annotated[
        Path | None,
        text(
            EVALUATION,
            "Show the difference to this run folder or results.json. [dim]\\[default: none][/dim]",
            metavar="FILE",
        ),
    ] = None,
    score: Annotated[
        Path | None, text(EVALUATION, "Score this predictions.jsonl again, without a model.", metavar="FILE")
    ] = None,
    list_: Annotated[bool, flag(EVALUATION, "List the known datasets and stop.", "--list")] = False,
    output_dir: o.Output = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    json: Annotated[bool, flag(o.SHOWN, "Print the results as JSON to stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Evaluate a dense or pruned model: published metrics, each with a 95 % interval.

    Leaves a run folder: predictions.jsonl, written as it goes, and results.json.
    """
    if list_:
        return _list(json=json)
    if score and model:
        raise UsageError(f"--score reads predictions and no model: leave out {model}")
    if score:
        _refuse_unscored(context)
    reporter, resolved = o.begin(context, model=str(score) if score else model)
    from idvl.evaluation import evaluation, scoring
    from idvl.workflows import evaluate

    with results_alone():
        if score:
            folder = None
            results = scoring.score_again(
                score,
                task=resolved.eval.task,
                seed=resolved.data.seed if "data.seed" in _named(context) else None,
                resamples=resolved.eval.resamples,
                compared=compare,
                other_metrics=evaluation.other_metrics(resolved),
            )
        else:
            result = evaluate.run(
                resolved, folder=output_dir, reporter=reporter, resume=resume, overwrite=overwrite, compared=compare
            )
            results, folder = result.results, result.folder
    if rank() == 0:
        _show(results, folder, json=json, reporter=reporter)


def _named(context: typer.Context) -> dict[str, str]:
    """The settings that a user named, each as it was written: a flag, or --set KEY."""
    from idvl.recipe import parse_assignments

    flags = {key: flag_of(context, key.replace(".", DOT)) for key in flag_values(context.params) if key != "model.name"}
    return {key: f"--set {key}" for key in parse_assignments(context.params["set_"] or [])} | flags


def _refuse_unscored(context: typer.Context) -> None:
    """UsageError for what has no effect on predictions that are scored again."""
    odd = [flag_of(context, name) for name in UNSCORED if context.params[name]]
    odd += [named for key, named in _named(context).items() if key not in SCORED]
    if odd:
        raise UsageError(f"--score reads predictions alone: leave out {odd[0]}")


def _show(results: dict[str, Any], folder: Path | None, *, json: bool, reporter: TerminalReporter) -> None:
    """Print the numbers and what they rest on."""
    from idvl.reporting.terminal import rests_on, results_table

    console = output()
    if json:
        write(dumps(results, indent=2) + "\n")
        return
    console.print(results_table(results))
    for line in rests_on(results):
        console.print(line, soft_wrap=True)
    if folder:
        reporter.note(f"predictions.jsonl and results.json are in {folder}")


def _list(*, json: bool) -> None:
    from idvl.data.catalog import listing
    from idvl.reporting.terminal import catalogue

    rows = listing()
    if json:
        write(dumps(rows, indent=2) + "\n")
    else:
        for line in catalogue(rows):
            output().print(line)
