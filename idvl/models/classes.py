"""Which class of a dataset each class of a classifier's head is: the one definition of training and evaluation."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from idvl.errors import UsageError, listed, quoted
from idvl.models.statements import with_truths

if TYPE_CHECKING:
    from idvl.data.samples import Sample, Selection
    from idvl.models.loading import Loaded

# the name of a class that says its number alone
NUMBERED = r"(label|class)? ?\d+|"
# the share of names spelt otherwise at the same position, above which a position does not say which class is which
MOST_UNLIKE = 0.25
# words with which a longer name is of another class
OF_ANOTHER = {"no", "not", "non", "without", "and", "or"}
# samples that would hold a label 0 where labels count from 0
ENOUGH = 20
COUNTED_FROM_1 = (
    "no label is 0, and the smallest is %d: labels count the classes of %s from 0; where they count from 1, every "
    "class is off by one"
)
NUMBERS_AND_NAMES = (
    "classes are matched by position: %s calls them by numbers (%r first), %s by names (%r first), and the order of "
    "the names is taken for the numbers; if it is another one, give both the same names, in the dataset or as "
    "id2label in the model's config.json"
)
NAMES_UNKNOWN = (
    "labels are numbers without names (true is 1, false 0) and count the classes of %s from 0: 0 is %r; if a column of "
    "the dataset holds the names, read it with label_column (--label-column)"
)
TAKEN_FOR_NAMES = (
    "labels are numbers without names, and are taken for the numbers that %s calls its classes by, not for positions: "
    "%d is the class %r at position %d; if they count positions, give the classes other names than numbers, as "
    "id2label in the model's config.json"
)
TAKEN_FOR_POSITIONS = (
    "labels are numbers without names, and are taken for positions, since %s calls its classes by other numbers: %d is "
    "the class %r"
)

BY_DEFAULT = (
    "%s calls its classes LABEL_0, LABEL_1, ..., as transformers does without names, and the dataset's %s may be "
    "LABEL_%d, or LABEL_%d by its position: give both the same names, in the dataset or as id2label in the model's "
    "config.json"
)

logger = logging.getLogger(__name__)


def with_labels_of_head(loaded: Loaded, selection: Selection) -> Selection:
    """The selection with its samples' labels numbered as the classes of the head, or as `with_truths` of statements.

    UsageError as for `numbers_in_dataset` and `with_truths`. Samples without a label, and models that read none, stay
    as they are.
    """
    if "verify_statement" in loaded.family.skills:
        return with_truths(loaded, selection)
    samples = selection.samples
    labelled = [sample for sample in samples if sample.label is not None]
    if "classify" not in loaded.family.skills or not labelled:
        return selection
    described = selection.description
    numbers = numbers_in_dataset(loaded, labelled, described.get("classes"), described.get("labels"))
    if numbers == list(range(len(numbers))):
        return selection
    rows = {number: row for row, number in enumerate(numbers)} | {None: None}
    return replace(selection, samples=[replace(sample, label=rows[sample.label]) for sample in samples])


def numbers_in_dataset(
    loaded: Loaded, samples: Sequence[Sample], classes: Sequence[str] | None, labels: Sequence[int] | None = None
) -> list[int]:
    """The dataset's number of each class of the head. `labels`: the smallest and the largest of all its samples.

    Classes are matched by name where both have the same names or the same numbers as names, or where names that both
    have stand elsewhere or are more on one side; else by position, with a warning where names stand against numbers.
    UsageError where the head lacks the class of a sample or has another number of classes, and as for
    `_check_positions` and `_are_names`. A warning where classes that have numbers alone seem to be counted from 1,
    unless the head's are called 0, 1, 2 ..., or where the head's have names.
    """
    config = loaded.model.config
    names = [str(config.id2label.get(number, "")) for number in range(config.num_labels)]
    own, expected = ([_plain(name) for name in side] for side in (names, classes or ()))
    numbers, others = _numbers(own), _numbers(expected)
    if others != sorted(others) and {*others} <= {*numbers} and names == [f"LABEL_{row}" for row in range(len(names))]:
        at = next(place for place, number in enumerate(others) if number != place)
        raise UsageError(BY_DEFAULT % (loaded.name, quoted(str((classes or ())[at])), others[at], at))
    if numbers and others:
        own, expected = ([str(number) for number in side] for side in (numbers, others))
    # classes that are called 0, 1, 2 ... say which label each is, as those of a new head do
    says_labels = names == [str(row) for row in range(len(names))]
    # names as they are written tell classes apart that differ in case only
    for here, there in ((names, [*map(str, classes or ())]), (own, expected)):
        if there and len(set(here)) == len(here) and sorted(here) == sorted(there):
            return [there.index(name) for name in here]
    if own == expected:
        return list(range(len(own)))
    if not _in_the_same_places(own, expected):
        if numbers and others and min(others) > 0 and not says_labels:
            logger.warning(COUNTED_FROM_1, min(others), loaded.name)
        return _by_name(loaded.name, own, expected, samples, written=[*(classes or ())])
    drawn = [sample.label for sample in samples]
    lowest, highest = labels or (min(drawn), max(drawn))
    if not expected and _are_names(loaded.name, names, numbers, {*drawn, lowest, highest}):
        return numbers
    if highest >= len(own) or (expected and len(expected) != len(own)):
        from_0 = "number the classes from 0, " if lowest > 0 and highest == len(own) else ""
        numbered = f"labels 0 to {len(own) - 1}, and the largest label is {highest}: {from_0}"
        raise UsageError(
            f"{loaded.name} tells {len(own)} classes apart, "
            f"{f'the dataset has {len(expected)}: ' if expected else numbered}use the dataset that its head was "
            "trained for, or train a head with idvl prune --new-head"
        )
    if expected:
        _check_positions(loaded.name, own, expected)
        if _numbered(own) != _numbered(expected):
            sides = [(loaded.name, names[0]), ("the dataset", str(classes[0]))]
            by_number, by_name = sides if _numbered(own) else reversed(sides)
            logger.warning(NUMBERS_AND_NAMES, *by_number, *by_name)
    elif lowest > 0 and not says_labels and (labels or len(drawn) >= ENOUGH):
        logger.warning(COUNTED_FROM_1, lowest, loaded.name)
    elif not _numbered(own):
        logger.warning(NAMES_UNKNOWN, loaded.name, names[0])
    return list(range(len(own)))


def _are_names(model: str, names: Sequence[str], numbers: Sequence[int], labels: set[int]) -> bool:
    """Whether labels are the numbers that the head's classes are called by, rather than their positions.

    They are, with a warning, where the numbers are the positions in another order, as those of the sorted folders 0, 1,
    10, 2 ..., or where labels are beyond the positions. UsageError where other numbers may be either, as those of a
    head that is called by negative numbers too, by words, or by words with a number.
    """
    positions = range(len(numbers))
    if not numbers or len({*numbers}) < len(numbers):
        places = _of_numbers(names)
        for label in sorted(labels & {*range(len(names))}):
            if places.get(label, label) != label:
                raise UsageError(_either(model, names, label, places[label]))
        return False
    differing = [label for label in sorted(labels) if label not in positions or numbers[label] != label]
    if not differing:
        return False
    first, beyond = differing[0], differing[-1] not in positions
    if not labels <= {*numbers}:
        if not beyond:
            logger.warning(TAKEN_FOR_POSITIONS, model, first, names[first])
        return False
    place = numbers.index(first)
    if not beyond and {*numbers} != {*positions}:
        raise UsageError(_either(model, names, first, place))
    logger.warning(TAKEN_FOR_NAMES, model, first, names[place], place)
    return True


def _of_numbers(names: Sequence[str]) -> dict[int, int]:
    """The places of names by their numbers: of all names, as `person_2` and `2.0`, where these count all of them.

    Else of names that are a number alone.
    """
    alone = {int(name): place for place, name in enumerate(names) if re.fullmatch(r"-?[0-9]{1,18}", name)}
    found = [re.findall(r"[0-9]{1,18}", re.sub(r"^([0-9]+)\.0*$", r"\1", name)) for name in names]
    counted = {int(one[0]): place for place, one in enumerate(found) if len(one) == 1}
    return counted if counted.keys() == {*range(len(names))} else alone


def _either(model: str, names: Sequence[str], label: int, place: int) -> str:
    """That a label may be the class of that number, at `place`, or the one at its position."""
    return (
        f"labels are numbers without names, and {label} may be the class {quoted(names[place])} of {model} or the "
        f"one at position {label}, {quoted(names[label])}: give the classes names without numbers, in the "
        "dataset and as id2label in the model's config.json"
    )


def _check_positions(model: str, own: Sequence[str], expected: Sequence[str]) -> None:
    """UsageError where positions do not say which class is which: other names throughout, or numbers out of order."""
    if are_others(own, expected):
        raise UsageError(
            f"{model} knows other classes ({own[0]}, ...) than the dataset's ({expected[0]}, ...): use the dataset "
            "that its head was trained for, give both the same names, in the dataset or as id2label in the model's "
            "config.json, or train a head with idvl prune --new-head"
        )
    for whose, names in (("the dataset", expected), (model, own)):
        numbers = _numbers(names)
        if at := next((at for at in range(1, len(numbers)) if numbers[at] <= numbers[at - 1]), None):
            raise UsageError(
                f"the classes of {whose} are called by numbers that do not ascend ({quoted(names[at])} follows "
                f"{quoted(names[at - 1])}), and the other side's names do not tell which is which: rename the classes, "
                "or set id2label in the model's config.json, so that both have the same names"
            )


def are_others(own: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether two lists of names have none in common, and are more than numbers."""
    plain = [[_plain(name) for name in names] for names in (own, expected)]
    return not set(plain[0]) & set(plain[1]) and not any(map(_numbered, plain))


def _in_the_same_places(own: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether a position may say which class is which: names that both have stand at the same ones.

    Most of the others must be spelt alike, too. Names that are numbers may count from anywhere.
    """
    places, places_there = _places(own), _places(expected)
    if len(own) == len(expected) and (numbers := _numbers(own)) and (others := _numbers(expected)):
        # out of order they are refused
        if {*numbers} != {*others} and all(some == sorted(some) for some in (numbers, others)):
            logger.warning(
                "classes are called by numbers and matched by position: the model's %r counts as the dataset's %r",
                *(own[0], expected[0]),
            )
        return True
    if not {*own} & {*expected}:
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
    """Whether two names spell one class: "tench", "tench, Tinca tinca"; "sea lion", "sealion".

    Not "helmet", "no helmet"; "dog", "dog and cat".
    """
    words, others = set(name.split()), set(other.split())
    varied = (words <= others or others <= words) and not (words ^ others) & OF_ANOTHER
    return varied or name.replace(" ", "") == other.replace(" ", "")


def _by_name(
    model: str, own: Sequence[str], expected: Sequence[str], samples: Sequence[Sample], *, written: Sequence[str]
) -> list[int]:
    """The dataset's number of each class of the head, by name; beyond them, for a class that the dataset has not.

    `written`: the dataset's names as they are written. UsageError where a sample is of a class that the head lacks.
    """
    places, places_there = _places(own), _places(expected)
    shared = places.keys() & places_there.keys()
    lacking = Counter(sample.label for sample in samples if expected[sample.label] not in shared)
    if lacking:
        names = listed([str(written[label]) for label in sorted(lacking)])
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


def _numbered(names: Sequence[str]) -> bool:
    """Whether the names of classes say their numbers alone, as `LABEL_3` does."""
    return all(re.fullmatch(NUMBERED, name) for name in names)


def _numbers(names: Sequence[str]) -> list[int]:
    """The numbers that classes are called by; none where one of them has another name."""
    matches = [re.fullmatch(r"(?:label|class)? ?(\d+)", name) for name in names]
    return [int(match[1]) for match in matches] if all(matches) else []


def _plain(name: str) -> str:
    """A class's name without case, punctuation and underscores, its accents written one way.

    &, | and the sign of a negative number are words.
    """
    worded = re.sub(r"^\s*[-\u2212](?=\d)", "minus ", str(name)).replace("&", " and ").replace("|", " or ")
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", worded)).strip().casefold()
