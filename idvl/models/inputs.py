"""Samples as a model takes them: images as pixels, texts as tokens padded to one length for the whole run.

Preprocessing is the checkpoint's own for inference, never a training augmentation; of a sample's texts the first is
read. It does not know which device the batches go to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from idvl.errors import UsageError, quoted
from idvl.models.processors import AT_ONCE, prepared, tokenizer_of

if TYPE_CHECKING:
    from idvl.data.samples import Sample
    from idvl.models.loading import Loaded

logger = logging.getLogger(__name__)

# tokenizers without a limit of their own give a huge number
NO_LIMIT = 10**6


def encode(
    loaded: Loaded,
    samples: Sequence[Sample],
    *,
    batch_size: int,
    part: range | None = None,
    fixed: bool = True,
    also: Sequence[Sequence[Sample]] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Tensor]]:
    """All samples as batches of model inputs on the CPU, in order; the last one may be smaller.

    `part` gives the numbers of the batches to make, padded for all samples nevertheless; batches of `also` follow.
    `fixed` gives all samples inputs of one shape; otherwise each has its own, where the family knows one. `progress`
    counts the batches. Raises UsageError for a sample that lacks what the model needs, whose image cannot be decoded or
    whose text gives no token.
    """
    check(loaded, samples)
    family, processor = loaded.family, loaded.processor
    native = family.shape and not fixed
    length = None if native else family.text_length(processor, samples)
    shape = {"shape": None if native else family.shape} if family.shape else {}
    numbers = range(-(-len(samples) // batch_size)) if part is None else part
    parts = [samples[number * batch_size : (number + 1) * batch_size] for number in numbers]
    parts += also

    batches: list[dict[str, Tensor]] = []
    for some in parts:
        batches.append(family.inputs(processor, some, length, **shape))
        _check_tokens(some, batches[-1])
        if progress:
            progress(len(batches), len(parts))
    return batches


def process(
    processor: Any,
    samples: Sequence[Sample],
    text_length: int,
    *,
    needs: Sequence[str] = ("image", "text"),
    square: int | None = None,
) -> dict[str, Tensor]:
    """Model inputs of `samples` from their checkpoint's processor: float32 pixels, tokens (n, text_length), their mask.

    `square` resizes images to that many pixels a side first, for processors whose sizes vary with the image. Images of
    more than AT_ONCE pixels together are prepared one by one, unless the processor pads them to the largest.
    """
    arguments: dict[str, Any] = {"return_tensors": "pt"}
    if "image" in needs:
        images = _images(samples, square, at_most=AT_ONCE)
        if images is None:
            each = [process(processor, [sample], text_length, needs=needs, square=square) for sample in samples]
            if len({tuple((key, value.shape) for key, value in inputs.items()) for inputs in each}) == 1:
                return {key: torch.cat([inputs[key] for inputs in each]) for key in each[0]}
        arguments["images"] = images or _images(samples, square)
    if "text" in needs:
        arguments["text"] = [sample.texts[0] for sample in samples]
        arguments |= {"padding": "max_length", "max_length": text_length, "truncation": True}
    return prepared(processor, **arguments)


def longest_text(processor: Any, samples: Sequence[Sample]) -> int:
    """Tokens of the longest first text, at most what the model takes; its limit if the model reads its padding."""
    tokenizer = tokenizer_of(processor)
    limit = tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None
    if limit and "attention_mask" not in tokenizer.model_input_names:
        return limit
    lengths = [len(ids) for sample in samples for ids in tokenizer(list(sample.texts[:1]))["input_ids"]]
    return capped(lengths, limit) if limit else max(lengths)


def capped(lengths: Sequence[int], limit: int, whose: str = "the model's") -> int:
    """The largest of the texts' lengths in tokens, at most `limit`; a warning says how many texts are cut to it."""
    if cut := sum(length > limit for length in lengths):
        logger.warning("%d of %d texts are longer than %s %d tokens and are cut", cut, len(lengths), whose, limit)
    return min(max(lengths), limit)


def check(loaded: Loaded, samples: Sequence[Sample]) -> None:
    """Raise UsageError for a sample that lacks an image or a text that the model reads."""
    if not samples:
        raise UsageError("no samples to encode; choose a dataset that has some")
    for sample in samples:
        lacks = []
        if "image" in loaded.family.needs and sample.source is None:
            lacks.append("image")
        if "text" in loaded.family.needs and not (sample.texts and sample.texts[0] and sample.texts[0].strip()):
            lacks.append("text")
        if lacks:
            raise UsageError(
                f"sample {sample.id} has no {' and no '.join(lacks)}, but {loaded.name} needs "
                f"{' and '.join(loaded.family.needs)}; choose a dataset that has them or name its columns"
            )


def _check_tokens(samples: Sequence[Sample], inputs: dict[str, Tensor]) -> None:
    """Raise UsageError for a sample whose text becomes padding alone: it is no point."""
    for key in ("attention_mask", "decoder_attention_mask"):
        for sample, mask in zip(samples, inputs.get(key, ()), strict=False):
            if not mask.any():
                raise UsageError(
                    f"sample {quoted(sample.id)} has no token: the tokenizer makes nothing of its text "
                    f"{quoted(sample.texts[0])}; remove it from the dataset"
                )


def pixels(sample: Sample, size: tuple[int, int] | None = None) -> Any:
    """The decoded image, resized to `size`, width and height. Raises UsageError where it cannot be decoded."""
    try:
        image = sample.image.convert("RGB")
    except OSError as error:
        raise UsageError(f"the image of sample {sample.id} cannot be decoded: {error}") from error
    return image.resize(size) if size else image


def _images(samples: Sequence[Sample], square: int | None, at_most: float = math.inf) -> list[Any] | None:
    """The `pixels` of samples; None where those of several are more than `at_most` together."""
    images, area = [], 0
    for sample in samples:
        images.append(pixels(sample, (square, square) if square else None))
        area += images[-1].width * images[-1].height
        if len(samples) > 1 and area > at_most:
            return None
    return images
