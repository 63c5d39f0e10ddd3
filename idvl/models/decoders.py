"""Decoders that read an image among the tokens of their text: what LLaVA, Qwen-VL, SmolVLM and others share.

A vision tower and a connector turn the image into embeddings, which take the places of the image's tokens. It does not
know which architectures are such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from idvl.models.families.base import Family
from idvl.models.inputs import longest_text, process
from idvl.models.naming import BLOCK
from idvl.models.wording import Wording
from idvl.models.writers import fit_wording, known_prompts, writing_skills, writing_task
from idvl.profile import Modality

# fewest and most tokens: a sentence, as in lmms-eval; an answer, of which some tokenizers make a token of each digit
LENGTHS = {"caption_lengths": (1, 64), "answer_lengths": (1, 32)}
LANGUAGE = r"^model\.(language|text)_model\."


def token_mask(layer: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the decoder; in tower and connector all count."""
    return inputs["attention_mask"].bool() if re.search(LANGUAGE, layer) else None


def image_tokens(layer: str, n_tokens: int, inputs: dict[str, Tensor], *, image: int) -> Tensor | None:
    """Where the decoder reads the embeddings of the image in place of the token `image`."""
    return inputs["input_ids"] == image if re.search(LANGUAGE, layer) else None


def decoder_family(
    prompts: Mapping[str, str],
    *,
    model_types: tuple[str, ...],
    classes: tuple[str, ...],
    tower: str,
    connector: str | None,
    token_mask: Any = token_mask,
) -> Family:
    """The family of such decoders. `prompts`: what its authors ask for a "caption" and an "answer" with.

    `tower`, `connector`: the names of these modules in the model.
    """
    modalities: list[tuple[str, Modality]] = [(rf"^model\.{connector}(\.|$)", "connector")] if connector else []
    modalities += [(rf"^model\.{tower}\.{BLOCK}\.", "vision"), (rf"{LANGUAGE}{BLOCK}\.", "language")]
    return Family(
        model_types=model_types,
        classes=classes,
        needs=("image", "text"),
        blocks=rf"model\.({tower}|(language|text)_model)\.{BLOCK}",
        modalities=tuple(modalities),
        reads_image=None,
        inputs=process,
        text_length=longest_text,
        token_mask=token_mask,
        training_task=writing_task(Wording(), prompts, encodes=False),
        skills=writing_skills(Wording(), prompts, encodes=False, **LENGTHS),
        fit=partial(fit, prompts=prompts),
    )


def fit(family: Family, model: nn.Module, processor: Any, *, prompts: Mapping[str, str]) -> Family:
    """The family with the checkpoint's wording, and the prompts whose words its tokenizer knows."""
    family, wording = fit_wording(family, model, processor)
    prompts = known_prompts(processor, prompts)
    return replace(
        family,
        image_tokens=partial(image_tokens, image=wording.image),
        training_task=writing_task(wording, prompts, encodes=False),
        skills=writing_skills(wording, prompts, encodes=False, **LENGTHS),
    )
