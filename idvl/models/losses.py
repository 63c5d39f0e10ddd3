"""What a model learns: a loss summed over terms, so that it can be divided by the number of terms of a whole step.

A mean would weigh a term by its neighbours in the batch. Knows no architecture.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idvl.errors import UsageError
from idvl.models.forward import call
from idvl.models.labels import IGNORED

# (rows of this process) -> (the rows of all processes, differentiable; where this process's begin)
Gather = Callable[[Tensor], tuple[Tensor, int]]
# how far a model's own loss may be from the cross-entropy of its logits, which half precision rounds, relatively
TOLERANCE = 1e-2


class Objective(NamedTuple):
    """`total`: the loss summed over `count` terms (tokens, images, pairs).

    `logits` gives what the loss compares (rows, classes), for distillation; None for a loss without a softmax.
    """

    total: Tensor
    count: int
    logits: Callable[[], Tensor] | None


def over_labels(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy of logits (..., classes) at the terms whose label (...) is not IGNORED."""
    learnt = labels != IGNORED
    logits, labels = logits[learnt].float(), labels[learnt]
    total = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    return Objective(total, len(labels), lambda: logits)


def contrastive(
    images: Tensor, texts: Tensor, scale: Tensor, gather: Gather | None = None, *, label_smoothing: float = 0.0
) -> Objective:
    """The symmetric loss of CLIP (Radford et al. 2021, section 2.3) over this process's pairs.

    `images`, `texts`: (n, d), normalised, one pair a row; each is compared with those of all processes. The totals
    of all processes add up to the loss of one process that holds all pairs.
    """
    every_image, start = gather(images) if gather else (images, 0)
    every_text, _ = gather(texts) if gather else (texts, 0)
    logits = torch.cat([scale * images @ every_text.T, scale * texts @ every_image.T]).float()
    pairs = torch.arange(start, start + len(images), device=images.device)
    total = F.cross_entropy(logits, pairs.repeat(2), reduction="sum", label_smoothing=label_smoothing)
    return Objective(total / 2, len(images), lambda: logits)


def sigmoid_pairs(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, gather: Gather | None = None
) -> Objective:
    """The sigmoid loss of SigLIP (Zhai et al. 2023, section 3.2) over this process's images and the texts of all.

    `images`, `texts`: (n, d), normalised, one pair a row. The totals of all processes add up to the loss of one process
    that holds all pairs. Its terms are the images, as in the paper, which divides by them.
    """
    every_text, start = gather(texts) if gather else (texts, 0)
    logits = (scale * images @ every_text.T + bias).float()
    signs = torch.full_like(logits, -1)
    signs[torch.arange(len(images)), start + torch.arange(len(images))] = 1
    return Objective(-F.logsigmoid(signs * logits).sum(), len(images), None)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of logits (rows, classes) at a temperature T, times T^2, averaged over rows.

    With T^2 the gradient has the scale that it has at T = 1 (Hinton, Vinyals, Dean 2015, section 2).
    """
    student, teacher = (F.log_softmax(logits.float() / temperature, dim=-1) for logits in (student, teacher))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def own_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The mean loss that a transformers model computes from labels, times the number of its terms.

    Raises UsageError where the model returns none.
    """
    output = call(model, inputs)
    mean = getattr(output, "loss", None)
    if mean is None:
        raise UsageError(f"{type(model).__name__} returns no loss for labels: idvl does not know how to train it")
    count = int((inputs["labels"] != IGNORED).sum())
    return Objective(mean * count, count, partial(_compared, model, output, inputs["labels"]))


def _compared(model: nn.Module, output: Any, labels: Tensor) -> Tensor:
    """The logits (rows, classes) that a model compares with labels (...) for its own loss, a mean cross-entropy.

    Decoders compare those of each token with the next label, other models with its own; whichever gives the loss that
    the model returned is right. Raises UsageError where neither does.
    """
    logits, mean = output.logits, output.loss.detach().float()
    if labels.ndim > 1:
        # some decoders return those of the image, which comes before the text, too
        logits = logits[:, -labels.shape[1] :]
    choices = []
    for shift in (0, 1) if labels.ndim > 1 else (0,):
        rows = logits[:, :-1] if shift else logits
        targets = labels[:, 1:] if shift else labels
        rows, targets = rows[targets != IGNORED].float(), targets[targets != IGNORED]
        error = (F.cross_entropy(rows.detach(), targets) - mean).abs().item()
        choices.append((error, shift, rows))
    error, _, rows = min(choices, key=operator.itemgetter(0, 1))
    if error > TOLERANCE * mean.abs().item():
        raise UsageError(
            f"the loss of {type(model).__name__} is no plain cross-entropy of its logits: leave out distill"
        )
    return rows
