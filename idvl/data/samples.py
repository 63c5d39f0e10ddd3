"""A dataset's name or a local path, turned into the samples of a run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its texts, or either alone. `source` is kept encoded: `image` opens it anew at each access."""

    id: str
    source: bytes | Path | Image.Image | None = None
    texts: tuple[str, ...] = ()
    label: int | None = None

    @property
    def image(self) -> Image.Image | None:
        """The decoded RGB image, None for a text-only sample. Raises OSError for a file that cannot be decoded."""
        if self.source is None or isinstance(self.source, Image.Image):
            return self.source
        opened = Image.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source)
        return opened.convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The samples of a run and how they were chosen.

    `description` is JSON-ready and goes into the profile: dataset, dataset_id, revision, split, seed, requested, ids,
    skipped ([{"id", "reason"}]), method ("uniform" or "stream"), warnings.
    """

    samples: list[Sample]
    description: dict[str, Any]
