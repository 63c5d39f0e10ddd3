"""Any other transformers model with a processor: what it reads, and which layers are which, is guessed and said so.

Guesses rest on the names of modules and on the modalities that the model's class declares. Where a text sits among a
layer's tokens is not guessed but tried: changing the tokens at padded positions must change those positions alone.
Models that write text, or classify images, are trained with the loss that they compute by themselves. What they write
goes on from a prompt padded on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from idvl.data.samples import Sample
from idvl.errors import UsageError, first_line
from idvl.models import families
from idvl.models.families import Family, Lesson, vit
from idvl.models.inputs import NO_LIMIT, image_processor_of, longest_text, pixels, prepared, process, tokenizer_of
from idvl.models.objective import IGNORED, Gather, Objective
from idvl.models.skills import (
    QUESTION,
    Generation,
    Skill,
    generating,
    lengths,
    logits,
    pictures,
    place,
    prompted,
    texts,
)
from idvl.profile import Modality

CROSS = r"(cross_?attention|cross_?attn|encoder_attn|EncDecAttention|xattn)(\.|$)"
KEY_OR_VALUE = r"\.(\w*key\w*|\w*value\w*|k|v|[kv]_proj|kv|kv_proj|k_v_proj|to_k|to_v)$"
BLOCK = r"(.*\.)?(\w*layers?|\w*blocks?|h)\.\d+"
CONNECTOR = (
    r"(multi_?modal_projector|mm_projector|_to_mm_projection|visual_projection\.\w*projection|language_projection"
    r"|connector|merger|aligner|resampler|modality_projection|image_newline|(^|[._])q_?former)"
)
# searched in the name of the stack that a block lies in
STACKS: tuple[tuple[str, Modality], ...] = (
    (r"(multi_?modal|cross_?modal|fusion|joint|x_layers)", "fusion"),
    (r"(^|[._])(vision|visual|image|img|pixel|r_layers)", "vision"),
    (r"(^|[._])(text|language|lang|llm|decoder)", "language"),
)
IN_BLOCK = rf"^{BLOCK}\."
# padded positions added to the text of the trial
PADDING = 3


class _InOrder(TorchFunctionMode):
    """Replaces drawing by counting: ViLT's forward shuffles image patches with torch.multinomial."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.multinomial:
            weights, n = args[:2]
            return torch.arange(n, device=weights.device) % weights.shape[-1]
        return func(*args, **(kwargs or {}))


def call(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    """A walk's forward pass; an encoder-decoder reads the text in both its halves."""
    if model.config.is_encoder_decoder and "input_ids" in inputs:
        inputs = {
            **inputs,
            "decoder_input_ids": inputs["input_ids"],
            "decoder_attention_mask": inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])),
        }
    with _InOrder():
        return families.call(model, inputs)


def for_config(config: Any) -> Family:
    """The generic family for what the model's class declares to read. Raises UsageError for neither image nor text."""
    reads = getattr(FAMILY.model_class(config), "input_modalities", None) or ("text",)
    reads = (reads,) if isinstance(reads, str) else tuple(reads)
    needs = tuple(kind for kind in ("image", "text") if kind in reads)
    if not needs:
        raise UsageError(f"a {config.model_type} model reads {', '.join(reads)}; idvl measures those of image and text")
    if needs == ("image",):
        modalities: tuple[tuple[str, Modality], ...] = ((IN_BLOCK, "vision"),)
    elif needs == ("text",):
        modalities = ((rf"{IN_BLOCK}.*{CROSS}", "cross"), (IN_BLOCK, "language"))
    else:
        stacks = ((rf"(?=^{BLOCK}\.).*{stack}", modality) for stack, modality in STACKS)
        modalities = ((rf"{IN_BLOCK}.*{CROSS}", "cross"), (CONNECTOR, "connector"), *stacks, (IN_BLOCK, "fusion"))
    return replace(
        FAMILY,
        needs=needs,
        modalities=modalities,
        reads_image=rf"{CROSS}.*{KEY_OR_VALUE}" if len(needs) == 2 else None,
        inputs=partial(process, needs=needs),
        text_length=partial(longest_text, needs=needs) if "text" in needs else lambda processor, samples: 0,
        lesson=_lesson(config, needs, {}),
        skills=_skills(config, needs, {}),
        notes=(
            f"{config.model_type} is not an architecture that idvl knows: that it reads {' and '.join(needs)}, "
            "and the modality of each layer, are guessed from names",
        ),
    )


def fit(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family with fixed image sizes, marked image places and the text's positions in each layer, as found out."""
    how: dict[str, Any] = {"needs": family.needs}
    notes = list(family.notes)
    if "image" in family.needs and (side := _square(processor)):
        how["square"] = side
        notes.append(f"the processor's sizes vary with the image: images are resized to {side} x {side} pixels first")
    if family.needs == ("image", "text"):
        how["placeholder"] = _placeholder(processor, how)
    tokenizer = tokenizer_of(processor)
    ends = tokenizer is not None and tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids
    family = replace(
        family,
        inputs=partial(process, **how),
        lesson=_lesson(model.config, family.needs, how),
        skills=_skills(model.config, family.needs, how, ends=ends),
    )
    if "text" in family.needs:
        family = replace(family, text_length=partial(longest_text, **how))
        offsets, said = _text_offsets(family, model, processor)
        family = replace(family, token_mask=partial(mask_at, offsets))
        notes += said
    return replace(family, notes=tuple(notes))


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The model's own mean loss, times the number of its terms."""
    mean = getattr(families.call(model, inputs), "loss", None)
    if mean is None:
        raise UsageError(f"{type(model).__name__} returns no loss for labels: idvl does not know how to train it")
    count = int((inputs["labels"] != IGNORED).sum())
    return Objective(mean * count, count, None)


def writing_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, **how: Any
) -> dict[str, Tensor]:
    """Inputs with their own tokens as labels, which the model shifts: all but the first, padding and the image."""
    shown = process(processor, samples, text_length, **how)
    tokens = shown["input_ids"]
    learnt = shown.get("attention_mask", torch.ones_like(tokens)).bool()
    learnt[:, 0] = False
    for name in ("image_token_id", "image_token_index"):
        learnt &= tokens != getattr(config, name, IGNORED)
    return {**shown, "labels": torch.where(learnt, tokens, IGNORED)}


def classifying_inputs(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, **how: Any
) -> dict[str, Tensor]:
    """pixel_values and labels (n,)."""
    labels = torch.tensor([sample.label for sample in samples])
    return {**process(processor, samples, text_length, **how), "labels": labels}


def prompts(
    loaded: Any,
    samples: Sequence[Sample],
    settings: Generation,
    *,
    skill: str,
    encodes: bool,
    ends: bool,
    square: int | None = None,
    placeholder: str = "",
) -> dict[str, Tensor]:
    """Images and prompts: padded on the left, without an end token, where what is written goes on from them.

    An encoder reads them whole (`encodes`), and may know positions by their distance from the image's alone: it gets
    the padding behind them.
    """
    images = [pixels(sample, square) for sample in samples]
    read = prompted(loaded, skill, samples, settings)
    read = [text if placeholder.strip() in text else placeholder + text for text in read]
    side = "right" if encodes else "left"
    shown = prepared(loaded.processor, images=images, text=read, padding=True, padding_side=side, return_tensors="pt")
    if encodes or not ends:
        return shown
    size = shown["input_ids"].shape
    return {key: value[:, :-1] if value.shape == size else value for key, value in shown.items()}


@torch.no_grad()
def write(loaded: Any, inputs: dict[str, Tensor], settings: Generation, *, skill: str, encodes: bool) -> list[str]:
    """What the model adds to each prompt, which one that `encodes` it does not repeat."""
    given = place(loaded.model, inputs)
    least, most = lengths(loaded, skill, settings)
    with generating(loaded.model, settings, min_new_tokens=least, max_new_tokens=most):
        written = loaded.model.generate(**given)
    return texts(loaded, written[:, 0 if encodes else given["input_ids"].shape[1] :])


def mask_at(offsets: dict[str, int], layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of a layer in which the text starts at `offsets[layer_name]`; None for layers that hold no text."""
    start = offsets.get(layer_name)
    if start is None or "attention_mask" not in inputs:
        return None
    text = inputs["attention_mask"].bool()
    mask = text.new_ones(len(text), n_tokens)
    mask[:, start : start + text.shape[1]] = text
    return mask


def mask_by_length(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Before a model is loaded: as many tokens as the text has are taken for the text."""
    mask = inputs.get("attention_mask")
    return mask.bool() if mask is not None and mask.shape[1] == n_tokens else None


def _lesson(config: Any, needs: Sequence[str], how: dict[str, Any]) -> Lesson | None:
    """How a class that transformers lists as a writer or a classifier of images is trained; None for any other."""
    from transformers.models.auto import modeling_auto as auto

    how = {"needs": needs, **how}
    name = FAMILY.model_class(config).__name__
    writers = (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    if not config.is_encoder_decoder and any(name in names.values() for names in writers):
        return Lesson(loss=loss, inputs=partial(writing_inputs, **how), partial=True)
    if any(name in names for names in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()):
        return Lesson(loss=loss, inputs=partial(classifying_inputs, **how), lacks=vit.lacks, partial=True)
    return None


def _skills(config: Any, needs: Sequence[str], how: dict[str, Any], *, ends: bool = False) -> dict[str, Skill]:
    """Text about images from a class that can generate, classes from one that transformers lists as a classifier.

    `ends`: whether the tokenizer puts an end behind a text.
    """
    from transformers.models.auto import modeling_auto as auto

    cls = FAMILY.model_class(config)
    if any(cls.__name__ in names for names in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()):
        return {"classify": Skill(prepare=partial(pictures, square=how.get("square")), perform=logits)}
    if len(needs) < 2 or not cls.can_generate():
        return {}
    encodes = bool(config.is_encoder_decoder or getattr(config.get_text_config(), "is_encoder_decoder", False))
    asked = {**{key: how[key] for key in ("square", "placeholder") if key in how}, "encodes": encodes, "ends": ends}

    def skill(name: str, **own: Any) -> Skill:
        perform = partial(write, skill=name, encodes=encodes)
        return Skill(prepare=partial(prompts, skill=name, **asked), perform=perform, **own)

    return {"caption": skill("caption"), "answer": skill("answer", prompt=QUESTION, lengths=(1, 10))}


def _picture(width: int, height: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp))


def _square(processor: Any) -> int | None:
    """The side to resize images to if this processor's output depends on their shape, else None."""
    images = image_processor_of(processor)
    shapes = []
    for size in ((96, 96), (192, 96)):
        pixels = prepared(images, images=_picture(*size), return_tensors="pt")["pixel_values"]
        shapes.append(tuple(pixels.shape))
    if shapes[0] == shapes[1]:
        return None
    size = dict(getattr(images, "size", None) or {})
    side = size.get("shortest_edge") or size.get("height") or 0
    # some processors count pixels here, not sides
    return side if 0 < side <= 1024 else 448


def _placeholder(processor: Any, how: dict[str, Any]) -> str:
    """What must stand before a text to mark its image: nothing, if the processor puts image tokens in by itself."""
    token = getattr(processor, "image_token", None)
    if token is None:
        return ""
    mark = tokenizer_of(processor).convert_tokens_to_ids(str(token))
    try:
        tokens = process(processor, [Sample(id="trial", source=_picture(96, 96), texts=("a",))], 2048, **how)
    except ValueError:
        return f"{token} "
    return "" if mark in tokens["input_ids"][0] else f"{token} "


def _text_offsets(family: Family, model: nn.Module, processor: Any) -> tuple[dict[str, int], list[str]]:
    """For each layer that holds text tokens the position of the first, and what is wrong, found by one experiment.

    The same sample runs twice with different tokens at its padded positions. What changes is padding.
    """
    tokenizer = tokenizer_of(processor)
    trial = [Sample(id="trial", source=_picture(96, 96), texts=("a",))]
    longest = family.text_length(processor, trial) + PADDING
    limit = tokenizer.model_max_length
    batch = family.inputs(processor, trial, min(longest, limit) if limit < NO_LIMIT else longest)
    mask = batch.get("attention_mask")
    if mask is None:
        return {}, ["the tokenizer gives no attention mask: the model reads its padding, and padded positions count"]
    if mask.all():
        return {}, ["the texts of this model are not padded: all positions count"]
    tokens = torch.where(mask.bool(), batch["input_ids"], _other_token(tokenizer, batch["input_ids"]))
    first = _outputs(family, model, batch)
    second = _outputs(family, model, {**batch, "input_ids": tokens})
    padded = (mask[0] == 0).nonzero().flatten()
    offsets: dict[str, int] = {}
    leaks = []
    for name in first:
        start, leak = _start(first[name], second[name], padded, mask.shape[1])
        if start is not None:
            offsets[name] = start
        if leak:
            leaks.append(name)
    if not leaks:
        return offsets, []
    return offsets, [
        f"padding reaches the real tokens of {len(leaks)} layers ({leaks[0]} ...): the model does not mask it there, "
        "and these representations depend on the length that texts are padded to"
    ]


def _start(first: Tensor, second: Tensor, padded: Tensor, length: int) -> tuple[int | None, bool]:
    """(where the text starts, whether padding leaks) for one layer's outputs (tokens, width) of the two trials."""
    difference = (first - second).abs().amax(-1)
    changed = (difference > 1e-5 * first.abs().max()).nonzero().flatten()
    if len(changed) == 0 or len(first) < length:
        return None, len(changed) > 0
    if torch.equal(changed - changed[0], padded - padded[0]) and 0 <= changed[0] - padded[0] <= len(first) - length:
        return int(changed[0] - padded[0]), False
    return (0 if len(first) == length else None), True


def _outputs(family: Family, model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each layer gives for a batch of one: (tokens, width)."""
    from idvl.models.layers import find_layers

    seen: dict[str, Tensor] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            seen.setdefault(name, output.detach().float().reshape(-1, output.shape[-1]).cpu())

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, layer in find_layers(model, family).items():
            stack.callback(layer.module.register_forward_hook(note(name)).remove)
        try:
            family.call(model, {key: value.to(model.device) for key, value in batch.items()})
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            given = ", ".join(batch)
            raise UsageError(f"{type(model).__name__} does not run on {given} alone: {first_line(error)}") from error
    return seen


def _other_token(tokenizer: Any, given: Tensor) -> int:
    """A plain token that is not in `given`."""
    taken = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, *given.flatten().tolist()}
    return next(i for i in range(len(tokenizer)) if i not in taken)


FAMILY = Family(
    model_types=(),
    classes=(),
    needs=("image", "text"),
    blocks=BLOCK,
    modalities=(),
    reads_image=None,
    inputs=process,
    text_length=longest_text,
    token_mask=mask_by_length,
    call=call,
    guessed=True,
    for_config=for_config,
    fit=fit,
)
