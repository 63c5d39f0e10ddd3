"""What idvl knows of architectures: one file a family, found by listing this folder.

A family file exposes one object, FAMILY; its key is the file's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from idvl.data.samples import Sample
from idvl.profile import Modality


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that the rest of idvl may ask of an architecture.

    `blocks`: a regular expression that matches the qualified names of transformer blocks in full. `modalities`: pairs
    of a regular expression and a modality, searched in a layer's qualified name, the first match wins; a linear map
    that none matches (embeddings, heads) is not prunable. `reads_image`: matches the cross-attention layers whose
    input is image tokens.
    """

    model_types: tuple[str, ...]
    blocks: str
    modalities: tuple[tuple[str, Modality], ...]
    reads_image: str | None
    # config -> the transformers class that loads this checkpoint
    model_class: Callable[[Any], type]
    # (processor, samples, text_length) -> model inputs on the CPU; text padded to text_length, the same for a whole run
    inputs: Callable[..., dict[str, Tensor]]
    # (layer name, number of tokens, model inputs) -> (batch, tokens) bool, False at padding; None when all count
    token_mask: Callable[[str, int, dict[str, Tensor]], Tensor | None]
    guessed: bool = False
