"""Scoring captions with every metric that runs here, beside pycocoevalcap called by hand.

    .venv/bin/python benchmarks/scoring.py          about two minutes on 2 cores, on a machine that does nothing else

Goal for 5,000 captions with 5 references each: at most 1.1 times the time of pycocoevalcap's own tokenizer and scorers,
METEOR included where there is Java, with the same values. Captions are drawn from a vocabulary whose words are as
unequal as those of a language. Repeats are interleaved, the best of each counts.
"""

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from idvl.metrics.caption import score

RESULTS = Path(__file__).parent / "results" / "scoring.json"
VOCABULARY = 10_000

Corpus = tuple[list[str], list[list[str]]]


def corpus(images: int, references: int) -> Corpus:
    """Captions of 8 to 14 words; half of a prediction's words are those of its first reference."""
    generator = np.random.default_rng(0)
    likely = 1 / np.arange(1, VOCABULARY + 1)
    words = np.array(["".join(chr(97 + int(digit)) for digit in np.base_repr(n + 10, 10)) for n in range(VOCABULARY)])

    def caption() -> list[str]:
        return list(generator.choice(words, size=generator.integers(8, 15), p=likely / likely.sum()))

    given, wanted = [], []
    for _ in range(images):
        some = [caption() for _ in range(references)]
        mixed = [a if generator.random() < 0.5 else b for a, b in zip(some[0], caption(), strict=False)]
        given.append(" ".join(mixed).capitalize() + ".")
        wanted.append([" ".join(text).capitalize() + "." for text in some])
    return given, wanted


def ours(given: list[str], wanted: list[list[str]]) -> dict[str, float]:
    return {name: measured.value / 100 for name, measured in score(given, wanted).measures.items()}


def by_hand(given: list[str], wanted: list[list[str]]) -> dict[str, float]:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gts = tokenizer.tokenize({n: [{"caption": text} for text in texts] for n, texts in enumerate(wanted)})
    res = tokenizer.tokenize({n: [{"caption": text}] for n, text in enumerate(given)})
    found = {f"BLEU@{n}": value for n, value in enumerate(Bleu(4).compute_score(gts, res, verbose=0)[0], start=1)}
    scorers = {"METEOR": Meteor(), "ROUGE-L": Rouge(), "CIDEr": Cider()}
    return found | {name: scorer.compute_score(gts, res)[0] for name, scorer in scorers.items()}


def timed(run: Callable[..., dict[str, float]], captions: Corpus) -> tuple[float, dict[str, float]]:
    start = time.perf_counter()
    found = run(*captions)
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if shutil.which("java") is None:
        parser.error("pycocoevalcap's tokenizer and METEOR need Java")
    captions = corpus(arguments.images, arguments.references)
    best = {"idvl": float("inf"), "pycocoevalcap": float("inf")}
    for _ in range(arguments.repeats):
        found = {}
        for name, run in (("idvl", ours), ("pycocoevalcap", by_hand)):
            seconds, found[name] = timed(run, captions)
            best[name] = min(best[name], seconds)
        apart = max(abs(found["idvl"][name] - value) for name, value in found["pycocoevalcap"].items())
        assert apart < 1e-9, found
    ratio = best["idvl"] / best["pycocoevalcap"]
    print(
        f"{arguments.images} captions, {arguments.references} references each: idvl {best['idvl']:.1f} s, "
        f"pycocoevalcap {best['pycocoevalcap']:.1f} s, {ratio:.2f} times; values at most {apart:.0e} apart"
    )
    machine = {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()}
    record = {"machine": machine, "images": arguments.images, "references": arguments.references}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({**record, "seconds": best, "ratio": ratio, "apart": apart}, indent=1) + "\n")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
