"""The dense model that a recovery distills from. It is refused where it is not what the pruned model was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idvl.errors import UsageError, quoted
from idvl.models.classes import are_others
from idvl.models.loading import Loaded, load
from idvl.models.processors import tokenizer_of
from idvl.recipe import Recipe

if TYPE_CHECKING:
    from idvl.recovery.start import Start

WAY_OUT = "set teacher (--teacher) to the dense model, or leave distill out"


def load_teacher(start: Start, recipe: Recipe, student: Loaded) -> Loaded:
    """The dense model: the one that the recipe names, else the one that was pruned.

    Raises UsageError for one that is gone, has changed since, or is of another kind than the student.
    """
    named = recipe.recover.teacher
    if named is None and start.recipe is None:
        raise UsageError(f"the dense model of {quoted(start.model)} is not known: {WAY_OUT}")
    if named is None and start.recipe.train.new_head:
        raise UsageError(f"the dense model that got a new head in {quoted(start.run)} was not kept: {WAY_OUT}")
    section = recipe.model if named else start.recipe.model
    options = section.model_dump(exclude={"name", "device", "revision"})
    name = named or start.recipe.model.name
    revision = None if named else start.signature.get("revision") or section.revision
    try:
        teacher = load(name, device=student.model.device, revision=revision, **options)
    except UsageError as error:
        raise UsageError(f"the dense model is gone ({error}): {WAY_OUT}") from error
    expected = start.signature.get("fingerprint")
    if named is None and teacher.description["fingerprint"] != expected:
        raise UsageError(f"{quoted(name)} has changed since {quoted(start.run)} pruned it: {WAY_OUT}")
    _check_kind(teacher, student)
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
