"""BUTD (Anderson et al. 2018), idvl's own: captions from features of regions, as .npz files (idvl.data.regions).

A caption is read word by word, so each layer of an LSTM and of the attention runs once a word, and its point holds its
outputs at all words, zero at padding. `region_map` runs once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from idvl.data.regions import holds_regions, regions
from idvl.data.sample import encoded
from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call, unlabelled
from idvl.models.generation import Generation, write
from idvl.models.inputs import longest_text, process
from idvl.models.labels import next_tokens
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.processors import tokenizer_of


def features(samples: Sequence[Sample], config: Any) -> Tensor:
    """(n, regions, width) of the samples. UsageError for one that has an image, or other regions than the model's."""
    rows = []
    for sample in samples:
        data = b"" if isinstance(sample.source, Image.Image) else encoded(sample.source)
        if not holds_regions(data):
            raise UsageError(f"sample {sample.id} is an image, and the model reads features of regions (.npz)")
        try:
            rows.append(torch.from_numpy(regions(data)))
        except ValueError as error:
            raise UsageError(f"the regions of sample {sample.id} cannot be read: {error}") from error
        if tuple(rows[-1].shape) != (config.regions, config.region_width):
            count, width = rows[-1].shape
            raise UsageError(
                f"sample {sample.id} has {count:,} regions of {width:,} values, and the model reads "
                f"{config.regions:,} of {config.region_width:,}: give features of the detector that it was trained on"
            )
    return torch.stack(rows)


def inputs(processor: Any, samples: Sequence[Sample], text_length: int, *, config: Any) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length), regions (n, k, d)."""
    text = process(tokenizer_of(processor), samples, text_length, needs=("text",))
    return {
        "input_ids": text["input_ids"],
        "attention_mask": text["attention_mask"],
        "regions": features(samples, config),
    }


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """`inputs`, and the next words as labels (n, text_length)."""
    batch = inputs(processor, samples, text_length, config=config)
    return {**batch, "labels": next_tokens(batch["input_ids"], batch["attention_mask"])}


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the next words (section 3.2.3, equation 5)."""
    return over_labels(call(model, unlabelled(inputs)).logits, inputs["labels"])


def prepare(loaded: Any, samples: Sequence[Sample], settings: Generation) -> dict[str, Tensor]:
    """The regions, and the start token, input_ids and attention_mask (n, 1)."""
    config = loaded.model.config
    start = torch.full((len(samples), 1), config.bos_token_id)
    return {"input_ids": start, "attention_mask": torch.ones_like(start), "regions": features(samples, config)}


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """None: all regions count, and a padded step gives zeros."""
    return None


def fit(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family for as many regions, of the width, as the model reads."""
    return replace(family, inputs=partial(inputs, config=model.config))


FAMILY = Family(
    model_types=("butd",),
    classes=("ButdForCaptioning",),
    needs=("image", "text"),
    reads_regions=True,
    blocks=r"attention_lstm|attention|language_lstm",
    modalities=(
        (r"^region_map$", "connector"),
        (r"^attention\.", "cross"),
        (r"^(attention|language)_lstm\.", "language"),
    ),
    reads_image=r"^region_map$",
    inputs=inputs,
    text_length=longest_text,
    token_mask=token_mask,
    training_task=TrainingTask(loss=loss, inputs=training_inputs, checkpointing=False),
    skills={
        "caption": Skill(
            prepare=prepare,
            perform=partial(write, skill="caption", encodes=False),
            unread=frozenset({"prompt"}),
        )
    },
    fit=fit,
)
