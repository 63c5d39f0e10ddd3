"""Captioning metrics by pycocoevalcap, the code that published numbers come from, kept from its known faults.

Every metric is kept as the contribution of each image, so that images can be resampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from idvl.errors import UsageError, quoted
from idvl.metrics import java
from idvl.metrics.java import Texts
from idvl.metrics.measured import Array, Measured, Skipped, matched, mean, proportion
from idvl.metrics.tokens import Tokenizer, tokenize

ORDERS = 4
# of pycocoevalcap/bleu/bleu_scorer.py
TINY, SMALL = 1e-15, 1e-9
FIXED_IDF = "bootstrap, image means, idf fixed"
SUMMED = "bootstrap, summed counts of images"
MEANS = "bootstrap, image means"
SEGMENTS = "bootstrap, segment scores, centred on the corpus score"


@dataclass(frozen=True)
class Captioned:
    """BLEU@1-4, METEOR, ROUGE-L, CIDEr, SPICE, and the share of captions that are a reference: measured or skipped."""

    measures: dict[str, Measured]
    skipped: dict[str, Skipped]
    tokenizer: Tokenizer


def score(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, spice_dir: Path | str | None = None
) -> Captioned:
    """Score one caption an image against its references, any number of each image's.

    `spice_dir`: where the CoreNLP 3.6.0 jars lie that SPICE needs; IDVL_SPICE_DIR by default. CIDEr's idf is that of
    the references given: the CIDEr of a part of a dataset is not that of the whole. UsageError without pycocoevalcap,
    and for an image without references.
    """
    _check(predictions, references)
    captions, targets, tokenizer = _tokenized(predictions, references)
    metrics: list[Measured | Skipped] = [
        *_bleu(captions, targets),
        java.attempt("METEOR", partial(_meteor, captions, targets)),
        _rouge(captions, targets),
        _cider(captions, targets),
        java.attempt("SPICE", partial(_spice, captions, targets, spice_dir)),
        proportion(
            "exact",
            [texts[0] in targets[number] for number, texts in captions.items()],
            interval="Wilson score, images",
        ),
    ]
    return Captioned(
        measures={metric.name: metric for metric in metrics if isinstance(metric, Measured)},
        skipped={metric.name: metric for metric in metrics if isinstance(metric, Skipped)},
        tokenizer=tokenizer,
    )


def ready() -> None:
    """Raise UsageError where pycocoevalcap is not installed."""
    try:
        import pycocoevalcap  # noqa: F401
    except ImportError as error:
        raise UsageError("captions are scored by pycocoevalcap: pip install 'idvl[caption]'") from error


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    ready()
    matched(predictions, references)
    for number, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise UsageError(f"image {number} needs a list of reference captions, not {quoted(texts)}")


def _tokenized(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Texts, Texts, Tokenizer]:
    """Predictions and references by image, through one run of the tokenizer."""
    lines, tokenizer = tokenize([*predictions, *(text for texts in references for text in texts)])
    rest = iter(lines)
    captions = {number: [next(rest)] for number in range(len(predictions))}
    targets = {number: [next(rest) for _ in texts] for number, texts in enumerate(references)}
    if not any(text for texts in targets.values() for text in texts):
        raise UsageError("no reference caption holds a single word: there is nothing to compare with")
    return captions, targets, tokenizer


def _bleu(captions: Texts, targets: Texts) -> list[Measured]:
    """Parts: lengths of the caption and of the closest reference, n-grams that match (4) and that there are (4)."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=ORDERS)
    for number, (caption,) in captions.items():
        scorer += (caption, targets[number])
    parts = np.array(
        [
            [
                image["testlen"],
                min(image["reflen"], key=lambda length: (abs(length - image["testlen"]), length)),
                *image["correct"],
                *image["guess"],
            ]
            for image in scorer.ctest
        ],
        dtype=np.float64,
    )
    return [Measured(f"BLEU@{n}", parts, partial(_bleu_of, n=n), SUMMED) for n in range(1, ORDERS + 1)]


def _bleu_of(sums: Array, *, n: int) -> Array:
    """Corpus BLEU@n of summed counts (..., 10), with the brevity penalty and constants of the COCO code."""
    length, reference = sums[..., 0], sums[..., 1]
    correct, guesses = sums[..., 2 : 2 + n], sums[..., 2 + ORDERS : 2 + ORDERS + n]
    precision = np.prod((correct + TINY) / (guesses + SMALL), axis=-1) ** (1 / n)
    return precision * np.exp(np.minimum(0, 1 - (reference + SMALL) / (length + TINY)))


def _rouge(captions: Texts, targets: Texts) -> Measured:
    from pycocoevalcap.rouge.rouge import Rouge

    return mean("ROUGE-L", Rouge().compute_score(targets, captions)[1], interval=MEANS)


def _cider(captions: Texts, targets: Texts) -> Measured:
    from pycocoevalcap.cider.cider import Cider

    return mean("CIDEr", Cider().compute_score(targets, captions)[1], interval=FIXED_IDF)


def _meteor(captions: Texts, targets: Texts) -> Measured:
    corpus, segments = java.meteor(captions, targets)
    return mean("METEOR", segments, interval=SEGMENTS, published=corpus)


def _spice(captions: Texts, targets: Texts, folder: Path | str | None) -> Measured:
    return mean("SPICE", java.spice(captions, targets, folder), interval=MEANS)
