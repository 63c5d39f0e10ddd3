"""VQA accuracy and its normalisation against hand calculation."""

from __future__ import annotations

import pytest

from idvl.errors import UsageError
from idvl.metrics.vqa import CONTRACTIONS, normalised, score

NORMALISED = {
    "The Dog": "dog",
    "a cat and an owl": "cat and owl",
    "Two": "2",
    "none": "0",
    "ten people": "10 people",
    "eleven": "eleven",
    "twenty-one": "twenty 1",
    # between words a mark becomes a space, beside a space it goes
    "red/white": "red white",
    "red, white": "red white",
    "t-shirt - blue": "tshirt blue",
    "yes!": "yes",
    "what?!": "what",
    # a comma between digits takes all other marks away without a trace
    "1,000": "1000",
    "1,000 t-shirts": "1000 tshirts",
    "1, 2": "1 2",
    # periods stay before digits only
    "3.5": "3.5",
    ".5 miles.": ".5 miles",
    "u.s.a.": "usa",
    "5.": "5",
    "a.5": "a.5",
    # contractions get the apostrophe that they lack; others stay
    "dont": "don't",
    "it's": "it's",
    "its": "its",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "ow's'at": "'ow's'at",
    "somebody'd": "somebodyd",
    "lets": "lets",
    "ID": "id",
    "  line\nbreak\ttab ": "line break tab",
    "cat: black": "cat: black",
    "": "",
    "the": "",
    "...": "",
    "." * 40: "." * 8,
    "“naïve” 😀": "“naïve” 😀",
}


def test_answers_are_normalised_as_officially() -> None:
    assert {text: normalised(text) for text in NORMALISED} == NORMALISED


def test_all_contractions_lack_one_apostrophe() -> None:
    assert all(short.replace("'", "") == full.replace("'", "") for short, full in CONTRACTIONS.items())
    assert CONTRACTIONS["y'all'dve"] == "y'all'd've"


def naive(prediction: str, answers: list[str]) -> float:
    """The official loop over the ten answers, on answers that are normalised already."""
    shares = []
    for left_out in range(len(answers)):
        others = [answer for number, answer in enumerate(answers) if number != left_out]
        shares.append(min(1, sum(answer == prediction for answer in others) / 3))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("agree", range(11))
def test_leave_one_out_over_ten_people(agree: int) -> None:
    answers = ["yes"] * agree + ["no"] * (10 - agree)
    assert score(["yes"], [answers])["accuracy"].value == pytest.approx(100 * naive("yes", answers))


@pytest.mark.parametrize(("agree", "value"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (9, 100)])
def test_the_known_values_of_ten_people(agree: int, value: float) -> None:
    assert score(["2 dogs"], [["Two dogs."] * agree + ["a cat"] * (9 - agree) + ["2 cats"] * (agree < 10)])[
        "accuracy"
    ].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("answers", "value"),
    [(["yes"], 100), (["no"], 0), (["yes", "no"], 50), (["yes", "yes", "yes"], 100), (["yes", "no", "no"], 100 / 3)],
)
def test_fewer_people_must_all_agree(answers: list[str], value: float) -> None:
    assert score(["yes"], [answers])["accuracy"].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "answers", "value"),
    [
        ("TEN", ["ten"] * 10, 0),
        ("Yes.", ["yes"] * 10, 0),
        (" yes\n", ["yes "] * 10, 100),
        ("the dog", ["the dog"] * 10, 100),
        ("2", ["two"] * 10, 0),
        # one person who says otherwise, and all texts are normalised
        ("TEN", ["ten"] * 9 + ["11"], 100),
        # a single answer has nobody to agree with
        ("TEN", ["ten"], 100),
    ],
)
def test_where_all_people_agree_texts_are_compared_as_they_are(prediction, answers, value) -> None:
    assert score([prediction], [answers])["accuracy"].value == pytest.approx(value)


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("TEN", "ten"),
        # VQA v2's rules make a space of this comma and of the first question mark
        ("red,white", "redwhite"),
        ("what?now", "whatnow"),
        ("mcdonald's", "mcdonald 's"),
        ("1,000 t-shirts", "1000 t shirts"),
    ],
)
def test_textvqa_drops_commas_and_question_marks_first(prediction: str, answer: str) -> None:
    assert score([prediction], [[answer] * 10], "textvqa")["accuracy"].value == 100
    assert score([prediction], [[answer] * 10])["accuracy"].value == 0


def test_another_evaluator_is_refused() -> None:
    with pytest.raises(UsageError, match="vqa or textvqa does, not 'okvqa'"):
        score(["a"], [["a"]], "okvqa")


def test_the_mean_over_questions() -> None:
    found = score(["cat", ""], [["cat"] * 10, ["dog"] * 10])["accuracy"]
    assert found.value == 50.0
    assert found.parts[:, 0].tolist() == [1.0, 0.0]


def test_a_question_without_answers_is_refused() -> None:
    with pytest.raises(UsageError, match="without answers"):
        score(["yes", "no"], [["yes"], []])
