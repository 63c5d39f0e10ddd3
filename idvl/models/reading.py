"""Images with texts as a model reads them: each sample prepared by itself, as a processor expects, then joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from idvl.data.samples import Sample
from idvl.errors import UsageError, quoted
from idvl.models.generation import QUESTION, Generation, lengths, prompted
from idvl.models.inputs import NO_LIMIT, capped, pixels
from idvl.models.joining import IGNORED, TEXTS, joined
from idvl.models.processors import prepared, tokenizer_of
from idvl.models.wording import Wording, tokens_of

if TYPE_CHECKING:
    from idvl.models.loading import Loaded

# images are resized to this where samples need inputs of one shape, but the processor's follow the image's: the
# commonest of photographs
SHAPE = (640, 480)
# the setting of Chameleon's processor that leaves the end of a turn to the text
TURNS = "return_for_text_completion"
# what PaliGemma's authors ask for in English
SUFFIXED = {"caption": "caption en", "answer": "answer en {}"}


def read(
    processor: Any,
    wording: Wording,
    sample: Sample,
    text: str,
    *,
    shape: tuple[int, int] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Model inputs of one sample with this text, as a batch of one; the image resized to `shape` first.

    Raises UsageError where the text has no place for the image, or the model's context none.
    """
    tokenizer = tokenizer_of(processor)
    limit = tokenizer.model_max_length
    if tokenizer.bos_token and text.startswith(tokenizer.bos_token):  # which the tokenizer would add again
        options["add_special_tokens"] = False
    if hasattr(processor, TURNS):
        options[TURNS] = True
    if wording.image is None and limit < NO_LIMIT:
        options |= {"truncation": True, "max_length": limit}
    mark = str(getattr(processor, "image_token", None) or wording.placeholder)
    if mark not in text and (wording.chat or wording.placeholder):
        raise UsageError(f"the prompt has no place for the image of sample {quoted(sample.id)}: put {mark} into it")
    shown = [pixels(sample, shape)]
    values = prepared(processor, images=shown, text=[text], return_tensors="pt", **options)
    inputs = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    if "qformer_input_ids" in inputs:
        inputs |= _qformer_text(processor, text)
    if wording.image is not None:
        places = (inputs["input_ids"][0] == wording.image).nonzero().flatten()
        if len(places) and int(places[-1]) >= limit:
            raise UsageError(
                f"the image of sample {quoted(sample.id)} takes {len(places):,} tokens, more than fit into the "
                f"model's {limit:,}: remove it from the dataset, or let the checkpoint's processor make fewer"
            )
    return inputs


def reading_inputs(
    processor: Any,
    samples: Sequence[Sample],
    text_length: int | None,
    *,
    wording: Wording,
    shape: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Inputs of samples, each with its first text, padded to `text_length` tokens (None: the longest of them)."""
    parts = []
    for sample in samples:
        inputs = read(processor, wording, sample, wording.prompt(processor, sample.texts[0]), shape=shape)
        parts.append({key: value for key, value in inputs.items() if key != "labels"})
    limit = tokenizer_of(processor).model_max_length
    if text_length is None and (longest := max(part["input_ids"].shape[1] for part in parts)) > limit:
        text_length = min(longest, limit)
    batch = joined(parts, pad=tokenizer_of(processor).pad_token_id, length=text_length)
    for key in (key for key in batch if key.startswith("qformer_")):  # beyond its positions there is only padding
        batch[key] = batch[key][:, : processor.qformer_tokenizer.model_max_length]
    return batch


def reading_length(processor: Any, samples: Sequence[Sample], *, wording: Wording, added: int, padded: int = 0) -> int:
    """Tokens of the longest text with its prompt and the `added` ones of an image, at most what the model takes.

    `padded`: the length that the processor pads every text to by itself.
    """
    texts = [wording.prompt(processor, sample.texts[0]) for sample in samples]
    limit = tokenizer_of(processor).model_max_length
    longest = capped([added + len(tokens_of(processor, text)) for text in texts], limit)
    reader = getattr(processor, "qformer_tokenizer", None)
    if reader:
        lengths = [len(reader(text, verbose=False)["input_ids"]) for text in texts]
        longest = max(longest, capped(lengths, reader.model_max_length, "the Q-Former's"))
    return min(max(longest, padded), limit)


def _qformer_text(processor: Any, text: str) -> dict[str, Tensor]:
    """A text as InstructBLIP's Q-Former reads it, cut to its positions."""
    tokens = processor.qformer_tokenizer([text], return_tensors="pt", truncation=True)
    return {f"qformer_{key}": tokens[key] for key in ("input_ids", "attention_mask")}


def added_tokens(
    processor: Any, wording: Wording, sample: Sample, shape: tuple[int, int] | None
) -> dict[Literal["added", "padded"], int]:
    """How many tokens the processor adds to a text, the image's, a start and an end, and the length that it pads to.

    0 where it pads nothing by itself. `reading_length` takes both.
    """
    text = wording.prompt(processor, sample.texts[0])
    inputs = read(processor, wording, sample, text, shape=shape)
    length = max(inputs[key].shape[1] for key in TEXTS if key in inputs)
    mask = inputs.get("attention_mask")
    padding = 0 if mask is None or mask.shape[1] != length else length - int(mask.sum())
    return {"added": length - padding - len(tokens_of(processor, text)), "padded": length if padding else 0}


def question_of(sample: Sample, prompts: Mapping[str, str]) -> str:
    """What is read of a sample before its answer or caption is written: the prompt, the question in its place."""
    return prompts["answer"].replace(QUESTION, sample.texts[0]) if sample.answers else prompts["caption"]


def learning_inputs(
    processor: Any,
    samples: Sequence[Sample],
    text_length: int,
    config: Any,
    *,
    wording: Wording,
    prompts: Mapping[str, str],
) -> dict[str, Tensor]:
    """Inputs of a decoder that learns to answer questions, or to write captions, and to end them; nothing else.

    `prompts`: what it reads before a "caption" and an "answer".
    """
    parts = [_learnt(processor, wording, sample, question_of(sample, prompts)) for sample in samples]
    return joined(parts, pad=tokenizer_of(processor).pad_token_id)


def _learnt(processor: Any, wording: Wording, sample: Sample, question: str) -> dict[str, Tensor]:
    answer = (*sample.answers, *sample.texts)[0]
    if wording.suffix:
        return read(processor, wording, sample, wording.prompt(processor, question), suffix=[answer])
    prompt, whole = wording.answered(processor, question, answer)
    inputs = read(processor, wording, sample, whole)
    # who reads the instruction both ways must not see the answer
    if "qformer_input_ids" in inputs:
        inputs |= _qformer_text(processor, prompt)
    tokens, labels = inputs["input_ids"], inputs["input_ids"].clone()
    labels[:, : -wording.learnt(processor, prompt, whole)] = IGNORED
    labels[:, 0] = IGNORED  # nothing stands before it
    limit = tokenizer_of(processor).model_max_length
    if tokens.shape[1] > limit or (labels == IGNORED).all():
        raise UsageError(
            f"sample {quoted(sample.id)} takes {tokens.shape[1]:,} tokens with its answer, more than the model's "
            f"{limit:,}: remove it from the dataset"
        )
    return {**inputs, "labels": labels}


def prompts(
    loaded: Loaded,
    samples: Sequence[Sample],
    settings: Generation,
    *,
    skill: str,
    encodes: bool,
    wording: Wording,
) -> dict[str, Tensor]:
    """Images and prompts: padded on the left, without an end token, where what is written goes on from them.

    An encoder reads them whole (`encodes`), and may know positions by their distance from the image's alone: it gets
    the padding behind them.
    """
    processor = loaded.processor
    _, most = lengths(loaded, skill, settings)
    limit = tokenizer_of(processor).model_max_length
    parts = []
    for sample, words in zip(samples, prompted(loaded, skill, samples, settings), strict=True):
        inputs = read(processor, wording, sample, wording.prompt(processor, words))
        size = inputs["input_ids"].shape
        if not encodes and size[1] + most > limit:
            raise UsageError(
                f"the prompt of sample {quoted(sample.id)} has {size[1]:,} tokens, which leaves no room for {most} "
                f"more in the model's {limit:,}: lower the maximal length, or shorten the prompt"
            )
        if wording.ends and not encodes:
            inputs = {key: value[:, :-1] if value.shape[:2] == size else value for key, value in inputs.items()}
        parts.append({key: value for key, value in inputs.items() if key != "labels"})
    return joined(parts, pad=tokenizer_of(processor).pad_token_id, side="right" if encodes else "left")


def image_id(config: Any) -> int | None:
    """The id of the tokens that stand for a image among those of its text, None where the config names none."""
    for name in ("image_token_id", "image_token_index"):
        if isinstance(value := getattr(config, name, None), int):
            return value
    return None
