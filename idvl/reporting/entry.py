"""What a table is: words, and numbers with their intervals and the files that they are from; means of such numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# half the width of a 95 % interval, in standard errors
Z = 1.96


@dataclass(frozen=True, kw_only=True)
class TableEntry:
    """One number of a table. `sources`: the files behind it. `text` stands where there is no number.

    The interval is a t interval over `n` runs, or of a single run the one that its file gives.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    sources: tuple[str, ...] = ()
    text: str = "–"
    decimals: int = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of words, then entries: one of `labels` and one of `columns` for each. `paper`: its counterpart there.

    `over`: the metric of all columns; `bounds`: what an entry's low and high are, `counts`: of what it has n. `signed`:
    its numbers are differences; `folded`: it repeats numbers of others in more detail; `published`: it has the paper's.
    """

    key: str
    title: str
    paper: str | None
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[TableEntry, ...]], ...]
    notes: tuple[str, ...] = ()
    bounds: str = "95 % interval"
    counts: str = "runs"
    over: str = ""
    signed: bool = False
    folded: bool = False
    published: bool = False


def mean(entries: Iterable[TableEntry]) -> TableEntry:
    """The mean of the numbers of single runs, with the files of those that have one; a single one as it is."""
    entries = list(entries)
    valued = [entry for entry in entries if entry.value is not None]
    sources = tuple(source for entry in valued or entries for source in entry.sources)
    if not valued:
        return TableEntry(sources=sources)
    value, low, high = mean_interval([entry.value for entry in valued if entry.value is not None])
    if len(valued) == 1:
        low, high = valued[0].low, valued[0].high
    return TableEntry(value=value, low=low, high=high, n=len(valued), sources=sources)


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of n values and its two-sided 95 % t interval; (mean, None, None) for a single one."""
    n, average = len(values), math.fsum(values) / len(values)
    if n == 1:
        return average, None, None
    from scipy.special import stdtrit

    deviation = math.sqrt(math.fsum((value - average) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)
    return average, average - half, average + half
