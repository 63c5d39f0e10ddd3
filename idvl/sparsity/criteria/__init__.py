"""What one weight is worth: one file a criterion, found by listing this folder, and those of other packages.

A criterion file exposes CRITERION, a class that takes the criterion's settings, each with a default; its key is the
file's name. A package names such a class as an entry point `idvl.criteria`, whose name is the key. A criterion knows
weights and gradients by name, nothing of IDs, budgets or masks.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from idvl import plugins
from idvl.errors import UsageError, did_you_mean, quoted

METHODS = ("observe", "score", "state_dict", "load_state_dict")


class Criterion(Protocol):
    """A score for every weight; larger = keep.

    `observe` is called for every weight after each optimizer step, with the gradient that the step used. `score`
    returns float32 of the weight's shape, 0 or more, in a tensor of its own, and gives the same bits each time that it
    is called between two observations. Where `needs_gradient` is False, `grad` may be None. Its state takes
    `bytes_per_weight`.
    """

    needs_gradient: bool
    bytes_per_weight: int

    def observe(self, name: str, weight: Tensor, grad: Tensor | None) -> None: ...

    def score(self, name: str, weight: Tensor, grad: Tensor | None) -> Tensor: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


def built_in() -> list[str]:
    """The keys of idvl's own criteria."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def names() -> list[str]:
    """The keys of all criteria, those of other packages last."""
    return [*built_in(), *sorted(plugins.found(plugins.CRITERIA, built_in()))]


def settings(name: str) -> dict[str, Any]:
    """What a criterion can be set to, with its defaults. UsageError for an unknown name."""
    return {key: parameter.default for key, parameter in inspect.signature(_find(name)).parameters.items()}


def load(name: str, **chosen: Any) -> Criterion:
    """A new criterion. UsageError for an unknown name, or a setting that it does not have."""
    known = settings(name)
    if unknown := [key for key in chosen if key not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(f"the criterion {name} has no setting {quoted(unknown[0])}; {has}")
    return _find(name)(**chosen)


def _find(name: str) -> type:
    if name not in names():
        hint = did_you_mean(name, names()) or f"; take one of {', '.join(names())}"
        raise UsageError(f"unknown criterion {quoted(name)}{hint}")
    if point := plugins.found(plugins.CRITERIA, built_in()).get(name):
        return plugins.load(point, _lacks)
    return import_module(f"{__name__}.{name}").CRITERION


def _lacks(made: Any) -> str | None:
    missing = [method for method in METHODS if not callable(getattr(made, method, None))]
    return f"it has no method {missing[0]}" if missing else None
