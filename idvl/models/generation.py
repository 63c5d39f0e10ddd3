"""How a model writes text: the settings, the prompts and the search. It does not know what texts are scored against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from idvl.choices import BeamLength
from idvl.errors import UsageError, quoted
from idvl.models.forward import on_device
from idvl.models.processors import tokenizer_of

if TYPE_CHECKING:
    from idvl.data.samples import Sample
    from idvl.models.loading import Loaded

# where a question stands in the prompt of an answer
QUESTION = "{}"
# of a checkpoint's generation_config all else, sampling included, gives way to the settings
TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


class NotFiniteError(Exception):
    """Logits of a text hold NaN or inf: the first such row, of how many."""

    def __init__(self, row: int, rows: int):
        super().__init__(f"logits of row {row} of {rows} are not finite")
        self.row, self.rows = row, rows


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How text is written: by beam search, never by sampling; one beam is greedy.

    `prompt`: the words that a caption begins with, which are not part of it; of an answer, what the model reads, with
    {} where the question goes; "" is none. `min_length`, `max_length`: tokens of the text; BLIP counts its start token
    and the prompt, as its published settings do, any other model what it adds. None is the skill's own. `beam_length`
    "whole" divides a beam's log-likelihood by its length with the prompt, as BLIP's code does; None by what is written.
    """

    prompt: str | None = None
    beams: int = 3
    min_length: int | None = None
    max_length: int | None = None
    beam_length: BeamLength | None = None


def resolve(loaded: Loaded, skill: str, settings: Generation) -> Generation:
    """The settings with the prompt and the lengths that the skill will use; once they have them, they stay so.

    Raises UsageError for a prompt with words that the tokenizer does not know, with more tokens than the model reads,
    or, of an answer, without {}, for lengths that exclude each other, and for a beam_length that the model or
    transformers does not know.
    """
    if settings.beam_length:
        check_version = loaded.family.skills[skill].whole_beams
        if check_version is None:
            raise UsageError(f"beam_length whole is for BLIP's captions, not for {loaded.name}: leave it out")
        check_version()
    own = settings.prompt
    prompt = loaded.family.skills[skill].prompt if own is None else own
    if skill == "answer" and QUESTION not in prompt:
        raise UsageError(f"the prompt {quoted(prompt)} has no place for the question: put {QUESTION} where it goes")
    unknown = unknown_words(loaded.processor, prompt.replace(QUESTION, " "))
    if unknown and own is None:
        prompt = ""
    elif unknown:
        raise UsageError(
            f"the tokenizer of {loaded.name} does not know {quoted(unknown[0])} in the prompt {quoted(prompt)}"
        )
    tokenizer = tokenizer_of(loaded.processor)
    count, limit = len(tokenizer(prompt, verbose=False)["input_ids"]), tokenizer.model_max_length
    if count > limit:
        raise UsageError(f"the prompt has {count} tokens, and {loaded.name} reads {limit} at most: shorten it")
    least, most = lengths(loaded, skill, settings)
    return replace(settings, prompt=prompt, min_length=least, max_length=most)


def unknown_words(processor: Any, text: str) -> list[str]:
    """The words of a text that the tokenizer does not know."""
    tokenizer = tokenizer_of(processor)
    return [
        word
        for word in text.split()
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]


def lengths(loaded: Loaded, skill: str, settings: Generation) -> tuple[int, int]:
    """Fewest and most tokens. Raises UsageError if the fewest are more than the most."""
    least, most = loaded.family.skills[skill].lengths
    least = least if settings.min_length is None else settings.min_length
    most = most if settings.max_length is None else settings.max_length
    if least > most:
        raise UsageError(
            f"a text of {least} tokens at least is longer than {most}, the most allowed: change one of them"
        )
    return least, most


def prompted(loaded: Loaded, skill: str, samples: Sequence[Sample], settings: Generation) -> list[str]:
    """What the model reads of each sample before it writes: the prompt, the question in its place."""
    if settings.prompt is None:
        settings = resolve(loaded, skill, settings)
    if skill != "answer":
        return [settings.prompt] * len(samples)
    return [settings.prompt.replace(QUESTION, sample.texts[0]) for sample in samples]


def stop_tokens(model: nn.Module) -> set[int]:
    """The tokens at which the model stops writing, as its generation config says."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return set(ends) if isinstance(ends, list) else {ends} - {None}


@contextmanager
def generating(model: nn.Module, settings: Generation, **bounds: int) -> Iterator[None]:
    """Inside, `generate` searches with the settings' beams within `bounds`, whatever the checkpoint prefers.

    A checkpoint's preferences also reach it where the caller says nothing, so they are put aside, at every depth.
    Raises NotFiniteError where the next token would be own from logits that hold NaN or inf.
    """
    from transformers import GenerationConfig

    ours = {"do_sample": False, "num_beams": settings.beams, **bounds}
    with ExitStack() as stack:
        for module in model.modules():
            theirs = getattr(module, "generation_config", None)
            if theirs is not None:
                stack.callback(setattr, module, "generation_config", theirs)
                kept = {name: getattr(theirs, name) for name in TOKENS}
                if kept["pad_token_id"] is None:
                    end = kept["eos_token_id"]
                    kept["pad_token_id"] = end[0] if isinstance(end, list) else end
                module.generation_config = GenerationConfig(**kept, **ours)
                stack.callback(module.register_forward_hook(_check_logits).remove)
        yield


def _check_logits(module: nn.Module, args: Any, output: Any) -> None:
    """A forward hook: the last position's logits, which decide the next token, are finite."""
    logits = getattr(output, "logits", None)
    if logits is not None and not (sound := logits[:, -1].isfinite().all(-1)).all():
        raise NotFiniteError(int(sound.int().argmin()), len(sound))


def decoded(loaded: Loaded, written: Tensor) -> list[str]:
    """Tokens (n, length) as text, without special tokens."""
    return [text.strip() for text in tokenizer_of(loaded.processor).batch_decode(written, skip_special_tokens=True)]


@torch.no_grad()
def write(loaded: Any, inputs: dict[str, Tensor], settings: Generation, *, skill: str, encodes: bool) -> list[str]:
    """What the model adds to each prompt, which one that `encodes` it does not repeat."""
    inputs = on_device(loaded.model, inputs)
    least, most = lengths(loaded, skill, settings)
    limit = tokenizer_of(loaded.processor).model_max_length
    if encodes and most > limit:  # the decoder reads a start token and all but the last of them
        raise UsageError(
            f"a text of {most} tokens at most is longer than {loaded.name} writes: choose a maximal length up to "
            f"{limit}"
        )
    with generating(loaded.model, settings, min_new_tokens=least, max_new_tokens=most):
        written = loaded.model.generate(**inputs)
    return decoded(loaded, written[:, 0 if encodes else inputs["input_ids"].shape[1] :])
