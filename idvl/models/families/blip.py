"""BLIP: captioning, question answering and image-text matching.

The text of a sample is its first one. Captioning reads it as a given caption, its first token replaced by the decoder's
start token, as in training and generation; matching reads it beside the image. Question answering reads it as the
question, and the sample's second text, or the question again where there is none, as the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.families import Family, call
from idvl.models.inputs import longest_text, process


def inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length), pixel_values (n, 3, side, side)."""
    return process(processor, samples, text_length)


def answering_inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """`inputs` of the questions, with decoder_input_ids and decoder_attention_mask of the answers."""
    answers = [replace(sample, texts=sample.texts[1:] or sample.texts) for sample in samples]
    answered = process(processor.tokenizer, answers, text_length, needs=("text",))
    return {
        **inputs(processor, samples, text_length),
        "decoder_input_ids": answered["input_ids"],
        "decoder_attention_mask": answered["attention_mask"],
    }


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text stacks; all image tokens count, in the vision tower and in keys and values of them."""
    reads_encoder = layer_name.endswith(("crossattention.self.key", "crossattention.self.value"))
    if layer_name.startswith("vision_model."):
        return None
    if "decoder_input_ids" not in inputs or layer_name.startswith("text_encoder."):
        return None if reads_encoder else inputs["attention_mask"].bool()
    return inputs["attention_mask" if reads_encoder else "decoder_attention_mask"].bool()


def started_call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A call whose decoder starts with its start token ([DEC]), which the tokenizer does not put there."""
    key = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    tokens = inputs[key].clone()
    text = model.config.text_config
    if hasattr(model, "text_decoder") and text.bos_token_id < text.vocab_size:
        tokens[:, 0] = text.bos_token_id
    # transformers makes the image's attention mask on the default device
    with tokens.device:
        return call(model, {**inputs, key: tokens})


def answering_call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A call whose decoder does not see the padding of the questions.

    transformers 5 hands the questions' mask to the decoder's cross-attention under a name that it does not read there.
    """

    def rename(module: nn.Module, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {"encoder_attention_mask": given.get("attention_mask"), **given}

    with ExitStack() as stack:
        for name, module in model.text_decoder.named_modules():
            if name.endswith("crossattention.self"):
                stack.callback(module.register_forward_pre_hook(rename, with_kwargs=True).remove)
        return started_call(model, inputs)


def for_config(config: Any) -> Family:
    """Question answering: its decoder's cross-attention reads the question, only its encoder's reads the image."""
    if "BlipForQuestionAnswering" not in (config.architectures or ()):
        return FAMILY
    return replace(
        FAMILY,
        reads_image=r"^text_encoder\..*crossattention\.self\.(key|value)$",
        inputs=answering_inputs,
        call=answering_call,
        text_length=partial(longest_text, read=2),
    )


FAMILY = Family(
    model_types=("blip",),
    classes=("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"),
    needs=("image", "text"),
    blocks=r"(vision_model\.encoder\.layers|text_(de|en)coder\.(bert\.)?encoder\.layer)\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"\.crossattention\.", "cross"),
        (r"^text_(de|en)coder\.(bert\.)?encoder\.layer\.", "language"),
    ),
    reads_image=r"crossattention\.self\.(key|value)$",
    inputs=inputs,
    text_length=longest_text,
    token_mask=token_mask,
    call=started_call,
    for_config=for_config,
)
