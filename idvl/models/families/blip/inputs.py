"""What BLIP reads of samples, and which positions of its layers are padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.inputs import longest_text, process

# the words before every caption, in fine-tuning and generation (Li et al. 2022, section 5.2)
PROMPT = "a picture of "


def inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length), pixel_values (n, 3, side, side)."""
    return process(processor, samples, text_length)


def answering_inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """`inputs` of the questions, with decoder_input_ids and decoder_attention_mask of the answers."""
    answers = [replace(sample, texts=sample.answers or sample.texts) for sample in samples]
    tokens = process(processor.tokenizer, answers, text_length, needs=("text",))
    return {
        **inputs(processor, samples, text_length),
        "decoder_input_ids": tokens["input_ids"],
        "decoder_attention_mask": tokens["attention_mask"],
    }


def answering_length(processor: Any, samples: Sequence[Sample]) -> int:
    """Tokens of the longest question or first answer."""
    return longest_text(processor, [replace(s, texts=(*s.texts[:1], *s.answers[:1])) for s in samples], read=2)


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text stacks; all image tokens count, in the vision tower and in keys and values of them."""
    reads_encoder = layer_name.endswith(("crossattention.self.key", "crossattention.self.value"))
    if layer_name.startswith("vision_model."):
        return None
    if "decoder_input_ids" not in inputs or layer_name.startswith("text_encoder."):
        return None if reads_encoder else inputs["attention_mask"].bool()
    return inputs["attention_mask" if reads_encoder else "decoder_attention_mask"].bool()
