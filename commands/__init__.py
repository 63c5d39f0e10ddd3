"""The command line: one file per command; each parses, calls one workflow and prints.

Whatever goes wrong ends in one line on stderr and an exit code: 1 the run failed, 2 it was asked for wrongly, 130
it was interrupted; --debug shows the traceback. Of several processes the first one says what is the same on all.
Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Collection, Sequence
from contextlib import nullcontext, suppress
from typing import Annotated

import typer

import idvl
from idvl.commands import analyze, convert, estimate_id, prune, recover, verify
from idvl.commands import eval as evaluation
from idvl.commands.console import rank, stdout_errors, visible
from idvl.commands.help import Command, CommandGroup
from idvl.commands.settings import with_settings
from idvl.errors import RunError, UsageError, quoted

# seconds that the first process is given to speak: a launcher ends all as soon as one has ended
PATIENCE = 3.0
# characters of a line on stderr: libraries' messages may quote all that they were given
LONGEST = 2000

# command -> what takes less memory
LESS_MEMORY = {
    "estimate-id": "give a smaller --memory or --batch-size, or fewer --samples",
    "prune": "give a smaller --memory or --batch-size, or --gradient-checkpointing",
    "recover": "give a smaller --batch-size, or --gradient-checkpointing",
    "eval": "give a smaller --batch-size",
    "analyze": "show fewer runs, or give a smaller --batch-size for the layers of a model",
    "verify": "the whole model must fit into memory",
    "convert": "the file and the model must fit into memory",
}

COMMANDS = {
    "estimate-id": estimate_id,
    "prune": prune,
    "eval": evaluation,
    "analyze": analyze,
    "recover": recover,
    "verify": verify,
    "convert": convert,
}
# those that the help lists after the others
MORE = ("recover", "verify", "convert")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"idvl {idvl.__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", metavar="", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure layer-wise intrinsic dimension and prune vision-language models."""


def app(names: Collection[str] = tuple(COMMANDS)) -> typer.Typer:
    """The command line. Only the commands in `names` have the flags of their settings, which take time to make."""
    program = typer.Typer(
        name="idvl",
        cls=CommandGroup,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback(epilog="Start with: [bold]idvl estimate-id builtin/blip[/bold]")(root)
    for name, module in COMMANDS.items():
        settings = getattr(module, "SETTINGS", None) if name in names else None
        command = with_settings(module.command, settings) if settings else module.command
        panel = "More" if name in MORE else None
        program.command(name, cls=Command, epilog=module.EPILOG, rich_help_panel=panel)(command)
    return program


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Without arguments it shows the help and returns 2."""
    arguments = list(sys.argv[1:] if args is None else args)
    with suppress(AttributeError):  # closed, or no file
        sys.stdout.reconfigure(errors="replace")
    # what typer prints, not the console of results
    by_typer = not arguments or {"-h", "--help", "--version"} & set(arguments)
    try:
        with stdout_errors() if by_typer else nullcontext():
            program = app() if "_IDVL_COMPLETE" in os.environ else app(arguments)
            code = typer.main.get_command(program).main(
                args=arguments or ["--help"], prog_name="idvl", standalone_mode=False
            )
        _flush()
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        with suppress(RunError):  # it says what is told below
            _flush()
        line, code = _explain(error, next((word for word in arguments if word in LESS_MEMORY), "estimate-id"))
        _complain(line, code)
        return code
    if code == 130:  # typer's answer to Ctrl-C
        _complain("interrupted", code)
    return (code or 0) if arguments else 2


def _flush() -> None:
    """Write the end of stdout. RunError where it cannot be; Python would only complain of it as it ends."""
    try:
        with stdout_errors():
            sys.stdout.flush()
    except (AttributeError, ValueError):  # closed from the beginning
        return
    except (RunError, BrokenPipeError) as error:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader has what it wanted, as head
            sys.exit(1)
        raise


def _explain(error: Exception, command: str) -> tuple[str, int]:
    """One line for the user of this command, and the exit code."""
    text = " ".join(str(error).split())
    if hasattr(error, "format_message"):  # what typer refuses
        message = " ".join(error.format_message().split()).replace("Value error, ", "")
        return f"{message} (see --help)", getattr(error, "exit_code", 2)
    if isinstance(error, UsageError):
        return text, 2
    if isinstance(error, RunError):
        return text, 1
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "allocate memory" in text:
        return f"out of memory: {LESS_MEMORY[command]}", 1
    if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"{error.strerror}: {quoted(error.filename)}", 2
    if re.search(r"gloo|NCCL|pair closure", text):
        from idvl.distributed import lost

        return f"{lost(error) or type(error).__name__} ({text[:100]})", 1
    return f"{type(error).__name__}: {text or 'no message'} (--debug shows where)", 1


def _complain(line: str, code: int) -> None:
    """One line on stderr. A mistake of the user's and an interruption are the same on all processes: one says it."""
    line = visible(line if len(line) <= LONGEST else f"{line[: LONGEST - 250]} ... {line[-200:]}")
    if rank() == 0:
        with suppress(OSError):
            sys.stderr.write(f"idvl: {line}\n")
    elif code == 2:
        with suppress(KeyboardInterrupt):
            time.sleep(PATIENCE)
    elif code != 130:
        sys.stderr.write(f"idvl [process {rank()}]: {line}\n")
