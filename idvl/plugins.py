"""Criteria and families of other packages, found through their entry points `idvl.criteria` and `idvl.families`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from idvl.errors import RunError, first_line

CRITERIA, FAMILIES = "idvl.criteria", "idvl.families"


def registered(group: str, built_in: Collection[str]) -> Mapping[str, EntryPoint]:
    """The entry points of a group by key; nothing is imported. RunError, naming the package, for a key that is taken.

    `built_in`: the keys of idvl's own.
    """
    return _registered(group, frozenset(built_in), tuple(sys.path))


@lru_cache
def _registered(group: str, built_in: frozenset[str], path: tuple[str, ...]) -> Mapping[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in built_in or point.name in points:
            other = "idvl" if point.name in built_in else f"the package {points[point.name].dist.name}"
            raise RunError(
                f"the package {point.dist.name} repeats the key {point.name!r} of {group}, which {other} has already: "
                "uninstall one of them"
            )
        points[point.name] = point
    return points


def load(point: EntryPoint, defect: Callable[[Any], str | None]) -> Any:
    """The object of an entry point. RunError, naming the package, for one that cannot be imported or does not fit.

    `defect`: object -> what breaks its contract, None where nothing does.
    """
    try:
        value = point.load()
        reason = defect(value)
    except Exception as error:  # the code of others may raise anything
        reason = f"{type(error).__name__}: {first_line(error):.200}"
    if reason:
        raise RunError(
            f"the package {point.dist.name} offers {point.value} as {point.name!r} of {point.group}, which cannot be "
            f"used ({reason}): repair or uninstall it"
        )
    return value
