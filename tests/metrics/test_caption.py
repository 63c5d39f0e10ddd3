"""Captioning metrics against pycocoevalcap by hand, sacrebleu, and naive references; without Java where it is slow."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu

from idvl.errors import UsageError
from idvl.metrics.bootstrap import interval
from idvl.metrics.caption import Captioned, score
from idvl.metrics.tokens import tokenize
from tests.support.corpora import ADVERSARIAL, corpus

pytestmark = pytest.mark.java

FAST = {"BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "ROUGE-L", "CIDEr", "exact"}


@pytest.fixture
def no_java(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def adversarial() -> tuple[list[str], list[list[str]]]:
    """A corpus whose captions are, here and there, as nobody wants them."""
    given, wanted = corpus(40, seed=1)
    for number, text in enumerate(ADVERSARIAL):
        given[number] = text
        wanted[number + 10][0] = text
        wanted[number + 20] = [text, *wanted[number + 20][: number % 3]]
    wanted[3] = wanted[3][:1]
    return given, wanted


CORPORA = [pytest.param(*corpus(60), id="ordinary"), pytest.param(*adversarial(), id="adversarial")]


def tokens(given: list[str], wanted: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return tokenize(given)[0], [tokenize(texts)[0] for texts in wanted]


def ngrams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def cider_d(given: list[str], wanted: list[list[str]]) -> list[float]:
    """CIDEr-D (Vedantam et al. 2015, 5) of each image, term by term."""
    scores = np.zeros(len(given))
    for n in (1, 2, 3, 4):
        seen = Counter(gram for texts in wanted for gram in set().union(*(ngrams(text, n) for text in texts)))
        idf = {gram: math.log(len(given) / count) for gram, count in seen.items()}
        for image, (caption, texts) in enumerate(zip(given, wanted, strict=True)):
            mine = {gram: count * idf.get(gram, math.log(len(given))) for gram, count in ngrams(caption, n).items()}
            for text in texts:
                theirs = {gram: count * idf[gram] for gram, count in ngrams(text, n).items()}
                dot = sum(min(mine[gram], theirs[gram]) * theirs[gram] for gram in mine.keys() & theirs.keys())
                lengths = math.hypot(*mine.values()) * math.hypot(*theirs.values())
                # the COCO code counts bigrams where the paper counts words
                apart = sum(ngrams(caption, 2).values()) - sum(ngrams(text, 2).values())
                cosine = dot / lengths if lengths else 0
                scores[image] += 10 / 4 * cosine * math.exp(-(apart**2) / (2 * 6**2)) / len(texts)
    return scores.tolist()


def rouge_l(caption: str, texts: list[str], beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004) of one image: the best precision and the best recall over its references."""

    def common(a: list[str], b: list[str]) -> int:
        row = [0] * (len(b) + 1)
        for word in a:
            last = row
            row = [0]
            for place, other in enumerate(b):
                row.append(last[place] + 1 if word == other else max(row[place], last[place + 1]))
        return row[-1]

    pairs = [(caption.split(" "), text.split(" ")) for text in texts]
    precision = max(common(a, b) / len(a) for a, b in pairs)
    recall = max(common(a, b) / len(b) for a, b in pairs)
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision) if precision and recall else 0.0


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize(("given", "wanted"), CORPORA)
class TestAgainstReferences:
    def test_values_are_those_of_pycocoevalcap_by_hand(self, given, wanted) -> None:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge

        mine, theirs = tokens(given, wanted)
        res, gts = dict(enumerate([text] for text in mine)), dict(enumerate(theirs))
        bleus = Bleu(4).compute_score(gts, res, verbose=0)[0]
        expected = {f"BLEU@{n}": value for n, value in enumerate(bleus, start=1)}
        expected["CIDEr"] = Cider().compute_score(gts, res)[0]
        expected["ROUGE-L"] = Rouge().compute_score(gts, res)[0]
        found = score(given, wanted)
        assert set(found.measures) == FAST
        for name, value in expected.items():
            assert found.measures[name].value / 100 == pytest.approx(value, abs=1e-9), name

    def test_bleu_is_that_of_sacrebleu(self, given, wanted) -> None:
        mine, theirs = tokens(given, wanted)
        most = max(map(len, theirs))
        columns = [[texts[column] if column < len(texts) else None for texts in theirs] for column in range(most)]
        expected = sacrebleu.corpus_bleu(mine, columns, tokenize="none", smooth_method="none", force=True)
        assert score(given, wanted).measures["BLEU@4"].value == pytest.approx(expected.score, abs=1e-6)

    def test_cider_is_the_naive_one_image_by_image(self, given, wanted) -> None:
        parts = score(given, wanted).measures["CIDEr"].parts[:, 0]
        assert parts == pytest.approx(np.array(cider_d(*tokens(given, wanted))), abs=1e-9)

    def test_rouge_is_the_naive_one_image_by_image(self, given, wanted) -> None:
        parts = score(given, wanted).measures["ROUGE-L"].parts[:, 0]
        mine, theirs = tokens(given, wanted)
        assert parts == pytest.approx([rouge_l(*pair) for pair in zip(mine, theirs, strict=True)], abs=1e-12)


@pytest.mark.usefixtures("no_java")
class TestByHand:
    def test_bleu(self) -> None:
        """3 of 4 words, 1 of 3 bigrams, and 4 words against 5: exp(1 - 5/4)."""
        found = score(["a cat sat there"], [["a cat was sitting there"]]).measures
        assert found["BLEU@1"].value == pytest.approx(100 * 3 / 4 * math.exp(-1 / 4), abs=1e-6)
        assert found["BLEU@2"].value == pytest.approx(100 * math.sqrt(3 / 4 * 1 / 3) * math.exp(-1 / 4), abs=1e-6)

    def test_the_closest_reference_counts_the_shorter_of_two(self) -> None:
        found = score(["a b c d"], [["a b c d e", "a b c"]]).measures["BLEU@1"]
        assert found.parts[0, :2].tolist() == [4, 3]

    def test_rouge(self) -> None:
        """Three words in common, of four and of five."""
        precision, recall = 3 / 4, 3 / 5
        expected = 100 * 2.44 * precision * recall / (recall + 1.44 * precision)
        found = score(["a cat sat there"], [["a cat was sitting there"]]).measures
        assert found["ROUGE-L"].value == pytest.approx(expected)

    def test_identical_captions_score_full_marks(self) -> None:
        _, wanted = corpus(20)
        found = score([texts[0] for texts in wanted], wanted).measures
        assert found["BLEU@4"].value == pytest.approx(100, abs=1e-4)
        assert found["ROUGE-L"].value == pytest.approx(100)

    def test_empty_predictions_score_nothing(self) -> None:
        _, wanted = corpus(10)
        found = score([""] * 10, wanted).measures
        assert {name: measured.value for name, measured in found.items()} == pytest.approx(dict.fromkeys(FAST, 0))

    def test_a_single_image_has_no_idf(self) -> None:
        assert score(["a dog runs"], [["a dog runs"]]).measures["CIDEr"].value == 0


@pytest.mark.usefixtures("no_java")
def test_without_java_metrics_are_skipped_with_reason_and_hint() -> None:
    found = score(*corpus(5))
    assert found.tokenizer == "plain"
    assert set(found.measures) == FAST
    assert {name: skipped.reason for name, skipped in found.skipped.items()} == {
        "METEOR": "Java was not found",
        "SPICE": "Java was not found",
    }
    assert all("install" in skipped.hint for skipped in found.skipped.values())


@pytest.mark.usefixtures("no_java")
def test_intervals_hold_the_value_and_are_labelled() -> None:
    labels = {}
    for name, measured in score(*corpus(60)).measures.items():
        low, high = interval(measured, resamples=200)
        assert low < measured.value < high, name
        labels[name] = measured.interval
    assert labels["CIDEr"] == "bootstrap, image means, idf fixed"
    assert labels["BLEU@4"] == "bootstrap, summed counts of images"
    assert labels["ROUGE-L"] == "bootstrap, image means"


@pytest.mark.usefixtures("no_java")
def test_bleu_of_drawn_images_is_bleu_of_these_images() -> None:
    given, wanted = corpus(30)
    drawn = [3, 3, 7, 29, 0]
    measured = score(given, wanted).measures["BLEU@3"]
    again = score([given[image] for image in drawn], [wanted[image] for image in drawn]).measures["BLEU@3"]
    assert 100 * measured.whole(measured.parts[drawn].sum(0)) == pytest.approx(again.value, abs=1e-12)


@pytest.fixture(scope="module")
def scored() -> Captioned:
    """A small corpus with everything that runs here, METEOR included."""
    given, wanted = adversarial()
    found = score([*given, "a red bird on a branch", ""], [*wanted, ["a red bird on a branch"], ["a cat"]])
    if "METEOR" in found.skipped:
        pytest.skip(f"no METEOR here: {found.skipped['METEOR'].reason}")
    return found


def test_meteor_runs_on_any_caption(scored: Captioned) -> None:
    meteor = scored.measures["METEOR"]
    assert scored.tokenizer == "ptb"
    assert meteor.parts.shape == (42, 2)
    assert meteor.parts[40, 0] == pytest.approx(1, abs=1e-3)
    assert meteor.parts[41, 0] == meteor.parts[2, 0] == 0
    assert 0 < meteor.value < 100


def test_meteor_is_the_corpus_score_with_an_interval_of_segments(scored: Captioned) -> None:
    meteor = scored.measures["METEOR"]
    assert meteor.published is not None
    assert meteor.value != pytest.approx(100 * meteor.parts[:, 0].mean())
    low, high = interval(meteor)
    assert low < meteor.value < high
    assert meteor.interval == "bootstrap, segment scores, centred on the corpus score"


@pytest.mark.slow
def test_meteor_is_that_of_pycocoevalcap_by_hand(scored: Captioned) -> None:
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    given, wanted = corpus(30)
    gts, res = (
        PTBTokenizer().tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(each)})
        for each in (wanted, [[text] for text in given])
    )
    corpus_score, segments = Meteor().compute_score(gts, res)
    found = score(given, wanted).measures["METEOR"]
    assert found.value / 100 == pytest.approx(corpus_score, abs=1e-9)
    assert found.parts[:, 0].tolist() == segments


@pytest.mark.parametrize(
    ("given", "wanted", "told"),
    [
        ([], [], "no predictions"),
        (["a"], [], "1 predictions, but 0 references"),
        (["a", "b"], [["a"], []], "image 1 needs a list of reference captions, not \\[\\]"),
        (["a"], ["a dog"], "needs a list of reference captions, not 'a dog'"),
        (["a"], [["..."]], "no reference caption holds a single word"),
    ],
)
def test_what_cannot_be_scored_is_refused(given: list[str], wanted: list[list[str]], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        score(given, wanted)


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(UsageError, match=r"pip install 'idvl\[caption\]'"):
        score(["a dog"], [["a dog"]])


@pytest.mark.usefixtures("no_java")
def test_a_caption_that_equals_a_reference_token_by_token_is_exact() -> None:
    found = score(["A dog runs.", "a  cat", "a cow", ""], [["x", "a dog runs"], ["a cat !"], ["a cow runs"], ["y"]])
    assert found.measures["exact"].parts[:, 0].tolist() == [1, 1, 0, 0]
    assert found.measures["exact"].value == 50
