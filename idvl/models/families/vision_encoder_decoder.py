"""A picture's encoder and a decoder that writes about it: TrOCR, ViT-GPT2, Donut. A sample's text is its first one.

The encoder reads the picture alone; the decoder reads the start token and the text, and learns the text and its end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.encoder_decoder import written, written_labels
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.generation import write
from idvl.models.inputs import process
from idvl.models.labels import IGNORED
from idvl.models.losses import own_loss
from idvl.models.naming import BLOCK, CROSS, IN_BLOCK
from idvl.models.processors import tokenizer_of
from idvl.models.skills import pictures

# GPT-2 makes keys and values of its cross-attention by one map
READS_IMAGE = r"(crossattention|encoder_attn)\.(.*\.)?(c_attn|key|value|k_proj|v_proj)$"


def text_length(processor: Any, samples: Sequence[Sample]) -> int:
    """Tokens of the longest text, its end included."""
    return written_labels(tokenizer_of(processor), [sample.texts[0] for sample in samples]).shape[1]


def inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, *, start: int = 0, pad: int = 0
) -> dict[str, Tensor]:
    """pixel_values; decoder_input_ids (n, text_length), which begin with `start`, and decoder_attention_mask."""
    labels = written_labels(tokenizer_of(processor), [sample.texts[0] for sample in samples])
    labels = F.pad(labels, (0, text_length - labels.shape[1]), value=IGNORED)
    tokens = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    mask = tokens != IGNORED
    shown = process(processor, samples, 0, needs=("image",))
    return {**shown, "decoder_input_ids": tokens.where(mask, pad), "decoder_attention_mask": mask.long()}


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """pixel_values and labels (n, length), of which the model makes what the decoder reads."""
    labels = written_labels(tokenizer_of(processor), [written(sample) for sample in samples])
    return {**process(processor, samples, 0, needs=("image",)), "labels": labels}


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the decoder; all image tokens count, in the encoder and in keys and values of them."""
    image = layer_name.startswith("enc") or re.search(READS_IMAGE, layer_name)
    return None if image else inputs["decoder_attention_mask"].bool()


def for_config(config: Any) -> Family:
    """The decoder begins with the configuration's start token."""
    start, pad = config.decoder_start_token_id, config.pad_token_id
    if start is None or pad is None:  # one that was never trained to write
        return replace(FAMILY, training_task=None, skills={})
    return replace(FAMILY, inputs=partial(inputs, start=start, pad=pad))


FAMILY = Family(
    model_types=("vision-encoder-decoder",),
    classes=("VisionEncoderDecoderModel",),
    needs=("image", "text"),
    blocks=rf"(en|de)coder\.{BLOCK}",
    modalities=(
        (rf"(?={IN_BLOCK})encoder\.", "vision"),
        (r"^enc_to_dec_proj$", "connector"),
        (rf"{IN_BLOCK}.*{CROSS}", "cross"),
        (rf"(?={IN_BLOCK})decoder\.", "language"),
    ),
    reads_image=READS_IMAGE,
    inputs=inputs,
    text_length=text_length,
    token_mask=token_mask,
    training_task=TrainingTask(loss=own_loss, inputs=training_inputs, partial=True),
    skills={"caption": Skill(prepare=pictures, perform=partial(write, skill="caption", encodes=True))},
    for_config=for_config,
)
