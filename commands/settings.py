"""The flags of a command's settings, made from the recipe: name, help text, choices and default are declared there.

Values are passed on as text, for the recipe to check.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.markup import escape

from idvl.errors import UsageError, quoted

# section of a recipe -> the panel of its flags
PANELS = {
    "model": "Model",
    "data": "Data",
    "estimate": "Measurement",
    "prune": "Pruning",
    "train": "Training",
    "recover": "Recovery",
    "eval": "Evaluation",
}
# placeholders of settings that choose layers, which several values might be given to
CHOOSE_LAYERS = ("PATTERN", "SCOPE")
# between section and name in the parameter that a setting's flag becomes
DOT = "__"


@dataclass(frozen=True, kw_only=True)
class SettingFlags:
    """The settings that a command has flags for: whole sections or single keys, less `without`.

    `changes` replaces what the recipe says of a key where this command differs: its flag, default or help text.
    `panel` puts all in one panel.
    """

    keys: tuple[str, ...]
    without: tuple[str, ...] = ()
    changes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    panel: str | None = None

    def parameters(self) -> list[inspect.Parameter]:
        """A Typer parameter for each, in the order of `keys`."""
        from idvl.recipe import described

        schemas = {key: {**schema, **self.changes.get(key, {})} for key, schema in described().items()}
        keys = [key for prefix in self.keys for key in schemas if key == prefix or key.startswith(f"{prefix}.")]
        return [
            self._parameter(key, schemas[key]) for key in keys if key not in self.without and schemas[key]["flag"] != ""
        ]

    def _parameter(self, key: str, schema: dict[str, Any]) -> inspect.Parameter:
        section, name = key.split(".")
        words = schema.get("enum") or schema.get("items", {}).get("enum") or []
        kind = {"boolean": bool, "array": list[str]}.get(schema["type"], str)
        alone = schema["value"] in CHOOSE_LAYERS
        option = typer.Option(
            schema["flag"] or f"--{name.replace('_', '-')}",
            callback=_alone if alone else None,
            metavar=_placeholder(schema, words),
            help=_help(schema, words),
            rich_help_panel=self.panel or PANELS[section],
            autocompletion=(lambda: words) if words else None,
        )
        return inspect.Parameter(
            f"{section}{DOT}{name}",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[(list[str] if alone else kind) | None, option],
        )


def _alone(parameter: typer.CallbackParam, values: list[str] | None) -> str | None:
    """The value of an option that is given once. UsageError for several, of which only the last would count."""
    if values and len(values) > 1:
        named = " and ".join(map(quoted, values))
        raise UsageError(f"{parameter.opts[0]} takes one value, not {named}: a pattern may fit several layers")
    return values[0] if values else None


def _placeholder(schema: dict[str, Any], words: list[str]) -> str:
    """What `--help` shows for a setting's value: nothing for a switch, the bounds of a fraction, or the kind."""
    if schema["type"] == "boolean" or schema["value"]:
        return schema["value"] or ""
    if schema["type"] == "number":
        low, high = (schema.get(name, schema.get(f"exclusive{name.title()}")) for name in ("minimum", "maximum"))
        return f"{low}..{high}" if None not in (low, high) else "NUMBER"
    if words:
        return "CHOICE"
    return {"integer": "N"}.get(schema["type"]) or schema.get("format", "text").upper()


def _help(schema: dict[str, Any], words: list[str]) -> str:
    """What a setting does, its choices and its default."""
    default = schema["shown"] or schema.get("default")
    if isinstance(default, list):
        default = ", ".join(default)
    if isinstance(default, float):
        default = f"{default:g}"
    notes = [f"one of: {', '.join(words)}"] if words else []
    notes += [] if isinstance(default, bool) or default in (None, "") else [f"default: {default}"]
    return " ".join([escape(schema["description"]), *(f"[dim]{escape(f'[{note}]')}[/dim]" for note in notes)])


def with_settings(command: Callable[..., None], settings: SettingFlags) -> Callable[..., None]:
    """The command with flags for these settings before its --recipe; it finds their values in its context."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    index = [parameter.name for parameter in own].index("recipe")
    parameters = settings.parameters()

    @functools.wraps(command)
    def call(**values: Any) -> None:
        command(**{name: value for name, value in values.items() if DOT not in name})

    call.__signature__ = inspect.Signature([*own[:index], *parameters, *own[index:]])  # type: ignore[attr-defined]
    return call


def flag_of(context: typer.Context, name: str) -> str:
    """The flag of a parameter of the command."""
    return next(parameter.opts[0] for parameter in context.command.params if parameter.name == name)


def flag_values(params: dict[str, Any]) -> dict[str, Any]:
    """The settings given as flags: recipe key -> value."""
    settings = {name.replace(DOT, "."): value for name, value in params.items() if DOT in name}
    settings["model.name"] = params["model"]
    return {key: value for key, value in settings.items() if value not in (None, [], ())}
