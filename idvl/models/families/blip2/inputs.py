"""What BLIP-2 and InstructBLIP read of samples, and which tokens of their layers are padding, or the image's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.encoder_decoder import decoder_inputs, longest_written
from idvl.models.processors import tokenizer_of
from idvl.models.reading import reading_inputs, reading_length
from idvl.models.wording import Wording

# layers of a Q-Former that its text does not enter
QUERIES_ALONE = r"\.crossattention\.|_query\."


def inputs(
    processor: Any, samples: Sequence[Sample], length: int, *, wording: Wording, start: int | None
) -> dict[str, Tensor]:
    """The image, and the places of its queries with the text, padded to `length` tokens.

    `start`: what a decoder beside an encoder begins with.
    """
    batch = reading_inputs(processor, samples, length, wording=wording)
    if start is None:
        return batch
    pad = tokenizer_of(processor).pad_token_id
    return {**batch, **decoder_inputs(processor, samples, length, start=start, pad=pad)}


def text_length(processor: Any, samples: Sequence[Sample], *, wording: Wording, encodes: bool, **reading: int) -> int:
    """Tokens of the longest text with the queries before it, and of what a decoder of its own reads."""
    longest = reading_length(processor, samples, wording=wording, **reading)
    return max(longest, longest_written(processor, samples)) if encodes else longest


def _text(layer: str, inputs: dict[str, Tensor]) -> str | None:
    """The prefix of the keys of the text that a layer's tokens end with; None where they hold none."""
    if layer.startswith("qformer."):
        queries = re.search(QUERIES_ALONE, layer)
        return None if queries or "qformer_input_ids" not in inputs else "qformer_"
    if not layer.startswith("language_model."):
        return None
    decodes = "decoder_input_ids" in inputs and layer.startswith("language_model.decoder.")
    return "decoder_" if decodes and not re.search(r"EncDecAttention\.[kv]$", layer) else ""


def token_mask(layer: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of texts; all image tokens and queries count."""
    text = _text(layer, inputs)
    if text is None:
        return None
    mask = inputs[f"{text}attention_mask"].bool()
    return F.pad(mask, (n_tokens - mask.shape[1], 0), value=True)


def image_tokens(layer: str, n_tokens: int, inputs: dict[str, Tensor], *, image: int | None = None) -> Tensor | None:
    """The queries: before the text of a Q-Former, and where they stand for `image` in the language model's."""
    text = _text(layer, inputs)
    if text is None or text == "decoder_":
        return None
    tokens = inputs[f"{text}input_ids"]
    places = torch.zeros_like(tokens, dtype=torch.bool) if text else tokens == image
    return F.pad(places, (n_tokens - places.shape[1], 0), value=True)
