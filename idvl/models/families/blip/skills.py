"""What BLIP can be asked to do: caption, answer, embed and match, as its published evaluation does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.families.blip.beams import whole_beams
from idvl.models.families.blip.forward import padded_questions, started
from idvl.models.families.blip.inputs import MOST_ASKED, MOST_MATCHED, MOST_WORDS, questions
from idvl.models.forward import on_device
from idvl.models.generation import Generation, decoded, generating, lengths, prompted
from idvl.models.matching import TEXTS_AT_ONCE
from idvl.models.skills import clean_captions, pictures, tokens, unit


def prompts(loaded: Any, samples: Sequence[Sample], settings: Generation, *, skill: str) -> dict[str, Tensor]:
    """The images, and input_ids and attention_mask of the prompts (n, length), with questions as in training."""
    most = None
    if skill == "answer" and loaded.family.clean_texts:
        samples, most = questions(samples), MOST_ASKED
    texts = prompted(loaded, skill, samples, settings)
    return {**pictures(loaded, samples, settings), **tokens(loaded, texts, most=most)}


@torch.no_grad()
def caption(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> list[str]:
    """Captions, as BLIP's `generate` writes them, without the prompt."""
    model, batch = loaded.model, on_device(loaded.model, inputs)
    # the end that the tokenizer puts behind the prompt is cut by transformers
    begun = batch["input_ids"].shape[1] - 1
    with ExitStack() as stack:
        stack.enter_context(generating(model, settings, **_bounds(loaded, "caption", settings, begun)))
        if settings.beam_length:
            stack.enter_context(whole_beams(model.text_decoder, model.config.text_config.sep_token_id))
        written = model.generate(**batch)
    return decoded(loaded, written[:, begun:])


@torch.no_grad()
def answer(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> list[str]:
    """Answers, as the model's `generate` writes them for one question alone, whatever the padding."""
    model, batch = loaded.model, started(loaded.model, on_device(loaded.model, inputs))
    question, mask, text = batch["input_ids"], batch["attention_mask"], model.config.text_config
    image = model.vision_model(batch["pixel_values"]).last_hidden_state
    states = model.text_encoder(question, attention_mask=mask, encoder_hidden_states=image).last_hidden_state
    with padded_questions(model), generating(model, settings, **_bounds(loaded, "answer", settings, 1)):
        written = model.text_decoder.generate(
            torch.full_like(question[:, :1], text.bos_token_id),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
        )
    return decoded(loaded, written[:, 1:])


@torch.no_grad()
def embed_images(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The contrastive embeddings of images."""
    image = loaded.model.vision_model(**on_device(loaded.model, inputs)).last_hidden_state
    return unit(loaded.model.vision_proj(image[:, 0]))


@torch.no_grad()
def embed_texts(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The contrastive embeddings of texts, read without an image and therefore from [CLS]."""
    states = loaded.model.text_encoder(**on_device(loaded.model, inputs)).last_hidden_state
    return unit(loaded.model.text_proj(states[:, 0]))


def captions(loaded: Any, items: Sequence[str], settings: Generation) -> dict[str, Tensor]:
    """The tokens of captions, cleaned and cut as BLIP's retrieval does (data/utils.py, train_retrieval.py), or not."""
    if not loaded.family.clean_texts:
        return tokens(loaded, items)
    return clean_captions(loaded, items, words=MOST_WORDS, most=MOST_MATCHED)


def candidates(loaded: Any, items: Sequence[tuple[Sample, Sequence[str]]], settings: Generation) -> dict[str, Tensor]:
    """One image, and the texts to match it with."""
    ((sample, texts),) = items
    return {**pictures(loaded, [sample], settings), **captions(loaded, texts, settings)}


@torch.no_grad()
def match(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The matching head's logit of "they match" for each text: what BLIP's retrieval adds to the similarity."""
    model, batch = loaded.model, started(loaded.model, on_device(loaded.model, inputs))
    image = model.vision_model(batch["pixel_values"]).last_hidden_state
    scores = []
    for texts, mask in zip(*(batch[key].split(TEXTS_AT_ONCE) for key in ("input_ids", "attention_mask")), strict=True):
        images = image.expand(len(texts), -1, -1)
        states = model.text_encoder(texts, attention_mask=mask, encoder_hidden_states=images).last_hidden_state
        scores.append(model.itm_head(states[:, 0])[:, 1])
    return torch.cat(scores).float().cpu()


def _bounds(loaded: Any, skill: str, settings: Generation, begun: int) -> dict[str, int]:
    (least, most), room = lengths(loaded, skill, settings), loaded.model.config.text_config.max_position_embeddings
    if not begun < most <= room:
        raise UsageError(
            f"a text of {most} tokens at most, the {begun} it begins with included, is out of range: choose a maximum "
            f"length from {begun + 1} to {room}"
        )
    return {"min_length": least, "max_length": most}
