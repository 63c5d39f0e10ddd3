"""What the layers of a model give."""

from __future__ import annotations

import torch
from torch import Tensor

from idvl.models.layers import find_layers
from idvl.models.loading import Loaded


def outputs(loaded: Loaded, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layer name -> the tensor that it gives in a forward pass on a batch; of several calls, the last one's."""
    seen, handles = {}, []
    for name, layer in find_layers(loaded.model, loaded.family).items():
        handles.append(layer.module.register_forward_hook(lambda m, a, out, name=name: seen.update({name: out})))
    with torch.no_grad():
        loaded.family.call(loaded.model, batch)
    for handle in handles:
        handle.remove()
    return seen
