"""What a processor of unknown architecture does, tried on a drawn picture and a short text."""

from __future__ import annotations

from typing import Any

from PIL import Image

from idvl.data.samples import Sample
from idvl.models.inputs import process
from idvl.models.processors import image_processor_of, prepared, tokenizer_of


def trial_sample() -> Sample:
    """A picture of 96 x 96 pixels with a text of one letter."""
    return Sample(id="trial", source=_picture(96, 96), texts=("a",))


def _picture(width: int, height: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp))


def square_side(processor: Any) -> int | None:
    """The side to resize images to if this processor's output depends on their shape, else None."""
    images = image_processor_of(processor)
    shapes = []
    for size in ((96, 96), (192, 96)):
        pixels = prepared(images, images=_picture(*size), return_tensors="pt")["pixel_values"]
        shapes.append(tuple(pixels.shape))
    if shapes[0] == shapes[1]:
        return None
    size = dict(getattr(images, "size", None) or {})
    side = size.get("shortest_edge") or size.get("height") or 0
    # some processors count pixels here, not sides
    return side if 0 < side <= 1024 else 448


def image_placeholder(processor: Any, how: dict[str, Any]) -> str:
    """What must stand before a text to mark its image: nothing, if the processor puts image tokens in by itself."""
    token = getattr(processor, "image_token", None)
    if token is None:
        return ""
    mark = tokenizer_of(processor).convert_tokens_to_ids(str(token))
    try:
        tokens = process(processor, [trial_sample()], 2048, **how)
    except ValueError:
        return f"{token} "
    return "" if mark in tokens["input_ids"][0] else f"{token} "
