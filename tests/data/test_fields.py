"""What cells hold: answers as often as given, classes in every spelling, images encoded or elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from idvl.data.fields import answers, encoded_image, label, names_a_class, texts


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (["yes", "yes", " no\n"], ("yes", "yes", "no")),
        ([{"answer": "yes", "answer_id": 1}, {"answer": "no", "answer_id": 2}], ("yes", "no")),
        ({"answer": ["yes", "no"], "answer_id": [1, 2]}, ("yes", "no")),
        ("blue", ("blue",)),
        (["", "a", ""], ("", "a", "")),
        ([""] * 10, ()),
        ([], ()),
        (None, ()),
        ([None, True], ()),
        ([3, "3", 4.0], ("3", "3", "4")),
        (7, ("7",)),
        (["yes", 3.5], ("yes", "3.5")),
        ('["yes", "yes", "no"]', ("yes", "yes", "no")),
        (" ['yes', \"don't know\", 3]\n", ("yes", "don't know", "3")),
        ('[{"answer": "yes", "answer_id": 1}, {"answer": "no"}]', ("yes", "no")),
        ({"answer": "['yes', 'no']"}, ("yes", "no")),
        ("['yes' 'no'\n 'no']", ("yes", "no", "no")),
        ("[]", ()),
        ("[1] or (2)", ("[1] or (2)",)),
    ],
)
def test_answers(cell: object, found: tuple[str, ...]) -> None:
    assert answers(cell) == found


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (["yes"] * 5 + [None] * 5, "5 of 10 answers are no text, None first"),
        ([{"answer": "yes"}, {"answer_id": 2}], "1 of 2 answers are no text"),
        ({"answer": ["yes", float("nan")]}, "1 of 2 answers are no text, nan first"),
        ('["yes", null]', "1 of 2 answers are no text, None first"),
    ],
)
def test_missing_answers_are_never_left_out(cell: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        answers(cell)


@pytest.mark.parametrize(
    ("cell", "classes", "number"),
    [
        (4, None, 4),
        (True, None, 1),
        ("True", None, 1),
        (" false ", None, 0),
        ("7", None, 7),
        (2.0, None, 2),
        (-1, None, None),
        ("-1", ["a"], None),
        (None, ["a"], None),
        ("", None, None),
        (float("nan"), None, None),
        ("b", ["a", "b"], 1),
        ("1", ["9", "1"], 1),
        ("True", ["True", "False"], 0),
    ],
)
def test_labels(cell: object, classes: list[str] | None, number: int | None) -> None:
    assert label(cell, classes) == number


@pytest.mark.parametrize(
    ("cell", "classes"),
    [
        ("red", None),
        ("1_0", None),
        ("-2", None),
        ("red", ["blue"]),
        (2, ["a", "b"]),
        (0.5, None),
        ([1], None),
        ("inf", None),
        (-2, None),
        (10**400, None),
    ],
)
def test_what_is_no_class(cell: object, classes: list[str] | None) -> None:
    with pytest.raises(ValueError, match="the class"):
        label(cell, classes)
    assert names_a_class(cell) == (cell == 2)


def test_an_image_without_bytes_or_path() -> None:
    for cell in (None, "", {"bytes": None, "path": None}, "a.jpg", 3):
        with pytest.raises(ValueError, match="no image|where an image is expected"):
            encoded_image(cell, None)


@pytest.mark.parametrize("cell", ["/9j/4AAQSkZJRg", "iVBORw0KGgoAAAANSUhEUg"])
def test_an_image_in_base64_is_named_as_such(cell: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an image in base64, which is not read: write it to a file"):
        encoded_image(cell, tmp_path, tmp_path)


def test_texts() -> None:
    assert texts([{"raw": "a  b"}, "c\u2028d\r\ne", "", "\ud800"]) == ("a b", "c d e")
    assert texts(7) == ("7",) and texts([2.0, {"caption": 1.5}, "a"]) == ("2", "1.5", "a")  # as CSV would give them
    assert texts([True, None, float("nan")]) == ()


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('["a red star", "a blue  circle"]', ("a red star", "a blue circle")),
        ("['a red star', \"a child's kite\"]", ("a red star", "a child's kite")),
        ("['a red star' 'a blue circle']", ("a red star", "a blue circle")),
        ("('a red star', 'a blue circle')", ("a red star", "a blue circle")),
        ("('a red star',)", ("a red star",)),
        ('[{"raw": "a star"}, {"raw": "a circle"}]', ("a star", "a circle")),
        ("[]", ()),
        (r"['a \d']", (r"a \d",)),
    ],
)
def test_a_text_that_spells_a_list_is_read_as_that_list(cell: str, found: tuple[str, ...]) -> None:
    assert texts(cell) == found


@pytest.mark.parametrize(
    "cell",
    [
        *("(applause)", "('a')", "('a' 'b')", "(1, 2)", "(1)", "('a', 'b']"),
        *("[applause]", "[1, 2]", "[b'a']", "['a'] ['b']", "['a', 'b'] on a sign", "['a'][0]", "[f'{1}']"),
        *(
            "[{'size': 3}]",
            "[{[]: 'a'}]",
            "['a' + 'b']",
            "[__import__('os').getcwd()]",
            "[" * 60_000 + "]",
            "[" + "-" * 60_000 + "1]",
        ),
        "['" + "a" * (1 << 16) + "']",
    ],
)
def test_other_texts_in_brackets_stay_text(cell: str) -> None:
    assert texts(cell) == (cell,)
    assert texts([cell, "['a', 'b']"]) == (cell, "['a', 'b']")  # only a cell as a whole spells a list


def test_texts_nested_without_end() -> None:
    nested: object = "a"
    for _ in range(2_000):
        nested = [nested]
    with pytest.raises(ValueError, match="nested more than 8 deep"):
        texts(nested)
