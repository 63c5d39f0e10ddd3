"""The command line: one file per command, each parses, calls one workflow and prints.

Whatever goes wrong ends in one line on stderr and an exit code: 1 the run failed, 2 it was asked for wrongly, 130 it was
interrupted; --debug shows the traceback. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

import idvl
from idvl.commands.estimate_id import estimate_id
from idvl.errors import UsageError

app = typer.Typer(
    name="idvl",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"idvl {idvl.__version__}")
        raise typer.Exit


@app.callback(epilog="Start with: idvl estimate-id builtin/blip")
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """The intrinsic dimension of every layer of a vision-language model, exactly and within memory."""


app.command("estimate-id", no_args_is_help=True, epilog=estimate_id.EPILOG)(estimate_id.command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    args = list(sys.argv[1:] if args is None else args)
    try:
        code = typer.main.get_command(app).main(args=args, prog_name="idvl", standalone_mode=False)
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        if "--debug" in args:
            traceback.print_exc()
        return _report(_line(error), _code(error))
    return code if isinstance(code, int) else 0
