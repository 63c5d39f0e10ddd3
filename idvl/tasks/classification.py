"""Image classification, with a fine-tuned head or zero-shot: by the class whose name is nearest to the image."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from idvl.data.fields import MOST_CLASSES
from idvl.data.samples import Sample
from idvl.errors import UsageError, listed, quoted
from idvl.metrics import accuracy, retrieval
from idvl.models.loading import Loaded
from idvl.tasks import Pass, Record, Task, TaskScores, TaskSettings, column, each, performed

# classes that a record lists, the likeliest first
KEPT = 5
# the name of a class that says its number alone
NUMBERED = r"(label|class)? ?\d+|"
# sentences embedded together
SENTENCES = 256
# the share of names spelt otherwise at the same position, above which a position does not say which class is which
MOST_UNLIKE = 0.25

logger = logging.getLogger(__name__)


def unusable_reason(sample: Sample) -> str | None:
    """An image and its class."""
    return "no image" if sample.source is None else None if sample.label is not None else "no label"


def predict(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """The likeliest classes of each image, numbered as the dataset does; a head's other classes have numbers beyond."""
    has_head = "classify" in loaded.family.skills
    if has_head:
        numbers, likelihoods = _numbers_of_head(loaded, samples, settings), None
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


def _numbers_of_head(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> list[int]:
    """The dataset's number of each class of the head.

    Classes are matched by name where both have the same names or the same numbers as names, or where names that both
    have stand elsewhere or are more on one side; else by position. UsageError where the head lacks the class of a
    sample, has another number of classes or other names throughout, on both sides more than numbers; and where names
    that are numbers do not ascend, so that a position says nothing.
    """
    config = loaded.model.config
    own = [_plain(config.id2label.get(number, "")) for number in range(config.num_labels)]
    expected = [_plain(name) for name in settings.classes or ()]
    for names_here, names_there in ((own, expected), (_numbers(own), _numbers(expected))):
        if names_there and len(set(names_here)) == len(names_here) and sorted(names_here) == sorted(names_there):
            return [names_there.index(name) for name in names_here]
    if not _in_the_same_places(own, expected):
        return _by_name(loaded.name, own, expected, samples)
    most = max(len(expected), 1 + max(sample.label for sample in samples))
    if most > len(own) or (expected and len(expected) != len(own)):
        raise UsageError(
            f"{loaded.name} tells {len(own)} classes apart, the dataset has {most}: evaluate it on the dataset that "
            "its head was trained for, or train a head with idvl prune --new-head"
        )
    if expected and not set(own) & set(expected) and not (_numbered(own) or _numbered(expected)):
        raise UsageError(
            f"{loaded.name} knows other classes ({own[0]}, ...) than the dataset's ({expected[0]}, ...): evaluate it "
            "on the dataset that its head was trained for"
        )
    for whose, names in (("the dataset", expected), (loaded.name, own)):
        numbers = _numbers(names) if expected else []
        if at := next((at for at in range(1, len(numbers)) if numbers[at] <= numbers[at - 1]), None):
            raise UsageError(
                f"the classes of {whose} are called by numbers that do not ascend ({quoted(names[at])} follows "
                f"{quoted(names[at - 1])}), and the other side's names do not tell which is which: rename the classes, "
                "or set id2label in the model's config.json, so that both have the same names"
            )
    return list(range(len(own)))


def _in_the_same_places(own: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether a position may say which class is which: names that both have stand at the same ones.

    Most of the others must be spelt alike, too. Names that are numbers may count from anywhere.
    """
    places, places_there = _places(own), _places(expected)
    if not {*own} & {*expected} or (len(own) == len(expected) and _numbers(own) and _numbers(expected)):
        return True
    unlike = [pair for pair in zip(own, expected, strict=False) if not _alike(*pair)]
    if len(own) != len(expected) or len(unlike) > MOST_UNLIKE * len(own):
        return False
    if any(places[name] != places_there[name] for name in places.keys() & places_there.keys()):
        return False
    if unlike:
        logger.warning(
            "classes are matched by position, and %d of %d names differ: the model's %r counts as the dataset's %r%s",
            *(len(unlike), len(own), *unlike[0], ", ..." if len(unlike) > 1 else ""),
        )
    return True


def _alike(name: str, other: str) -> bool:
    """Whether two names spell one class: "tench", "tench, Tinca tinca"; "sea lion", "sealion"."""
    words, others = set(name.split()), set(other.split())
    return words <= others or others <= words or name.replace(" ", "") == other.replace(" ", "")


def _by_name(model: str, own: Sequence[str], expected: Sequence[str], samples: Sequence[Sample]) -> list[int]:
    """The dataset's number of each class of the head, by name; beyond them, for a class that the dataset has not.

    UsageError where a sample is of a class that the head lacks.
    """
    places, places_there = _places(own), _places(expected)
    shared = places.keys() & places_there.keys()
    lacking = Counter(sample.label for sample in samples if expected[sample.label] not in shared)
    if lacking:
        names = listed([expected[label] for label in sorted(lacking)])
        raise UsageError(
            f"{model} lacks classes of the dataset, or several have one name ({names}; {lacking.total():,} of "
            f"{len(samples):,} samples): remove these samples, rename the classes as in the model's config.json, or "
            "train a head with idvl prune --new-head"
        )
    numbers = {places[name]: places_there[name] for name in shared}
    others = iter(range(len(expected), len(expected) + len(own)))
    return [numbers[place] if place in numbers else next(others) for place in range(len(own))]


def _places(names: Sequence[str]) -> dict[str, int]:
    """Where each name stands that stands for one class alone."""
    counts = Counter(names)
    return {name: place for place, name in enumerate(names) if counts[name] == 1 and name}


def _of_names(loaded: Loaded, settings: TaskSettings) -> Callable[[Tensor], Tensor]:
    """An image's cosines with the classes, each the mean of its sentences' embeddings (Radford et al. 2021, 3.1.4)."""
    if not settings.classes:
        raise UsageError(f"{loaded.name} needs the names of the classes, and the dataset has none")
    if bad := [template for template in settings.templates if template.count("{}") != 1]:
        raise UsageError(f"a template has one {{}} for the class's name, not {quoted(bad[0])}")
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


def _numbered(names: Sequence[str]) -> bool:
    """Whether the names of classes say their numbers alone, as `LABEL_3` does."""
    return all(re.fullmatch(NUMBERED, name) for name in names)


def _numbers(names: Sequence[str]) -> list[int]:
    """The numbers that classes are called by; none where one of them has another name."""
    matches = [re.fullmatch(r"(?:label|class)? ?(\d+)", name) for name in names]
    return [int(match[1]) for match in matches] if all(matches) else []


def _plain(name: str) -> str:
    """A class's name without case, punctuation and underscores."""
    return re.sub(r"[\W_]+", " ", str(name)).strip().casefold()


TASK = Task(
    headline="top-1",
    skills=(frozenset({"classify"}), frozenset({"embed_images", "embed_texts"})),
    unusable_reason=unusable_reason,
    predict=predict,
    score=score,
)
