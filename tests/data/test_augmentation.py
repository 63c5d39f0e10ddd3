"""Augmentation against its definition: BLIP's operations, computed pixel by pixel, and the law of its crops."""

import math
import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from idvl.data.augmentation import OPERATIONS, augmented, crop_box

SIDE = 24
NOISE = np.random.default_rng(0).integers(30, 220, (SIDE, SIDE, 3), dtype=np.uint8)


def turned(degrees):
    """OpenCV's getRotationMatrix2D about half of width and height."""
    cos, sin, middle = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), SIDE / 2
    return [[cos, sin, (1 - cos) * middle - sin * middle], [-sin, cos, sin * middle + (1 - cos) * middle]]


def moved(pixels, matrix):
    """What OpenCV's warpAffine defines: pixel (x, y) goes to matrix (x, y, 1), between pixels linear, 128 outside."""
    inverse = np.linalg.inv([*matrix, [0, 0, 1]])
    result = np.empty(pixels.shape)
    for y in range(SIDE):
        for x in range(SIDE):
            at_x, at_y, _ = inverse @ (x, y, 1)
            left, top = math.floor(at_x), math.floor(at_y)
            result[y, x] = 0
            for i, j in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                inside = 0 <= i < SIDE and 0 <= j < SIDE
                share = (1 - abs(at_x - i)) * (1 - abs(at_y - j))
                result[y, x] += share * (pixels[j, i] if inside else 128)
    return result


@pytest.mark.parametrize("sign", [1, -1])
def test_what_moves_pixels_is_what_opencv_does(sign):
    expected = {
        "shear-x": [[1, 0.15 * sign, 0], [0, 1, 0]],
        "shear-y": [[1, 0, 0], [0.15 * sign, 1, 0]],
        "translate-x": [[1, 0, -5 * sign], [0, 1, 0]],
        "translate-y": [[1, 0, 0], [0, 1, -5 * sign]],
        "rotate": turned(15 * sign),
    }
    for name, matrix in expected.items():
        image = np.asarray(OPERATIONS[name](Image.fromarray(NOISE), sign)).astype(float)
        assert np.abs(image - moved(NOISE, matrix)).max() < 1.001, name


def test_what_changes_values_is_what_its_definition_says():
    channels = {"equalize": [], "autocontrast": []}
    for values in np.moveaxis(NOISE, -1, 0):
        counts = np.bincount(values.ravel(), minlength=256)
        step = (values.size - counts[counts > 0][-1]) // 255
        table = (step // 2 + np.concatenate([[0], np.cumsum(counts)[:-1]])) // step
        channels["equalize"].append(table.clip(0, 255)[values])
        low, high = int(values.min()), int(values.max())
        channels["autocontrast"].append(((values.astype(int) - low) * 255 / (high - low)).astype(np.uint8))
    for name, expected in channels.items():
        image = np.asarray(OPERATIONS[name](Image.fromarray(NOISE), 1)).astype(int)
        # Pillow adds the offset after it has multiplied
        assert np.abs(image - np.stack(expected, -1)).max() <= (name == "autocontrast"), name
    assert len(OPERATIONS) == 10


def test_a_crop_takes_half_to_all_of_an_image():
    generator = random.Random(0)
    shares, ratios = [], []
    for _ in range(500):
        left, top, width, height = crop_box((640, 480), generator)
        assert 0 <= left <= 640 - width and 0 <= top <= 480 - height
        shares.append(width * height / (640 * 480))
        ratios.append(width / height)
    assert 0.49 < min(shares) < 0.55 and 0.95 < max(shares) <= 1
    assert 0.74 < min(ratios) < 0.78 and 1.29 < max(ratios) < 1.35
    # no crop of such an image has half of its area: the largest from the middle
    assert crop_box((400, 30), generator) == (180, 0, 40, 30)
    assert crop_box((30, 400), generator) == (0, 180, 30, 40)


def test_an_image_is_cropped_mirrored_and_changed_as_often_as_in_blip():
    """7 of 10 operations do something at m = 5, and each of two is applied with probability 1/2."""
    image, size = Image.fromarray(NOISE), (24, 20)
    plain = mirrored = 0
    for seed in range(500):
        result = augmented(image, size, random.Random(seed))
        assert result.size == size and result == augmented(image, size, random.Random(seed))
        left, top, width, height = crop_box(image.size, random.Random(seed))
        cropped = image.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        plain += result == cropped
        mirrored += result == ImageOps.mirror(cropped)
    assert (plain + mirrored) / 500 == pytest.approx(0.65**2, abs=0.06)
    assert plain / (plain + mirrored) == pytest.approx(0.5, abs=0.08)
