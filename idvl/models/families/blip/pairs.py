"""What BLIP for NLVR2 reads: two images, and the sentence as BLIP cleans it; in training also in the other order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from idvl.data.samples import Sample
from idvl.models import statements
from idvl.models.generation import Generation
from idvl.models.inputs import longest_text, process
from idvl.models.processors import tokenizer_of
from idvl.models.skills import MARKS, clean_caption

# where BLIP cuts sentences (data/nlvr_dataset.py)
MOST_WORDS = 40
SIDES = {"left": "right", "right": "left"}


def cleaned(samples: Sequence[Sample], *, clean: bool = True) -> Sequence[Sample]:
    """The samples, with their first text as BLIP reads it unless `clean` is False."""
    if not clean:
        return samples
    return [replace(sample, texts=(clean_caption(sample.texts[0], words=MOST_WORDS),)) for sample in samples]


def text_length(processor: Any, samples: Sequence[Sample], *, clean: bool = True) -> int:
    """Tokens of the longest sentence."""
    return longest_text(processor, cleaned(samples, clean=clean))


def inputs(processor: Any, samples: Sequence[Sample], text_length: int, *, clean: bool = True) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length), pixel_values (n, 2, 3, side, side)."""
    text = process(tokenizer_of(processor), cleaned(samples, clean=clean), text_length, needs=("text",))
    return {**text, **statements.both(processor, samples)}


def training_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, *, clean: bool = True
) -> dict[str, Tensor]:
    """`inputs` with labels (n,)."""
    return statements.training_inputs(processor, cleaned(samples, clean=clean), text_length, config)


def prepare(loaded: Any, samples: Sequence[Sample], settings: Generation) -> dict[str, Tensor]:
    """Both images, and the sentences, padded to the longest."""
    return statements.statements(loaded, cleaned(samples, clean=loaded.family.clean_texts), settings)


def swapped(sample: Sample) -> Sample:
    """The sample with its images in the other order, and with the words left and right exchanged in its sentence.

    As in BLIP (data/nlvr_dataset.py), words are what spaces separate in the cleaned sentence: "left," and "leftmost"
    stay as they are.
    """
    sides = rf"(?:^|(?<=\s|{MARKS}))(left|right)(?=\s|{MARKS}|$)"
    texts = [re.sub(sides, lambda side: SIDES[side[0].lower()], text, flags=re.IGNORECASE) for text in sample.texts]
    return replace(sample, source=sample.second, second=sample.source, texts=tuple(texts))
