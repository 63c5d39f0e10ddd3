"""Bytes, seconds and shares as text for people."""

from __future__ import annotations

import math


def size(count: float) -> str:
    """Bytes as --memory takes them, rounded up."""
    if count < 2**10:
        return f"{math.ceil(count)}B"
    if count < 2**20:
        return f"{math.ceil(count / 2**10)}KiB"
    mib = math.ceil(count / 2**20)
    return f"{mib}MiB" if mib < 10 * 1024 else f"{math.ceil(count / 2**30 * 10) / 10}GiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def percent(share: float, digits: int = 2) -> str:
    """0.8 -> "80.00 %"."""
    return f"{100 * share:.{digits}f} %"
