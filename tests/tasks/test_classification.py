"""A prediction is the dataset's class, however the head numbers its own; zero-shot it is the nearest name's."""

import re
from types import SimpleNamespace

import pytest
import torch

from idvl.data.samples import Sample
from idvl.errors import UsageError
from idvl.models.families.base import Skill
from idvl.models.generation import Generation
from idvl.tasks import TaskSettings, classification


def head(names, logits):
    """A classifier with these class names whose logits are given."""
    config = SimpleNamespace(num_labels=len(names), id2label=dict(enumerate(names)))
    skill = Skill(prepare=lambda _, some, settings: some, perform=lambda _, some, settings: torch.tensor(logits))
    family = SimpleNamespace(skills={"classify": skill})
    return SimpleNamespace(name="head", model=SimpleNamespace(config=config), family=family)


def predicted(loaded, samples, **asked):
    done = classification.predict(loaded, samples, TaskSettings(generation=Generation(), **asked))
    return done.perform(samples, done.prepare(samples))


def labelled(*labels):
    return [Sample(id=str(k), source=b"", label=label) for k, label in enumerate(labels)]


def test_classes_are_matched_by_name_where_both_have_the_same_names():
    loaded = head(["Sea_lion", "cat", "dog"], [[9.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    records = predicted(loaded, labelled(2, 1), classes=("dog", "cat", "sea lion"))
    assert [record["top"] for record in records] == [[2, 0, 1], [1, 0, 2]]
    assert classification.score(records).measures["top-1"].value == 100


@pytest.mark.parametrize(
    ("names", "classes", "by_number", "by_name"),
    [
        (["LABEL_0", "LABEL_1"], ("no", "yes"), "head calls them by numbers ('LABEL_0'", "the dataset by names ('no'"),
        (["0", "1"], ("one", "zero"), "head calls them by numbers ('0'", "the dataset by names ('one'"),
        (["cat", "dog"], ("0", "1"), "the dataset calls them by numbers ('0'", "head by names ('cat'"),
    ],
)
def test_classes_are_matched_by_number_with_a_warning_where_names_differ(names, classes, by_number, by_name, caplog):
    loaded = head(names, [[1.0, 3.0]])
    assert predicted(loaded, labelled(1), classes=classes)[0]["top"] == [1, 0]
    assert caplog.messages == [
        f"classes are matched by position: {by_number} first), {by_name} first), and the order of the names is taken "
        "for the numbers; if it is another one, give both the same names, in the dataset or as id2label in the model's "
        "config.json"
    ]
    caplog.clear()
    assert predicted(loaded, labelled(1))[0]["top"] == [1, 0] and len(caplog.messages) == by_name.startswith("head")


def test_classes_called_by_numbers_are_matched_by_these_not_by_their_sorted_order():
    loaded = head([str(k) for k in range(11)], [[float(k == 2) for k in range(11)]])
    folders = sorted(f"class{k}" for k in range(11))  # class0, class1, class10, class2 ...
    assert predicted(loaded, labelled(3), classes=folders)[0]["top"][0] == folders.index("class2")
    named = head([chr(97 + k) for k in range(11)], [[0.0] * 11])
    shifted = sorted(f"class{k}" for k in range(1, 12))
    for other, classes in ((loaded, shifted), (named, folders), (head(folders, [[0.0] * 11]), list("abcdefghijk"))):
        with pytest.raises(UsageError, match="called by numbers that do not ascend"):
            predicted(other, labelled(3), classes=classes)


@pytest.mark.parametrize(
    ("names", "labels", "rows", "told"),
    [
        (sorted(map(str, range(12))), (0, 2, 11), (0, 4, 3), "2 is the class '2' at position 4"),
        (["LABEL_1", "LABEL_0"], (0, 1), (1, 0), "0 is the class 'LABEL_0' at position 1"),
        (["class 1", "class 2", "class 3"], (1, 3), (0, 2), "1 is the class 'class 1' at position 0"),
        (["1", "2", "3"], (0, 1), (0, 1), "0 is the class '1'"),  # 0 is none of these numbers
        (["0", "1", "3"], (0, 1), (0, 1), None),  # the same either way
    ],
)
def test_labels_without_names_are_the_numbers_that_the_head_calls_its_classes_by(names, labels, rows, told, caplog):
    loaded = head(names, [[float(place == row) for place in range(len(names))] for row in rows])
    records = predicted(loaded, labelled(*labels))
    assert classification.score(records).measures["top-1"].value == 100
    assert [message.split("numbers: ")[-1].split("positions: ")[-1].split(";")[0] for message in caplog.messages] == [
        *([told] if told else [])
    ]


@pytest.mark.parametrize(
    ("names", "labels", "said"),
    [
        (["1", "2", "3"], (1, 2), "1 may be the class '1' of head or the one at position 1, '2': give the classes"),
        (
            sorted(f"person_{k}" for k in range(12)),
            (0, 2),
            "2 may be the class 'person_2' of head or the one at position 2, 'person_10'",
        ),
        (
            ["0_red", "10_blue", *(f"{k}_x" for k in range(1, 10))],
            (0, 1),
            "1 may be the class '1_x' of head or the one",
        ),
        (
            sorted(str(float(k)) for k in range(11)),
            (0, 3),
            r"3 may be the class '3\.0' of head or the one at position 3",
        ),
        (["-1", "0", "1"], (0, 1), "0 may be the class '0' of head or the one at position 0, '-1': give"),
        (["0", "1", "10", "2", "many"], (0, 1, 2), "2 may be the class '2' of head or the one at position 2, '10'"),
    ],
)
def test_labels_that_may_be_positions_or_other_numbers_of_the_head_are_refused(names, labels, said):
    with pytest.raises(UsageError, match=said):
        predicted(head(names, [[0.0] * len(names)] * len(labels)), labelled(*labels))


def test_a_negative_number_is_not_the_positive_one(caplog):
    assert predicted(head(["-1", "0", "1"], [[1.0, 5.0, 2.0]]), labelled(0), classes=("0", "1", "-1"))[0]["top"] == [
        0,
        1,
        2,
    ]
    with pytest.raises(UsageError, match="lacks classes of the dataset"):
        predicted(head(["-1", "0"], [[1.0, 5.0]] * 2), labelled(0, 1), classes=("0", "1"))
    predicted(head(["class0", "class1"], [[1.0, 5.0]] * 2), labelled(0, 1), classes=("-1", "0"))
    assert caplog.messages[0].startswith("classes are matched by position: head calls them by numbers ('class0' first)")


def test_numbers_in_names_that_do_not_count_the_classes_leave_labels_positions():
    for names in (["boeing 747", "boeing 2", "x 1"], ["c0", "c1", "c2"], ["0 to 2", "1 to 0", "2 to 1"]):
        assert predicted(head(names, [[1.0, 5.0, 2.0]]), labelled(1))[0]["top"][0] == 1


def test_classes_that_transformers_names_may_be_of_sorted_folders_or_of_their_numbers():
    loaded = head([f"LABEL_{k}" for k in range(11)], [[0.0] * 11])
    for classes in (sorted(map(str, range(11))), ["class1", "class10", "class2"]):
        with pytest.raises(
            UsageError, match=r"head calls its classes LABEL_0, .* may be LABEL_\d+, or LABEL_\d+ by its"
        ):
            predicted(loaded, labelled(3), classes=classes)
    assert predicted(loaded, labelled(0), classes=[str(k) for k in range(11)])


@pytest.mark.parametrize("first", [2, 7])  # of the numbers some are the same, or none
def test_other_numbers_are_matched_by_position_with_a_warning(first, caplog):
    classes = [str(first + row) for row in range(3)]
    records = predicted(head(["0", "1", "2"], [[0.0, 1.0, 2.0]]), labelled(2), classes=classes)
    assert records[0]["top"] == [2, 1, 0]
    assert caplog.messages == [
        f"classes are called by numbers and matched by position: the model's '0' counts as the dataset's '{first}'"
    ]


@pytest.mark.parametrize(("labels", "classes"), [((0, 2), None), ((0,), ("a", "b", "c")), ((0,), ("a",))])
def test_a_head_of_another_dataset_is_refused(labels, classes):
    loaded = head(["LABEL_0", "LABEL_1"], [[1.0, 3.0]] * len(labels))
    with pytest.raises(UsageError, match="tells 2 classes apart"):
        predicted(loaded, labelled(*labels), classes=classes)


def test_labels_that_count_from_1_are_refused_with_the_largest():
    loaded = head(["LABEL_0", "LABEL_1", "LABEL_2"], [[0.0, 1.0, 2.0]] * 3)
    for labels, said in (((1, 2, 3), "label is 3: number the classes from 0"), ((0, 5, 1), "label is 5: use the data")):
        with pytest.raises(UsageError, match=f"tells 3 classes apart, labels 0 to 2, and the largest {said}"):
            predicted(loaded, labelled(*labels))
    with pytest.raises(UsageError, match="the largest label is 3: number the classes from 0"):
        predicted(loaded, labelled(1, 2), labels=(1, 3))


@pytest.mark.parametrize(
    ("drawn", "labels", "told"),
    [((1, 2), (1, 2), 1), ((1,) * 20, None, 1), ((1,) * 19, None, 0), ((1,) * 20, (0, 2), 0), ((0, 2), None, 0)],
)
def test_labels_without_a_0_are_told_where_it_would_be_there(drawn, labels, told, caplog):
    predicted(head(["LABEL_0", "LABEL_1", "LABEL_2"], [[0.0, 1.0, 2.0]] * len(drawn)), labelled(*drawn), labels=labels)
    assert [message[:39] for message in caplog.messages] == ["no label is 0, and the smallest is 1: l"] * told


def test_a_head_whose_classes_are_called_by_their_numbers_says_which_label_each_is(caplog):
    # as a new head on labels without names, of which none is 0
    predicted(head(["0", "1", "2"], [[0.0, 1.0, 2.0]] * 20), labelled(*[1, 2] * 10), labels=(1, 2))
    assert not caplog.messages


def test_labels_without_names_are_told_where_the_head_has_names(caplog):
    predicted(head(["River", "Lake"], [[0.0, 1.0]]), labelled(0))
    (told,) = caplog.messages
    assert (
        told.startswith("labels are numbers without names (true is 1, false 0) and count the classes of ")
        and "0 is 'River'" in told
    )
    caplog.clear()
    for names, classes in ((["LABEL_0", "LABEL_1"], None), (["0", "1"], None), (["River", "Lake"], ("River", "Lake"))):
        predicted(head(names, [[0.0, 1.0]]), labelled(0), classes=classes)
    assert not caplog.messages


def test_names_of_which_some_are_the_same_are_matched_by_name():
    loaded = head(["ant", "bee", "cat"], [[1.0, 5.0, 2.0], [3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    by_name = predicted(loaded, labelled(0, 1, 1), classes=("bee", "cat", "dog"))  # none is a dog
    assert [record["top"] for record in by_name] == [[0, 1, 3], [3, 1, 0], [1, 0, 3]]  # 3: the head's ant
    assert classification.score(by_name).measures["top-1"].value == pytest.approx(200 / 3)
    some = predicted(loaded, labelled(1, 0, 0), classes=("Bee", "cat"))
    assert [record["top"][0] for record in some] == [0, 2, 1]
    with pytest.raises(UsageError, match=r"head lacks classes of the dataset.*\(dog; 1 of 3 samples\)"):
        predicted(loaded, labelled(0, 1, 2), classes=("bee", "cat", "dog"))
    with pytest.raises(UsageError, match=r"\(dog; 1 of 1 samples\)"):
        predicted(loaded, labelled(0), classes=("dog", "bee", "owl"))
    twice = head(["bee", "bee", "cat"], [[1.0, 5.0, 2.0]])
    with pytest.raises(UsageError, match=r"several have one name \(bee; 1 of 1 samples\)"):
        predicted(twice, labelled(0), classes=("bee", "cat", "dog"))


@pytest.mark.parametrize("names", [["0", "1", "2", "3"], ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]])
def test_numbers_of_which_some_are_the_same_are_matched_as_names_are(names, caplog):
    loaded = head(names, [[1.0, 5.0, 2.0, 0.0]])
    assert predicted(loaded, labelled(1), classes=("1", "3"))[0]["top"] == [0, 3, 2, 1]  # beyond 1: the head's others
    assert [message[:35] for message in caplog.messages] == ["no label is 0, and the smallest is "] * (names[0] != "0")
    with pytest.raises(UsageError, match=r"lacks classes of the dataset.*\(4; 1 of 1 samples\)"):
        predicted(loaded, labelled(1), classes=("1", "4"))


def test_classes_that_differ_in_case_only_stay_apart():
    loaded = head(["cat", "dog", "Dog"], [[1.0, 5.0, 2.0]])
    assert predicted(loaded, labelled(1), classes=("Dog", "cat", "dog"))[0]["top"] == [2, 0, 1]
    swapped = head(["dog", "Dog"], [[1.0, 5.0]])
    assert predicted(swapped, labelled(1), classes=("Dog", "dog"))[0]["top"] == [0, 1]
    with pytest.raises(UsageError, match=r"or several have one name \(Dog, dog; 2 of 2 samples\)"):
        predicted(head(["cat", "dog"], [[1.0, 5.0]] * 2), labelled(0, 2), classes=("Dog", "cat", "dog"))


def test_spelling_variants_are_matched_by_position(caplog):
    loaded = head(["tench", "crane", "crane", "sea lion", "cock"], [[0.0, 1.0, 5.0, 2.0, 3.0]])
    records = predicted(loaded, labelled(2), classes=("tench, Tinca tinca", "crane", "crane", "sealion", "rooster"))
    assert records[0]["top"] == [2, 4, 3, 1, 0]
    assert caplog.messages == [
        "classes are matched by position, and 1 of 5 names differ: the model's 'cock' counts as the dataset's 'rooster'"
    ]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        *(("helmet", "no helmet"), ("sick", "not sick"), ("metal", "Non-metal"), ("car", "car without driver")),
        *(("dog", "dog and cat"), ("dog", "dog or cat"), ("dog", "dog & cat"), ("dog", "dog|cat")),
    ],
)
def test_what_is_not_the_class_or_more_than_it_is_no_spelling_variant(name, other):
    for names, classes in ((["head", name], ("head", other)), (["head", other], ("head", name))):
        with pytest.raises(UsageError, match=rf"lacks classes of the dataset, .*\({re.escape(classes[1])}; 1 of 1 sam"):
            predicted(head(names, [[1.0, 3.0]]), labelled(1), classes=classes)


def test_true_and_false_are_matched_by_name_and_other_names_are_refused():
    for names, first in ((["True", "False"], 1), (["FALSE", "TRUE"], 0), (["LABEL_0", "LABEL_1"], 0), (["0", "1"], 0)):
        assert predicted(head(names, [[3.0, 1.0]]), labelled(1), classes=("False", "True"))[0]["top"][0] == first
    said = r"knows other classes \(no, ...\) than the dataset's \(false, ...\): .* give both the same names, in the"
    with pytest.raises(UsageError, match=said):
        predicted(head(["no", "yes"], [[3.0, 1.0]]), labelled(1), classes=("False", "True"))


def test_one_class_that_is_called_by_a_number_does_not_make_other_classes_fit():
    with pytest.raises(UsageError, match=r"knows other classes \(cat, ...\) than the dataset's \(dog, ...\)"):
        predicted(head(["cat", "7"], [[1.0, 3.0]]), labelled(1), classes=("dog", "bird"))


def test_without_a_head_the_nearest_mean_of_a_classs_sentences_wins():
    table = {
        "a red": (1.0, 0.0),
        "the red": (0.8, 0.6),
        "a blue cat": (0.0, 1.0),
        "the blue cat": (-0.6, 0.8),
    }
    texts = Skill(
        prepare=lambda _, some, settings: some,
        perform=lambda _, some, settings: torch.tensor([table[text] for text in some]),
    )
    images = Skill(
        prepare=lambda _, some, settings: some,
        perform=lambda _, some, settings: torch.tensor([[0.9, 0.4], [0.3, 0.95]]),
    )
    family = SimpleNamespace(skills={"embed_images": images, "embed_texts": texts})
    loaded = SimpleNamespace(name="clip", family=family)
    asked = {"classes": ("red", "blue_cat"), "templates": ("a {}", "the {}")}
    assert [record["top"] for record in predicted(loaded, labelled(0, 1), **asked)] == [[0, 1], [1, 0]]
    with pytest.raises(UsageError, match="names of the classes"):
        predicted(loaded, labelled(0))
    with pytest.raises(UsageError, match="one {} for the class's name"):
        predicted(loaded, labelled(0), classes=("red",), templates=("no place",))
    with pytest.raises(UsageError, match="names of the classes, and False and True do not describe an image: write"):
        predicted(loaded, labelled(0), classes=("False", "True"))


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("0", "1"), "2 of 2 classes ('0' first)"),
        (("cat", "class_10"), "1 of 2 classes ('class_10' first)"),
        (("n01440764", "LABEL_7", "cat"), "2 of 3 classes ('n01440764' first)"),
        (("cat", "Boeing 747", "n1", "7up"), None),
    ],
)
def test_without_a_head_classes_called_by_numbers_are_told(classes, told, caplog):
    embed = Skill(
        prepare=lambda _, some, settings: some, perform=lambda _, some, settings: torch.eye(len(classes))[: len(some)]
    )
    loaded = SimpleNamespace(name="clip", family=SimpleNamespace(skills=dict.fromkeys(classification.ZERO_SHOT, embed)))
    assert predicted(loaded, labelled(0), classes=classes)[0]["top"][0] == 0
    assert [message.split(" are called")[0] for message in caplog.messages] == ([told] if told else [])
