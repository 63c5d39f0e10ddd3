"""The flags that several commands share: how each is spelled and explained, once. It knows no command."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from idvl import profile
from idvl.commands.console import TerminalReporter, speak
from idvl.errors import UsageError, quoted

if TYPE_CHECKING:
    from idvl import recipe as recipes

DATA, MEASURE, MODEL, RUN, SHOWN = "Data", "Measurement", "Model", "Run", "What is shown"


def choices(words: Any) -> str:
    """What a Literal allows; its first word is the default."""
    first, *others = get_args(words)
    return ", ".join([f"{first} (default)", *others])


def text(
    panel: str, help_: str, *names: str, metavar: str | None = None, callback: Callable[[Any], Any] | None = None
) -> Any:
    return typer.Option(*names, metavar=metavar, help=help_, rich_help_panel=panel, callback=callback)


def number(panel: str, help_: str, *names: str, **bounds: float) -> Any:
    """An option that takes a number within bounds (min=, max=)."""
    return typer.Option(*names, metavar="N", help=help_, rich_help_panel=panel, **bounds)


def flag(panel: str, help_: str, name: str, *others: str) -> Any:
    """An option without a value: off unless it is given."""
    return typer.Option(name, *others, metavar="", help=help_, rich_help_panel=panel)


def at_home(path: Path | None) -> Path | None:
    """A path with the folder that its ~ stands for, which a shell leaves in --output=~/runs/a."""
    if path is None:
        return None
    full = os.path.expanduser(path)
    if full.startswith("~"):
        raise UsageError(f"cannot write to {quoted(path)}: no user has that name; choose another --output")
    return Path(full)


Model = Annotated[
    str | None, typer.Argument(help="Hub id, local folder, builtin/blip or builtin/vit.", show_default=False)
]
Dataset = Annotated[str | None, text(DATA, "A name that idvl eval --list shows, or a local path.")]
DataDir = Annotated[Path | None, text(DATA, "Local copy of the dataset.")]
DatasetId = Annotated[str | None, text(DATA, "Hub repository to read it from instead.")]
ImageColumn = Annotated[str | None, text(DATA, "Column of the images.")]
TextColumn = Annotated[str | None, text(DATA, "Column of the texts.")]
LabelColumn = Annotated[str | None, text(DATA, "Column of the classes.")]
AnswersColumn = Annotated[str | None, text(DATA, "Column of the answers to a question.")]
SecondImageColumn = Annotated[str | None, text(DATA, "Column of the second of two images.")]
AllowOutside = Annotated[
    bool | None, flag(DATA, "Read images that a table names outside of the dataset's folder.", "--allow-outside")
]
Seed = Annotated[int | None, number(DATA, "Chooses the samples; 0 by default.", min=0, max=2**32 - 1)]
Force = Annotated[bool | None, flag(DATA, "Estimate from fewer than 100 samples.", "--force")]
Memory = Annotated[str | None, text(MEASURE, "Budget, as in 8GiB; a quarter of what is free.", metavar="SIZE")]
Revision = Annotated[str | None, text(MODEL, "Branch, tag or commit.")]
Dtype = Annotated[profile.Dtype | None, text(MODEL, f"{choices(profile.Dtype)}.", metavar="WORD")]
Device = Annotated[str | None, text(MODEL, "As in cpu or cuda:0.")]
TrustRemoteCode = Annotated[bool | None, flag(MODEL, "Run code of the repository.", "--trust-remote-code")]
CacheDir = Annotated[Path | None, text(MODEL, "Where downloads are kept.")]
LocalFilesOnly = Annotated[bool | None, flag(MODEL, "Download nothing.", "--local-files-only")]
Recipe = Annotated[Path | None, text(RUN, "Settings in YAML.", metavar="FILE")]
Set = Annotated[list[str] | None, text(RUN, "One setting of the recipe; repeatable.", "--set", metavar="KEY=VALUE")]
Plan = Annotated[bool, flag(RUN, "Show the plan and stop.", "--plan")]
Output = Annotated[Path | None, text(RUN, "Run folder; new under runs/.", "--output", metavar="DIR", callback=at_home)]
Resume = Annotated[bool, flag(RUN, "Continue the run in --output.", "--resume")]
Overwrite = Annotated[bool, flag(RUN, "Replace the run in --output.", "--overwrite")]
Quiet = Annotated[bool, flag(SHOWN, "Result and warnings only.", "--quiet", "-q")]
Debug = Annotated[bool, flag(SHOWN, "Log and traceback.", "--debug")]


def begin(params: dict[str, Any], sections: dict[str, tuple[str, ...]]) -> tuple[TerminalReporter, recipes.Recipe]:
    """The reporter of a run and the recipe that its flags, --set and file make. UsageError for what is refused."""
    reporter, given = asked(params, sections)
    from idvl import recipe as recipes
    from idvl import runs

    if params["overwrite"]:
        runs.keep(params["output_dir"], [params["recipe"]])
    return reporter, recipes.load(params["recipe"], given)


def asked(params: dict[str, Any], sections: dict[str, tuple[str, ...]]) -> tuple[TerminalReporter, dict[str, Any]]:
    """The reporter of a run and the settings that its flags and --set give. UsageError for what is refused."""
    for name in ("resume", "overwrite"):
        if params[name] and params["output_dir"] is None:
            raise UsageError(f"--{name} needs the folder of the run: --output DIR")
    check_text(params)
    reporter = TerminalReporter(quiet=params["quiet"])
    speak(reporter, debug=params["debug"])
    from idvl import recipe as recipes

    return reporter, recipes.parse_assignments(params["set_"] or []) | settings(params, sections)


def check_text(params: dict[str, Any]) -> None:
    """UsageError for empty text, and for bytes that are no UTF-8: recipe, record and report could not hold them."""
    from idvl.recipe import EMPTY

    for name, value in params.items():
        if value == "" and name not in EMPTY:
            told = name if name == "model" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{told} takes a value, not ''; leave it out for the default")
        for text in value if isinstance(value, list) else [value]:
            try:
                str(text).encode("utf-8")
            except UnicodeEncodeError:
                raise UsageError(f"{quoted(str(text))} is not valid UTF-8: choose another name") from None


def settings(params: dict[str, Any], sections: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The settings given as flags: recipe key -> value. `sections`: section -> the flags that set its keys."""
    given = {"model.name": params["model"]}
    given |= {f"{section}.{name}": params[name] for section, names in sections.items() for name in names}
    return {key: value for key, value in given.items() if value is not None and value not in ([], ())}
