"""Images as BLIP's training sees them: a random crop, perhaps mirrored, perhaps changed by two random operations.

The list of operations, their probability and strength are those of BLIP's code (data/__init__.py and
transform/randaugment.py, RandAugment with n = 2 and m = 5).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from PIL import Image, ImageOps

# the share of an image's area that a crop takes, and its width divided by its height
SCALE, RATIO = (0.5, 1.0), (3 / 4, 4 / 3)
# how often a crop is drawn that may not fit into the image
TRIES = 10
# operations drawn for an image, and the probability with which each is then applied
OPERATIONS_DRAWN, PROBABILITY = 2, 0.5
# what operations do at m = 5: shear, move by so many pixels, rotate by so many degrees, either way
SHEAR, SHIFT, ROTATION = 0.15, 5, 15
# what comes in from outside of the image
GREY = (128, 128, 128)


def augmented(image: Image.Image, size: tuple[int, int], generator: random.Random) -> Image.Image:
    """An RGB image of `size`, width and height, drawn from an RGB image of any size."""
    left, top, width, height = crop_box(image.size, generator)
    image = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
    if generator.random() < 0.5:
        image = ImageOps.mirror(image)
    for operation in generator.choices(list(OPERATIONS.values()), k=OPERATIONS_DRAWN):
        if generator.random() < PROBABILITY:
            image = operation(image, generator.choice((-1, 1)))
    return image


def crop_box(size: tuple[int, int], generator: random.Random) -> tuple[int, int, int, int]:
    """Left, top, width and height of a crop, as torchvision's RandomResizedCrop draws it.

    Area and logarithm of the ratio are uniform. Where none of TRIES fits into the image: the largest crop from its
    middle whose ratio is within bounds.
    """
    full_width, full_height = size
    for _ in range(TRIES):
        area = full_width * full_height * generator.uniform(*SCALE)
        ratio = math.exp(generator.uniform(*map(math.log, RATIO)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= full_width and 0 < height <= full_height:
            return generator.randint(0, full_width - width), generator.randint(0, full_height - height), width, height
    width = min(full_width, round(full_height * RATIO[1]))
    height = min(full_height, round(full_width / RATIO[0]))
    return (full_width - width) // 2, (full_height - height) // 2, width, height


def warped(image: Image.Image, x: tuple[float, float, float], y: tuple[float, float, float]) -> Image.Image:
    """The image whose pixel (i, j) is the one at (x, y) = (a i + b j + c, d i + e j + f), interpolated linearly.

    Indices count from the centre of the first pixel, as OpenCV's do, and beyond the image all is GREY.
    """
    # the border has the image's edge interpolated with GREY; Pillow's coordinates begin at a pixel's corner
    bordered = ImageOps.expand(image, 1, GREY)
    rows = [(a, b, c + 1.5 - (a + b) / 2) for a, b, c in (x, y)]
    how = {"resample": Image.Resampling.BILINEAR, "fillcolor": GREY}
    return bordered.transform(image.size, Image.Transform.AFFINE, (*rows[0], *rows[1]), **how)


def rotated(image: Image.Image, sign: int) -> Image.Image:
    """The image turned about the pixel whose indices are half of width and height."""
    cos, sin = math.cos(math.radians(ROTATION)), sign * math.sin(math.radians(ROTATION))
    middle, centre = image.width / 2, image.height / 2
    x = (cos, -sin, middle - cos * middle + sin * centre)
    return warped(image, x, (sin, cos, centre - sin * middle - cos * centre))


def unchanged(image: Image.Image, sign: int) -> Image.Image:
    """The image as it is."""
    return image


# (image, 1 or -1: which way) -> image. Brightness and sharpness are multiplied by 1 at m = 5
OPERATIONS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "identity": unchanged,
    "autocontrast": lambda image, sign: ImageOps.autocontrast(image),
    "brightness": unchanged,
    "sharpness": unchanged,
    "equalize": lambda image, sign: ImageOps.equalize(image),
    "shear-x": lambda image, sign: warped(image, (1, -sign * SHEAR, 0), (0, 1, 0)),
    "shear-y": lambda image, sign: warped(image, (1, 0, 0), (-sign * SHEAR, 1, 0)),
    "translate-x": lambda image, sign: warped(image, (1, 0, sign * SHIFT), (0, 1, 0)),
    "translate-y": lambda image, sign: warped(image, (1, 0, 0), (0, 1, sign * SHIFT)),
    "rotate": rotated,
}
