"""The prunable linear maps of a model: their names, blocks and modalities."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch import nn

from idvl.errors import UsageError, did_you_mean, quoted
from idvl.profile import MODALITIES, Modality
from idvl.uncovered import KINDS, Kind

if TYPE_CHECKING:
    from idvl.models.families.base import Family

# what a scope of pruning means: `language` is the whole language stack, with the cross-attention that it holds, while
# the modality `language` is without
SCOPES: dict[str, tuple[Modality, ...]] = {
    "all": MODALITIES,
    "vision": ("vision",),
    "language": ("language", "cross"),
    "language-without-cross": ("language",),
    "cross": ("cross",),
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One linear map inside a model, named by its module's qualified name.

    `block` is the qualified name of the transformer block that holds it (None outside of blocks). `reads_image` marks
    the key and value projections of cross-attention in a text stack: they carry image tokens.
    """

    name: str
    module: nn.Module
    modality: Modality
    block: str | None
    in_features: int
    out_features: int
    reads_image: bool = False


def modalities_of(layers: Mapping[str, Layer]) -> dict[str, Modality]:
    """The modality of each layer, by name."""
    return {name: layer.modality for name, layer in layers.items()}


def find_layers(
    model: nn.Module,
    family: Family,
    *,
    pattern: str | None = None,
    modality: str | Collection[str] | None = None,
) -> dict[str, Layer]:
    """The prunable layers by name, in the order in which the model registers them.

    A fused query-key-value map is one layer; of modules that share a weight, the first counts. `pattern` selects by
    name, in full, with the wildcards * ? [...] of a shell; `modality` is one modality or several. Raises UsageError
    if nothing is left.
    """
    layers = _all_layers(model, family)
    if not layers:
        raise UsageError(f"{type(model).__name__} has no linear layer inside a transformer block: nothing to measure")
    modalities = _modalities(modality, layers)
    selected = {name: layer for name, layer in layers.items() if layer.modality in modalities}
    if pattern is None:
        return selected
    matching = {name: layer for name, layer in selected.items() if name == pattern or fnmatchcase(name, pattern)}
    if not matching:
        near = difflib.get_close_matches(pattern, selected, n=3, cutoff=0) or list(selected)[:3]
        raise UsageError(f"no layer is named like {quoted(pattern)} (wildcards: * ? [...]); near it: {', '.join(near)}")
    return matching


def read_text(layers: Mapping[str, Layer], family: Family) -> bool:
    """Whether any of the layers may depend on text: those of a model that reads text, but for its vision stack."""
    return "text" in family.needs and any(layer.modality != "vision" for layer in layers.values())


def in_scope(model: nn.Module, family: Family, scope: str) -> dict[str, Layer]:
    """The layers of one of SCOPES that the model uses, or those whose name matches a pattern.

    Raises UsageError if there is none.
    """
    if scope not in SCOPES:
        hint = did_you_mean(scope, SCOPES)
        if not hint or set(scope) & set("*?[."):
            return find_layers(model, family, pattern=scope)
        raise UsageError(f"no scope {quoted(scope)}{hint} (there is {', '.join(SCOPES)}, or a pattern)")
    layers, unread = find_layers(model, family), unread_layers(model, family)
    selected = {name: layer for name, layer in layers.items() if layer.modality in SCOPES[scope] and name not in unread}
    if not selected:
        present = dict.fromkeys(layer.modality for layer in layers.values())
        raise UsageError(f"scope {scope} is empty: the model has {', '.join(present)} layers only")
    return selected


def uncovered_layers(
    model: nn.Module, family: Family, scope: Collection[str], *, unreached: Collection[str] = ()
) -> set[str]:
    """The layers outside a scope that the model does not use, or that are `unreached`: they count as not covered."""
    return {*unreached, *unread_layers(model, family)} - set(scope)


def unread_layers(model: nn.Module, family: Family) -> dict[str, Layer]:
    """The layers whose outputs the model does not use."""
    pattern = family.unread
    layers = find_layers(model, family) if pattern else {}
    return {name: layer for name, layer in layers.items() if re.search(pattern, name)}


def block_of(name: str, family: Family) -> str | None:
    """The outermost block that a qualified name lies in, None outside of blocks."""
    parts = name.split(".")
    prefixes = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
    return next((prefix for prefix in prefixes if re.fullmatch(family.blocks, prefix)), None)


def blocks_of(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, nn.Module]:
    """The modules a walk stops at: the blocks that hold layers, and each layer that lies outside of any block."""
    names = dict.fromkeys(layer.block or layer.name for layer in layers.values())
    return {name: model.get_submodule(name) for name in names}


def modality_of(name: str, family: Family) -> Modality | None:
    """The modality of a layer's qualified name, None for what is not prunable."""
    return next((modality for pattern, modality in family.modalities if re.search(pattern, name)), None)


def uncovered_weights(
    model: nn.Module, family: Family, *, unreached: Collection[str] = ()
) -> dict[Kind, dict[str, Any]]:
    """The weights outside of the prunable layers, by kind: {"weights", "tensors", "names"}, of tied ones the first.

    `names` are the tensors' with * for each number. `unreached`: layers that could be pruned but for the loss.
    """
    layers = _all_layers(model, family)
    covered = {id(layer.module.weight) for name, layer in layers.items() if name not in unreached}
    modules = dict(model.named_modules())
    kinds: dict[Kind, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) in covered:
            continue
        owner, _, leaf = name.rpartition(".")
        kind = "unreached layers" if owner in layers and leaf == "weight" else _kind(modules[owner], parameter)
        if kind == "heads and projections" and block_of(owner, family):
            kind = "other"
        part = kinds.setdefault(kind, {"weights": 0, "tensors": 0, "names": []})
        part["weights"] += parameter.numel()
        part["tensors"] += 1
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
        if pattern not in part["names"]:
            part["names"].append(pattern)
    return {kind: kinds[kind] for kind in KINDS if kind in kinds}


def _kind(module: nn.Module, parameter: nn.Parameter) -> Kind:
    """What a module's own weight is, by the type of the module and the shape of the weight."""
    if isinstance(module, nn.modules.conv._ConvNd) and parameter.ndim > 1:
        return "convolutions"
    if _features(module) and parameter.ndim > 1:
        return "heads and projections"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "embeddings"
    # a vector, however it is stored
    if isinstance(module, nn.LayerNorm) or parameter.numel() == max(parameter.shape, default=1):
        return "norms and biases"
    # a table of positions, broadcast over the samples
    if parameter.shape[0] == 1:
        return "embeddings"
    # (experts, in, out), all in one product
    return "fused experts" if parameter.ndim == 3 else "other"


def _all_layers(model: nn.Module, family: Family) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    weights: set[int] = set()
    for name, module in model.named_modules():
        features = _features(module)
        modality = modality_of(name, family) if features else None
        if modality is None or id(module.weight) in weights:
            continue
        weights.add(id(module.weight))
        layers[name] = Layer(
            name=name,
            module=module,
            modality=modality,
            block=block_of(name, family),
            in_features=features[0],
            out_features=features[1],
            reads_image=bool(family.reads_image and re.search(family.reads_image, name)),
        )
    return layers


def _features(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear map that runs as a module, None for anything else."""
    from transformers.pytorch_utils import Conv1D

    # nn.MultiheadAttention reads the weight of its output projection without ever calling the module
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return None
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        n_in, n_out = module.weight.shape
        return n_in, n_out
    return None


def _modalities(modality: str | Collection[str] | None, layers: dict[str, Layer]) -> Collection[str]:
    if modality is None:
        return MODALITIES
    modalities = {modality} if isinstance(modality, str) else set(modality)
    present = [name for name in MODALITIES if any(layer.modality == name for layer in layers.values())]
    for name in sorted(modalities - set(present)):
        if name not in MODALITIES:
            hint = did_you_mean(name, MODALITIES)
            raise UsageError(f"no modality {quoted(name)}{hint} (this model has {', '.join(present)})")
        raise UsageError(f"the model has no {name} layers; it has {', '.join(present)}")
    return modalities


def left_out(names: Collection[str], why: str, family: Family) -> str:
    """What is said of layers that a scope leaves out: those that `why`."""
    blocks = ", ".join(dict.fromkeys(block_of(name, family) or name for name in names))
    return (
        f"left out: {len(names)} layers that {why}, which count in no share of the report but that of all weights: "
        f"{blocks}"
    )
