"""The k smallest of many tensors' scores, exactly, without a copy of them.

Scores that are not negative are ordered as the integers that their bits spell, their keys. Two passes count keys, by
their upper and then their lower 16 bits, in a histogram of 65,536 counters; a third takes what lies below. Scores are
computed again in every pass, one tensor at a time. Counts add up: for a layer whose pieces lie on several ranks, sum
its histograms over the ranks before they are bounded. It knows nothing of weights or masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from idvl.errors import RunError

INFINITY = 0x7F800000
UPPER, LOWER = 1 << 15, 1 << 16
# keys at a time: few enough for the cache, enough for the work on each to outweigh its 65,536 counters
CHUNK = 1 << 20
# keys at a time where ties are looked up, which takes 8 bytes a tie
TIES = 1 << 16

# layer name -> its keys (n,) int32; the least and the most keys that may be taken of each layer, in the layers' order
Keys = Callable[[str], Tensor]
Bounds = Mapping[str, tuple[int, int]]


def check(name: str, scores: Tensor) -> None:
    """RunError, naming the layer, for scores that are NaN; ValueError for negative ones."""
    least, most = torch.stack(keys_of(scores).aminmax()).tolist()
    if most > INFINITY or (least < 0 and bool(scores.isnan().any())):
        raise RunError(f"the scores of {name} hold NaN: its weights or gradients do; lower the learning rate")
    if least < 0:
        raise ValueError(f"scores must not be negative or -0.0, as those of {name} are")


def keys_of(scores: Tensor) -> Tensor:
    """The keys (n,) int32 of float32 scores, in their memory."""
    return scores.view(-1).view(torch.int32)


def score_of(key: int) -> float:
    """The score that a key stands for."""
    return float(torch.tensor(key, dtype=torch.int32).view(torch.float32))


def find(keys: Keys, k: int, bounds: Bounds) -> tuple[int, int]:
    """The key at which taking all smaller keys, within each layer's bounds, first gives k or more.

    Returns it, and how many keys equal to it are to be taken to make k: see `take`. The result is that of sorting: with
    each layer's count of smaller keys held between its least and most, the sum rises with the key.
    """
    totals = sum(_upper(keys(name)).cumsum(0).clamp(*limits) for name, limits in bounds.items())
    bucket = int(torch.searchsorted(totals, k))
    totals = sum(_lower(keys(name), bucket).cumsum(0).clamp(*limits) for name, limits in bounds.items())
    position = max(int(torch.searchsorted(totals, k)), 1)
    return (bucket << 16) + position - 1, k - int(totals[position - 1])


def take(keys: Tensor, key: int, ties: int, least: int, most: int) -> tuple[Tensor, int]:
    """One layer's share of `find`: (n,) bool, True where taken, and the ties that are left for the layers after it.

    Of equal keys those at the lowest indices are taken. For example, `find` gives key 5 and 1 tie to take the 4
    smallest of a layer with the keys [7, 1, 5, 2] and one with [5, 9, 3, 8]: the first layer loses 1, 2 and its 5, the
    second its 3; the tie left for it is 0, so its own 5 stays.
    """
    taken = keys < key
    smaller = int(taken.count_nonzero())
    low = min(max(smaller, least), most)
    equal = int((keys == key).count_nonzero()) if smaller <= most and (ties or smaller < least) else 0
    extra = min(ties, min(max(smaller + equal, least), most) - low)
    count = low + extra
    if smaller <= count <= smaller + equal:
        return _with_first(taken, keys, key, count - smaller), ties - extra
    # the layer stands at a bound: its own smallest
    key, needed = find(lambda _: keys, count, {"": (0, len(keys))})
    return _with_first(keys < key, keys, key, needed), ties - extra


def _with_first(taken: Tensor, keys: Tensor, key: int, needed: int) -> Tensor:
    """Take the first `needed` keys equal to `key` too."""
    for start in range(0, len(keys), TIES):
        if not needed:
            break
        indices = (keys[start : start + TIES] == key).nonzero().view(-1)[:needed]
        taken[indices + start] = True
        needed -= len(indices)
    return taken


def _upper(keys: Tensor) -> Tensor:
    """(UPPER,) counts of the keys by their upper 16 bits."""
    counts = torch.zeros(UPPER, dtype=torch.int64, device=keys.device)
    for chunk in keys.split(CHUNK):
        counts += torch.bincount(chunk >> 16, minlength=UPPER)
    return counts.cpu()


def _lower(keys: Tensor, bucket: int) -> Tensor:
    """(1 + LOWER,) counts: of keys with smaller upper bits than `bucket`, and by lower bits of those that have it."""
    counts = torch.zeros(LOWER + 2, dtype=torch.int64, device=keys.device)
    for chunk in keys.split(CHUNK):
        # the last counter takes all larger keys: counting them costs less than leaving them out
        counts += torch.bincount((chunk - ((bucket << 16) - 1)).clamp_(0, LOWER + 1), minlength=LOWER + 2)
    return counts[:-1].cpu()
