"""How a text is put to a checkpoint: in its chat template, or behind a mark for the image; and how an answer ends.

It does not know images, nor what is done with the texts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from idvl.models.processors import tokenizer_of

# stands for an answer where a chat template is tried
TRIAL = "TRIAL"


@dataclass(frozen=True, kw_only=True)
class Wording:
    """`chat`: texts are put into the processor's chat template; else `placeholder` stands before each.

    `turn` ends a prompt, where the model was taught so. `gap` stands between a question and its answer, `end` behind
    the answer; `ends`: the processor adds an end itself.
    `suffix`: the processor takes the answer apart from the prompt, which a prefix language model reads both ways.
    `image`: the id of the tokens that stand for the image, None where they are not among the text's.
    """

    chat: bool = False
    placeholder: str = ""
    turn: str = ""
    gap: str = " "
    end: str = ""
    ends: bool = False
    suffix: bool = False
    image: int | None = None

    def prompt(self, processor: Any, question: str) -> str:
        """What the model reads before it writes; a question that places the image itself is taken as it is."""
        mark = str(getattr(processor, "image_token", None) or self.placeholder)
        if mark and mark in question:
            return question
        return _asked(processor, question) if self.chat else self.placeholder + question + self.turn

    def answered(self, processor: Any, question: str, answer: str) -> tuple[str, str]:
        """What stands before the answer, and that with the answer and its end."""
        before = self.prompt(processor, question) + (self.gap if (self.chat or question) and not self.turn else "")
        return before, f"{before}{answer.strip()}{self.end}"

    def learnt(self, processor: Any, prompt: str, whole: str) -> int:
        """How many tokens at the end of `whole` are the answer and its end: all behind those shared with `prompt`."""
        begun, tokens = (tokens_of(processor, text) for text in (prompt, whole))
        shared = next((i for i, pair in enumerate(zip(begun, tokens, strict=False)) if pair[0] != pair[1]), len(begun))
        return len(tokens) - shared + self.ends


def tokens_of(processor: Any, text: str) -> list[int]:
    """A text's tokens, none added at its start or end."""
    return tokenizer_of(processor)(text, add_special_tokens=False)["input_ids"]


def has_chat(processor: Any) -> bool:
    """Whether a processor of images and texts has a chat template."""
    return bool(getattr(processor, "chat_template", None)) and tokenizer_of(processor) is not processor


def chat_ending(processor: Any, stops: Collection[int]) -> tuple[str, str]:
    """What stands between a chat's prompt and the answer, and what ends the answer.

    The end reaches to the first token behind the answer at which the model stops writing, to the first special one
    where it stops at none of them, and is the tokenizer's own where there is no such token.
    """
    prompt, tokenizer = _asked(processor, "a"), tokenizer_of(processor)
    whole = _asked(processor, "a", answer=TRIAL)
    before, _, behind = whole.rpartition(TRIAL)
    gap = before.removeprefix(prompt) if before.startswith(prompt) else ""
    tokens = tokens_of(processor, behind)
    special = [token for token in tokens if token in tokenizer.all_special_ids]
    last = next((token for token in (*(t for t in tokens if t in stops), *special)), None)
    if last is None:
        return gap, tokenizer.eos_token or ""
    text = tokenizer.convert_ids_to_tokens(last)
    return gap, behind[: behind.index(text) + len(text)]


def _asked(processor: Any, question: str, answer: str | None = None) -> str:
    """A image and a question in the chat template, with the answer or up to where it begins."""
    content = [{"type": "image"}, *([{"type": "text", "text": question}] if question else [])]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
