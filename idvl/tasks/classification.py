"""Image classification, with a fine-tuned head or zero-shot: by the class whose name is nearest to the image."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from idvl.data.fields import MOST_CLASSES, TRUTHS
from idvl.data.samples import Sample
from idvl.errors import UsageError, quoted
from idvl.metrics import accuracy, retrieval
from idvl.models.classes import numbers_in_dataset
from idvl.models.loading import Loaded
from idvl.tasks import Pass, Record, Task, TaskScores, TaskSettings, column, each, performed

ZERO_SHOT = frozenset({"embed_images", "embed_texts"})
# classes that a record lists, the likeliest first
KEPT = 5
# sentences embedded together
SENTENCES = 256
# the name of a class that says its number alone, or its synset of WordNet
NUMBER = r"((label|class)[ _-]?)?\d+|n\d{8}"

logger = logging.getLogger(__name__)


def unusable_reason(sample: Sample) -> str | None:
    """An image and its class."""
    return "no image" if sample.source is None else None if sample.label is not None else "no label (empty or -1)"


def predict(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """The likeliest classes of each image, numbered as the dataset does; a head's other classes have numbers beyond."""
    has_head = "classify" in loaded.family.skills
    if has_head:
        numbers, likelihoods = numbers_in_dataset(loaded, samples, settings.classes, settings.labels), None
    else:
        likelihoods = _of_names(loaded, settings)
        numbers = list(range(len(settings.classes)))

    def record(sample: Sample, output: Tensor) -> Record:
        top = (likelihoods(output) if likelihoods else output).topk(min(KEPT, len(numbers))).indices.tolist()
        return {"label": sample.label, "top": [numbers[place] for place in top]}

    def fits(sample: Sample, line: Record) -> bool:
        top = line.get("top")
        valid = isinstance(top, list) and all(type(number) is int and number in known for number in top)
        return line.get("label") == sample.label and valid and len(set(top)) == len(top) == min(KEPT, len(numbers))

    known = set(numbers)
    return each(loaded, samples, settings, skill="classify" if has_head else "embed_images", record=record, fits=fits)


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> TaskScores:
    """The share of images whose class comes first, and among the first five. ValueError for classes that are none."""
    labels, tops = column(records, "label", int), column(records, "top", [int])
    for line, (label, top) in enumerate(zip(labels, tops, strict=True), 1):
        if not 0 <= label < MOST_CLASSES:
            raise ValueError(f"'label' of line {line} is {quoted(label)}: a class from 0")
        if len(set(top)) != len(top) or min(top, default=0) < 0:
            raise ValueError(f"'top' of line {line} is {quoted(top)}: classes from 0, each once")
    return TaskScores(measures=accuracy.topk(labels, tops))


def _of_names(loaded: Loaded, settings: TaskSettings) -> Callable[[Tensor], Tensor]:
    """An image's cosines with the classes, each the mean of its sentences' embeddings (Radford et al. 2021, 3.1.4)."""
    if not settings.classes:
        raise UsageError(f"{loaded.name} needs the names of the classes, and the dataset has none")
    if {name.casefold() for name in settings.classes} == {*TRUTHS}:
        raise UsageError(
            f"{loaded.name} needs the names of the classes, and {' and '.join(settings.classes)} do not "
            "describe an image: write what is true of it in their place"
        )
    if bad := [template for template in settings.templates if template.count("{}") != 1]:
        raise UsageError(f"a template has one {{}} for the class's name, not {quoted(bad[0])}")
    if numbers := [name for name in settings.classes if re.fullmatch(NUMBER, name.strip().casefold())]:
        logger.warning(
            "%d of %d classes (%r first) are called by numbers, which describe an image only if it shows them: write "
            "words in their place, as another column (--label-column) or other folders may have them",
            *(len(numbers), len(settings.classes), numbers[0]),
        )
    skill = loaded.family.skills["embed_texts"]
    named = [name.replace("_", " ") for name in settings.classes]
    sentences = [template.replace("{}", name) for name in named for template in settings.templates]
    parts = [sentences[start : start + SENTENCES] for start in range(0, len(sentences), SENTENCES)]
    embedded = torch.cat(
        [performed(skill, loaded, skill.prepare(loaded, part, settings.generation), settings, part) for part in parts]
    )
    means = embedded.view(len(named), len(settings.templates), -1).mean(1)
    classes = torch.nn.functional.normalize(means, dim=-1)
    return lambda image: retrieval.similarity(classes, image[None])[:, 0]


TASK = Task(
    headline="top-1",
    skills=(frozenset({"classify"}), ZERO_SHOT),
    unusable_reason=unusable_reason,
    predict=predict,
    score=score,
    reads={"templates": (ZERO_SHOT,)},
)
