"""One sample: images, texts, a class, answers, or some of these. It does not know where samples come from."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from idvl.data.image_spool import SpooledImage
from idvl.data.regions import holds_regions, regions
from idvl.errors import UsageError, quoted
from idvl.files import read_bytes

Encoded = bytes | Path | SpooledImage | Image.Image

# the largest encoded image, in bytes
LARGEST = 1 << 30
# what is decoded, by Pillow alone: PostScript, which it knows too, would be run by an interpreter
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# how often an image may be as long as it is wide: what scales the shorter side to that of a model makes the other huge
LONGEST = 200
# formats whose grey pixels of more than 8 bits Pillow gives as 32-bit numbers that span 16 bits
SPANS_16_BITS = ("PNG", "PPM")
BITS_PER_SAMPLE = 258  # a tag of TIFF


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An image with what is known of it. `source` is kept encoded: each access to `image` decodes it again.

    `texts`: all captions, or a question alone, whose `answers` are as often as given. `label`: the number of the
    class, None where it is not public; of a statement, 1 if it is true and 0 if not. `second`: the second image of
    tasks that show two. A text alone counts as a tuple of one.

    Raises UsageError for texts or answers that hold anything but text, None for a missing one, and for a source that is
    no path, bytes or image.
    """

    id: str
    source: Encoded | None = None
    texts: tuple[str, ...] = ()
    label: int | None = None
    answers: tuple[str, ...] = ()
    second: Encoded | None = None

    def __post_init__(self) -> None:
        for name in ("source", "second"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value))
            elif not isinstance(value, Encoded | None):
                raise UsageError(f"{name} is a path, the bytes of a file or a PIL image, not {type(value).__name__}")
        for name in ("texts", "answers"):
            value = getattr(self, name)
            texts = (value,) if isinstance(value, str) else value
            try:
                texts = tuple(texts)
                "".join(text for text in texts if text is not None).encode()
            except TypeError:
                raise UsageError(f"{name} holds texts, not {quoted(value)}") from None
            except UnicodeEncodeError:
                raise UsageError(f"{name} holds lone surrogates, which are no text: {quoted(value)}") from None
            object.__setattr__(self, name, texts)

    @property
    def image(self) -> Image.Image | None:
        """The decoded RGB image, turned upright; None without one. Raises OSError for a file that can't be decoded."""
        return None if self.source is None else decoded(self.source)

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The image and the second one, as far as there are any, decoded."""
        return tuple(decoded(source) for source in (self.source, self.second) if source is not None)


def decoded(source: Encoded) -> Image.Image:
    """An RGB image, turned upright; of an animation the first frame. Raises OSError for one that can't be decoded."""
    try:
        if isinstance(source, Image.Image):
            return rgb(source)
        with opened(encoded(source)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return rgb(image)
    except OSError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever their formats call for
        raise OSError(str(error)) from error


def opened(data: bytes) -> Image.Image:
    """An encoded image, its pixels not read yet. OSError for what is none of FORMATS, or too long for its width."""
    if holds_regions(data):
        raise OSError("it holds features of regions (.npz), not pixels")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if max(image.size) > LONGEST * min(image.size):
        raise OSError(f"{image.width} x {image.height} pixels: one side is more than {LONGEST} times the other")
    return image


def rgb(image: Image.Image) -> Image.Image:
    """An image as 8-bit RGB. Of 16-bit grey the high byte counts, as Pillow does for 16-bit colour, which has no other.

    Raises OSError where nothing says which value is white.
    """
    if image.mode == "RGB":
        return image
    if image.mode == "F" or (image.mode == "I" and image.format not in SPANS_16_BITS):
        raise OSError(f"its pixels are 32-bit (mode {image.mode}), nothing says which value is white: use 8 or 16 bits")
    if image.mode.startswith("I"):
        bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
        image = Image.fromarray((np.asarray(image) >> bits - 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # which Pillow warns about otherwise
    return image.convert("RGB")


def encoded(source: bytes | Path | SpooledImage) -> bytes:
    """The bytes of an encoded image. Raises OSError where its file can't be read, is none, or is beyond LARGEST."""
    if isinstance(source, bytes):
        return source
    return source.read() if isinstance(source, SpooledImage) else read_bytes(source, LARGEST)


def digest(source: Encoded) -> str:
    """SHA-256 of an encoded image that decodes to its end, of region features, or of the pixels of a decoded image.

    Raises ValueError with what is wrong with it.
    """
    if isinstance(source, Image.Image):
        return hashlib.sha256(f"{source.mode}{source.size}".encode() + source.tobytes()).hexdigest()
    try:
        data = encoded(source)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if not data:
        raise ValueError("zero bytes")
    if holds_regions(data):
        regions(data)
        return hashlib.sha256(data).hexdigest()
    try:
        with opened(data) as image:
            image.draft("RGB", (1, 1))  # a JPEG is read to its end, but at an eighth of its size: ten times faster
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            rgb(image)
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise whatever their formats call for
        raise ValueError(f"cannot be decoded: {error}") from error
    return hashlib.sha256(data).hexdigest()
