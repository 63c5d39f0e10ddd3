"""BLIP-2's image-text matching: its Q-Former reads queries, image and text together, or image and text apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.families.blip2.inputs import QUERIES_ALONE
from idvl.models.forward import call, on_device, unlabelled
from idvl.models.generation import Generation
from idvl.models.inputs import process
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.matching import TEXTS_AT_ONCE, matched_inputs
from idvl.models.processors import tokenizer_of
from idvl.models.skills import clean_captions, pictures, unit

# LAVIS, processors/blip_processors.py
MOST_WORDS = 50

joint_call = partial(call, use_image_text_matching_head=True)


def inputs(processor: Any, samples: Sequence[Sample], length: int, *, before: Sequence[int]) -> dict[str, Tensor]:
    """pixel_values, and input_ids and attention_mask (n, tokens before + length); the model skips those `before`."""
    text = process(tokenizer_of(processor), samples, length, needs=("text",))
    skipped = torch.tensor(before, dtype=torch.long).expand(len(samples), -1)
    return {
        **process(processor, samples, 0, needs=("image",)),
        "input_ids": torch.cat([skipped, text["input_ids"]], 1),
        "attention_mask": torch.cat([torch.ones_like(skipped), text["attention_mask"]], 1),
    }


def token_mask(layer: str, n_tokens: int, inputs: dict[str, Tensor], *, before: Sequence[int]) -> Tensor | None:
    """Real tokens of the text, which stands behind the queries; all image tokens and queries count."""
    if not layer.startswith("qformer.") or re.search(QUERIES_ALONE, layer):
        return None
    text = inputs["attention_mask"][:, len(before) :].bool()
    return F.pad(text, (n_tokens - text.shape[1], 0), value=True)


def image_tokens(layer: str, n_tokens: int, inputs: dict[str, Tensor], *, before: Sequence[int]) -> Tensor | None:
    """The queries, where a layer holds the text too."""
    if ".attention." not in layer or token_mask(layer, n_tokens, inputs, before=before) is None:
        return None
    text = torch.zeros_like(inputs["input_ids"][:, len(before) :], dtype=torch.bool)
    return F.pad(text, (n_tokens - text.shape[1], 0), value=True)


def training_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, *, before: Sequence[int]
) -> dict[str, Tensor]:
    """2 n pairs of n samples, with labels."""
    return matched_inputs(inputs(processor, samples, text_length, before=before))


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the matching head (Li et al. 2023, section 3.2, with the text before in place of a hard one)."""
    return over_labels(joint_call(model, unlabelled(inputs)).logits_per_image, inputs["labels"])


@torch.no_grad()
def embed_images(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The embedding of each query of each image, (n, queries, d)."""
    model = loaded.model
    image = model.vision_model(**on_device(model, inputs)).last_hidden_state
    states = model.qformer(model.query_tokens.expand(len(image), -1, -1), encoder_hidden_states=image)
    return unit(model.vision_projection(states.last_hidden_state.to(model.vision_projection.weight.dtype)))


@torch.no_grad()
def embed_texts(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The embeddings of texts, read without an image."""
    model, batch = loaded.model, on_device(loaded.model, inputs)
    embedded = model.embeddings(input_ids=batch["input_ids"])
    states = model.qformer(embedded, query_length=0, attention_mask=batch["attention_mask"]).last_hidden_state
    return unit(model.text_projection(states[:, 0].to(model.text_projection.weight.dtype)))


def captions(loaded: Any, items: Sequence[str], settings: Generation) -> dict[str, Tensor]:
    """The tokens of captions, cleaned and cut as BLIP-2's retrieval does."""
    return clean_captions(loaded, items, words=MOST_WORDS)


def pairs(loaded: Any, items: Sequence[tuple[Sample, Sequence[str]]], settings: Generation) -> dict[str, Tensor]:
    """One image, and the captions to match it with."""
    ((sample, texts),) = items
    return {**pictures(loaded, [sample], settings), **captions(loaded, texts, settings)}


@torch.no_grad()
def match(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The matching head's logit of "they match" for each text, the mean over queries."""
    model, batch = loaded.model, on_device(loaded.model, inputs)
    image = model.vision_model(batch["pixel_values"]).last_hidden_state
    count, scores = model.query_tokens.shape[1], []
    for texts, mask in zip(*(batch[key].split(TEXTS_AT_ONCE) for key in ("input_ids", "attention_mask")), strict=True):
        queries = model.query_tokens.expand(len(texts), -1, -1)
        states = model.qformer(
            model.embeddings(input_ids=texts, query_embeds=queries),
            query_length=count,
            attention_mask=F.pad(mask, (count, 0), value=1),
            encoder_hidden_states=image.expand(len(texts), -1, -1),
        ).last_hidden_state
        logits = model.itm_head(states[:, :count].to(model.itm_head.weight.dtype))
        scores.append(logits.mean(1)[:, 1])
    return torch.cat(scores).float().cpu()
