"""A dataset's name or a local path, turned into the samples of a run.

It knows no model: what a sample becomes as a model's input is the family's business.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from idvl.data.catalog import CATALOG, CatalogEntry, unlike_published
from idvl.data.columns import NOT_CAPTIONS, Columns
from idvl.data.image_spool import ImageSpool
from idvl.data.sample import Sample
from idvl.data.sample_cache import SampleCache
from idvl.data.selector import MIN_SAMPLES, Distinct, Subset, select_from, shortfalls
from idvl.data.sources import Location, SampleCandidates, built_in_candidates, external_candidates
from idvl.errors import UsageError, listed, quoted
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
    repositories join, for a local path path and rows, for the Hub rows where the card states them, for what a model
    learnt from learnt (in what).
    """

    samples: list[Sample]
    description: dict[str, Any]

    @property
    def is_whole(self) -> bool:
        """Whether every row of the split was read, and is unusable, a sample or the text of one; False if not known."""
        about = self.description
        taken = len(about["ids"]) + about["duplicates"] + len(about["skipped"])
        entry = CATALOG.get(about["dataset"])
        return taken == (entry.splits[about["split"]] if entry and entry.module else about.get("rows"))

    @property
    def doubtful_captions(self) -> str | None:
        """Why the texts are hardly captions: their column was guessed, and is called as questions or answers are."""
        columns = self.description.get("columns") or {}
        text = columns.get("text")
        if text is None or text.lower() not in NOT_CAPTIONS or text not in columns["guessed"]:
            return None
        return (
            f"the column {quoted(text)} is read as captions, and by its name it holds questions or answers"
            f"{_unread(columns)}: name the column with the captions, be it this one, as text_column (--text-column)"
        )

    @property
    def line(self) -> str:
        """How many samples of which split, what is read from which column, and the classes."""
        about = self.description
        columns, classes = about.get("columns") or {}, about["classes"]
        read = [f"{use} from {columns[use]}" for use in Columns().by_use if columns.get(use)]
        count = len(self.samples)
        parts = [f"{count:,} sample{'' if count == 1 else 's'} of {about['dataset']}, split {about['split']}"]
        parts += [f"{', '.join(read)}{_unread(columns)}"] if read else []
        parts += [f"{len(classes)} classes: {listed(classes)}"] if classes else []
        return "; ".join(parts)

    def learnt(self, purpose: str) -> Selection:
        """The same samples, described as ones that the model learnt from, in `purpose`."""
        return replace(self, description=self.description | {"learnt": purpose})

    def source(self) -> dict[str, Any]:
        """Where the samples are from, and how many there are: dataset, split, fingerprint, samples.

        A sample that is there once for each of its texts counts once.
        """
        source = {key: self.description.get(key) for key in ("dataset", "split", "fingerprint")}
        return {**source, "samples": len({sample.id for sample in self.samples})}


def _unread(columns: dict[str, Any]) -> str:
    return f" (not read: {listed(columns['unread'])})" if "unread" in columns else ""


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
    distinct: Distinct = True,
    gathered: bool = False,
    keep_order: bool = False,
    probe: bool = False,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Selection:
    """`n` samples (None: the dataset's default) with distinct images and distinct first texts, the same for a seed.

    With `distinct="images"`, as for layers that read no text, they have distinct images, and their texts may repeat.
    With `distinct=False`, as for training and evaluation, any usable ones, repeated or not (None: all, in the
    dataset's own order; of what is built in, all or the default number, by seed). `gathered` makes one sample of all
    rows of an image, with all of their texts. `keep_order`: an `n` that leaves no row out, as far as their number is
    known, changes nothing; gathered rows of the Hub may come in another order where `n` is less than the rows. A
    `probe` shows what a dataset holds: unusable samples among those looked at are passed over.

    `dataset` is a name in the catalogue, a local path or a Hub id; `data_dir` a local copy to read instead of the
    Hub, `dataset_id` another repository. Local data is drawn uniformly without replacement, a stream through a
    shuffle buffer; what it gave is kept for later calls (`sample_cache`). Encoded images of local tables go to the file
    `store`, which is replaced, as they are chosen, and the samples only say where; without it they stay in memory.
    Images that a table names outside of the dataset's folder are unusable, unless `allow_outside`. Raises UsageError
    for what does not exist, is empty, yields fewer than MIN_SAMPLES samples (unless forced) or has more than
    MAX_UNUSABLE unusable ones; RunError when the connection breaks or the disk is full.
    """
    entry = CATALOG.get(dataset)
    limit = _limit(entry, n, distinct)
    refuse_few(limit, force=force)
    folder = None if data_dir is None else Path(data_dir)
    if folder and not entry and os.path.exists(os.path.expanduser(dataset)):
        raise UsageError(
            f"dataset {quoted(dataset)} is a path, and data_dir (--data-dir) names where else a dataset of that name "
            "lies: leave one of the two out"
        )
    if entry and not folder and os.path.isdir(dataset):
        log.warning(
            "the known dataset %s is read, not the folder of that name here: write ./%s for the folder",
            *(dataset, dataset),
        )
    location = Location(dataset, entry, folder, dataset_id, cache_dir, allow_outside)
    overrides = Columns(
        image=image_column,
        text=text_column,
        label=label_column,
        answers=answers_column,
        second_image=second_image_column,
    )
    limited = {"limit": limit, "n": n, "distinct": distinct, "gathered": gathered, "force": force, "probe": probe}

    def chosen(candidates: SampleCandidates, spool: ImageSpool) -> Selection:
        return _chosen(dataset, entry, candidates, spool, seed=seed, progress=progress, **limited)

    if entry and entry.module:
        return chosen(built_in_candidates(location, overrides, split=split, n=limit, seed=seed), ImageSpool(None))
    with ImageSpool(None if store is None else Path(store)) as spool:
        order = seed if distinct or n is not None else None
        opening = {"split": split, "n": limit, "store": spool}
        candidates = external_candidates(location, overrides, seed=order, **opening)
        if keep_order and order is not None and candidates.size is not None and limit >= candidates.size:
            order = None
            candidates = external_candidates(location, overrides, seed=order, **opening)
        if "dataset_id" not in candidates.details:
            selection = chosen(candidates, spool)
            if gathered and keep_order and order is not None and selection.is_whole:
                # fewer images than rows: that the limit left none out shows only now
                return chosen(external_candidates(location, overrides, seed=None, **opening), spool)
            return selection
        made_from = {"dataset": dataset, "seed": seed, "order": order, **limited, **candidates.details}
        cache = SampleCache(cache_dir, made_from)
        if kept := cache.read():
            for warning in kept[1]["warnings"]:
                log.warning(warning)
            return Selection(samples=kept[0], description=kept[1])
        if not cache.prepare():
            return chosen(candidates, spool)
    try:
        with ImageSpool(cache.images, flag="--cache-dir") as spool:
            selection = chosen(candidates, spool)
        return replace(selection, samples=cache.keep(selection.samples, selection.description))
    finally:
        cache.discard()


def _chosen(
    dataset: str,
    entry: CatalogEntry | None,
    candidates: SampleCandidates,
    spool: ImageSpool,
    *,
    seed: int,
    limit: int,
    n: int | None,
    distinct: Distinct,
    gathered: bool,
    force: bool,
    probe: bool,
    progress: Progress | None,
) -> Selection:
    """What `select` takes of the candidates, at most `limit`; images go to the spool."""
    size = limit if distinct or candidates.size is None else min(limit, candidates.size)
    show = progress and (lambda taken, _: progress(taken, size))
    named = {"name": dataset, "probe": probe}
    subset = select_from(
        candidates.samples, limit, distinct=distinct, gathered=gathered, store=spool, progress=show, **named
    )
    short_of, split = n if distinct else None, candidates.details["split"]
    warnings = [*candidates.warnings, *shortfalls(subset, short_of, split=split, force=force, **named)]
    is_whole = subset.looked_at == candidates.size or len(subset.samples) < limit
    about = {"dataset": dataset, **candidates.details, "looked_at": subset.looked_at}
    unlike = [*filter(None, [unlike_published(about)])] if is_whole and not distinct else []
    for warning in (*candidates.warnings, *unlike):
        log.warning(warning)
    warnings += unlike
    requested = None if size == sys.maxsize else size
    description = _description(dataset, candidates, subset, seed=seed, requested=requested, warnings=warnings)
    return Selection(samples=subset.samples, description=description)


def _description(
    dataset: str,
    candidates: SampleCandidates,
    subset: Subset,
    *,
    seed: int,
    requested: int | None,
    warnings: list[str],
) -> dict[str, Any]:
    description = {
        "dataset": dataset,
        "dataset_id": None,
        "revision": None,
        **candidates.details,
        "classes": candidates.classes,
        "seed": seed,
        "method": candidates.method,
        "requested": requested,
        "ids": [sample.id for sample in subset.samples],
        "fingerprint": subset.content.hexdigest(),
        "looked_at": subset.looked_at,
        "skipped": subset.skipped,
        "duplicates": subset.duplicates,
        "warnings": warnings,
    }
    if candidates.size is not None:
        # not among the details, by which samples of the Hub are kept
        description.setdefault("rows", candidates.size)
    return description


def refuse_few(count: int, *, force: bool) -> None:
    """UsageError for a number of samples that gives no reliable estimate."""
    if count < 1 or (count < MIN_SAMPLES and not force):
        raise UsageError(
            f"{count} samples are too few for a reliable estimate: ask for {MIN_SAMPLES} or more, or set force "
            "(--force)"
        )


def _limit(entry: CatalogEntry | None, n: int | None, distinct: Distinct) -> int:
    """How many samples: those asked for, the default, or as many as there may be."""
    if n is not None:
        return n
    if distinct:
        return entry.default_samples if entry else DEFAULT_SAMPLES
    if entry and entry.module:
        return max(entry.default_samples, *(size or 0 for size in entry.splits.values()))
    return sys.maxsize
