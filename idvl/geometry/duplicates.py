"""Which points repeat an earlier one. It does not know how the distances were found."""

from __future__ import annotations

from torch import Tensor


def repeats(first: Tensor, second: Tensor) -> list[int]:
    """Of the pairs (first, second) of equal points, those points that go so that no such pair is left.

    In the order of the points, one goes if an earlier one that stays equals it.
    """
    earlier: dict[int, list[int]] = {}
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        earlier.setdefault(max(a, b), []).append(min(a, b))
    gone: set[int] = set()
    for point in sorted(earlier):
        if any(other not in gone for other in earlier[point]):
            gone.add(point)
    return sorted(gone)
