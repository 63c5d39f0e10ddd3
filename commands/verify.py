"""idvl verify: parse, run the workflow, print what the checkpoint holds and what is wrong with it."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from idvl.commands import options as o
from idvl.commands.console import TerminalReporter, output, rank, results_alone, speak, write
from idvl.commands.options import flag, text
from idvl.errors import RunError

EPILOG = """[bold]Examples[/bold]

idvl verify runs/blip-80

idvl verify ./pruned-by-others --sparsity 0.5 --structure 2:4 --base Salesforce/blip-vqa-base

The exit code is 1 where the model is not what it should be."""

EXPECTED = "Expected"


def command(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Hub id, local folder, or the run folder of a pruned model."),
    ],
    *,
    masks: Annotated[
        Path | None,
        text(
            EXPECTED,
            "Masks that must hold: a file, or a run folder. [dim]\\[default: those of the run][/dim]",
            metavar="PATH",
        ),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            metavar="0.0..1.0",
            help="Least sparsity of the layers that have a mask, or without masks of those in --scope.",
            rich_help_panel=EXPECTED,
        ),
    ] = None,
    structure: Annotated[
        str | None, text(EXPECTED, "N:M of the layers that hold zeros, as 2:4.", metavar="N:M")
    ] = None,
    scope: Annotated[
        str, text(EXPECTED, "Without masks, the layers that were pruned: as for idvl prune.", metavar="SCOPE")
    ] = "all",
    base: Annotated[
        str | None, text(EXPECTED, "The dense model, whose class and shapes it must have.", metavar="MODEL")
    ] = None,
    revision: Annotated[
        str | None, text("Model", "Branch, tag or commit of the model on the Hub.", metavar="TEXT")
    ] = None,
    trust_remote_code: Annotated[
        bool, flag("Model", "Run the model's own code from the Hub.", "--trust-remote-code")
    ] = False,
    json: Annotated[bool, flag(o.SHOWN, "Print the result as JSON to stdout.", "--json")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Check that a pruned checkpoint is what it claims: zeros, N:M, masks, ties, NaN, dtype and shapes."""
    o.check_text(context.params)
    reporter = TerminalReporter(quiet=quiet)
    speak(reporter, debug=debug)
    from idvl.reporting.terminal import result_table
    from idvl.workflows import verify

    with results_alone():
        result = verify.run(
            model,
            masks=masks,
            sparsity=sparsity,
            structure=structure,
            scope=scope,
            base=base,
            reporter=reporter,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
    if rank() > 0:  # the first process says what all have found
        return
    if json:
        write(dumps({"model": result.model, **result.report, "defects": result.defects}, indent=2) + "\n")
    else:
        if result.report:
            output().print(result_table(result.report))
        for line in result.defects:
            output().print(f"- {line}", soft_wrap=True, markup=False)
    if result.defects:
        n = len(result.defects)
        raise RunError(f"{result.model} is not what it should be: {n} defect{'s' * (n > 1)}, {result.defects[0]}")
    reporter.note(f"{result.model} is what it should be")
