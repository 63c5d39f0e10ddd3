"""The axes of pruning, and which values of two of them do not go together.

It needs no weights, so that a run is refused before any is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any, get_args

from idvl.choices import Calibration, Compat, Repair, Within
from idvl.errors import UsageError, quoted
from idvl.sparsity import allocation as allocations
from idvl.sparsity import criteria
from idvl.sparsity.schedule import CURVES
from idvl.sparsity.structure import parse
from idvl.sparsity.weighting import MODES

COMPATS = get_args(Compat)

# an axis -> its values in words; of a structure only the kind, of a limit only whether it is set
AXES: dict[str, tuple[str, ...]] = {
    "criterion": tuple(criteria.observed()),
    "id_weight": tuple(MODES),
    "allocation": tuple(name for name in allocations.names() if allocations.load(name).needs is None),
    "structure": ("unstructured", "N:M"),
    "schedule": tuple(CURVES),
    "floor": ("none", "set"),
    "ceiling": ("none", "set"),
    "min_keep": ("none", "set"),
    "monotone": ("no", "yes"),
    "compat": COMPATS,
}

_COMPARES = "weights are compared within a layer only, where a factor of the layer changes nothing"

# the axes of pruning from calibration samples, likewise
CALIBRATED: dict[str, tuple[str, ...]] = {
    "criterion": ("magnitude", "gradient", *criteria.calibrated()),
    "calibration": get_args(Calibration),
    "compare_within": get_args(Within),
    "repair": get_args(Repair),
    "id_weight": tuple(MODES),
    "allocation": tuple(allocations.names()),
    "structure": ("unstructured", "N:M"),
    "floor": ("none", "set"),
    "ceiling": ("none", "set"),
    "min_keep": ("none", "set"),
}

_COMPARED = f"{_COMPARES}: set id_weight none"
_LIMITED = "every layer gets the same sparsity, which no limit can change: leave it out"
_GROUPED = "every layer gets the sparsity 1 - N/M: set allocation uniform"
_KEPT = "N of every M weights stay, which no minimum can change: leave min_keep out"
_PUBLISHED = "the paper's code has no such thing: leave compat out"

# "axis value", "axis value", why they do not go together; every other pair does
_ROWS = (
    ("id_weight multiply", "allocation uniform", _COMPARED),
    ("id_weight multiply", "structure N:M", _COMPARED),
    ("id_weight divide", "allocation uniform", _COMPARED),
    ("id_weight divide", "structure N:M", _COMPARED),
    ("structure N:M", "allocation global", _GROUPED),
    ("structure N:M", "floor set", _LIMITED),
    ("structure N:M", "ceiling set", _LIMITED),
    ("structure N:M", "min_keep set", _KEPT),
    ("allocation uniform", "floor set", _LIMITED),
    ("allocation uniform", "ceiling set", _LIMITED),
    ("schedule one-shot", "monotone yes", "weights are not trained, so nothing can come back: leave monotone out"),
    ("compat icml24", "id_weight divide", _PUBLISHED),
    ("compat icml24", "allocation uniform", _PUBLISHED),
    ("compat icml24", "structure N:M", _PUBLISHED),
    ("compat icml24", "schedule linear", _PUBLISHED),
    ("compat icml24", "schedule one-shot", _PUBLISHED),
    ("compat icml24", "floor set", _PUBLISHED),
    ("compat icml24", "ceiling set", _PUBLISHED),
    ("compat icml24", "min_keep set", _PUBLISHED),
    ("compat icml24", "monotone yes", _PUBLISHED),
)

# allocations by which layers have different sparsities
_WALKS = get_args(Calibration)
_UNEQUAL = tuple(name for name in allocations.names() if allocations.load(name).needs)
_APART = "layers are pruned one after the other, so that no threshold is theirs together: set allocation uniform"

_ALL_ROWS = "it chooses among all rows of 128 columns at a time: leave compare_within out"
_BY_GROUP = "each group of M inputs is pruned by itself: leave compare_within out"

# the same of the axes of CALIBRATED; an axis that is not set has none of its values
_CALIBRATED_ROWS = (
    *((f"id_weight {mode}", f"calibration {name}", _COMPARED) for mode in ("multiply", "divide") for name in _WALKS),
    *(("allocation global", f"calibration {name}", _APART) for name in _WALKS),
    *(("criterion sparsegpt", f"compare_within {within}", _ALL_ROWS) for within in get_args(Within)),
    ("criterion sparsegpt", "repair none", "it updates weights while it chooses: leave repair out"),
    *(("structure N:M", f"compare_within {within}", _BY_GROUP) for within in get_args(Within)),
    *(("structure N:M", f"allocation {name}", _GROUPED) for name in _UNEQUAL),
    ("structure N:M", "floor set", _LIMITED),
    ("structure N:M", "ceiling set", _LIMITED),
    ("structure N:M", "min_keep set", _KEPT),
    ("allocation uniform", "floor set", _LIMITED),
    ("allocation uniform", "ceiling set", _LIMITED),
)


def _pairs(rows: Iterable[tuple[str, str, str]]) -> dict[frozenset[tuple[str, ...]], str]:
    """{(axis, value), (axis, value)} -> the reason."""
    return {frozenset((tuple(first.split()), tuple(second.split()))): why for first, second, why in rows}


REFUSED, REFUSED_CALIBRATED = _pairs(_ROWS), _pairs(_CALIBRATED_ROWS)


def reason(first: tuple[str, str], second: tuple[str, str]) -> str | None:
    """Why two values (axis, value) do not go together, or None where they do."""
    return REFUSED.get(frozenset((first, second)))


def refuse_calibrated(
    *,
    criterion: str,
    calibration: str = "sequential",
    compare_within: str | None = None,
    repair: str | None = None,
    id_weight: str = "none",
    allocation: str = "uniform",
    structure: str = "unstructured",
    floor: float | None = None,
    ceiling: float | None = None,
    min_keep: int | None = None,
    sparsity: float | None = None,
) -> None:
    """`refuse` for pruning from calibration samples; None is a value that is not set."""
    words = {
        "criterion": criterion,
        "calibration": calibration,
        "compare_within": compare_within,
        "repair": repair,
        "id_weight": id_weight,
        # of a file the key alone
        "allocation": allocation.partition(":")[0],
        "structure": "N:M" if parse(structure).grouped else "unstructured",
        "floor": "set" if floor else "none",
        "ceiling": "set" if ceiling not in (None, 1) else "none",
        "min_keep": "set" if min_keep else "none",
    }
    if criterion in criteria.observed() and criterion not in CALIBRATED["criterion"]:
        raise UsageError(
            f"criterion {criterion} and calibration {calibration}: it smooths over the steps of training; choose from "
            f"{', '.join(CALIBRATED['criterion'])}, or leave calibration out"
        )
    words = {axis: word for axis, word in words.items() if word is not None}
    _refuse_unknown(words, CALIBRATED)
    values: dict[str, Any] = words | {"structure": structure, "floor": floor, "ceiling": ceiling, "min_keep": min_keep}
    for first, second in combinations(words.items(), 2):
        if why := REFUSED_CALIBRATED.get(frozenset((first, second))):
            raise UsageError(f"{first[0]} {values[first[0]]} and {second[0]} {values[second[0]]}: {why}")
    if sparsity is not None:
        _refuse_sparsity(sparsity, structure)


def refuse(
    *,
    criterion: str = "magnitude",
    id_weight: str = "none",
    allocation: str = "global",
    structure: str = "unstructured",
    schedule: str = "cubic",
    floor: float | None = None,
    ceiling: float | None = None,
    min_keep: int | None = None,
    monotone: bool = False,
    compat: str = "none",
    sparsity: float | None = None,
    total_steps: int | None = None,
    window: int | None = None,
) -> None:
    """UsageError, with the reason, for settings that do not exist or do not go together.

    None, like a floor of 0 and a ceiling of 1, is a limit that is not set. `total_steps` is the schedule's, `window`
    PLATON's; None leaves them unchecked.
    """
    nm = parse(structure)
    words = {
        "criterion": criterion,
        "id_weight": id_weight,
        "structure": "N:M" if nm.grouped else "unstructured",
        "allocation": allocation,
        "schedule": schedule,
        "floor": "set" if floor else "none",
        "ceiling": "set" if ceiling not in (None, 1) else "none",
        "min_keep": "set" if min_keep else "none",
        "monotone": "yes" if monotone else "no",
        "compat": compat,
    }
    if criterion in criteria.calibrated():
        raise UsageError(
            f"criterion {criterion} prunes from calibration samples and not while a model trains: use idvl prune, or "
            f"one of {', '.join(AXES['criterion'])}"
        )
    if allocation in CALIBRATED["allocation"] and allocation not in AXES["allocation"]:
        raise UsageError(
            f"allocation {allocation} is for pruning from calibration samples: set calibration, or one of "
            f"{', '.join(AXES['allocation'])}"
        )
    _refuse_unknown(words, AXES)
    values: dict[str, Any] = words | {"structure": structure, "floor": floor, "ceiling": ceiling, "min_keep": min_keep}
    for first, second in combinations(words.items(), 2):
        if why := reason(first, second):
            raise UsageError(f"{first[0]} {values[first[0]]} and {second[0]} {values[second[0]]}: {why}")
    if id_weight != "none" and floor and floor == ceiling:
        raise UsageError(f"floor and ceiling {floor} and id_weight {id_weight}: {_COMPARES}: set id_weight none")
    if sparsity is not None:
        _refuse_sparsity(sparsity, structure)
    if schedule == "one-shot" and None not in (window, total_steps) and window > total_steps:
        raise UsageError(
            f"the criterion smooths over windows of {window} steps, and {total_steps} steps are observed: lower window"
        )


def _refuse_unknown(words: Mapping[str, str], axes: Mapping[str, tuple[str, ...]]) -> None:
    for axis, word in words.items():
        names = axes[axis] if axis != "criterion" or word in axes[axis] else criteria.names()
        if word not in names:
            raise UsageError(f"{axis} must be one of {', '.join(names)}, not {quoted(word)}")


def _refuse_sparsity(sparsity: float, structure: str) -> None:
    if not 0 < sparsity < 1:
        raise UsageError(f"sparsity must lie between 0 and 1, not {sparsity}")
    nm = parse(structure)
    if nm.grouped and abs(sparsity - nm.sparsity) > 1e-9:
        raise UsageError(f"structure {structure} has sparsity {nm.sparsity:g}, not {sparsity}: set sparsity to it")
