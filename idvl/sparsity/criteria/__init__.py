"""A score for every weight: one file a criterion, found by listing this folder, and those of other packages.

A criterion file exposes CRITERION, a class that takes the criterion's settings, each with a default; its key is the
file's name. A package names such a class as an entry point `idvl.criteria`, whose name is the key. A criterion knows
weights and gradients by name, or the statistics of a layer's input; nothing of IDs, budgets or masks.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any, Literal, Protocol, get_args

from torch import Tensor

from idvl import plugins
from idvl.errors import RunError, UsageError, did_you_mean, first_line, quoted
from idvl.sparsity.statistics import Sums

# what a criterion reads beside the weights: the gradient of a step, or of a layer's input the mean squares, or X^T X
Need = Literal["gradient", "moments", "second moments"]
STATISTICS: frozenset[Need] = frozenset({"moments", "second moments"})
# the weights whose scores can be compared: all in scope, those of a layer, those of an output row
Comparison = Literal["scope", "layer", "row"]
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


class CalibratedCriterion(Protocol):
    """A criterion that scores a layer once, from statistics of the layer's input.

    `needs` holds a word of STATISTICS. `score` returns float32 of the weight's shape, 0 or more; larger = keep. One
    that needs second moments chooses weights while it updates others: it has `select` of `obs.select` in its place.
    Both are pure.
    """

    needs: frozenset[Need]
    compares: Comparison

    def score(self, weight: Tensor, sums: Sums) -> Tensor: ...


def is_calibrated(criterion: Any) -> bool:
    """Whether a criterion, or its class, reads statistics of a layer's input, and not what training shows it."""
    return bool(criterion.needs & STATISTICS)


def observed() -> list[str]:
    """The keys of idvl's own criteria that score weights while a model trains."""
    return [name for name in built_in() if not is_calibrated(find(name))]


def calibrated() -> list[str]:
    """The keys of idvl's own criteria that read statistics of a layer's input."""
    return [name for name in built_in() if is_calibrated(find(name))]


def built_in() -> list[str]:
    """The keys of idvl's own criteria."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def names() -> list[str]:
    """The keys of all criteria, those of other packages last."""
    return [*built_in(), *sorted(plugins.registered(plugins.CRITERIA, built_in()))]


def settings(name: str) -> dict[str, Any]:
    """What a criterion can be set to, with its defaults. UsageError for an unknown name."""
    return {key: parameter.default for key, parameter in inspect.signature(find(name)).parameters.items()}


def load(name: str, **values: Any) -> Criterion:
    """A new criterion. UsageError for an unknown name, or a setting that it does not have or refuses."""
    known = settings(name)
    if unknown := [key for key in values if key not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise UsageError(f"the criterion {name} has no setting {quoted(unknown[0])}; {has}")
    try:
        return find(name)(**values)
    except (UsageError, RunError):
        raise
    except Exception as error:  # the code of others may raise anything
        reason = f"{type(error).__name__}: {first_line(error):.200}"
        raise UsageError(f"the criterion {name} does not take {quoted(values)} ({reason})") from error


def find(name: str) -> type:
    """The class of a criterion. UsageError for an unknown name."""
    if name not in names():
        hint = did_you_mean(name, names()) or f"; take one of {', '.join(names())}"
        raise UsageError(f"unknown criterion {quoted(name)}{hint}")
    if point := plugins.registered(plugins.CRITERIA, built_in()).get(name):
        return plugins.load(point, class_defect)
    return import_module(f"{__name__}.{name}").CRITERION


def class_defect(criterion: Any) -> str | None:
    """What breaks the contract in the class of a criterion; None where nothing does. It makes an object."""
    if not isinstance(criterion, type):
        return "it is not a class"
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for name, parameter in inspect.signature(criterion).parameters.items():
        if parameter.kind not in named or parameter.default is parameter.empty:
            return f"its argument {name} has no default"
    return defect(criterion())


def defect(criterion: Any) -> str | None:
    """What breaks the contract in a criterion; None where nothing does."""
    needs = getattr(criterion, "needs", None)
    calibrated = isinstance(needs, frozenset) and bool(needs & STATISTICS)
    methods = METHODS if not calibrated else ("select",) if "second moments" in needs else ("score",)
    if missing := [method for method in methods if not callable(getattr(criterion, method, None))]:
        return f"it has no method {missing[0]}"
    if missing := [attribute for attribute in ("needs", "compares") if not hasattr(criterion, attribute)]:
        return f"it does not declare {missing[0]}"
    compares, known = criterion.compares, ("layer", "row") if calibrated else ("scope",)
    if not isinstance(needs, frozenset):
        return f"needs must be a frozenset of words, not {quoted(needs)}"
    if unknown := sorted(map(str, needs - set(get_args(Need)))):
        return f"needs may hold {', '.join(get_args(Need))}, not {quoted(unknown[0])}"
    if compares not in known:
        return f"compares must be one of {', '.join(known)}, not {quoted(compares)}"
    if not calibrated and not hasattr(criterion, "bytes_per_weight"):
        return "it does not declare bytes_per_weight"
    size = 0 if calibrated else criterion.bytes_per_weight
    if not isinstance(size, int | float) or not size >= 0:
        return f"bytes_per_weight must be a number of 0 or more, not {quoted(size)}"
    return None
