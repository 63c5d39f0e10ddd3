"""The size of images that a model has position embeddings for, against the one that its processor prepares."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from idvl.errors import UsageError
from idvl.models.load_errors import REFUSED
from idvl.models.processors import prepared_picture

# the argument by which the towers of transformers interpolate their position embeddings, which is off by default
INTERPOLATE = "interpolate_pos_encoding"


def check_resolution(model: nn.Module, processor: Any) -> None:
    """UsageError where the processor prepares images of another grid of patches than the model has positions for.

    BLIP and BLIP-2 would give a smaller image the first rows of the position embeddings, and say nothing. Towers that
    interpolate their position embeddings by themselves, or have none, take any size. The picture tried has the model's
    size, so that a processor which does not resize passes.
    """
    for size, patch in {size for module in model.modules() if (size := _fixed_size(module))}:
        pixels = prepared_picture(processor, size[1], size[0]).get("pixel_values")
        if pixels is None or pixels.ndim < 4:
            return
        prepared = tuple(pixels.shape[-2:])
        if _grid(prepared, patch) != _grid(size, patch):
            told = [f"{width} x {height}" for height, width in (prepared, size)]
            raise UsageError(
                REFUSED.format(f"images of {told[0]} pixels, while its position embeddings are for {told[1]}")
            )


def _fixed_size(module: nn.Module) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Height and width of images and of patches of a module that holds position embeddings for that size alone."""
    if all(getattr(module, name, None) is None for name in ("position_embedding", "position_embeddings")):
        return None
    option = inspect.signature(module.forward).parameters.get(INTERPOLATE)
    if option is None or option.default:
        return None
    config = getattr(module, "config", None)
    sizes = [getattr(module, key, None) or getattr(config, key, None) for key in ("image_size", "patch_size")]
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    known = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs)
    return tuple(map(tuple, pairs)) if known else None


def _grid(size: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of patches."""
    return size[0] // patch[0], size[1] // patch[1]
