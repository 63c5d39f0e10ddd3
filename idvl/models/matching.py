"""Image-text matching: which text is an image's own. It does not know which architectures have a head for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.forward import on_device
from idvl.models.generation import Generation
from idvl.models.labels import IGNORED
from idvl.models.skills import pictures, sentences

# texts that a head reads together, which bounds its memory
TEXTS_AT_ONCE = 64


def with_other_texts(own: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """2 n pairs of n: each image with its own text, then with the text before it in the batch; whether these differ."""
    tokens = own["input_ids"]
    pairs = {
        key: torch.cat([value, value if key.startswith("pixel") else value.roll(1, 0)]) for key, value in own.items()
    }
    return pairs, (tokens != tokens.roll(1, 0)).any(1)


def matched_inputs(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The 2 n pairs with labels: 1 for an image's own text, 0 for the other one, IGNORED where both are the same."""
    pairs, differ = with_other_texts(own)
    others = torch.where(differ, 0, IGNORED)
    return {**pairs, "labels": torch.cat([torch.ones_like(others), others])}


def pairs(loaded: Any, items: Sequence[tuple[Sample, Sequence[str]]], settings: Generation) -> dict[str, Tensor]:
    """One image, and the texts to match it with."""
    ((sample, texts),) = items
    return {**pictures(loaded, [sample], settings), **sentences(loaded, texts, settings)}


@torch.no_grad()
def match(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The last logit of each text, which says that it matches, from a model that reads image and text together."""
    batch = on_device(loaded.model, inputs)
    shown = {key: value for key, value in batch.items() if key.startswith("pixel")}
    texts = {key: value.split(TEXTS_AT_ONCE) for key, value in batch.items() if key not in shown}
    scores = []
    for parts in zip(*texts.values(), strict=True):
        images = {key: value.expand(len(parts[0]), *value.shape[1:]) for key, value in shown.items()}
        logits = loaded.family.call(loaded.model, {**dict(zip(texts, parts, strict=True)), **images}).logits
        scores.append(logits[:, -1])
    return torch.cat(scores).float().cpu()
