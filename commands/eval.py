"""idvl eval: parse, run the workflow, print the numbers."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, write
from idvl.commands.options import flag, number, text
from idvl.errors import UsageError

EPILOG = """[bold]Examples[/bold]

idvl eval builtin/blip --task caption --dataset shapes

idvl eval runs/blip-80/model --dataset coco --data-dir ./coco --split test --compare runs/dense/results.json

idvl eval --score runs/blip-80/eval/predictions.jsonl

accelerate launch -m idvl eval openai/clip-vit-large-patch14 --task retrieval --dataset flickr30k

Values are in percent, CIDEr times 100, as in the tables of papers. Flags win over --set, --set over the recipe file,
the file over the defaults."""

EVALUATION = "Evaluation"

# recipe section -> the flags that set its keys
SETTINGS = {
    "model": ("revision", "dtype", "device", "trust_remote_code", "cache_dir", "local_files_only"),
    "data": (
        "dataset", "data_dir", "dataset_id", "image_column", "text_column", "label_column", "answers_column",
        "second_image_column", "allow_outside", "seed",
    ),
    "eval": (
        "task", "split", "limit", "batch_size", "prompt", "beams", "min_length", "max_length", "templates", "rerank",
        "metrics",
    ),
}  # fmt: skip


def command(
    context: typer.Context,
    model: o.Model = None,
    *,
    task: Annotated[
        str | None, text(EVALUATION, "caption, retrieval, reasoning, classification or vqa.", metavar="WORD")
    ] = None,
    limit: Annotated[int | None, number(EVALUATION, "So many samples, drawn by seed; all by default.", min=1)] = None,
    batch_size: Annotated[
        str | None, text(EVALUATION, "Samples at a time; 16 by default. auto: as many as fit.", metavar="N")
    ] = None,
    prompt: Annotated[str | None, text(EVALUATION, "What captions start with, or how a question is put.")] = None,
    beams: Annotated[int | None, number(EVALUATION, "Beams of the search; 3 by default.", min=1)] = None,
    min_length: Annotated[
        int | None, number(EVALUATION, "Fewest tokens; 5 of a caption, 1 of an answer.", min=0)
    ] = None,
    max_length: Annotated[
        int | None, number(EVALUATION, "Most tokens; 20 of a caption, 10 of an answer.", min=1)
    ] = None,
    templates: Annotated[
        list[str] | None,
        text(EVALUATION, "A sentence with {} for the class, without a head; repeatable.", "--template"),
    ] = None,
    rerank: Annotated[
        int | None, number(EVALUATION, "Candidates that a matching head looks at; 128 by default.", min=0)
    ] = None,
    metrics: Annotated[
        list[str] | None,
        text(EVALUATION, "One more metric of evaluate: a folder, or a name of the Hub.", "--metric", metavar="NAME"),
    ] = None,
    compare: Annotated[
        Path | None, text(EVALUATION, "results.json of a run to show the difference to.", metavar="FILE")
    ] = None,
    score: Annotated[
        Path | None, text(EVALUATION, "Score this predictions.jsonl again; no model.", metavar="FILE")
    ] = None,
    list_: Annotated[bool, flag(EVALUATION, "The datasets that idvl knows, and stop.", "--list")] = False,
    dataset: o.Dataset = None,
    data_dir: o.DataDir = None,
    dataset_id: o.DatasetId = None,
    image_column: o.ImageColumn = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    answers_column: o.AnswersColumn = None,
    second_image_column: o.SecondImageColumn = None,
    allow_outside: o.AllowOutside = None,
    split: Annotated[str | None, text(o.DATA, "Split; the dataset's own for evaluation by default.")] = None,
    seed: o.Seed = None,
    revision: o.Revision = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    trust_remote_code: o.TrustRemoteCode = None,
    cache_dir: o.CacheDir = None,
    local_files_only: o.LocalFilesOnly = None,
    recipe: o.Recipe = None,
    set_: o.Set = None,
    output_dir: o.Output = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    json: Annotated[bool, flag(o.SHOWN, "The results alone, on stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Evaluate a dense or pruned model with the metrics of its field, and say how sure each number is.

    Leaves a run folder: predictions.jsonl, written as it goes, and results.json.
    """
    if list_:
        return _list(json=json)
    if score and model:
        raise UsageError(f"--score reads predictions and no model: leave out {model}")
    ignored = ("output_dir", "resume", "overwrite", "recipe", "limit", "split", "dataset")
    if score and (given := [name for name in ignored if context.params[name]]):
        raise UsageError(f"--score reads predictions alone: leave out --{given[0].removesuffix('_dir')}")
    reporter, asked = o.begin({**context.params, "model": str(score) if score else model}, SETTINGS)
    from idvl.evaluation import scoring
    from idvl.workflows import evaluate

    with results_alone():
        if score:
            folder = None
            results = scoring.score_again(
                score,
                task=asked.eval.task,
                seed=seed,
                resamples=asked.eval.resamples,
                compared=compare,
                other_metrics=evaluate.other_metrics(asked),
            )
        else:
            done = evaluate.run(
                asked, folder=output_dir, reporter=reporter, resume=resume, overwrite=overwrite, compared=compare
            )
            results, folder = done.results, done.folder
    if rank() == 0:
        _show(results, folder, json=json, reporter=reporter)


def _show(results: dict[str, Any], folder: Path | None, *, json: bool, reporter: TerminalReporter) -> None:
    """Print the numbers and what they rest on."""
    from idvl.reporting.results import rests_on, results_table

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
    from idvl.reporting.results import catalogue

    rows = listing()
    if json:
        write(dumps(rows, indent=2) + "\n")
    else:
        for line in catalogue(rows):
            output().print(line)
