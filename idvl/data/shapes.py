"""The built-in dataset: two coloured shapes and how they lie, drawn by program, with several captions each.

A scene is an ordered pair of different objects (size, colour, shape) and a relation. Which split it belongs to is a
hash of its canonical caption, so splits share neither captions nor images. A scene is drawn in `VARIATIONS` ways that
differ in position, size, tint and background. Number k of a split is one fixed picture, whatever the seed; the seed
chooses the numbers. It does not know what a model makes of them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
from PIL import Image

from idvl.data.samples import Sample
from idvl.errors import UsageError, did_you_mean, quoted

SPLITS = ("train", "validation", "test")
DEFAULT_SPLIT = "validation"
DEFAULT_SAMPLES = 2_000
IMAGE_SIZE = 32
VARIATIONS = 100

RADII = {"small": 3.5, "large": 6.0}
COLOURS = {
    "red": (220, 35, 35),
    "orange": (245, 140, 20),
    "yellow": (240, 225, 50),
    "green": (40, 165, 55),
    "cyan": (55, 215, 225),
    "blue": (45, 75, 225),
    "purple": (135, 45, 175),
    "pink": (245, 140, 190),
    "white": (240, 240, 240),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = {  # relation: (its converse, where the second object is seen from the first, and the first from the second)
    "left of": ("right of", "to its right", "to its left"),
    "above": ("below", "below it", "above it"),
}
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One object of a scene, named as in a caption: 'a small red circle'."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two objects, the first `left of` or `above` the second."""

    first: Thing
    relation: str
    second: Thing

    @property
    def captions(self) -> tuple[str, ...]:
        """Four descriptions, the canonical one first. Each names this scene and no other."""
        converse, second_place, first_place = RELATIONS[self.relation]
        return (
            f"{self.first} {self.relation} {self.second}",
            f"{self.second} {converse} {self.first}",
            f"{self.first} with {self.second} {second_place}",
            f"{self.second} with {self.first} {first_place}",
        )


@cache
def scenes(split: str) -> tuple[Scene, ...]:
    """All scenes of a split in a fixed order: about half of the 10,224 in train, a quarter in each of the others."""
    if split not in SPLITS:
        hint = did_you_mean(split, SPLITS)
        raise UsageError(f"shapes has no split {quoted(split)}: its splits are {', '.join(SPLITS)}{hint}")
    things = [Thing(*words) for words in product(RADII, COLOURS, SHAPES)]
    every = (Scene(*pair[:1], relation, *pair[1:]) for relation in RELATIONS for pair in permutations(things, 2))
    return tuple(scene for scene in every if _split_of(scene) == split)


def _split_of(scene: Scene) -> str:
    digest = hashlib.sha256(scene.captions[0].encode()).digest()
    return ("train", "train", "validation", "test")[digest[0] % 4]


def samples(split: str = DEFAULT_SPLIT, n: int | None = None, seed: int = 0) -> list[Sample]:
    """`n` (None: DEFAULT_SAMPLES) different pictures of a split, drawn uniformly by seed, all where it holds fewer.

    Up to the number of scenes in the split (over 2,400 in each) every sample shows another scene, so that captions are
    distinct too; beyond that, scenes come again in other drawings. Raises UsageError for an unknown split or an n
    below 1.
    """
    return list(_drawn(split, DEFAULT_SAMPLES if n is None else n, seed))


def candidates(split: str, n: int, seed: int) -> Iterator[Sample]:
    """The first of `samples`, as they are drawn; no more than there are captions, which are to be distinct in a run."""
    return _drawn(split, min(n, sum(len(scene.captions) for scene in scenes(split))), seed)


def _drawn(split: str, n: int, seed: int) -> Iterator[Sample]:
    everything = scenes(split)
    if n < 1:
        raise UsageError(f"{n} samples requested: at least 1 is needed")
    remaining = min(n, len(everything) * VARIATIONS)
    chance = random.Random(f"shapes/{split}/{seed}")
    drawings = [chance.sample(range(VARIATIONS), VARIATIONS) for _ in everything]
    while remaining:
        indices = chance.sample(range(len(everything)), min(len(everything), remaining))
        remaining -= len(indices)
        for index in indices:
            yield sample(split, index + len(everything) * drawings[index].pop())


def sample(split: str, number: int) -> Sample:
    """Picture `number` of a split; its id says both."""
    everything = scenes(split)
    scene = everything[number % len(everything)]
    image = draw(scene, random.Random(f"{scene.captions[0]}/{number // len(everything)}"))
    return Sample(id=f"shapes/{split}/{number:06d}", source=image, texts=scene.captions)


def draw(scene: Scene, chance: random.Random) -> Image.Image:
    """A 32 x 32 RGB picture of the scene.

    Along the relation's axis the centres lie at 8 and 24 (each +-1.5 pixels), across it at 16 +- 4; radii vary by
    0.25 pixels, each colour channel by 12 levels, and the background is a dark grey.
    """
    side = IMAGE_SIZE * _OVERSAMPLING
    canvas = np.empty((side, side, 3), np.float32)
    canvas[:] = chance.uniform(8, 40)
    for thing, along in ((scene.first, 8.0), (scene.second, 24.0)):
        centre = [along + chance.uniform(-1.5, 1.5), 16 + chance.uniform(-4, 4)]
        x, y = centre if scene.relation == "left of" else reversed(centre)
        radius = RADII[thing.size] + chance.uniform(-0.25, 0.25)
        tint = [min(255.0, max(0.0, level + chance.uniform(-12, 12))) for level in COLOURS[thing.colour]]
        canvas[_inside(thing.shape, x, y, radius)] = tint
    # their mean, with the additions in the order of ndarray.mean, which takes three times as long
    parts = canvas.reshape(IMAGE_SIZE, _OVERSAMPLING, IMAGE_SIZE, _OVERSAMPLING, 3)
    total = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    for row, column in np.ndindex(_OVERSAMPLING, _OVERSAMPLING):
        total += parts[:, row, :, column]
    return Image.fromarray(np.rint(total / np.float32(_OVERSAMPLING**2)).astype(np.uint8))


def _inside(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """(side, side) bool: the points of the oversampled grid that a shape around (x, y), in pixels, covers."""
    grid = (np.arange(IMAGE_SIZE * _OVERSAMPLING, dtype=np.float64) + 0.5) / _OVERSAMPLING
    right, down = (grid - x)[None, :] / radius, (grid - y)[:, None] / radius
    if shape == "circle":
        return right**2 + down**2 < 1
    if shape == "square":
        return (abs(right) < 0.88) & (abs(down) < 0.88)
    if shape == "triangle":
        return (down < 0.85) & (2 * abs(right) < down + 1)
    return ((abs(right) < 0.32) & (abs(down) < 1)) | ((abs(right) < 1) & (abs(down) < 0.32))
