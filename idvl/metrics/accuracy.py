"""Accuracy: how often the predicted class is the true one, or among the k likeliest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from idvl.errors import UsageError
from idvl.metrics.measured import Measured, matched, proportion

KS = (1, 5)
INTERVAL = "Wilson score, samples"


def accuracy(labels: Sequence[object], predictions: Sequence[object]) -> dict[str, Measured]:
    """The share of predictions (n,) that equal their labels (n,)."""
    matched(predictions, labels, "labels")
    hits = [prediction == label for prediction, label in zip(predictions, labels, strict=True)]
    return {"accuracy": proportion("accuracy", hits, interval=INTERVAL)}


def topk(labels: Sequence[int], top: Sequence[Sequence[int]]) -> dict[str, Measured]:
    """top-1, and top-5 where there are five: the share of labels (n,) among the first of `top` (n, k), likeliest first.

    UsageError when rows of `top` differ in length or are empty.
    """
    matched(top, labels, "labels")
    lengths = {len(row) for row in top}
    if len(lengths) > 1 or 0 in lengths:
        raise UsageError(f"every prediction lists the same number of classes, not {sorted(lengths)}")
    hits = np.asarray(top) == np.asarray(labels)[:, None]
    return {f"top-{k}": proportion(f"top-{k}", hits[:, :k].any(1), interval=INTERVAL) for k in KS if k <= hits.shape[1]}
