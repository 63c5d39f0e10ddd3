"""What idvl knows of architectures: one file a family, found by listing this folder.

A family file (or folder) exposes one object, FAMILY; its key is the file's name. A package names such an object as an
entry point `idvl.families`, whose name is the key. Several families may share a model type as long as they describe
different classes of it. Nothing here knows weights or files on disk.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any

from idvl import plugins
from idvl.errors import RunError
from idvl.models.families.base import Family

FALLBACK = "generic"


def names() -> list[str]:
    """The keys of all families: idvl's own, those of other packages, and the fallback last."""
    return [*sorted(set(_own()) - {FALLBACK}), *sorted(plugins.registered(plugins.FAMILIES, _own())), FALLBACK]


def family_of(config: Any) -> Family:
    """The family of a transformers config, by its model type and class; the generic one where none describes it.

    Raises UsageError for a model that takes neither images nor text, RunError for one that two families describe.
    """
    describing = {name: family for name in names() if (family := _load(name)).describes(config)}
    if len(describing) > 1:
        named = getattr(config, "architectures", None)
        kind = named[0] if named else f"{config.model_type} models"
        remedy = "remove it from the classes of one" if named else "name its class in architectures of config.json"
        raise RunError(f"the families {' and '.join(describing)} both describe {kind}: {remedy}")
    key, family = next(iter(describing.items()), (FALLBACK, _load(FALLBACK)))
    return replace(family.for_config(config) if family.for_config else family, key=key)


@cache
def _own() -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def _load(name: str) -> Family:
    if point := plugins.registered(plugins.FAMILIES, _own()).get(name):
        return plugins.load(point, lambda made: None if isinstance(made, Family) else "it is no Family")
    return import_module(f"{__name__}.{name}").FAMILY
