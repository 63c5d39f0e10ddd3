"""Which of the candidates a run takes: those that can be used, with distinct images and distinct first texts.

It does not know where candidates come from.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image, ImageOps

from idvl.data.fields import writable
from idvl.data.image_spool import ImageSpool
from idvl.data.sample import FORMATS, Encoded, Sample, encoded, opened, rgb
from idvl.errors import QUOTED, UsageError
from idvl.reporter import Progress

log = logging.getLogger(__name__)

MIN_SAMPLES = 100
# the share of unusable samples, among those looked at, above which a dataset is refused
MAX_UNUSABLE = 0.05
# samples looked at before that share counts, where no fewer are requested
LOOKED_AT = 2_000


@dataclass
class Choice:
    """Samples taken so far, and what was passed over. Their encoded images go to `store`, their ids are distinct.

    `content` is a running SHA-256 over the images, texts, labels and answers taken.
    """

    store: ImageSpool
    samples: list[Sample] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    images: dict[str, int] = field(default_factory=dict)
    captions: set[str] = field(default_factory=set)
    skipped: list[dict[str, str]] = field(default_factory=list)
    duplicates: int = 0
    looked_at: int = 0
    content: Any = field(default_factory=hashlib.sha256)

    def take(self, sample: Sample, digests: list[str | None]) -> None:
        """Take a sample; the second with an id gets "#2" behind it."""
        sample = replace(
            sample,
            id=self._distinct(writable(sample.id)),
            source=self.store.keep(sample.source),
            second=self.store.keep(sample.second),
        )
        self.samples.append(sample)
        self._note(*digests, *(sample.texts or (None,)), *([sample.label] if sample.label is not None else []))
        self._note(*sample.answers)

    def _distinct(self, name: str) -> str:
        """The name, or, where it is taken, the first of "name#2", "name#3" ... that is not."""
        self.ids[name] += 1
        numbered = name
        while self.ids[name] > 1 and numbered in self.ids:
            numbered = f"{name}#{self.ids[name]}"
            self.ids[name] += numbered in self.ids
        self.ids.setdefault(numbered, 1)
        return numbered

    def gather(self, sample: Sample, digests: list[str | None]) -> None:
        """Take a sample, or add its texts to the sample that has its image."""
        known = self.images.get(digests[0])
        if known is None:
            self.images[digests[0]] = len(self.samples)
            self.take(sample, digests)
            return
        self.duplicates += 1
        before = self.samples[known]
        self.samples[known] = replace(before, texts=(*before.texts, *sample.texts))
        self._note(digests[0], *sample.texts)

    @property
    def scattered(self) -> bool:
        """Whether further texts of the images taken may be in rows to come: no row has had more than one so far."""
        return self.duplicates > 0 or all(len(sample.texts) == 1 for sample in self.samples)

    def _note(self, *parts: Any) -> None:
        self.content.update("".join(f"{part}\0" for part in parts).encode())

    def consider(self, sample: Sample, digests: list[str | None]) -> None:
        """Take a sample, unless its (first) image or all of its texts have been taken before.

        The first text that is new comes first in the sample taken. Texts that differ in case only are the same.
        """
        digest = digests[0]
        fresh = next((text for text in sample.texts if text.casefold() not in self.captions), None)
        if digest in self.images or (sample.texts and fresh is None):
            self.duplicates += 1
            return
        if digest is not None:
            self.images[digest] = len(self.samples)
        if fresh is not None:
            self.captions.add(fresh.casefold())
            rest = tuple(text for text in sample.texts if text != fresh)
            sample = replace(sample, texts=(fresh, *rest))
        self.take(sample, digests)


def choose(
    candidates: Iterable[Sample | dict[str, str]],
    n: int,
    *,
    name: str,
    distinct: bool = True,
    gathered: bool = False,
    store: ImageSpool,
    progress: Progress | None = None,
) -> Choice:
    """The first n usable candidates, distinct, or, `gathered`, with all texts of each image.

    Raises UsageError as soon as too many are unusable.
    """
    choice = Choice(store)
    add = choice.consider if distinct else choice.gather if gathered else choice.take
    if progress is not None:
        progress(0, n)
    for candidate in candidates:
        choice.looked_at += 1
        try:
            if isinstance(candidate, dict):
                raise ValueError(candidate["reason"])
            digests = [None if candidate.source is None else _decodable(candidate.source)]
            digests += [] if candidate.second is None else [_decodable(candidate.second)]
        except ValueError as error:
            skipped = writable(candidate["id"] if isinstance(candidate, dict) else candidate.id)
            choice.skipped.append({"id": skipped, "reason": writable(str(error))})
            log.info("skipped %s: %s", skipped, error)
            _refuse_unusable(choice, max(choice.looked_at, min(n, LOOKED_AT)), name)
            continue
        if len(choice.samples) < n or digests[0] in choice.images:
            add(candidate, digests)
        if progress is not None:
            progress(len(choice.samples), n)
        if len(choice.samples) == n and not (gathered and choice.scattered):
            break
    _refuse_unusable(choice, choice.looked_at, name)
    return choice


def _refuse_unusable(choice: Choice, looked_at: int, name: str) -> None:
    if len(choice.skipped) > MAX_UNUSABLE * looked_at:
        reasons = [skip["reason"] for skip in choice.skipped]
        without_text = any(reason.startswith("no text") for reason in reasons)
        outside = any(reason.startswith("needs --allow-outside") for reason in reasons)
        raise UsageError(
            f"{'pass --allow-outside to read images outside of the folder: ' if outside else ''}"
            f"{len(choice.skipped)} of the {choice.looked_at} samples of {name} looked at cannot be used, more than "
            f"{MAX_UNUSABLE:.0%}: {_listed(choice.skipped)}; {'else ' if outside else ''}repair or remove them"
            f"{', or take the images alone with --text-column none' if without_text else ''}"
        )


def _listed(skipped: list[dict[str, str]]) -> str:
    shown = [f"{skip['id'][:QUOTED]} ({skip['reason'][:QUOTED]})" for skip in skipped[:3]]
    return ", ".join([*shown, *(["..."] if len(skipped) > 3 else [])])


def faults(choice: Choice, asked: int | None, *, name: str, split: str, force: bool) -> list[str]:
    """Warnings about a choice, of which `asked` samples were asked for (None: as many as there are).

    Raises UsageError for one that is empty, or too small and not forced.
    """
    found = len(choice.samples)
    if found == 0:
        raise UsageError(f"{name} (split {split}) is empty: choose another split or dataset")
    counted = (
        f"{name} (split {split}) has {found} distinct usable samples "
        f"({choice.duplicates} duplicates, {len(choice.skipped)} unusable)"
    )
    if found < MIN_SAMPLES and not force:
        raise UsageError(f"{counted}: fewer than {MIN_SAMPLES} give no sound estimate; --force continues anyway")
    warnings = []
    if asked is not None and found < asked:
        warnings.append(f"{counted}, {asked} requested")
    if choice.skipped:
        warnings.append(
            f"skipped {len(choice.skipped)} unusable of {choice.looked_at} samples of {name}: {_listed(choice.skipped)}"
        )
    for warning in warnings:
        log.warning(warning)
    return warnings


def _decodable(source: Encoded) -> str:
    """SHA-256 of an encoded image that decodes to its end, or of the pixels of a decoded one.

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
