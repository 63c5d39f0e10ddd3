"""Pictures on disk for every task, and the same with other captions or other answers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.coverage.parts import WORDS

PICTURES = 100  # as few as idvl measures dimensions from
SIZES = [(40, 32), (32, 40), (48, 48), (64, 32)]
# how far the captions move when they are dealt to other pictures
DEALT = 37
FEW = 8


def write(folder: Path) -> None:
    """captions, questions, classes and pairs, each with metadata.jsonl; dealt_*: the texts of other pictures;
    other_answers: the questions with other answers;
    few_*: the first rows."""
    rng = random.Random(0)
    captions: dict[str, None] = {}
    while len(captions) < PICTURES:
        captions[" ".join(rng.choices(WORDS, k=rng.randint(2, 9)))] = None
    texts = list(captions)
    answers = [rng.sample(WORDS, 2) for _ in texts]
    tables = {
        "captions": [{"caption": text} for text in texts],
        "questions": [{"question": t, "answers": [a] * 10} for t, (a, _) in zip(texts, answers, strict=True)],
        "other_answers": [{"question": t, "answers": [b] * 10} for t, (_, b) in zip(texts, answers, strict=True)],
        "classes": [{"label": i % 10} for i in range(PICTURES)],
        "pairs": [{"sentence": text, "label": i % 2} for i, text in enumerate(texts)],
    }
    for name in ("captions", "questions", "pairs"):
        rows = tables[name]
        tables[f"dealt_{name}"] = [rows[(i + DEALT) % PICTURES] for i in range(PICTURES)]
    pixels = np.random.default_rng(0).integers(0, 256, (PICTURES, 4, 5, 3), dtype=np.uint8)
    images = [Image.fromarray(each).resize(SIZES[i % len(SIZES)]) for i, each in enumerate(pixels)]
    for name, rows in tables.items():
        _table(folder / name, rows, images)
    for name in ("captions", "questions", "classes", "pairs"):
        _table(folder / f"few_{name}", tables[name][:FEW], images)


def _table(folder: Path, rows: list[dict[str, Any]], images: list[Image.Image]) -> None:
    folder.mkdir(parents=True)
    lines = []
    for i, (row, image) in enumerate(zip(rows, images, strict=False)):
        image.save(folder / f"{i:03d}.png")
        shown = {"file_name": f"{i:03d}.png"}
        if "sentence" in row:
            images[(i + 1) % PICTURES].save(folder / f"{i:03d}-right.png")
            shown = {"left_image": f"{i:03d}.png", "right_image": f"{i:03d}-right.png"}
        lines.append(json.dumps({"id": f"{i:03d}", **shown, **row}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
