"""What a model is for and how well it does it: one file a task, found by listing this folder.

A task file exposes one object, TASK; its key is the file's name. A task asks a family for skills, never for a class.
It knows neither files nor processes.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from math import isfinite
from typing import TYPE_CHECKING, Any

from torch import Tensor

from idvl.errors import RunError, UsageError, quoted, unknown
from idvl.metrics.measured import Measured, Skipped
from idvl.models.families.base import Skill
from idvl.models.generation import Generation, NotFiniteError

if TYPE_CHECKING:
    from idvl.data.samples import Sample, Selection
    from idvl.models.loading import Loaded

# what a line of a predictions file says of an item, JSON-ready
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """The settings of all tasks; each reads its own.

    `classes`: the names of the dataset's classes, None where it has none; then `labels`: the smallest and the largest
    number of one, where all are known. `templates`: sentences with {} for a class,
    for models that compare images with texts. `rerank`: candidates that a matching head looks at. `evaluator`: how
    answers are compared with those of people, a word of `metrics.vqa`.
    """

    generation: Generation
    classes: tuple[str, ...] | None = None
    labels: tuple[int, int] | None = None
    templates: tuple[str, ...] = Skill.templates
    rerank: int = 128
    evaluator: str = "vqa"


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of a model over all items, in batches of any size.

    `prepare` makes a batch of model inputs on the CPU, possibly in another process; `perform` a record for each item.
    `fits`: whether a record found on disk can be an item's: its references are the dataset's, its values in range.
    """

    items: Sequence[Any]
    ids: Sequence[str]
    prepare: Callable[[Sequence[Any]], Any]
    perform: Callable[[Sequence[Any], Any], list[Record]]
    fits: Callable[[Any, Record], bool] = lambda item, record: True


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """What predictions are worth: metrics by name, those left out and why, and what the numbers depend on."""

    measures: dict[str, Measured]
    skipped: dict[str, Skipped] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task's contract.

    `skills`: sets of skills, each of which is enough. `unusable_reason`: of a sample, None if it is usable. `labelled`:
    the selection for a model, its labels as the task reads them; UsageError for those that it cannot read.
    `predict` is the pass over the samples, `refine` a second one that depends on the first one's records, where a model
    can do it. `score` reads the records of both and nothing else. `headline` names the metric that a table shows.
    `reads`: settings that not every task reads -> sets of skills, each of which makes use of them; those of how text is
    written go with the skills that write it, as `unread` of a skill says.
    `ready` raises UsageError where something that scoring needs is not installed. `gathered`: whether all rows of an
    image are one sample, whose texts are captions.
    """

    headline: str
    skills: tuple[frozenset[str], ...]
    unusable_reason: Callable[[Sample], str | None]
    predict: Callable[[Loaded, Sequence[Sample], TaskSettings], Pass]
    score: Callable[[Sequence[Record], Sequence[Record]], TaskScores]
    refine: Callable[[Loaded, Sequence[Sample], TaskSettings, Sequence[Record]], Pass | None] | None = None
    reads: Mapping[str, tuple[frozenset[str], ...]] = field(default_factory=dict)
    ready: Callable[[], None] | None = None
    labelled: Callable[[Loaded, Selection], Selection] = lambda loaded, selection: selection
    gathered: bool = False


def each(
    loaded: Loaded,
    samples: Sequence[Sample],
    settings: TaskSettings,
    *,
    skill: str,
    record: Callable[[Sample, Any], Record],
    fits: Callable[[Sample, Record], bool],
) -> Pass:
    """The pass of one skill over the samples: `record` is made of each and of what the skill gives for it."""
    ability = loaded.family.skills[skill]

    def perform(some: Sequence[Sample], inputs: Any) -> list[Record]:
        outputs = performed(ability, loaded, inputs, settings, [sample.id for sample in some])
        return [record(*pair) for pair in zip(some, outputs, strict=True)]

    return Pass(
        items=samples,
        ids=[sample.id for sample in samples],
        prepare=lambda some: ability.prepare(loaded, some, settings.generation),
        perform=perform,
        fits=fits,
    )


def column(records: Sequence[Record], key: str, kind: type | list[type]) -> list[Any]:
    """One value of each record, of a type, or a list of it: [str]. KeyError, and ValueError for other types."""
    values = [record[key] for record in records]
    for number, value in enumerate(values, 1):
        if isinstance(kind, list):
            sound = type(value) is list and all(type(part) is kind[0] for part in value)
        else:
            sound = type(value) is kind
        if not sound:
            raise ValueError(f"{key!r} of line {number} is {quoted(value)}")
    return values


def numbers(values: Any, count: int) -> bool:
    """Whether values read from JSON are a list of `count` finite numbers."""
    return isinstance(values, list) and len(values) == count and all(type(v) is float and isfinite(v) for v in values)


def performed(
    skill: Skill, loaded: Loaded, inputs: Any, settings: TaskSettings, names: Sequence[str]
) -> list[str] | Tensor:
    """What a skill gives for a batch. RunError, with the first of the `names` concerned, where it is NaN or inf."""
    try:
        output = skill.perform(loaded, inputs, settings.generation)
    except NotFiniteError as error:
        # beam search has several rows an item, side by side
        raise _not_finite(loaded, names[error.row * len(names) // error.rows]) from error
    if isinstance(output, Tensor) and not output.isfinite().all():
        raise _not_finite(loaded, names[int(output.isfinite().reshape(len(output), -1).all(1).int().argmin())])
    return output


def _not_finite(loaded: Loaded, name: str) -> RunError:
    return RunError(
        f"the output of {loaded.name} for {name} is NaN or inf: look for NaN in the weights, for a zero in the image "
        "processor's image_std, or try dtype float32"
    )


@cache
def names() -> tuple[str, ...]:
    """The keys of all tasks."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Task:
    """The task of that name. Raises UsageError, with the nearest name, for one that does not exist."""
    if name not in names():
        raise unknown("task", name, names())
    return import_module(f"{__name__}.{name}").TASK


def possible(skills: Iterable[str]) -> list[str]:
    """The tasks that a model with these skills can do."""
    return [name for name in names() if any(needed <= set(skills) for needed in load(name).skills)]


def choose(name: str | None, skills: Mapping[str, Any], *, model: str, offered: Sequence[str] | None) -> str:
    """The task to do: `name`, or the first that the model can do and the dataset is for.

    `offered`: what the dataset is for, None where that isn't known. Raises UsageError for what cannot be done.
    """
    able = possible(skills)
    if name is not None:
        if load(name) and name not in able:
            raise UsageError(f"{model} cannot do {name}: {'it can do ' + ', '.join(able) if able else _nothing()}")
        return name
    fitting = [task for task in able if offered is None or task in offered]
    if not fitting:
        purpose = f"the dataset is for {', '.join(offered)}" if offered else "its dataset is for none"
        raise UsageError(f"{model} can do {', '.join(able)}; {purpose}" if able else f"{model}: {_nothing()}")
    return fitting[0]


def _nothing() -> str:
    return "it has no head for any task; load a checkpoint that writes, classifies or embeds"
