"""Weights that idvl neither measures nor prunes, by kind: as plain data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Kind = Literal[
    "fused experts",
    "convolutions",
    "other",
    "unreached layers",
    "heads and projections",
    "embeddings",
    "norms and biases",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
# kinds that a reader may take to be covered: their tensors are named
NAMED: tuple[Kind, ...] = KINDS[:4]


def in_words(uncovered: Mapping[str, Mapping[str, Any]], total: int) -> str:
    """How many of `total` weights are not covered, then each kind with its count and, for NAMED, its first tensor."""
    kinds = [_kind(kind, uncovered[kind]) for kind in KINDS if kind in uncovered]
    weights = sum(part["weights"] for part in uncovered.values())
    share = f"{weights / total:.1%}".replace("%", " %")
    return f"not covered: {weights:,} of all {total:,} weights ({share}): {', '.join(kinds)}"


def _kind(kind: Kind, part: Mapping[str, Any]) -> str:
    first, *others = part["names"]
    more = f" and {len(others)} more" if others else ""
    return f"{kind} {part['weights']:,}{f' ({first}{more})' if kind in NAMED else ''}"
