"""Captions for the tests: a synthetic corpus, and captions as nobody wants them."""

from __future__ import annotations

import random

SUBJECTS = ["a man", "two dogs", "the woman's cat", "a double-decker bus", "people", "a small red bird", "three kids"]
VERBS = ["rides", "is sitting on", "doesn't touch", "stands near", "are playing with", "can't reach", "looks at"]
OBJECTS = ["a brown horse", "the wooden bench", "a frisbee in the park", "50% of the pizza", "it", "a mid-air kite"]
ENDS = ["", ".", " at 10:30 p.m.", ", outside", " (from above)", " while it's raining!"]

ADVERSARIAL = [
    "a dog\r\nruns",
    "a dog\rruns\u2028in\u2029the\x0cpark\x85now\x0b\x1c.",
    "",
    "   ",
    "...",
    "a 😀 cat 👩‍👩‍👧 on a ☀ beach",
    "שלום עולם this is مرحبا",
    "\u202eright to left\u202c",
    "a man " * 1666 + "end",
    "x" * 10_000,
    "a ||| b |||c",
    "caf\u00e9 cafe\u0301 naïve \u00a0 Straße",
    "a null \x00 and a lone \ud83d surrogate \ufeff",
    "-LRB- '' `` -- ; : ? ! .",
    "the the the the the the",
]


def corpus(n: int, references: int = 5, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """n predictions and `references` captions of each image; half of the predictions are close to one."""
    generator = random.Random(seed)

    def caption() -> str:
        text = " ".join(generator.choice(words) for words in (SUBJECTS, VERBS, OBJECTS)) + generator.choice(ENDS)
        return text.capitalize()

    wanted = [[caption() for _ in range(references)] for _ in range(n)]
    given = [
        generator.choice(texts).replace("a ", "the ") if generator.random() < 0.5 else caption() for texts in wanted
    ]
    return given, wanted
