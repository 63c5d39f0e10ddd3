"""One sample: images, texts, a class, answers, or some of these. It does not know where samples come from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from idvl.data.stored import Stored

Encoded = bytes | Path | Stored | Image.Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An image with what is known of it. `source` is kept encoded: `image` opens it anew at each access.

    `texts`: all captions, or a question alone, whose `answers` are as often as given. `label`: the number of the
    class, None where it is not public; of a statement, 1 if it is true and 0 if not. `second`: the second image of
    tasks that show two.
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

    @property
    def image(self) -> Image.Image | None:
        """The decoded RGB image, turned upright; None without one. Raises OSError for a file that can't be decoded."""
        return None if self.source is None else decoded(self.source)

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """The image and the second one, as far as there are any, decoded."""
        return tuple(decoded(source) for source in (self.source, self.second) if source is not None)


def decoded(source: Encoded) -> Image.Image:
    """An RGB image, turned upright. Raises OSError for one that can't be decoded."""
    if isinstance(source, Image.Image):
        return source if source.mode == "RGB" else source.convert("RGB")
    with Image.open(source if isinstance(source, Path) else io.BytesIO(encoded(source))) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def encoded(source: bytes | Path | Stored) -> bytes:
    """The bytes of an encoded image. Raises OSError where its file can't be read."""
    if isinstance(source, bytes):
        return source
    return source.read() if isinstance(source, Stored) else source.read_bytes()
