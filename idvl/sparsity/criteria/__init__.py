"""A score for every weight: one file a criterion, found by listing this folder, and those of other packages.

A criterion file exposes CRITERION, a class that takes the criterion's settings, each with a default; its key is the
file's name. A package names such a class as an entry point `idvl.criteria`, whose name is the key. A criterion knows
weights and gradients by name, nothing of IDs, budgets or masks.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from idvl import plugins
from idvl.errors import UsageError, did_you_mean, quoted

# what a criterion reads beside the weights
Need = Literal["gradient"]
# the weights whose scores can be compared: all in scope
Comparison = Literal["scope"]
METHODS = ("observe", "score", "state_dict", "load_state_dict")


class Criterion(Protocol):
    """A score for every weight; larger = keep.

    `needs` is a frozenset of `Need` words, and `compares` one `Comparison`; both are attributes of the class. `observe`
    is called for every weight after each optimizer step, with the gradient that the step used; `grad` may be None
    unless `needs` holds "gradient". `score` returns float32 of the weight's shape, 0 or more, in a tensor of its own,
    and the same bits each time that it is called between two observations. The state takes `bytes_per_weight`.
    """

    needs: frozenset[Need]
    compares: Comparison
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


def load(name: str, **values: Any) -> Criterion:
    """A new criterion. UsageError for an unknown name, or a setting that it does not have."""
    known = settings(name)
    if unknown := [key for key in values if key not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(f"the criterion {name} has no setting {quoted(unknown[0])}; {has}")
    return _find(name)(**values)


def _find(name: str) -> type:
    if name not in names():
        hint = did_you_mean(name, names()) or f"; take one of {', '.join(names())}"
        raise UsageError(f"unknown criterion {quoted(name)}{hint}")
    if point := plugins.found(plugins.CRITERIA, built_in()).get(name):
        return plugins.load(point, defect)
    return import_module(f"{__name__}.{name}").CRITERION


def defect(criterion: Any) -> str | None:
    """What breaks the contract in a criterion, or its class; None where nothing does."""
    if missing := [method for method in METHODS if not callable(getattr(criterion, method, None))]:
        return f"it has no method {missing[0]}"
    if not hasattr(criterion, "needs") and hasattr(criterion, "needs_gradient"):
        words = '{"gradient"}' if criterion.needs_gradient else ""
        return f'needs_gradient is no longer read: declare needs = frozenset({words}) and compares = "scope" instead'
    if missing := [attribute for attribute in ("needs", "compares") if not hasattr(criterion, attribute)]:
        return f"it does not declare {missing[0]}"
    needs, compares = criterion.needs, criterion.compares
    if not isinstance(needs, frozenset):
        return f"needs must be a frozenset of words, not {quoted(needs)}"
    if unknown := sorted(map(str, needs - set(get_args(Need)))):
        return f"needs may hold {', '.join(get_args(Need))}, not {quoted(unknown[0])}"
    if compares not in get_args(Comparison):
        return f"compares must be one of {', '.join(get_args(Comparison))}, not {quoted(compares)}"
    return None
