"""Tokens: any text stays one caption, and the plain tokenizer agrees with the Penn Treebank's on captions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from idvl.metrics.tokens import cleaned, plain, tokenize
from tests.support.corpora import ADVERSARIAL, corpus

pytestmark = pytest.mark.java

ORDINARY = [
    "A man's dog doesn't run, can't stop.",
    "It's the kids' toys; they're new, we've seen!",
    "Two (2) cats [sic] sit at 3.5 feet, 1,000 miles away - or 10:30 p.m.",
    "Mr. Smith and Dr. Jones wait on St. Mark's square in the U.S. today",
    "A sign that says \"STOP\" and 'Go' near a 3-4 year-old boy wearing a t-shirt",
    "50% off: $5 and #1 and/or black/white A&B signs...",
    "A woman, who wouldn't've won, cannot see what's there; he'll say \u201chi\u201d \u2014 it\u2019s fine",
    "What?! No!!! Really? Yes!",
    "one giraffe -- and another one",
    "the '90s o'clock 1st 2nd 1/2 20x30 #hashtag @name x_y * & + = % ~ | < >",
    "I'm gonna wanna say I'd go etc. vs. them",
    "caf\u00e9 na\u00efve Stra\u00dfe \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "an <image> of a <UNK> near x<y>z, <b>bold</b> <br/> </s>, 2 < 3 > 1, <3, <|end|>",
    "an emoji \U0001f600 here",
]


@pytest.fixture(scope="module")
def split() -> dict[str, str]:
    """All texts of this file through the Java tokenizer, in one run."""
    given, wanted = corpus(40)
    texts = [*ORDINARY, *ADVERSARIAL, *given, *(text for some in wanted for text in some)]
    tokens, tokenizer = tokenize(texts)
    if tokenizer != "ptb":
        pytest.skip("no Java here")
    return dict(zip(texts, tokens, strict=True))


def test_known_tokens() -> None:
    assert (
        plain("A man's dog doesn't run (fast), can't stop.") == "a man 's dog does n't run -lrb- fast -rrb- ca n't stop"
    )
    assert plain("") == plain(" . , ! ") == plain('"...') == ""


def test_the_plain_tokenizer_agrees_with_the_penn_treebank(split: dict[str, str]) -> None:
    wrong = {text: (plain(cleaned(text)), tokens) for text, tokens in split.items() if text not in ADVERSARIAL}
    assert {text: pair for text, pair in wrong.items() if pair[0] != pair[1]} == {}


def test_tokens_are_those_of_pycocoevalcap(split: dict[str, str]) -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    given, _ = corpus(40)
    found = PTBTokenizer().tokenize({number: [{"caption": text}] for number, text in enumerate(given + ORDINARY)})
    assert [text for texts in found.values() for text in texts] == [split[text] for text in given + ORDINARY]


def test_no_text_shifts_those_after_it(split: dict[str, str]) -> None:
    texts = [line for text in ADVERSARIAL for line in (text, "the next one")]
    assert tokenize(texts)[0][1::2] == ["the next one"] * len(ADVERSARIAL)
    assert tokenize(ADVERSARIAL[::-1])[0] == [split[text] for text in ADVERSARIAL[::-1]]


def test_line_separators_are_spaces(split: dict[str, str]) -> None:
    assert split["a dog\r\nruns"] == "a dog runs"
    assert split[ADVERSARIAL[1]] == "a dog runs in the park now"


def test_cleaned_texts_are_single_lines() -> None:
    for text in ADVERSARIAL:
        assert len(cleaned(text).splitlines()) <= 1
        assert cleaned(cleaned(text)) == cleaned(text)
        cleaned(text).encode("utf-8")


def test_without_java_the_plain_tokenizer_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tokenize(["A dog."]) == (["a dog"], "plain")


def test_a_java_that_fails_is_said(monkeypatch, tmp_path: Path, caplog) -> None:
    _script(tmp_path / "java", "exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert tokenize(["A dog."]) == (["a dog"], "plain")
    assert "exit status 3" in caplog.text


def test_a_java_that_loses_lines_is_not_trusted(monkeypatch, tmp_path: Path, caplog) -> None:
    _script(tmp_path / "java", "cat >/dev/null; echo a dog")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert tokenize(["A dog.", "A cat."]) == (["a dog", "a cat"], "plain")
    assert "2 captions went in, 1 came out" in caplog.text


def test_nothing_is_printed_and_nothing_left_beside_the_package(capfd) -> None:
    import pycocoevalcap

    folder = Path(next(iter(pycocoevalcap.__path__))) / "tokenizer"
    before = sorted(folder.iterdir())
    tokenize(ADVERSARIAL)
    assert capfd.readouterr() == ("", "")
    assert sorted(folder.iterdir()) == before


def _script(path: Path, commands: str) -> None:
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
