"""The dense model that a recovery distills from. It is refused where it is not what the pruned model was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from idvl.errors import UsageError, listed, quoted
from idvl.models.classes import are_others
from idvl.models.inputs import encode
from idvl.models.loading import Loaded, load
from idvl.models.probes import trial_sample
from idvl.models.processors import image_processor_of, prepared_picture, tokenizer_of
from idvl.models.reading import image_id
from idvl.pruning.head import DENSE
from idvl.recipe import ModelSection, Recipe
from idvl.session import model_before

if TYPE_CHECKING:
    from idvl.recovery.start import Start

WAY_OUT = "set teacher (--teacher) to the dense model, or leave distill out"
# by how much pixels may differ, in standard deviations: what another filter makes of a gradient is below 0.02, another
# mean and standard deviation, crop or scale make 0.2 and more
NEAR = 0.05


def teacher_of(start: Start, recipe: Recipe) -> ModelSection:
    """How the dense model is loaded: the one that the recipe names, else the one that was pruned.

    UsageError where it is not known, was not kept, or cannot be identified.
    """
    if named := recipe.recover.teacher:
        return recipe.model.model_copy(update={"name": named, "revision": None})
    pruned = start.pruned
    if pruned is None:
        raise UsageError(f"the dense model of {quoted(start.model)} is not known: {WAY_OUT}")
    if pruned.recipe.train.new_head:
        dense = pruned.run / DENSE
        if not dense.is_dir():
            raise UsageError(f"the dense model that got a new head in {quoted(pruned.run)} was not kept: {WAY_OUT}")
        if start.dense_fingerprint is None:
            raise UsageError(
                f"{quoted(pruned.run)}, of an earlier version, does not identify the weights of {quoted(dense)}: set "
                "teacher (--teacher) to that folder, or leave distill out"
            )
        return pruned.recipe.model.model_copy(update={"name": str(dense), "revision": None})
    named = {"name": model_before(pruned.run), "revision": pruned.signature.get("revision")}
    return pruned.recipe.model.model_copy(update=named)


def load_teacher(start: Start, recipe: Recipe, section: ModelSection, student: Loaded) -> Loaded:
    """The dense model. UsageError for one that is gone, has changed since, or is of another kind than the student."""
    try:
        teacher = load(device=student.model.device, **section.model_dump(exclude={"device"}))
    except UsageError as error:
        what = "the teacher cannot be loaded" if recipe.recover.teacher else "the dense model is gone"
        raise UsageError(f"{what} ({error}): {WAY_OUT}") from error
    is_other = teacher.description["fingerprint"] != start.dense_fingerprint
    if start.pruned and recipe.recover.teacher is None and is_other:
        raise UsageError(f"{quoted(section.name)} has changed since {quoted(start.pruned.run)} pruned it: {WAY_OUT}")
    _check_kind(teacher, student)
    check_images(teacher, student)
    return teacher


def _check_kind(teacher: Loaded, student: Loaded) -> None:
    """UsageError for a teacher whose logits do not compare with the student's."""
    kinds = [type(loaded.model).__name__ for loaded in (teacher, student)]
    if kinds[0] != kinds[1]:
        raise UsageError(f"the teacher {quoted(teacher.name)} is a {kinds[0]}, the pruned model a {kinds[1]}")
    sizes = [
        (getattr(loaded.model.config.get_text_config(), "vocab_size", None), loaded.model.config.num_labels)
        for loaded in (teacher, student)
    ]
    words = [getattr(tokenizer_of(loaded.processor), "get_vocab", dict)() for loaded in (teacher, student)]
    if sizes[0] != sizes[1] or words[0] != words[1]:
        raise UsageError(f"the teacher {quoted(teacher.name)} has another vocabulary, or other classes, than the model")
    rows = [{name: row for row, name in loaded.model.config.id2label.items()} for loaded in (teacher, student)]
    if are_others([*rows[0]], [*rows[1]]):
        raise UsageError(f"the teacher {quoted(teacher.name)} knows other classes than the model: {WAY_OUT}")
    if moved := sorted(name for name in rows[0].keys() & rows[1].keys() if rows[0][name] != rows[1][name]):
        raise UsageError(
            f"the teacher {quoted(teacher.name)} lists its classes in another order than the model ({quoted(moved[0])} "
            f"first): {WAY_OUT}"
        )


def check_images(teacher: Loaded, student: Loaded) -> None:
    """UsageError for a teacher that reads other pixels or image tokens than the student's processor prepares."""
    processors = [image_processor_of(loaded.processor) for loaded in (teacher, student)]
    if None in processors:
        return
    # neither square nor of one color, so that a crop, a padding or a change of its proportions shows
    shown = [prepared_picture(processor, 192, 96).values() for processor in processors]
    pixels = [[value.float() for value in values if isinstance(value, Tensor)] for values in shown]
    shapes = [[tuple(value.shape) for value in values] for values in pixels]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"the teacher {quoted(teacher.name)} takes images in another size than the pruned model's processor "
            f"prepares ({_written(shapes[0])}, not {_written(shapes[1])}): {WAY_OUT}"
        )
    if any((one - other).abs().max() > NEAR * max(1, other.std()) for one, other in zip(*pixels, strict=True)):
        settings = [processor.to_dict() for processor in processors]
        differing = sorted(key for key, value in settings[0].items() if settings[1].get(key, value) != value)
        raise UsageError(
            f"the teacher {quoted(teacher.name)} takes other pixels than the pruned model's processor prepares "
            f"(by its {listed(differing)}): {WAY_OUT}"
        )
    counts = [_image_tokens(loaded) for loaded in (teacher, student)]
    if counts[0] != counts[1]:
        raise UsageError(
            f"the teacher {quoted(teacher.name)} reads an image as {counts[0]} tokens, the pruned model as "
            f"{counts[1]}: {WAY_OUT}"
        )


def _written(shapes: list[tuple[int, ...]]) -> str:
    """Shapes of the values of one image, without the batch."""
    return ", ".join(" x ".join(map(str, shape[1:] or shape)) for shape in shapes)


def _image_tokens(loaded: Loaded) -> int:
    """How many tokens of a text stand for its image; 0 where the model reads the image beside the text."""
    image = image_id(loaded.model.config)
    if image is None:
        return 0
    (batch,) = encode(loaded, [trial_sample()], batch_size=1)
    return int((batch["input_ids"] == image).sum())
