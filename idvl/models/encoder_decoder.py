"""What encoder-decoders learn: the encoder reads picture and question or prompt, the decoder writes the answer.

The model itself makes the decoder's input of the labels. It does not know which architectures are such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from idvl.data.samples import Sample
from idvl.errors import UsageError, quoted
from idvl.models.inputs import NO_LIMIT, process
from idvl.models.labels import IGNORED
from idvl.models.processors import tokenizer_of
from idvl.models.reading import question_of, reading_inputs
from idvl.models.wording import Wording


def written_labels(processor: Any, samples: Sequence[Sample], *, cut: bool = False) -> Tensor:
    """Labels (n, length) of a decoder: the tokens of each text and, last, the one that ends it; IGNORED behind it.

    `cut` shortens texts that the model has no room for; otherwise they are a UsageError.
    """
    tokenizer = tokenizer_of(processor)
    end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    rows = tokenizer([written(sample) for sample in samples], verbose=False)["input_ids"]
    ended = [row if row[-1] == end else [*row, end] for row in rows]
    limit = tokenizer.model_max_length
    for sample, row in zip(samples, ended, strict=True):
        if len(row) > limit and not cut:
            raise UsageError(
                f"the answer or caption of sample {quoted(sample.id)} has {len(row):,} tokens, more than the model's "
                f"{limit:,}: remove it from the dataset"
            )
    rows = [torch.tensor(row[: min(limit, NO_LIMIT)]) for row in ended]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def written(sample: Sample) -> str:
    """What is learnt from a sample: its answer, where it has one, or its text."""
    return (*sample.answers, *sample.texts)[0]


def answering_inputs(
    processor: Any,
    samples: Sequence[Sample],
    text_length: int,
    config: Any,
    *,
    wording: Wording | None,
    prompts: Mapping[str, str],
) -> dict[str, Tensor]:
    """Inputs of the encoder, with the labels of the decoder; `wording` puts texts to a model of images and texts.

    The encoder reads what `prompts` says for an "answer" or a "caption"; without pictures, the text itself.
    """
    labels = written_labels(processor, samples)
    if wording is None:
        return {**process(processor, samples, text_length, needs=("text",)), "labels": labels}
    questions = [replace(sample, texts=(question_of(sample, prompts),)) for sample in samples]
    return {**reading_inputs(processor, questions, None, wording=wording), "labels": labels}


def longest_written(processor: Any, samples: Sequence[Sample]) -> int:
    """Tokens of the longest answer or text, its end included."""
    return written_labels(processor, samples, cut=True).shape[1]


def read_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, *, start: int, pad: int
) -> dict[str, Tensor]:
    """Of a model whose encoder reads pictures alone: these, and the text as its decoder reads it in training."""
    shown = process(processor, samples, 0, needs=("image",))
    return {**shown, **decoder_inputs(processor, samples, text_length, start=start, pad=pad)}


def decoder_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, *, start: int, pad: int
) -> dict[str, Tensor]:
    """The answer, or else the text, as a decoder reads it in training.

    decoder_input_ids (n, text_length) begin with `start` and end before the text's end; decoder_attention_mask.
    """
    labels = written_labels(processor, samples, cut=True)[:, :text_length]
    labels = F.pad(labels, (0, text_length - labels.shape[1]), value=IGNORED)
    tokens = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    mask = tokens != IGNORED
    return {"decoder_input_ids": tokens.where(mask, pad), "decoder_attention_mask": mask.long()}


def writing_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """Of the same model: pictures and labels (n, length), of which the model makes what its decoder reads."""
    labels = written_labels(processor, samples)
    return {**process(processor, samples, 0, needs=("image",)), "labels": labels}
