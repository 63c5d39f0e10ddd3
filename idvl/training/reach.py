"""Which layers a loss reaches: the graph of one batch's loss, followed back to the weights. No gradient is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.layers import Layer
from idvl.models.loading import Loaded
from idvl.training.batches import Collate
from idvl.training.dry_run import no_trace


def unreached(loaded: Loaded, samples: Sequence[Sample], layers: Mapping[str, Layer]) -> list[str]:
    """The layers on whose weights the loss of `samples`, one batch, does not depend.

    The model has a training task, and can learn from the samples. None where they do not fit into a GPU's memory, which
    `rehearse` refuses.
    """
    model, task = loaded.model, loaded.family.training_task
    with no_trace(model):
        model.eval()  # training may skip layers at random
        batch = Collate(loaded.family, loaded.processor, model.config)(list(samples))
        try:
            total = task.loss(model, {key: value.to(model.device) for key, value in batch.items()}, None).total
        except torch.OutOfMemoryError:
            return []
    leaves = _leaves(total)
    return [name for name, layer in layers.items() if id(layer.module.weight) not in leaves]


def _leaves(total: Tensor) -> set[int]:
    """The ids of the tensors that a graph begins with."""
    nodes, seen, leaves = [total.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        nodes += [before for before, _ in node.next_functions]
    return leaves
