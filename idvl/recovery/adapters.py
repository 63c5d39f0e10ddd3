"""Masked LoRA on all layers of a model, and what else is trained under masks. It does not train."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from idvl.arguments import positive_number, whole_number
from idvl.errors import RunError, UsageError, quoted
from idvl.recovery.masked_lora import LINEAR, MaskedLoRA
from idvl.sparsity.masks import Masks, zero_


def attach_lora(
    model: nn.Module, masks: Masks, *, rank: int | Mapping[str, int], alpha: float = 16.0, seed: int = 0
) -> list[MaskedLoRA]:
    """Freeze a model, and put masked LoRA on its layers. In place; the modules, whose A and B are left to train.

    `rank`: that of all layers that `masks` names, or of each layer, by name; of these, layers without a mask keep all
    their weights. Modules that share a weight share A and B. Raises UsageError, before anything is changed, where no
    layer is named, for a layer that is no plain linear map, or shares its weight with a module of another kind, and for
    a model that is not pruned by `masks`.
    """
    _check_model(model)
    if not isinstance(masks, Masks):
        raise UsageError(f"masks are what idvl.load_masks returns, not {quoted(masks)}")
    modules = dict(model.named_modules())
    ranks = rank if isinstance(rank, Mapping) else dict.fromkeys(masks.shapes, rank)
    ranks = {name: whole_number("rank", one, least=1) for name, one in ranks.items()}
    if not ranks:
        raise UsageError(
            f"{'rank names' if isinstance(rank, Mapping) else 'masks name'} no layer: nothing is to be trained"
        )
    alpha, seed = positive_number("alpha", alpha), whole_number("seed", seed, bits=32)
    if missing := [name for name in ranks if name not in modules]:
        raise UsageError(f"the model has no layer {missing[0]}: the masks are of another model")
    owners = {id(modules[name].weight): name for name in ranks}
    users = {id(module): module for module in modules.values() if id(getattr(module, "weight", None)) in owners}
    for module in users.values():
        name = owners[id(module.weight)]
        if type(module).forward not in LINEAR:
            raise UsageError(f"no LoRA for {name}: a {type(module).__name__} computes with its weight; leave it out")
    weights = {name: modules[name].weight for name in masks.shapes if name in modules}
    if defect := next(masks.defects(weights), None):
        raise UsageError(f"the model is not the pruned one of these masks: {defect}")
    model.requires_grad_(False)
    adapters: dict[int, MaskedLoRA] = {}
    first: dict[str, MaskedLoRA] = {}
    for number, name in enumerate(ranks):
        generator = torch.Generator().manual_seed(seed * 2**20 + number)
        kept = masks.kept(name) if name in masks.shapes else None
        first[name] = MaskedLoRA(modules[name], kept, rank=ranks[name], alpha=alpha, generator=generator)
        adapters[id(modules[name])] = first[name]
    for key, module in users.items():
        if key not in adapters:
            adapters[key] = first[owners[id(module.weight)]].sharing(module)
    _replace(model, adapters)
    return list(adapters.values())


@torch.no_grad()
def merge_lora(model: nn.Module) -> nn.Module:
    """Write every update into its weight, zeros kept, and put the plain layers back. In place; the model.

    What attach_lora froze stays frozen: call `model.requires_grad_(True)` to train the merged model further.
    Raises, before anything is changed, UsageError for a model without masked LoRA, and RunError for a weight that would
    not be finite.
    """
    _check_model(model)
    named = {name: module for name, module in model.named_modules() if isinstance(module, MaskedLoRA)}
    if not named:
        raise UsageError("the model has no masked LoRA to merge: attach_lora puts it there")
    for name, module in named.items():
        if not module.merged().isfinite().all():
            raise RunError(f"nothing is merged: {name} would hold NaN or infinity, as its lora_a or lora_b does")
    layers = {id(module): module for module in named.values()}
    merged: set[int] = set()
    for module in layers.values():
        if id(module.weight) not in merged:
            module.merge()
            merged.add(id(module.weight))
    _replace(model, {key: module.layer for key, module in layers.items()})
    return model


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is a torch.nn.Module, not {quoted(model)}")


@contextmanager
def dense(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, the model computes in eval mode with the bare weights of its masked layers, without their updates."""
    modes = [(module, module.training) for module in model.modules()]
    layers = [module for module in model.modules() if isinstance(module, MaskedLoRA)]
    model.eval()
    for layer in layers:
        layer.is_dense = True
    try:
        yield model
    finally:
        for layer in layers:
            layer.is_dense = False
        for module, training in modes:
            module.training = training


@torch.no_grad()
def take_back_weights(model: nn.Module, teacher: nn.Module, masks: Masks) -> bool:
    """Give a pruned model with masked LoRA the dense weights of its teacher, if it is the teacher but for its zeros.

    Then it can teach itself (`dense`), and its masks hold the weights back. False, and nothing done, where other
    weights differ, or a pruned layer has no masked LoRA.
    """
    values, learnt = teacher.state_dict(), model.state_dict()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, MaskedLoRA)}
    if any(zeros and name not in layers for name, zeros in masks.zeros.items()):
        return False
    for name, value in values.items():
        layer = name.removesuffix(".weight")
        if layer in masks.shapes and name.endswith(".weight"):
            value = value.clone()
            zero_(value, masks.packed(layer))
        if name not in learnt or not torch.equal(value, learnt[name]):
            return False
    for name, layer in layers.items():
        layer.weight.copy_(values[f"{name}.weight"])
    return True


def _replace(model: nn.Module, modules: Mapping[int, nn.Module]) -> None:
    """Put modules into the places of others, which are named by id, wherever these stand."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in modules:
                setattr(parent, name, modules[id(child)])


def small_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Biases, and the weights of norms."""
    return [
        parameter
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or (re.search("norm", type(module).__name__, re.IGNORECASE) and parameter.ndim == 1)
    ]


def mask_gradients(masks: Masks, weights: Mapping[str, Tensor]) -> None:
    """Have the gradients of these weights be zero where they are pruned: AdamW then leaves a zero as it is."""
    for name, weight in weights.items():
        weight.register_hook(_masked(masks.packed(name)))


def _masked(packed: Tensor) -> Callable[[Tensor], Tensor]:
    def hook(gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        zero_(gradient, packed)
        return gradient

    return hook
