"""Which of the candidates a run takes: those that can be used, with distinct images and, if need be, first texts.

It does not know where candidates come from.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from idvl.data.fields import writable
from idvl.data.image_spool import ImageSpool
from idvl.data.sample import Sample, digest
from idvl.errors import QUOTED, UsageError
from idvl.reporter import Progress
from idvl.units import percent

log = logging.getLogger(__name__)

# whether the samples of a run have distinct images and distinct first texts, distinct images alone, or may repeat both
Distinct = bool | Literal["images"]

MIN_SAMPLES = 100
# the share of unusable samples, among those looked at, above which a dataset is refused
MAX_UNUSABLE = 0.05
# samples looked at before that share counts, where no fewer are requested
LOOKED_AT = 2_000
TEXTS_RUN_OUT = (
    "for more distinct texts, name another column (--text-column); layers that read images alone need none "
    "(--modality vision)"
)


@dataclass
class Subset:
    """Samples taken so far, and what was passed over. Their encoded images go to `store`, their ids are distinct.

    `content` is a running SHA-256 over the images, texts, labels and answers taken. `repeated_texts` counts duplicates
    whose image is new.
    """

    store: ImageSpool
    samples: list[Sample] = field(default_factory=list)
    ids: Counter[str] = field(default_factory=Counter)
    images: dict[str, int] = field(default_factory=dict)
    captions: set[str] = field(default_factory=set)
    skipped: list[dict[str, str]] = field(default_factory=list)
    duplicates: int = 0
    repeated_texts: int = 0
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
        number = self.images.get(digests[0])
        if number is None:
            self.take_new_image(sample, digests)
            return
        self.duplicates += 1
        gathered = self.samples[number]
        self.samples[number] = replace(gathered, texts=(*gathered.texts, *sample.texts))
        self._note(digests[0], *sample.texts)

    @property
    def scattered(self) -> bool:
        """Whether further texts of the images taken may be in rows to come: no row has had more than one so far."""
        return self.duplicates > 0 or all(len(sample.texts) == 1 for sample in self.samples)

    def _note(self, *parts: Any) -> None:
        self.content.update("".join(f"{part}\0" for part in parts).encode())

    def take_new_image(self, sample: Sample, digests: list[str | None]) -> None:
        """Take a sample, unless its (first) image has been taken before."""
        image = digests[0]
        if image in self.images:
            self.duplicates += 1
            return
        if image is not None:
            self.images[image] = len(self.samples)
        self.take(sample, digests)

    def take_new_image_and_text(self, sample: Sample, digests: list[str | None]) -> None:
        """Take a sample, unless its (first) image or all of its texts have been taken before.

        The first text that is new comes first in the sample taken. Texts that differ in case only are the same.
        """
        fresh = next((text for text in sample.texts if text.casefold() not in self.captions), None)
        if digests[0] not in self.images and fresh is not None:
            self.captions.add(fresh.casefold())
            others = (text for text in sample.texts if text != fresh)
            sample = replace(sample, texts=(fresh, *others))
        elif digests[0] not in self.images and sample.texts:
            self.duplicates += 1
            self.repeated_texts += 1
            return
        self.take_new_image(sample, digests)


def select_from(
    candidates: Iterable[Sample | dict[str, str]],
    n: int,
    *,
    name: str,
    distinct: Distinct = True,
    gathered: bool = False,
    probe: bool = False,
    store: ImageSpool,
    progress: Progress | None = None,
) -> Subset:
    """The first n usable candidates, `distinct`, or, `gathered`, with all texts of each image.

    Raises UsageError as soon as too many are unusable. A `probe`, which only shows what a dataset holds, passes over
    unusable ones: it raises where none is usable, or where they are too many of LOOKED_AT.
    """
    subset = Subset(store)
    if distinct:
        add = subset.take_new_image if distinct == "images" else subset.take_new_image_and_text
    else:
        add = subset.gather if gathered else subset.take
    if progress is not None:
        progress(0, n)
    for candidate in candidates:
        subset.looked_at += 1
        try:
            if isinstance(candidate, dict):
                raise ValueError(candidate["reason"])
            digests = [None if candidate.source is None else digest(candidate.source)]
            digests += [] if candidate.second is None else [digest(candidate.second)]
        except ValueError as error:
            skipped = writable(candidate["id"] if isinstance(candidate, dict) else candidate.id)
            subset.skipped.append({"id": skipped, "reason": writable(str(error))})
            log.info("skipped %s: %s", skipped, error)
            _refuse_unusable(subset, max(subset.looked_at, LOOKED_AT if probe else min(n, LOOKED_AT)), name)
            continue
        if len(subset.samples) < n or digests[0] in subset.images:
            add(candidate, digests)
        if progress is not None:
            progress(len(subset.samples), n)
        if len(subset.samples) == n and not (gathered and subset.scattered):
            break
    if not (probe and subset.samples):
        _refuse_unusable(subset, subset.looked_at, name)
    return subset


def _refuse_unusable(subset: Subset, looked_at: int, name: str) -> None:
    if len(subset.skipped) > MAX_UNUSABLE * looked_at:
        reasons = [skip["reason"] for skip in subset.skipped]
        without_text = any(reason.startswith("no text") for reason in reasons)
        missing = os.strerror(errno.ENOENT) in reasons
        outside = any(reason.startswith("needs allow_outside") for reason in reasons)
        raise UsageError(
            f"{'set allow_outside (--allow-outside) to read images outside of the folder: ' if outside else ''}"
            f"{len(subset.skipped)} of the {subset.looked_at} samples of {name} looked at cannot be used, more than "
            f"{percent(MAX_UNUSABLE, 0)}: {_first_of(subset.skipped)}; "
            f"{'else ' if outside else ''}repair or remove them"
            f"{', or take the images alone with text_column none' if without_text else ''}"
            f"{'; paths of images start from the folder of the table that names them' if missing else ''}"
        )


def _first_of(skipped: list[dict[str, str]]) -> str:
    reasons = [f"{skip['id'][:QUOTED]} ({skip['reason'][:QUOTED]})" for skip in skipped[:3]]
    return ", ".join([*reasons, *(["..."] if len(skipped) > 3 else [])])


def shortfalls(subset: Subset, n: int | None, *, name: str, split: str, force: bool, probe: bool = False) -> list[str]:
    """Warnings about a subset, which was to have `n` samples (None: as many as there are); none about a `probe`.

    Raises UsageError for one that is empty, or too small and not forced.
    """
    count = len(subset.samples)
    if count == 0:
        raise UsageError(f"{name} (split {split}) is empty: choose another split or dataset")
    texts = f", {subset.repeated_texts} by their text alone" if subset.repeated_texts else ""
    summary = (
        f"{name} (split {split}) has {count} distinct usable samples "
        f"({subset.duplicates} duplicates{texts}, {len(subset.skipped)} unusable)"
    )
    way_out = f"; {TEXTS_RUN_OUT}" if subset.repeated_texts else ""
    if count < MIN_SAMPLES and not force:
        raise UsageError(
            f"{summary}: fewer than {MIN_SAMPLES} give no reliable estimate; choose another split (--split), or set "
            f"force (--force){way_out}"
        )
    warnings = []
    if probe:
        return warnings
    if n is not None and count < n:
        warnings.append(f"{summary}, {n} requested{way_out}")
    if subset.skipped:
        warnings.append(
            f"skipped {len(subset.skipped)} unusable of {subset.looked_at} samples of {name}: "
            f"{_first_of(subset.skipped)}"
        )
    for warning in warnings:
        log.warning(warning)
    return warnings
