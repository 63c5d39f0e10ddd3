"""What a loaded model can be asked to do, and what skills of several families share.

A family's skills are keyed "caption", "answer", "embed_images", "embed_texts", "match", "classify" and "judge". It does
not know what predictions are scored against.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.errors import UsageError, quoted
from idvl.models.inputs import NO_LIMIT, process, tokenizer_of

if TYPE_CHECKING:
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
    and the prompt, as its published settings do, any other model what it adds. None is the skill's own.
    """

    prompt: str | None = None
    beams: int = 3
    min_length: int | None = None
    max_length: int | None = None


@dataclass(frozen=True, kw_only=True)
class Skill:
    """What a model can do with items: samples; strings (embed_texts); one (sample, texts) (match)."""

    # (loaded, items, settings) -> model inputs on the CPU, each leading with the items; any thread may call it
    prepare: Callable[[Loaded, Sequence[Any], Generation], dict[str, Tensor]]
    # (loaded, inputs, settings) -> a text for each item, or float32 rows on the CPU: (n, d) embeddings of length one,
    # (n, classes) logits, (n, 2) logits of False and True (judge), (k,) scores of an image's texts (match)
    perform: Callable[[Loaded, dict[str, Tensor], Generation], list[str] | Tensor]
    # what the settings' prompt is where they have none and the tokenizer knows its words
    prompt: str = ""
    # fewest and most tokens where the settings have none
    lengths: tuple[int, int] = (5, 20)


def settle(loaded: Loaded, skill: str, settings: Generation) -> Generation:
    """The settings with the prompt and the lengths that the skill will use; once they have them, they stay so.

    Raises UsageError for a prompt with words that the tokenizer does not know, or, of an answer, without {}, and for
    lengths that exclude each other.
    """
    asked = settings.prompt
    prompt = loaded.family.skills[skill].prompt if asked is None else asked
    if skill == "answer" and QUESTION not in prompt:
        raise UsageError(f"the prompt {quoted(prompt)} has no place for the question: put {QUESTION} where it goes")
    unknown = strange(loaded.processor, prompt.replace(QUESTION, " "))
    if unknown and asked is None:
        prompt = ""
    elif unknown:
        raise UsageError(
            f"the tokenizer of {loaded.name} does not know {quoted(unknown[0])} in the prompt {quoted(prompt)}"
        )
    least, most = lengths(loaded, skill, settings)
    return replace(settings, prompt=prompt, min_length=least, max_length=most)


def strange(processor: Any, text: str) -> list[str]:
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
        settings = settle(loaded, skill, settings)
    if skill != "answer":
        return [settings.prompt] * len(samples)
    return [settings.prompt.replace(QUESTION, sample.texts[0]) for sample in samples]


def pictures(
    loaded: Loaded, samples: Sequence[Sample], settings: Generation, *, square: int | None = None
) -> dict[str, Tensor]:
    """pixel_values (n, 3, height, width), as the checkpoint's processor makes them; `square` as in `process`."""
    return process(loaded.processor, samples, 0, needs=("image",), square=square)


def tokens(loaded: Loaded, texts: Sequence[str], *, most: int | None = None) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, length): padded on the right to the longest text, cut at `most` tokens.

    `most` None is what the model takes.
    """
    tokenizer = tokenizer_of(loaded.processor)
    most = min(most or NO_LIMIT, tokenizer.model_max_length)
    how = {"padding": True, "truncation": most < NO_LIMIT, "max_length": most if most < NO_LIMIT else None}
    return dict(tokenizer(list(texts), return_tensors="pt", return_token_type_ids=False, **how))


def sentences(loaded: Loaded, texts: Sequence[str], settings: Generation) -> dict[str, Tensor]:
    """The `tokens` of texts that are read as they are."""
    return tokens(loaded, texts)


def place(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those inputs that the model's forward names, on its device, floating ones in its dtype."""
    named = inspect.signature(model.forward).parameters
    return {
        key: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for key, value in inputs.items()
        if key in named
    }


@contextmanager
def generating(model: nn.Module, settings: Generation, **bounds: int) -> Iterator[None]:
    """Inside, `generate` searches with the settings' beams within `bounds`, whatever the checkpoint prefers.

    A checkpoint's preferences also reach it where the caller says nothing, so they are put aside, at every depth.
    Raises NotFiniteError where the next token would be chosen from logits that hold NaN or inf.
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


def texts(loaded: Loaded, written: Tensor) -> list[str]:
    """Tokens (n, length) as text, without special tokens."""
    return [text.strip() for text in tokenizer_of(loaded.processor).batch_decode(written, skip_special_tokens=True)]


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings (n, d) scaled to length one, in float32 on the CPU."""
    return F.normalize(embeddings.float(), dim=-1).cpu()


@torch.no_grad()
def logits(loaded: Loaded, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The logits of a classifier, (n, classes)."""
    return loaded.family.call(loaded.model, place(loaded.model, inputs)).logits.float().cpu()
