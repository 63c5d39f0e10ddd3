"""ECoFLaP: shares of the weights in proportion to the loss's gradient (Sung, Yoon & Bansal, ICLR 2024, section 3.3).

Every block keeps a floor, the density that is `spread` below the mean; the other weights are dealt out by score, whole
blocks at most. So a score says how many weights a block keeps, not how densely: a small one with a large score is dense
at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from idvl.sparsity.allocation import Allocation


def densities(
    sizes: Mapping[str, int], values: Mapping[str, float], density: float, spread: float | None
) -> dict[str, float]:
    size = np.array([sizes[name] for name in sizes], dtype=float)
    scores = np.array([values[name] for name in sizes], dtype=float)
    floor = max(density - spread, 0.0)
    filled = _fill(size * (1 - floor), scores, (density - floor) * size.sum())
    return dict(zip(sizes, (floor + filled / size).tolist(), strict=True))


def _fill(room: np.ndarray, scores: np.ndarray, total: float) -> np.ndarray:
    """`total`, dealt out in proportion to scores, to nobody more than its room: min(scale x score, room).

    What is left when all with a score are full goes to the others, in proportion to their room.
    """
    filled, scored = np.zeros_like(room), scores > 0
    if total >= room[scored].sum():
        filled[scored] = room[scored]
        rest, others = total - room[scored].sum(), room[~scored].sum()
        filled[~scored] = room[~scored] * (rest / others if others else 0.0)
        return filled
    room, scores = room[scored], scores[scored]
    order = np.argsort(room / scores, kind="stable")
    ordered = scores[order]
    # dealt out when each in this order becomes full: those before it are, those behind get as much by score
    full, behind = room[order].cumsum(), ordered[::-1].cumsum()[::-1] - ordered
    first = int(np.searchsorted(full + room[order] / ordered * behind, total))
    before = full[first - 1] if first else 0.0
    scale = (total - before) / ordered[first:].sum()
    filled[scored] = np.minimum(scores * scale, room)
    return filled


ALLOCATION = Allocation(densities=densities, needs="gradient", by=("block", "layer"), spread=0.1)
