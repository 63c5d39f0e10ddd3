"""Hashes by which a model is told from another: over its weights, and over what else its outputs depend on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from idvl.models.processors import image_processor_of, tokenizer_of

if TYPE_CHECKING:
    from idvl.models.offload import Offload

# values of each parameter that the fingerprint reads
FINGERPRINT_VALUES = 4096


def fingerprint(model: nn.Module | Offload) -> str:
    """sha256 over each parameter's name, shape and up to 4,096 evenly spaced values, read as float32.

    Cheap for any size; a model whose weights were trained or pruned gets another one for all practical purposes, but
    a change of a few single weights may go unseen.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        values = flat[:: max(1, -(-flat.numel() // FINGERPRINT_VALUES))]
        digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def configuration(model: nn.Module, processor: Any) -> str:
    """sha256 over what a model's outputs depend on beside its parameters: configs, saved buffers, processor."""
    images, tokenizer = image_processor_of(processor), tokenizer_of(processor)
    parts = [part.to_dict() for part in (model.config, getattr(model, "generation_config", None), images) if part]
    if tokenizer:
        parts.append(getattr(tokenizer, "chat_template", None))
        if getattr(tokenizer, "is_fast", False):  # padding and truncation are those of the last call
            backend = json.loads(tokenizer.backend_tokenizer.to_str())
            parts.append({key: value for key, value in backend.items() if key not in ("padding", "truncation")})
        else:
            parts.append(tokenizer.get_vocab())
    digest = hashlib.sha256(json.dumps(_lasting(parts), sort_keys=True, default=str).encode())
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, buffer in model.state_dict().items():
        if name not in parameters and isinstance(buffer, torch.Tensor):
            digest.update(name.encode() + buffer.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _lasting(value: Any) -> Any:
    """A config's values without those that tell where and how it was loaded."""
    if isinstance(value, dict):
        kept = {str(key): item for key, item in value.items() if str(key) not in ("transformers_version", "dtype")}
        return {key: _lasting(item) for key, item in kept.items() if not key.startswith("_")}
    return [_lasting(item) for item in value] if isinstance(value, list | tuple) else value
