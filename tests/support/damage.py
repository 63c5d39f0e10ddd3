"""JSON documents with one field damaged: the path to every field, and a copy with another value there."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# the value that leaves a field out
GONE = object()


def parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and items of an object or list; nothing else has any."""
    return value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()


def spots(value: Any, parts: Callable[[Any], Iterable[tuple[Any, Any]]] = parts) -> Iterator[tuple[Any, ...]]:
    """The path to every field of a document, of those that `parts` names."""
    for key, item in parts(value):
        yield (key,)
        yield from ((key, *rest) for rest in spots(item, parts))


def damaged(document: Any, spot: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with this value at the spot, () the whole, or without it for GONE."""
    if not spot:
        return value
    document = copy.deepcopy(document)
    part = document
    for key in spot[:-1]:
        part = part[key]
    if value is GONE:
        del part[spot[-1]]
    else:
        part[spot[-1]] = value
    return document
