"""The flags that several commands share beside those of their settings, and what these flags begin."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idvl.commands.console import TerminalReporter, speak
from idvl.commands.settings import DOT, flag_values
from idvl.errors import UsageError, quoted
from idvl.recipes import find, names

if TYPE_CHECKING:
    from idvl import recipe as recipes

RUN, SHOWN = "Run", "Output"


def text(
    panel: str,
    help_: str,
    *flags: str,
    metavar: str | None = None,
    callback: Callable[[Any], Any] | None = None,
    known: str | None = None,
) -> Any:
    """An option that takes a word. `known`: the kind of packaged file whose names the shell completes."""
    words = (lambda: names(known)) if known else None
    return typer.Option(
        *flags, metavar=metavar, help=help_, rich_help_panel=panel, callback=callback, autocompletion=words
    )


def number(panel: str, help_: str, *names: str, **bounds: float) -> Any:
    """An option that takes a number within bounds (min=, max=)."""
    return typer.Option(*names, metavar="N", help=help_, rich_help_panel=panel, **bounds)


def flag(panel: str, help_: str, name: str, *others: str) -> Any:
    """An option without a value: off unless it is given."""
    return typer.Option(name, *others, metavar="", help=help_, rich_help_panel=panel)


def at_home(path: Path | str | None) -> Path | None:
    """A path with the folder that its ~ stands for, which a shell leaves in --output=~/runs/a."""
    if path is None:
        return None
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise UsageError(f"cannot write to {quoted(path)}: no user has that name; choose another --output")
    return Path(full)


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="Hub id, local folder, builtin/blip or builtin/vit. Required unless the recipe names it.",
        show_default=False,
    ),
]
Recipe = Annotated[
    Path | None,
    text(RUN, "YAML file with settings, or the name of a packaged recipe.", metavar="FILE|NAME", known="recipe"),
]
Set = Annotated[
    list[str] | None, text(RUN, "Set one setting, by its key in a recipe; repeatable.", "--set", metavar="KEY=VALUE")
]
Plan = Annotated[bool, flag(RUN, "Show the plan and stop.", "--plan")]
Output = Annotated[
    Path | None,
    text(RUN, "Run folder. [dim]\\[default: a new one under runs/][/dim]", "--output", metavar="DIR", callback=at_home),
]
Resume = Annotated[bool, flag(RUN, "Continue the run in --output.", "--resume")]
Public = Annotated[bool, flag(RUN, "Create the Hub repository as public. [dim]\\[default: private][/dim]", "--public")]
Overwrite = Annotated[bool, flag(RUN, "Replace the run in --output, and whatever is in its folders.", "--overwrite")]
Quiet = Annotated[bool, flag(SHOWN, "Show only the result and warnings.", "--quiet", "-q")]
Debug = Annotated[bool, flag(SHOWN, "Show the log and tracebacks.", "--debug")]


def begin(context: typer.Context, **other: Any) -> tuple[TerminalReporter, recipes.Recipe]:
    """The reporter of a run and the recipe that its flags, --set and file make. UsageError for what is refused.

    `other` takes the place of the command's own parameters.
    """
    params = {**context.params, **other}
    reporter, overrides = parsed_flags(params)
    from idvl import recipe as recipes
    from idvl import runs

    if params["overwrite"] and params["recipe"]:
        runs.keep(params["output_dir"], [find(params["recipe"], "recipe")])
    recipe = recipes.load(params["recipe"], overrides)
    recipes.refuse_unread(context.info_name, overrides)
    if params["recipe"]:
        note_sections(context.info_name, params["recipe"], reporter)
    return reporter, recipe


def note_sections(command: str, path: Path, reporter: TerminalReporter) -> None:
    """Say where a recipe seems to be for another command."""
    from idvl import recipe as recipes

    sections = recipes.sections(path)
    read = recipes.READ.get(command, recipes.SECTIONS)
    if unread := [section for section in sections if section not in read]:
        reporter.note(f"idvl {command} does not read these sections of {path}: {', '.join(unread)}")
    if command == "prune" and not {"prune", "train"} & set(sections):
        reporter.note(f"{path} has no section prune or train: the defaults hold")


def parsed_flags(params: dict[str, Any]) -> tuple[TerminalReporter, dict[str, Any]]:
    """The reporter of a run and the settings that its flags and --set give. UsageError for what is refused."""
    for name in ("resume", "overwrite"):
        if params[name] and params["output_dir"] is None:
            raise UsageError(f"--{name} needs the folder of the run: --output DIR")
    check_text(params)
    reporter = TerminalReporter(quiet=params["quiet"])
    speak(reporter, debug=params["debug"])
    from idvl import recipe as recipes

    return reporter, recipes.parse_assignments(params["set_"] or []) | flag_values(params)


def check_text(params: dict[str, Any]) -> None:
    """UsageError for empty text, and for bytes that are no UTF-8: run folders could not record them.

    The recipe checks its settings itself.
    """
    for name, value in params.items():
        if DOT in name:
            continue
        if value == "":
            flag = name if name == "model" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} takes a value, not ''; leave it out for the default")
        for text in value if isinstance(value, list) else [value]:
            try:
                str(text).encode("utf-8")
            except UnicodeEncodeError:
                raise UsageError(f"{quoted(str(text))} is not valid UTF-8: choose another name") from None


def check_upload(push_to_hub: str | None, *, public: bool) -> None:
    """UsageError for --public without an upload."""
    if public and push_to_hub is None:
        raise UsageError("--public is for an upload: add --push-to-hub ID, or leave it out")
