"""What one threshold over the magnitudes of a modality's weights leaves of each layer. It needs no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from idvl.profile import MODALITIES
from idvl.pruning.counts import parts_of
from idvl.reporter import Progress
from idvl.sparsity import threshold

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration


def densities(job: Calibration, progress: Progress) -> dict[str, float]:
    """The density of each layer in scope, where every modality is pruned to its sparsity by magnitude alone."""
    kept = {}
    for part in parts_of(job.recipe.prune, job.layers).values():
        for modality in MODALITIES:
            inside = {name: layer for name, layer in part.layers.items() if layer.modality == modality}
            sizes = {name: layer.module.weight.numel() for name, layer in inside.items()}
            if sizes:
                kept |= by_threshold(sizes, job.weight, part.sparsity)
    return kept


def by_threshold(sizes: Mapping[str, int], weight: Callable[[str], Tensor], sparsity: float) -> dict[str, float]:
    """The share of each layer's weights that stay when exactly so many of the smallest of all are pruned.

    `sizes`: layer -> its number of weights; `weight` reads those of one.
    """

    def keys(name: str) -> Tensor:
        scores = weight(name).abs().float().contiguous()
        threshold.check(name, scores)
        return threshold.keys_of(scores)

    key, ties = threshold.find(keys, round(sparsity * sum(sizes.values())), {n: (0, size) for n, size in sizes.items()})
    kept = {}
    for name, size in sizes.items():
        pruned, ties = threshold.take(keys(name), key, ties, 0, size)
        kept[name] = 1 - int(pruned.count_nonzero()) / size
    return kept
