"""idvl convert: parse, run the workflow, print what was converted and what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, results_alone, speak, write
from idvl.commands.options import flag, text

EPILOG = """[bold]Examples[/bold]

idvl convert model_base_caption_capfilt_large.pth blip-coco

idvl convert model_base_retrieval_flickr.pth blip-flickr30k --tokenizer ./bert-base-uncased"""


def command(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Checkpoint that BLIP's authors published, as downloaded (.pth).")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; it must not exist.")],
    *,
    tokenizer: Annotated[
        str,
        text("Model", "BERT's uncased tokenizer, which the checkpoint does not hold.", metavar="MODEL"),
    ] = "google-bert/bert-base-uncased",
    local_files_only: Annotated[
        bool, flag("Model", "Take the tokenizer from a folder or the local cache alone.", "--local-files-only")
    ] = False,
    json: Annotated[bool, flag(o.SHOWN, "Print the result as JSON to stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Convert a checkpoint of BLIP's authors into a folder that transformers opens."""
    o.check_text(context.params)
    reporter = TerminalReporter(quiet=quiet)
    speak(reporter, debug=debug)
    from idvl.workflows import convert

    with results_alone():
        result = convert.run(
            o.at_home(file), o.at_home(out), tokenizer=tokenizer, local_files_only=local_files_only, reporter=reporter
        )
    if json:
        write(dumps({**asdict(result), "folder": str(result.folder)}, indent=2) + "\n")
        return
    lines = [
        f"{result.folder}: {result.class_name}, {result.parameters:,} parameters, "
        f"images of {result.image_size} x {result.image_size}",
        f"{result.mapped} tensors converted, {len(result.left_out)} left out",
        *(f"- {count} x {reason}" for reason, count in Counter(result.left_out.values()).items()),
    ]
    for line in lines:
        output().print(line, soft_wrap=True, markup=False)
