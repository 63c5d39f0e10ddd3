"""A dataset's name or a local path, turned into the samples of a run.

It knows no model: what a sample becomes as a model's input is the family's business.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl.data.catalog import CATALOG, CatalogEntry
from idvl.data.columns import Columns
from idvl.data.image_spool import ImageSpool
from idvl.data.sample import Sample
from idvl.data.selector import MIN_SAMPLES, Choice, choose, faults
from idvl.data.sources import Place, SampleCandidates, built_in, elsewhere
from idvl.errors import UsageError
from idvl.reporter import Progress

__all__ = ["Sample", "Selection", "select"]

log = logging.getLogger(__name__)

DEFAULT_SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The samples of a run and how they were chosen.

    `description` is JSON-ready and goes into the profile: dataset, dataset_id, revision, split, seed, requested (None:
    all of an unknown number), ids, fingerprint (a hash of images, first texts, labels and answers), columns, classes
    (their names, None where there are none), method ("uniform", "stream" or "whole"), looked_at, skipped ([{"id",
    "reason"}]), duplicates, warnings; for a shuffled stream also shuffle, for a split put together from two
    repositories join, for a local path path and rows.
    """

    samples: list[Sample]
    description: dict[str, Any]


def select(
    dataset: str,
    *,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    data_dir: str | Path | None = None,
    dataset_id: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    answers_column: str | None = None,
    second_image_column: str | None = None,
    cache_dir: str | Path | None = None,
    allow_outside: bool = False,
    force: bool = False,
    distinct: bool = True,
    gathered: bool = False,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Selection:
    """`n` samples (None: the dataset's default) with distinct images and distinct first texts, the same for a seed.

    With `distinct=False`, as for training and evaluation, any usable ones, repeated or not (None: all, in the
    dataset's own order; of what is built in, all or the default number, by seed). `gathered` makes one sample of all
    rows of an image, with all of their texts.

    `dataset` is a name in the catalogue, a local path or a Hub id; `data_dir` a local copy to read instead of the
    Hub, `dataset_id` another repository. Local data is drawn uniformly without replacement, a stream through a
    shuffle buffer. Encoded images that are no files of their own go to the file `store` as they are chosen, begun
    anew, and the samples only say where; without it they stay in memory. Images that a table names outside of
    the dataset's folder are unusable, unless `allow_outside`. Raises UsageError for what does not exist,
    is empty, yields fewer than MIN_SAMPLES samples (unless forced) or has more than MAX_UNUSABLE unusable ones;
    RunError when the connection breaks or the disk is full.
    """
    entry = CATALOG.get(dataset)
    wanted = _wanted(entry, n, distinct)
    if wanted < 1 or (wanted < MIN_SAMPLES and not force):
        raise UsageError(
            f"{wanted} samples are too few for a sound estimate: ask for {MIN_SAMPLES} or more, or add --force"
        )
    folder = None if data_dir is None else Path(data_dir)
    place = Place(dataset, entry, folder, dataset_id, cache_dir, allow_outside)
    asked = Columns(
        image=image_column,
        text=text_column,
        label=label_column,
        answers=answers_column,
        second_image=second_image_column,
    )
    with ImageSpool(None if store is None else Path(store)) as kept:
        if entry and entry.module:
            found = built_in(place, asked, split=split, wanted=wanted, seed=seed)
        else:
            order = seed if distinct or n is not None else None
            found = elsewhere(place, asked, split=split, wanted=wanted, seed=order, store=kept)
        expected = wanted if distinct or found.size is None else min(wanted, found.size)
        told = progress and (lambda done, _: progress(done, expected))
        choice = choose(
            found.samples, wanted, name=dataset, distinct=distinct, gathered=gathered, store=kept, progress=told
        )
    warnings = [
        *found.warnings,
        *faults(choice, n if distinct else None, name=dataset, split=found.details["split"], force=force),
    ]
    for warning in found.warnings:
        log.warning(warning)
    if n is None and not distinct:
        warnings += _unlike_published(entry, found, choice)
    return Selection(
        samples=choice.samples,
        description={
            "dataset": dataset,
            "dataset_id": None,
            "revision": None,
            **found.details,
            "classes": found.classes,
            "seed": seed,
            "method": found.method,
            "requested": None if expected == sys.maxsize else expected,
            "ids": [sample.id for sample in choice.samples],
            "fingerprint": choice.content.hexdigest(),
            "looked_at": choice.looked_at,
            "skipped": choice.skipped,
            "duplicates": choice.duplicates,
            "warnings": warnings,
        },
    )


def _wanted(entry: CatalogEntry | None, n: int | None, distinct: bool) -> int:
    """How many samples: those asked for, the default, or as many as there may be."""
    if n is not None:
        return n
    if distinct:
        return entry.default_samples if entry else DEFAULT_SAMPLES
    built_in = entry is not None and entry.module is not None
    return max(entry.default_samples, *(size or 0 for size in entry.splits.values())) if built_in else sys.maxsize


def _unlike_published(entry: CatalogEntry | None, found: SampleCandidates, choice: Choice) -> list[str]:
    """A warning where a whole split of the Hub has another number of rows than the one that is published."""
    split = found.details["split"]
    published = entry.splits.get(split) if entry else None
    if published is None or not found.details.get("dataset_id") or choice.looked_at == published:
        return []
    return [
        f"{entry.name} (split {split}) has {choice.looked_at:,} rows in {found.details['dataset_id']}, "
        f"{published:,} as published: results do not compare"
    ]
