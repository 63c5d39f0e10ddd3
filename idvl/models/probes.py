"""What a processor of unknown architecture does, tried on a drawn picture and a short text."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

from idvl.data.samples import Sample
from idvl.models.processors import image_processor_of, picture, prepared_picture, tokenizer_of
from idvl.models.reading import TURNS, image_id, read
from idvl.models.wording import Wording, chat_ending, has_chat


def trial_sample(width: int = 96, height: int = 96) -> Sample:
    """A picture of this size with a text of one letter."""
    return Sample(id="trial", source=picture(width, height), texts=("a",))


def square_side(processor: Any) -> int | None:
    """The side to resize images to if this processor's output depends on their shape, else None."""
    shapes = []
    for width in (96, 192):
        shown = prepared_picture(processor, width)
        shapes.append([tuple(value.shape) for value in shown.values()])
    if shapes[0] == shapes[1]:
        return None
    size = dict(getattr(image_processor_of(processor), "size", None) or {})
    side = size.get("shortest_edge") or size.get("height") or 0
    # some processors count pixels here, not sides
    return side if 0 < side <= 1024 else 448


def follows_shape(processor: Any, wording: Wording) -> bool:
    """Whether what a processor makes of a picture, tokens included, depends on the picture's shape."""
    shapes = []
    for width in (96, 192):
        sample = trial_sample(width)
        inputs = read(processor, wording, sample, wording.prompt(processor, "a"))
        shapes.append([tuple(value.shape) for value in inputs.values()])
    return shapes[0] != shapes[1]


def wording_of(processor: Any, config: Any, stops: Collection[int], *, chat: bool) -> Wording:
    """How texts are put to a checkpoint of images and texts.

    In its chat template if it has one and `chat` allows it, else behind what must mark the image: nothing, if the
    processor puts image tokens in by itself.
    """
    image = image_id(config)
    if chat and has_chat(processor):
        gap, end = chat_ending(processor, stops)
        return Wording(chat=True, gap=gap, end=end, image=image)
    tokenizer, mark = tokenizer_of(processor), str(getattr(processor, "image_token", None) or "")
    known = tokenizer.convert_tokens_to_ids(mark) if image is None and mark else image
    placeholder, tokens = _placed(processor, mark, known)
    ends = bool(tokens) and tokens[-1] in tokenizer.all_special_ids
    return Wording(
        placeholder=placeholder,
        # "a special separator token between prompt and answer" (Chameleon, section 3)
        turn=tokenizer.sep_token if hasattr(processor, TURNS) else "",
        end="" if ends else _end(tokenizer, stops),
        ends=ends,
        suffix="suffix" in inspect.signature(processor.__call__).parameters,
        image=image if image in tokens else None,
    )


def _end(tokenizer: Any, stops: Collection[int]) -> str:
    """What ends a text: the tokenizer's own end, or a token at which the model stops, if it does not stop there."""
    end = tokenizer.eos_token or tokenizer.sep_token or ""
    if not stops or tokenizer.convert_tokens_to_ids(end) in stops:
        return end
    return tokenizer.decode([min(stops)])


def _placed(processor: Any, mark: str, image: int | None) -> tuple[str, list[int]]:
    """What must stand before a text for its image to be among its tokens, and these tokens, none if it reads none."""
    try:
        inputs = read(processor, Wording(), trial_sample(), "a")
        tokens = inputs["input_ids"][0].tolist() if "input_ids" in inputs else []
        if image is None or image in tokens or not mark:
            return "", tokens
    except ValueError:  # some refuse a picture that the text does not mention
        if not mark:
            raise
    return mark, read(processor, Wording(), trial_sample(), f"{mark}a")["input_ids"][0].tolist()
