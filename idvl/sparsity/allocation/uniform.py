"""Uniform: the same density in every layer."""

from __future__ import annotations

from collections.abc import Mapping


def wishes(sizes: Mapping[str, int]) -> dict[str, float]:
    return dict.fromkeys(sizes, 1.0)


ALLOCATION = wishes
