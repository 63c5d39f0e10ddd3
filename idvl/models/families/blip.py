"""BLIP: captioning, question answering and image-text matching.

The text of a sample is its first one. Captioning reads it as a given caption; matching reads it beside the image.
Question answering reads it as the question, and the sample's first answer, or the question again where there is none,
as the answer. As in BLIP's training, what is written starts with [DEC] and what is read beside an image with [ENC].

In training, captioning learns each next token of the caption, answering of the answer; matching learns to tell an
image's own text from that of the sample before it in the batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.families import Family, Lesson, call, unlabelled
from idvl.models.inputs import longest_text, process
from idvl.models.objective import IGNORED, Gather, Objective, next_tokens, over_labels
from idvl.models.skills import (
    QUESTION,
    Generation,
    Skill,
    generating,
    lengths,
    pictures,
    place,
    prompted,
    strange,
    texts,
    tokens,
    unit,
)

# texts that the matching head reads together, which bounds its memory
TEXTS_AT_ONCE = 64

# the words before every caption, in fine-tuning and generation (Li et al. 2022, section 5.2)
PROMPT = "a picture of "
# what BLIP takes out of captions and questions, and where it cuts captions (data/utils.py, train_retrieval.py)
MARKS = r"[.!\"()*#:;~]"
MOST_WORDS, MOST_TOKENS = 30, 35


def inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length), pixel_values (n, 3, side, side)."""
    return process(processor, samples, text_length)


def answering_inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """`inputs` of the questions, with decoder_input_ids and decoder_attention_mask of the answers."""
    answers = [replace(sample, texts=sample.answers or sample.texts) for sample in samples]
    answered = process(processor.tokenizer, answers, text_length, needs=("text",))
    return {
        **inputs(processor, samples, text_length),
        "decoder_input_ids": answered["input_ids"],
        "decoder_attention_mask": answered["attention_mask"],
    }


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text stacks; all image tokens count, in the vision tower and in keys and values of them."""
    reads_encoder = layer_name.endswith(("crossattention.self.key", "crossattention.self.value"))
    if layer_name.startswith("vision_model."):
        return None
    if "decoder_input_ids" not in inputs or layer_name.startswith("text_encoder."):
        return None if reads_encoder else inputs["attention_mask"].bool()
    return inputs["attention_mask" if reads_encoder else "decoder_attention_mask"].bool()


def started(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs whose texts start with [DEC] or [ENC], where the tokenizer, which knows neither, puts [CLS].

    Both are the last rows of the embedding in checkpoints of BLIP; a model without [ENC] reads [CLS].
    """
    text = model.config.text_config
    reads = hasattr(model, "text_encoder")
    first = {"decoder_input_ids" if reads else "input_ids": text.bos_token_id}
    if reads and text.bos_token_id == text.vocab_size - 2:
        first["input_ids"] = text.bos_token_id + 1
    changed = {
        key: torch.cat([torch.full_like(inputs[key][:, :1], token), inputs[key][:, 1:]], dim=1)
        for key, token in first.items()
        if key in inputs and token < text.vocab_size
    }
    return {**inputs, **changed}


def started_call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A call whose texts start as in training."""
    # transformers makes the image's attention mask on the default device
    with inputs["input_ids"].device:
        return call(model, started(model, inputs))


@contextmanager
def padded_questions(model: nn.Module) -> Iterator[None]:
    """Inside, the decoder does not see the padding of the questions.

    transformers 5 hands the questions' mask to the decoder's cross-attention under a name that it does not read there.
    """

    def rename(module: nn.Module, args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {"encoder_attention_mask": given.get("attention_mask"), **given}

    with ExitStack() as stack:
        for name, module in model.text_decoder.named_modules():
            if name.endswith("crossattention.self"):
                stack.callback(module.register_forward_pre_hook(rename, with_kwargs=True).remove)
        yield


def answering_call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A call whose decoder does not see the padding of the questions."""
    with padded_questions(model):
        return started_call(model, inputs)


def captioning_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """`inputs` of the captions behind the prompt, the tokens to be said next after it as labels (n, length)."""
    prompt = "" if strange(processor, PROMPT) else PROMPT
    begun = len(processor.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    asked = [replace(sample, texts=(prompt + sample.texts[0],)) for sample in samples]
    shown = inputs(processor, asked, min(text_length + begun, processor.tokenizer.model_max_length))
    labels = next_tokens(shown["input_ids"], shown["attention_mask"])
    labels[:, :begun] = IGNORED
    return {**shown, "labels": labels}


def captioning_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the caption's tokens."""
    logits = started_call(model, unlabelled(inputs)).logits
    return over_labels(logits, inputs["labels"], label_smoothing=model.config.text_config.label_smoothing)


def learning_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """`answering_inputs` with the answer's tokens to be said next as labels (n, text_length)."""
    shown = answering_inputs(processor, samples, text_length)
    return {**shown, "labels": next_tokens(shown["decoder_input_ids"], shown["decoder_attention_mask"])}


def answering_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the answer's tokens, whose logits the model computes but does not return."""
    seen: list[Tensor] = []
    hook = model.text_decoder.register_forward_hook(lambda module, args, output: seen.append(output.logits))
    try:
        answering_call(model, unlabelled(inputs))
    finally:
        hook.remove()
    return over_labels(seen[0], inputs["labels"], label_smoothing=model.config.text_config.label_smoothing)


def matching_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """2 n pairs: each image with its own text (label 1), then with the text before it in the batch (label 0)."""
    own = inputs(processor, samples, text_length)
    tokens = own["input_ids"]
    wrong = torch.where((tokens == tokens.roll(1, 0)).all(1), IGNORED, 0)
    texts = {key: torch.cat([own[key], own[key].roll(1, 0)]) for key in ("input_ids", "attention_mask")}
    pixels = torch.cat([own["pixel_values"]] * 2)
    return {**texts, "pixel_values": pixels, "labels": torch.cat([torch.ones_like(wrong), wrong])}


def matching_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the matching head."""
    return over_labels(started_call(model, unlabelled(inputs)).itm_score, inputs["labels"])


def lacks_answer(sample: Sample, config: Any) -> str | None:
    """An answer beside the question."""
    return None if sample.answers else "it has a question but no answer; choose a dataset that has both"


def answering_length(processor: Any, samples: Sequence[Sample]) -> int:
    """Tokens of the longest question or first answer."""
    return longest_text(processor, [replace(s, texts=(*s.texts[:1], *s.answers[:1])) for s in samples], read=2)


def prompts(loaded: Any, samples: Sequence[Sample], settings: Generation, *, skill: str) -> dict[str, Tensor]:
    """The images, and input_ids and attention_mask of the prompts (n, length); questions cleaned as BLIP does."""
    if skill == "answer":
        samples = [replace(one, texts=(re.sub(MARKS, "", one.texts[0].lower()).rstrip(),)) for one in samples]
    return {**pictures(loaded, samples, settings), **tokens(loaded, prompted(loaded, skill, samples, settings))}


@torch.no_grad()
def caption(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> list[str]:
    """Captions, as BLIP's `generate` writes them, without the prompt."""
    model, given = loaded.model, place(loaded.model, inputs)
    # the end that the tokenizer puts behind the prompt is cut by transformers
    begun = given["input_ids"].shape[1] - 1
    with generating(model, settings, **_bounds(loaded, "caption", settings, begun)):
        written = model.generate(**given)
    return texts(loaded, written[:, begun:])


@torch.no_grad()
def answer(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> list[str]:
    """Answers, as the model's `generate` writes them for one question alone, whatever the padding."""
    model, given = loaded.model, started(loaded.model, place(loaded.model, inputs))
    question, mask, text = given["input_ids"], given["attention_mask"], model.config.text_config
    image = model.vision_model(given["pixel_values"]).last_hidden_state
    read = model.text_encoder(question, attention_mask=mask, encoder_hidden_states=image).last_hidden_state
    with padded_questions(model), generating(model, settings, **_bounds(loaded, "answer", settings, 1)):
        written = model.text_decoder.generate(
            torch.full_like(question[:, :1], text.bos_token_id),
            eos_token_id=text.sep_token_id,
            pad_token_id=text.pad_token_id,
            encoder_hidden_states=read,
            encoder_attention_mask=mask,
        )
    return texts(loaded, written[:, 1:])


@torch.no_grad()
def embed_images(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The contrastive embeddings of images."""
    image = loaded.model.vision_model(**place(loaded.model, inputs)).last_hidden_state
    return unit(loaded.model.vision_proj(image[:, 0]))


@torch.no_grad()
def embed_texts(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The contrastive embeddings of texts, read without an image and therefore from [CLS]."""
    read = loaded.model.text_encoder(**place(loaded.model, inputs)).last_hidden_state
    return unit(loaded.model.text_proj(read[:, 0]))


def captions(loaded: Any, items: Sequence[str], settings: Generation) -> dict[str, Tensor]:
    """The tokens of captions, cleaned and cut as BLIP's retrieval does (data/utils.py, train_retrieval.py)."""
    words = (re.sub(MARKS, " ", text.lower()).split() for text in items)
    return tokens(loaded, [" ".join(some[:MOST_WORDS]) for some in words], most=MOST_TOKENS)


def pairs(loaded: Any, items: Sequence[tuple[Sample, Sequence[str]]], settings: Generation) -> dict[str, Tensor]:
    """One image, and the texts to match it with."""
    ((sample, candidates),) = items
    return {**pictures(loaded, [sample], settings), **captions(loaded, candidates, settings)}


@torch.no_grad()
def match(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The matching head's logit of "they match" for each text: what BLIP's retrieval adds to the similarity."""
    model, given = loaded.model, started(loaded.model, place(loaded.model, inputs))
    image = model.vision_model(given["pixel_values"]).last_hidden_state
    scores = []
    for some, mask in zip(*(given[key].split(TEXTS_AT_ONCE) for key in ("input_ids", "attention_mask")), strict=True):
        shown = image.expand(len(some), -1, -1)
        read = model.text_encoder(some, attention_mask=mask, encoder_hidden_states=shown).last_hidden_state
        scores.append(model.itm_head(read[:, 0])[:, 1])
    return torch.cat(scores).float().cpu()


def _bounds(loaded: Any, skill: str, settings: Generation, begun: int) -> dict[str, int]:
    (least, most), room = lengths(loaded, skill, settings), loaded.model.config.text_config.max_position_embeddings
    if not begun < most <= room:
        raise UsageError(
            f"a text of {most} tokens at most, the {begun} it begins with included, is out of range: choose a maximum "
            f"length from {begun + 1} to {room}"
        )
    return {"min_length": least, "max_length": most}


# a block that runs again in the backward pass would not find the questions' mask
ANSWERING = Lesson(loss=answering_loss, inputs=learning_inputs, lacks=lacks_answer, checkpointing=False)
MATCHING = Lesson(loss=matching_loss, inputs=matching_inputs, least_batch=2, partial=True)
RETRIEVAL = {
    "embed_images": Skill(prepare=pictures, perform=embed_images),
    "embed_texts": Skill(prepare=captions, perform=embed_texts),
    "match": Skill(prepare=pairs, perform=match),
}


def for_config(config: Any) -> Family:
    """Question answering: its decoder's cross-attention reads the question, only its encoder's reads the image."""
    if "BlipForImageTextRetrieval" in (config.architectures or ()):
        return replace(FAMILY, lesson=MATCHING, skills=RETRIEVAL)
    if "BlipForQuestionAnswering" not in (config.architectures or ()):
        return FAMILY
    # the lengths of BLIP's own `generate` (models/blip_vqa.py)
    asked = Skill(prepare=partial(prompts, skill="answer"), perform=answer, prompt=QUESTION, lengths=(1, 10))
    return replace(
        FAMILY,
        reads_image=r"^text_encoder\..*crossattention\.self\.(key|value)$",
        inputs=answering_inputs,
        call=answering_call,
        text_length=answering_length,
        lesson=ANSWERING,
        skills={"answer": asked},
    )


FAMILY = Family(
    model_types=("blip",),
    classes=("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval"),
    needs=("image", "text"),
    blocks=r"(vision_model\.encoder\.layers|text_(de|en)coder\.(bert\.)?encoder\.layer)\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"\.crossattention\.", "cross"),
        (r"^text_(de|en)coder\.(bert\.)?encoder\.layer\.", "language"),
    ),
    reads_image=r"crossattention\.self\.(key|value)$",
    inputs=inputs,
    text_length=longest_text,
    token_mask=token_mask,
    call=started_call,
    lesson=Lesson(loss=captioning_loss, inputs=captioning_inputs),
    skills={"caption": Skill(prepare=partial(prompts, skill="caption"), perform=caption, prompt=PROMPT)},
    for_config=for_config,
)
