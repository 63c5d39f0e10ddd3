"""Any model in memory as idvl sees it: its family, and which of its weights can be pruned where they are."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from idvl.errors import UsageError, quoted
from idvl.models.families import family_of, generic
from idvl.models.families.base import Family
from idvl.models.layers import Layer, find_layers
from idvl.models.naming import BLOCK


def check_model(model: object) -> None:
    """UsageError for what is no model, or has no weights yet."""
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a torch.nn.Module, not {quoted(model)}")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UsageError(f"{name} has no shape yet: run a batch through the model first")


def family_in_memory(model: nn.Module) -> Family:
    """The family of a transformers model; for any other module one whose layers are all linear maps but the last."""
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        config = copy.copy(model.config)
        # one made in memory does not say which of its type's classes it is
        config.architectures = config.architectures or [type(model).__name__]
        return family_of(config)
    plain = replace(generic.FAMILY, blocks=BLOCK, modalities=(("", "fusion"),), reads_image=None)
    names = list(find_layers(model, plain)) if any(isinstance(m, nn.Linear) for m in model.modules()) else []
    if len(names) < 2:
        raise UsageError(f"{type(model).__name__} has no linear layer beside its output head: nothing to prune")
    scope = tuple((rf"^{re.escape(name)}\Z", "fusion") for name in names[:-1])
    return replace(plain, modalities=scope)


def refuse_unprunable(model: nn.Module, layers: Mapping[str, Layer]) -> None:
    """UsageError, naming the layer, for a weight that cannot be pruned where it is."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for name, layer in layers.items():
        if reason := _unprunable(layer, names.get(id(layer.module.weight), [])):
            raise UsageError(f"{name}.weight cannot be pruned: it is {reason}")


def _unprunable(layer: Layer, names: list[str]) -> str | None:
    weight = layer.module.weight
    others = [name for name in names if name != f"{layer.name}.weight"]
    if weight.is_meta:
        return "on the meta device and has no values; load the model first"
    if isinstance(weight, DTensor) or weight.numel() != layer.in_features * layer.out_features:
        return "sharded over processes; train with DistributedDataParallel, or on one process"
    if not weight.numel():
        return f"empty ({layer.in_features} inputs, {layer.out_features} outputs); leave it out with scope="
    if not names:
        return "computed from other parameters; remove the parametrization first"
    if others:
        return f"shared with {others[0]}; leave it out with scope="
    if not weight.requires_grad:
        return "frozen (requires_grad=False); make it trainable, or leave it out with scope="
    return None
