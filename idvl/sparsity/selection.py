"""Exactly so many of the lowest scores of a matrix: in all of it, or in each of its rows.

It knows scores alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lowest(scores: Tensor, count: int, *, by_row: bool) -> Tensor:
    """(rows, columns) bool, True at the `count` lowest scores; of equal ones in a row, lower columns come first.

    By row, each row has count // rows of them, and count % rows rows one more: those whose next candidate has the
    lowest score, of equal ones the rows that come first. Else rows are compared with each other, and of equal scores
    those of rows that come first are taken.
    """
    if not 0 <= count <= scores.numel():
        raise ValueError(f"{count} of {scores.numel()} scores cannot be the lowest")
    if not by_row:
        return lowest(scores.reshape(1, -1), count, by_row=True).view(scores.shape)
    each, more = divmod(count, len(scores))
    if each == scores.shape[1]:
        return torch.ones_like(scores, dtype=torch.bool)
    candidates = scores.kthvalue(each + 1, dim=1).values
    quota = torch.full_like(candidates, each, dtype=torch.int64)
    quota[candidates.sort(stable=True).indices[:more]] += 1
    taken = scores < candidates.unsqueeze(1)
    equal = scores == candidates.unsqueeze(1)
    missing = quota - taken.sum(1)
    tied = equal.sum(1) > missing
    taken |= equal & ~tied.unsqueeze(1)
    # only rows with more ties than they need have to count them
    some = equal[tied]
    taken[tied] |= some & (some.cumsum(1) <= missing[tied].unsqueeze(1))
    return taken
