"""The prunable linear maps of a model: their names, blocks and modalities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from idvl.profile import Modality


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One linear map inside a model, named by its module's qualified name.

    `block` is the qualified name of the transformer block that holds it (None outside of blocks). `reads_image` marks
    the key and value projections of cross-attention in a text stack: they carry image tokens.
    """

    name: str
    module: nn.Module
    modality: Modality
    block: str | None
    in_features: int
    out_features: int
    reads_image: bool = False
