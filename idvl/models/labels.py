"""Model inputs together with their labels: one label for each term that a loss counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idvl.models.inputs import process
from idvl.models.joining import IGNORED
from idvl.models.processors import tokenizer_of

if TYPE_CHECKING:
    from idvl.data.samples import Sample


def next_tokens(tokens: Tensor, mask: Tensor) -> Tensor:
    """Labels (n, length) of a decoder that reads `tokens`: at each position the next real token, else IGNORED."""
    labels = torch.full_like(tokens, IGNORED)
    labels[:, :-1] = torch.where(mask[:, 1:].bool(), tokens[:, 1:], IGNORED)
    return labels


def own_tokens(inputs: dict[str, Tensor]) -> Tensor:
    """Labels (n, length) for a causal model that shifts them: the tokens but the first, and no padding."""
    tokens = inputs["input_ids"]
    learnt = inputs.get("attention_mask", torch.ones_like(tokens)).bool()
    learnt[:, 0] = False
    return torch.where(learnt, tokens, IGNORED)


def text_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, *, end: str = "", **how: Any
) -> dict[str, Tensor]:
    """Inputs of a model that writes text without pictures, `end` behind each, with its `own_tokens` as labels.

    `how`: as in `process`.
    """
    ended = [replace(sample, texts=(sample.texts[0] + end,)) for sample in samples]
    length = min(text_length + 1, tokenizer_of(processor).model_max_length) if end else text_length
    inputs = process(processor, ended, length, **how)
    return {**inputs, "labels": own_tokens(inputs)}


def class_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, **how: Any
) -> dict[str, Tensor]:
    """pixel_values (n, 3, height, width) and the samples' classes as labels (n,); `how` as in `process`."""
    labels = torch.tensor([sample.label for sample in samples])
    return {**process(processor, samples, text_length, **{"needs": ("image",), **how}), "labels": labels}


def no_class_reason(sample: Sample, config: Any) -> str | None:
    """Why a sample cannot train a classifier: its label is none of the model's classes; None if it can."""
    if sample.label is None:
        return "it has no label; choose a dataset of labelled images"
    if not 0 <= sample.label < config.num_labels:
        return f"its label is {sample.label}, but the model's classes are 0 to {config.num_labels - 1}: set new_head"
    return None
