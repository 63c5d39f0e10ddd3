"""What BLIP reads of samples, and which positions of its layers are padding.

Texts are read as in BLIP's training: cleaned, and captions to be written behind the prompt. With `clean` False they are
read as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from idvl.data.samples import Sample
from idvl.models.generation import unknown_words
from idvl.models.inputs import longest_text, process
from idvl.models.skills import MARKS, clean_caption

# the words before every caption, in fine-tuning and generation (Li et al. 2022, section 5.2)
PROMPT = "a picture of "
# where BLIP cuts captions: words, tokens of those that it writes (models/blip.py) and of those that it matches
# (models/blip_retrieval.py)
MOST_WORDS, MOST_WRITTEN, MOST_MATCHED = 30, 40, 35
# and questions: tokens (models/blip_vqa.py); the 50 words that pre_question leaves are more
MOST_ASKED = 35


def prompt_of(processor: Any) -> str:
    """PROMPT, "" where the tokenizer does not know its words."""
    return "" if unknown_words(processor, PROMPT) else PROMPT


def captions(processor: Any, samples: Sequence[Sample], *, clean: bool = True) -> list[Sample]:
    """Samples with the caption behind the prompt."""
    prompt = prompt_of(processor)
    cleaned = matched(samples) if clean else samples
    return [replace(sample, texts=(prompt + sample.texts[0],)) for sample in cleaned]


def captioning_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, *, clean: bool = True
) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length) of `captions`, pixel_values (n, 3, side, side)."""
    return process(processor, captions(processor, samples, clean=clean), text_length)


def captioning_length(processor: Any, samples: Sequence[Sample], *, clean: bool = True) -> int:
    """Tokens of the longest of `captions`."""
    longest = longest_text(processor, captions(processor, samples, clean=clean))
    return min(longest, MOST_WRITTEN) if clean else longest


def matched(samples: Sequence[Sample]) -> list[Sample]:
    """Samples with the caption cleaned."""
    return [replace(sample, texts=(clean_caption(sample.texts[0], words=MOST_WORDS),)) for sample in samples]


def matching_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, *, clean: bool = True
) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length) of the captions, pixel_values (n, 3, side, side)."""
    return process(processor, matched(samples) if clean else samples, text_length)


def matching_length(processor: Any, samples: Sequence[Sample], *, clean: bool = True) -> int:
    """Tokens of the longest caption."""
    return min(longest_text(processor, matched(samples)), MOST_MATCHED) if clean else longest_text(processor, samples)


def clean_question(text: str) -> str:
    """A question as BLIP reads it (data/utils.py, pre_question): lower case, without MARKS."""
    return re.sub(MARKS, "", text.lower()).rstrip()


def questions(samples: Sequence[Sample], *, clean: bool = True) -> list[Sample]:
    """Samples with the question cleaned; one without an answer is answered by the question as it is."""
    return [
        replace(
            sample,
            texts=(clean_question(sample.texts[0]) if clean else sample.texts[0],),
            answers=(sample.answers or sample.texts)[:1],
        )
        for sample in samples
    ]


def answering_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, *, clean: bool = True
) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, length) of the questions, pixel_values (n, 3, side, side).

    decoder_input_ids and decoder_attention_mask (n, text_length) are those of the answers. Cleaned questions are cut at
    MOST_ASKED tokens, so their length may be less than text_length.
    """
    with_questions = questions(samples, clean=clean)
    answers = [replace(sample, texts=sample.answers) for sample in with_questions]
    tokens = process(processor.tokenizer, answers, text_length, needs=("text",))
    return {
        **process(processor, with_questions, min(text_length, MOST_ASKED) if clean else text_length),
        "decoder_input_ids": tokens["input_ids"],
        "decoder_attention_mask": tokens["attention_mask"],
    }


def answering_length(processor: Any, samples: Sequence[Sample], *, clean: bool = True) -> int:
    """Tokens of the longest question, as it is cut, or first answer."""
    with_questions = questions(samples, clean=clean)
    asked = longest_text(processor, with_questions)
    answered = longest_text(processor, [replace(sample, texts=sample.answers) for sample in with_questions])
    return max(min(asked, MOST_ASKED) if clean else asked, answered)


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text stacks; all image tokens count, in the vision tower and in keys and values of them."""
    reads_encoder = re.search(r"crossattention\.self[01]?\.(key|value)$", layer_name)
    if layer_name.startswith("vision_model."):
        return None
    if "decoder_input_ids" not in inputs or layer_name.startswith("text_encoder."):
        return None if reads_encoder else inputs["attention_mask"].bool()
    return inputs["attention_mask" if reads_encoder else "decoder_attention_mask"].bool()
