"""What idvl knows of architectures: one file a family, found by listing this folder.

A family file exposes one object, FAMILY; its key is the file's name. A package names such an object as an entry point
`idvl.families`, whose name is the key. Nothing here knows weights or files on disk.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from idvl import plugins
from idvl.data.samples import Sample
from idvl.models.objective import Gather, Objective
from idvl.models.skills import Skill
from idvl.profile import Modality

FALLBACK = "generic"


def call(model: nn.Module, inputs: dict[str, Tensor], **more: Any) -> Any:
    """The forward pass of a walk: no cache, no loss, floating inputs in the model's dtype.

    Inputs that the model's forward does not name are left out.
    """
    named = inspect.signature(model.forward).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
    caches = any(getattr(config, "use_cache", False) for config in _configs(model.config))
    if "use_cache" in named or (passes_on and caches):
        more["use_cache"] = False
    given = {key: value for key, value in inputs.items() if key in named}
    dtype = getattr(model, "dtype", torch.float32)
    return model(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}, **more)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a model is trained on samples: what it is shown, and what it should have said."""

    # (model, inputs, gather) -> Objective; `gather` is None where there is but one process
    loss: Callable[[nn.Module, dict[str, Tensor], Gather | None], Objective]
    # (processor, samples, text_length, config) -> model inputs on the CPU, and "labels": one for each term that the
    # loss counts, IGNORED where there is nothing to learn
    inputs: Callable[..., dict[str, Tensor]]
    # (sample, config) -> what is wrong with a sample that cannot be learnt from, else None
    lacks: Callable[[Sample, Any], str | None] = lambda sample, config: None
    # whether a sample's loss depends on the others of its batch, over all processes
    contrastive: bool = False
    least_batch: int = 1
    # whether the loss leaves out parts of the model, which then get no gradient
    partial: bool = False
    # whether a block may run a second time in the backward pass
    checkpointing: bool = True


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that the rest of idvl may ask of an architecture.

    `blocks`: a regular expression that matches the qualified names of transformer blocks in full. `modalities`: pairs
    of a regular expression and a modality, searched in a layer's qualified name, the first match wins; a linear map
    that none matches (embeddings, heads) is not prunable. `reads_image`: searched in the names of cross-attention
    layers, it finds those whose input is image tokens.
    """

    model_types: tuple[str, ...]
    # the name of its file, which family_of fills in
    key: str = ""
    # names of the transformers classes that this family describes, the default first; empty for any
    classes: tuple[str, ...]
    needs: tuple[Literal["image", "text"], ...]
    blocks: str
    modalities: tuple[tuple[str, Modality], ...]
    reads_image: str | None
    # (processor, samples, text_length) -> model inputs on the CPU; text padded to text_length, the same for a whole run
    inputs: Callable[..., dict[str, Tensor]]
    # (processor, samples) -> tokens of the longest text, at most what the model takes; 0 for a model without text
    text_length: Callable[..., int]
    # (layer name, number of tokens, model inputs) -> (batch, tokens) bool, False at padding; None when all count
    token_mask: Callable[[str, int, dict[str, Tensor]], Tensor | None]
    # (model, model inputs) -> whatever the model returns
    call: Callable[[nn.Module, dict[str, Tensor]], Any] = call
    # None where idvl knows no loss for what the checkpoint's class returns
    lesson: Lesson | None = None
    # what the checkpoint's class can be asked to do, by the names in models/skills.py
    skills: Mapping[str, Skill] = field(default_factory=dict)
    guessed: bool = False
    # what was guessed, and what the numbers do not cover: one sentence each
    notes: tuple[str, ...] = ()
    # config -> this family for that checkpoint, where checkpoints of one model type differ
    for_config: Callable[[Any], Family] | None = None
    # (family, model, processor) -> the family completed by what a loaded model shows
    fit: Callable[[Family, nn.Module, Any], Family] | None = None

    def model_class(self, config: Any) -> type:
        """The transformers class that loads the checkpoint of `config`; its first architecture, where it names one."""
        import transformers

        named = (getattr(config, "architectures", None) or self.classes or ("",))[0]
        automatic = getattr(config, "auto_map", None) or {}
        for auto in automatic if not hasattr(transformers, named) else ():
            if auto.startswith("AutoModel") and automatic[auto].endswith(named):
                return getattr(transformers, auto)
        return getattr(transformers, named, None) or transformers.AutoModel


def unlabelled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs without their labels, from which transformers would make a mean of its own."""
    return {key: value for key, value in inputs.items() if key != "labels"}


def names() -> list[str]:
    """The keys of all families: idvl's own, those of other packages, and the fallback last."""
    own = sorted({module.name for module in pkgutil.iter_modules(__path__)} - {FALLBACK})
    return [*own, *sorted(plugins.found(plugins.FAMILIES, [*own, FALLBACK])), FALLBACK]


def family_of(config: Any) -> Family:
    """The family of a transformers config, by its model type and architecture; the generic one where none knows it.

    Raises UsageError for a model that takes neither images nor text.
    """
    for name in names():
        family = _load(name)
        if name == FALLBACK or (config.model_type in family.model_types and _describes(family, config)):
            break
    return replace(family.for_config(config) if family.for_config else family, key=name)


def _load(name: str) -> Family:
    own = [module.name for module in pkgutil.iter_modules(__path__)]
    if point := plugins.found(plugins.FAMILIES, own).get(name):
        return plugins.load(point, lambda made: None if isinstance(made, Family) else "it is no Family")
    return import_module(f"{__name__}.{name}").FAMILY


def _describes(family: Family, config: Any) -> bool:
    architectures = getattr(config, "architectures", None)
    return not architectures or architectures[0] in family.classes


def _configs(config: Any) -> list[Any]:
    parts = (getattr(config, name, None) for name in getattr(config, "sub_configs", ()))
    return [config, *(part for part in parts if part is not None)]
