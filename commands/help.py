"""Help without the types that typer writes behind arguments and switches: MODEL <str>, --help <bool>."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose help shows placeholders alone."""

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))


class CommandGroup(TyperGroup):
    """The same for the program."""

    def get_params(self, ctx: Any) -> list[Any]:
        return untyped(super().get_params(ctx))


def untyped(params: list[Any]) -> list[Any]:
    """The parameters, none with a type in its help."""
    for param in params:
        if isinstance(param, TyperArgument):
            param.display_type_rich = lambda ctx: None
        elif param.metavar is None:
            param.metavar = ""
    return params
