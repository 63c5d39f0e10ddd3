"""What the skills of several families share: pictures and texts prepared, embeddings and logits read off.

A family's skills are keyed as in families/base.py. It does not know what predictions are scored against.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.forward import on_device
from idvl.models.generation import Generation
from idvl.models.inputs import NO_LIMIT, process
from idvl.models.processors import tokenizer_of

if TYPE_CHECKING:
    from idvl.models.loading import Loaded

# what BLIP takes out of captions and questions (data/utils.py)
MARKS = r"[.!\"()*#:;~]"


def pictures(
    loaded: Loaded, samples: Sequence[Sample], settings: Generation, *, square: int | None = None
) -> dict[str, Tensor]:
    """pixel_values (n, 3, height, width), as the checkpoint's processor makes them; `square` as in `process`."""
    return process(loaded.processor, samples, 0, needs=("image",), square=square)


def tokens(loaded: Loaded, texts: Sequence[str], *, most: int | None = None) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, length): padded on the right to the longest text, cut at `most` tokens.

    `most` None is what the model takes.
    """
    tokenizer = tokenizer_of(loaded.processor)
    most = min(most or NO_LIMIT, tokenizer.model_max_length)
    how = {"padding": True, "truncation": most < NO_LIMIT, "max_length": most if most < NO_LIMIT else None}
    return dict(tokenizer(list(texts), return_tensors="pt", return_token_type_ids=False, **how))


def sentences(loaded: Loaded, texts: Sequence[str], settings: Generation) -> dict[str, Tensor]:
    """The `tokens` of texts that are read as they are."""
    return tokens(loaded, texts)


def clean_caption(text: str, *, words: int) -> str:
    """A caption as BLIP reads it (data/utils.py, pre_caption): lower case, without MARKS, cut at so many words.

    As there, words end at a space or at several of any white space: a single tab or line end is within a word.
    """
    spaced = re.sub(r"\s{2,}", " ", re.sub(MARKS, " ", text.lower()))
    return " ".join(spaced.strip(" \n").split(" ")[:words])


def clean_captions(loaded: Loaded, texts: Sequence[str], *, words: int, most: int = 35) -> dict[str, Tensor]:
    """The `tokens` of captions, cleaned and cut at so many words and tokens as in BLIP's retrieval."""
    return tokens(loaded, [clean_caption(text, words=words) for text in texts], most=most)


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings (n, d) scaled to length one, in float32 on the CPU."""
    return F.normalize(embeddings.float(), dim=-1).cpu()


@torch.no_grad()
def logits(loaded: Loaded, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The logits of a classifier, (n, classes)."""
    return loaded.family.call(loaded.model, on_device(loaded.model, inputs)).logits.float().cpu()
