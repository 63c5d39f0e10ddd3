"""The forward pass of a model on prepared inputs: what is passed on, and in which dtype."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def call(model: nn.Module, inputs: dict[str, Tensor], **more: Any) -> Any:
    """The forward pass of a walk: no cache, no loss, floating inputs in the model's dtype.

    Inputs that the model's forward does not name are left out.
    """
    named = inspect.signature(model.forward).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
    caches = any(getattr(config, "use_cache", False) for config in _configs(model.config))
    if "use_cache" in named or (passes_on and caches):
        more["use_cache"] = False
    known = {key: value for key, value in inputs.items() if key in named}
    dtype = getattr(model, "dtype", torch.float32)
    return model(**{k: v.to(dtype) if v.is_floating_point() else v for k, v in known.items()}, **more)


def has_encoder(config: Any) -> bool:
    """Whether a model is an encoder-decoder, or its language model is."""
    return bool(config.is_encoder_decoder or getattr(config.get_text_config(), "is_encoder_decoder", False))


def call_in_order(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A `call` that draws nothing, and whose encoder-decoder reads the text in both its halves."""
    if has_encoder(model.config) and "input_ids" in inputs:
        inputs = {
            **inputs,
            "decoder_input_ids": inputs["input_ids"],
            "decoder_attention_mask": inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])),
        }
    with _InOrder():
        return call(model, inputs)


class _InOrder(TorchFunctionMode):
    """Replaces drawing by counting: ViLT's forward shuffles image patches with torch.multinomial."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.multinomial:
            weights, n = args[:2]
            return torch.arange(n, device=weights.device) % weights.shape[-1]
        return func(*args, **(kwargs or {}))


def on_device(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those inputs that the model's forward names, on its device, floating ones in its dtype."""
    named = inspect.signature(model.forward).parameters
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for key, value in inputs.items()
        if key in named
    }


def unlabelled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs without their labels, from which transformers would make a mean of its own."""
    return {key: value for key, value in inputs.items() if key != "labels"}


def _configs(config: Any) -> list[Any]:
    parts = (getattr(config, name, None) for name in getattr(config, "sub_configs", ()))
    return [config, *(part for part in parts if part is not None)]
