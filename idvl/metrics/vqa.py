"""VQA accuracy: an answer is right when three of the ten people asked gave it (Antol et al. 2015, 3; VQA v2).

Answers are compared as the dataset's official evaluator does, its quirks included: "vqa" is vqaEval.py of VQA v2 as of
March 2021, "textvqa" the TextVQA evaluator of mmf.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from idvl.errors import UsageError
from idvl.metrics.measured import Measured, matched, proportion

EVALUATORS = ("vqa", "textvqa")

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
NUMBERS = {
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"},
    **{"seven": "7", "eight": "8", "nine": "9", "ten": "10"},
}
# each stands for itself written with any one of its apostrophes missing
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTED.split()
    for place, character in enumerate(word)
    if character == "'"
}
# the one of the official table that goes the other way
CONTRACTIONS["somebody'd"] = "somebodyd"
BETWEEN_DIGITS = re.compile(r"\d,\d")
# the official expression also means to spare a period after a digit, and does not
PERIOD = re.compile(r"\.(?!\d)")
# the official code passes re.UNICODE where the number of replacements is expected
PERIODS = int(re.UNICODE)


def score(predictions: Sequence[str], answers: Sequence[Sequence[str]], evaluator: str = "vqa") -> dict[str, Measured]:
    """{"accuracy"} of predictions (n,) by people's answers to each question, as often as given.

    The mean over the answers, each left out once, of min(1, how many of the others agree / 3). With fewer than four
    answers all of the others must agree, and a single answer must be the same. "vqa" normalises prediction and answers
    where people differ; where two or more all gave the same answer it compares the texts as they are, less white space
    at the ends ("Yes" is not "yes"). "textvqa" always normalises, after taking out commas and question marks and
    splitting "'s" off. UsageError for a question without answers and for another evaluator.
    """
    if evaluator not in EVALUATORS:
        raise UsageError(f"answers are compared as {' or '.join(EVALUATORS)} does, not {evaluator!r:.40}")
    matched(predictions, answers, "lists of answers")
    shares = [_share(*pair, evaluator) for pair in zip(predictions, answers, strict=True)]
    return {"accuracy": proportion("accuracy", shares, interval="Wilson score, questions")}


def _share(prediction: str, answers: Sequence[str], evaluator: str) -> float:
    if not answers:
        raise UsageError("a question without answers cannot be scored: leave it out, or choose a split with answers")
    texts = [_plain(text) for text in (prediction, *answers)]
    if evaluator == "textvqa":
        texts = [_split(text) for text in texts]
    if evaluator == "textvqa" or len(answers) == 1 or len(set(texts[1:])) > 1:
        texts = [normalised(text) for text in texts]
    agree, all_ = texts[1:].count(texts[0]), len(answers)
    if all_ == 1:
        return float(agree)
    needed = min(3, all_ - 1)
    # one of those who agree is left out, or one of the others
    return (agree * min(1, (agree - 1) / needed) + (all_ - agree) * min(1, agree / needed)) / all_


def normalised(text: str) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophes, punctuation removed.

    A punctuation mark beside a space anywhere in the text goes without a trace, else it becomes a space; all go without
    a trace where a comma stands between digits. Periods stay before digits only.
    """
    text = _plain(text)
    spare = BETWEEN_DIGITS.search(text) is not None
    plain = text
    for mark in PUNCTUATION:
        joins = spare or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if joins else " ")
    words = PERIOD.sub("", plain, count=PERIODS).lower().split()
    numbered = [NUMBERS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def _plain(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _split(text: str) -> str:
    """What mmf's evaluator does before it normalises."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
