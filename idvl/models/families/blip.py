"""BLIP: captioning, question answering and image-text matching.

The text of a sample is its first one. Captioning reads it as a given caption, its first token replaced by the decoder's
start token, as in training and generation; matching reads it beside the image. Question answering reads it as the
question, and the sample's second text, or the question again where there is none, as the answer.

In training, captioning learns each next token of the caption, answering of the answer; matching learns to tell an
image's own text from that of the sample before it in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.families import Family, Lesson, call, unlabelled
from idvl.models.inputs import longest_text, process
from idvl.models.objective import IGNORED, Gather, Objective, next_tokens, over_labels


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


def captioning_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """`inputs` with the tokens to be said next as labels (n, text_length)."""
    shown = inputs(processor, samples, text_length)
    return {**shown, "labels": next_tokens(shown["input_ids"], shown["attention_mask"])}


def captioning_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the caption's tokens."""
    logits = started_call(model, unlabelled(inputs)).logits
    return over_labels(logits, inputs["labels"], label_smoothing=model.config.text_config.label_smoothing)


def learning_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """`answering_inputs` with the answer's tokens to be said next as labels (n, text_length)."""
    shown = answering_inputs(processor, samples, text_length)
    return {**shown, "labels": next_tokens(shown["decoder_input_ids"], shown["decoder_attention_mask"])}


def answering_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the answer's tokens, whose logits the model computes but does not return."""
    seen: list[Tensor] = []
    hook = model.text_decoder.register_forward_hook(lambda module, args, output: seen.append(output.logits))
    try:
        answering_call(model, unlabelled(inputs))
    finally:
        hook.remove()
    return over_labels(seen[0], inputs["labels"], label_smoothing=model.config.text_config.label_smoothing)


def matching_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """2 n pairs: each image with its own text (label 1), then with the text before it in the batch (label 0)."""
    own = inputs(processor, samples, text_length)
    tokens = own["input_ids"]
    wrong = torch.where((tokens == tokens.roll(1, 0)).all(1), IGNORED, 0)
    texts = {key: torch.cat([own[key], own[key].roll(1, 0)]) for key in ("input_ids", "attention_mask")}
    pixels = torch.cat([own["pixel_values"]] * 2)
    return {**texts, "pixel_values": pixels, "labels": torch.cat([torch.ones_like(wrong), wrong])}


def matching_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the matching head."""
    return over_labels(started_call(model, unlabelled(inputs)).itm_score, inputs["labels"])


def lacks_answer(sample: Sample, config: Any) -> str | None:
    """An answer beside the question."""
    return None if len(sample.texts) > 1 else "it has a question but no answer; choose a dataset that has both"


# a block that runs again in the backward pass would not find the questions' mask
ANSWERING = Lesson(loss=answering_loss, inputs=learning_inputs, lacks=lacks_answer, fixed_texts=1, checkpointing=False)
MATCHING = Lesson(loss=matching_loss, inputs=matching_inputs, least_batch=2, partial=True)


def for_config(config: Any) -> Family:
    """Question answering: its decoder's cross-attention reads the question, only its encoder's reads the image."""
    if "BlipForImageTextRetrieval" in (config.architectures or ()):
        return replace(FAMILY, lesson=MATCHING)
    if "BlipForQuestionAnswering" not in (config.architectures or ()):
        return FAMILY
    return replace(
        FAMILY,
        reads_image=r"^text_encoder\..*crossattention\.self\.(key|value)$",
        inputs=answering_inputs,
        call=answering_call,
        text_length=partial(longest_text, read=2),
        lesson=ANSWERING,
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
    lesson=Lesson(loss=captioning_loss, inputs=captioning_inputs),
    for_config=for_config,
)
