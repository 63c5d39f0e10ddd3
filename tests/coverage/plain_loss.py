"""The loss of a plain training script, with labels for the answer or caption and the token that ends it alone."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from tests.coverage.architectures import Architecture
from tests.coverage.plain import Processor, forward_inputs

IGNORED = -100
Row = tuple[list[Image.Image], dict[str, Any]]
# no such script is written down here: masked words, sets of answers, groups drawn at random in training
WITHOUT = ("groupvit", "bert", "t5", "bart", "flava_pretraining", "lxmert", "visualbert", "vilt_vqa")
# how a chat ends an answer, where it is not the tokenizer's own end
ENDS = {
    **dict.fromkeys(("idefics2", "idefics3", "smolvlm"), "<end_of_utterance>"),
    **dict.fromkeys(("pixtral", "mistral3"), "[/INST]"),
    "gemma3": "<end_of_turn>",
}
WRITTEN_APART = ("vit_gpt2", "trocr", "pix2struct", "florence2", "blip2_t5", "instructblip_t5", "blip_vqa")


@torch.no_grad()
def loss(loaded: nn.Module, about: Architecture, processor: Processor, rows: list[Row]) -> float | None:
    """The mean over all terms of all rows, each by itself; of classifiers and towers, over the rows as one batch."""
    if about.kind == "towers" and about.name not in WITHOUT:
        return _contrastive(loaded, processor, rows)
    if about.name in WITHOUT or about.task in ("retrieval", "reasoning"):
        return None
    if about.kind == "vision":
        return _classifying(loaded, processor, rows) if about.task else None
    total = count = 0.0
    for pictures, row in rows:
        inputs, labels = _labelled(about, processor, pictures, row)
        shifted = labels if about.name in WRITTEN_APART and about.name != "blip_vqa" else labels[:, 1:]
        terms = int((shifted != IGNORED).sum())
        arguments = forward_inputs(loaded, about, inputs)
        if about.name in WRITTEN_APART:  # what the decoder reads the model makes of the labels
            arguments.pop("decoder_input_ids", None)
        total += float(loaded(**{**arguments, "labels": labels}).loss) * terms
        count += terms
    return total / count


def _labelled(about: Architecture, processor: Processor, pictures: list, row: dict[str, Any]) -> tuple[dict, Tensor]:
    answer = row["answers"][0] if "answers" in row else row["caption"]
    if about.kind == "text":
        return _read(processor.tokenizer, answer)
    if about.name == "paligemma":
        shown = processor.both(pictures[0], f"{about.marker}{about.prompt}", suffix=answer, return_tensors="pt")
        return dict(shown), dict(shown)["labels"]
    if getattr(processor.both, "chat_template", None):
        question = about.prompt.replace("{}", row["question"]) if "question" in row else ""
        return _answering(processor, pictures, question, answer)
    if about.name == "chameleon":
        return _separated(processor, pictures, answer)
    if about.name in WRITTEN_APART:
        return processor.inputs(pictures, _asked(about, row)), _ended(processor.tokenizer, answer)
    return _written_on(about, processor, pictures, _asked(about, row), answer)


def _asked(about: Architecture, row: dict[str, Any]) -> str:
    """The authors' prompt with the question, where idvl trains with it; else the question alone."""
    trained = about.name in WRITTEN_APART or about.name in ("blip2_opt", "instructblip_vicuna")
    return about.prompt.replace("{}", row.get("question", "")) if trained else row.get("question", "")


def _read(tokenizer: Any, text: str) -> tuple[dict, Tensor]:
    tokens = _ended(tokenizer, text)
    return {"input_ids": tokens}, tokens.clone()


def _ended(tokenizer: Any, text: str) -> Tensor:
    """The tokens of a text, the last of them the one that ends it."""
    ids = tokenizer(text)["input_ids"]
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return torch.tensor([ids if ids[-1] == end else [*ids, end]])


def _answering(processor: Processor, pictures: list, question: str, answer: str) -> tuple[dict, Tensor]:
    """Question and answer in the chat's words; labels are the answer and the token that ends it."""
    content = [{"type": "image"}, *([{"type": "text", "text": question}] if question else [])]
    turns = [{"role": "user", "content": content}]
    replied = [*turns, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    whole = processor.both.apply_chat_template(replied)
    prompt = processor.both.apply_chat_template(turns, add_generation_prompt=True)
    before = whole[: whole.rindex(answer)]
    if not before.startswith(prompt):  # the template calls the writer otherwise there
        before = prompt
    end = ENDS.get(processor.about.name, processor.tokenizer.eos_token)
    bos = processor.tokenizer.bos_token
    more = {"add_special_tokens": not (bos and whole.startswith(bos)), "return_tensors": "pt"}
    begun, inputs = (
        dict(processor.both(images=[pictures], text=[text], **more)) for text in (before, before + answer + end)
    )
    labels = inputs["input_ids"].clone()
    labels[:, : _shared(begun["input_ids"], labels)] = IGNORED
    return inputs, labels


def _separated(processor: Processor, pictures: list, answer: str) -> tuple[dict, Tensor]:
    """The picture, the mark that parts it from the answer, and the answer with its end, which alone is learnt."""
    begun = dict(processor.both(images=pictures, text="<image>", return_tensors="pt"))["input_ids"]
    text = f"<image>{processor.tokenizer.sep_token}{answer}{processor.tokenizer.eos_token}"
    inputs = dict(processor.both(images=pictures, text=text, return_for_text_completion=True, return_tensors="pt"))
    labels = inputs["input_ids"].clone()
    labels[:, : begun.shape[1]] = IGNORED
    return inputs, labels


def _written_on(
    about: Architecture, processor: Processor, pictures: list, question: str, answer: str
) -> tuple[dict, Tensor]:
    """A decoder that writes on from a question, or from the picture alone."""
    tokenizer = processor.tokenizer
    text = f"{question} {answer}".strip()
    inputs = processor.inputs(pictures, text)
    ids = inputs["input_ids"]
    if ids[0, -1] not in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        inputs = processor.inputs(pictures, text + tokenizer.eos_token)
        ids = inputs["input_ids"]
    labels = ids.clone()
    if "qformer_input_ids" in inputs:  # which reads both ways, and must not see the answer
        asked = processor.inputs(pictures, f"{question} ")
        inputs |= {key: value for key, value in asked.items() if key.startswith("qformer_")}
    labels[:, : _shared(processor.inputs(pictures, question)["input_ids"], ids)] = IGNORED
    return inputs, labels


def _shared(begun: Tensor, whole: Tensor) -> int:
    """How many tokens at the start are those of the prompt alone."""
    length = min(begun.shape[1], whole.shape[1])
    return int((begun[0, :length] == whole[0, :length]).long().cumprod(0).sum())


def _classifying(loaded: nn.Module, processor: Processor, rows: list[Row]) -> float:
    """In training mode, in which batches are normalised by themselves."""
    pixels = processor.images([one for (one,), _ in rows], return_tensors="pt")["pixel_values"]
    return float(loaded.train()(pixels, labels=torch.tensor([row["label"] for _, row in rows])).loss)


def _contrastive(loaded: nn.Module, processor: Processor, rows: list[Row]) -> float | None:
    padding = "max_length" if processor.about.name.startswith("siglip") else True
    texts = [row["caption"] for _, row in rows]
    inputs = processor.both(images=[one for (one,), _ in rows], text=texts, padding=padding, return_tensors="pt")
    # without dropout this changes what is normalised by the batch alone
    loaded.train()
    return float(loaded(**inputs, return_loss=True).loss) if "owl" not in processor.about.name else None
