"""A dataset's name or a local path, turned into the samples of a run.

It knows no model: what a sample becomes as a model's input is the family's business.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from idvl.data import hub, local
from idvl.data.catalog import CATALOG, Entry, choose_split, unknown
from idvl.data.choice import MIN_SAMPLES, Progress, choose, faults
from idvl.data.rows import Source, encoded_image, texts
from idvl.errors import UsageError

DEFAULT_SAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with its texts, or either alone. `source` is kept encoded: `image` opens it anew at each access."""

    id: str
    source: bytes | Path | Image.Image | None = None
    texts: tuple[str, ...] = ()
    label: int | None = None

    @property
    def image(self) -> Image.Image | None:
        """The decoded RGB image, turned upright; None without one. Raises OSError for a file that can't be decoded."""
        if self.source is None:
            return None
        if isinstance(self.source, Image.Image):
            return self.source if self.source.mode == "RGB" else self.source.convert("RGB")
        with Image.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The samples of a run and how they were chosen.

    `description` is JSON-ready and goes into the profile: dataset, dataset_id, revision, split, seed, requested, ids,
    fingerprint (a hash of images and first texts), columns, method ("uniform" or "stream"), looked_at, skipped
    ([{"id", "reason"}]), duplicates, warnings; for a stream also shuffle, for a local path also path and rows.
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
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    force: bool = False,
    distinct: bool = True,
    progress: Progress | None = None,
) -> Selection:
    """`n` samples (None: the dataset's default) with distinct images and distinct first texts, the same for a seed.

    With `distinct=False`, as for training, any usable ones, repeated or not (None: all; of images drawn by program
    the default number).

    `dataset` is a name in the catalogue, a local path or a Hub id; `data_dir` a local copy to read instead of the
    Hub, `dataset_id` another repository. Local data is drawn uniformly without replacement, a stream through a
    shuffle buffer. Raises UsageError for what does not exist, is empty, yields fewer than MIN_SAMPLES samples
    (unless forced) or has more than MAX_UNUSABLE unusable ones; RunError when the connection breaks.
    """
    entry = CATALOG.get(dataset)
    wanted = n if n is not None else entry.default_samples if entry else DEFAULT_SAMPLES
    if n is None and not distinct:
        wanted = _all_of(entry)
    if wanted < 1 or (wanted < MIN_SAMPLES and not force):
        raise UsageError(
            f"{wanted} samples are too few for a sound estimate: ask for {MIN_SAMPLES} or more, or add --force"
        )
    chosen = {"split": split, "seed": seed}
    columns = {"image_column": image_column, "text_column": text_column}
    if entry and entry.module:
        if data_dir or dataset_id or image_column or text_column:
            raise UsageError(
                f"{dataset} is built in: --data-dir, --dataset-id, --image-column and --text-column do not apply"
            )
        method, details, candidates = _built_in(entry, wanted=wanted, **chosen)
    else:
        place = _place(dataset, entry, data_dir, dataset_id)
        if isinstance(place, Path):
            source = local.open_path(place, wanted=wanted, entry=entry, **chosen, **columns)
        else:
            pinned = revision or (entry.revision if entry and dataset_id is None else None)
            access = {"revision": pinned, "token": token, "cache_dir": cache_dir}
            source = _on_hub(dataset, place, entry=entry, **access, **chosen, **columns)
        method, details, candidates = source.method, _details(source), _candidates(source)
        if not distinct:
            wanted = min(wanted, details.get("rows", wanted))
    choice = choose(candidates, wanted, name=dataset, distinct=distinct, progress=progress)
    warnings = faults(choice, n, name=dataset, split=details["split"], force=force)
    description = {
        "dataset": dataset,
        "dataset_id": None,
        "revision": None,
        **details,
        "seed": seed,
        "method": method,
        "requested": wanted,
        "ids": [sample.id for sample in choice.samples],
        "fingerprint": choice.content.hexdigest(),
        "looked_at": choice.looked_at,
        "skipped": choice.skipped,
        "duplicates": choice.duplicates,
        "warnings": warnings,
    }
    return Selection(samples=choice.samples, description=description)


def _all_of(entry: Entry | None) -> int:
    """As many as there may be."""
    built_in = entry is not None and entry.module is not None
    return max(entry.default_samples, *(size or 0 for size in entry.splits.values())) if built_in else sys.maxsize


def _place(
    dataset: str, entry: Entry | None, data_dir: str | Path | None, dataset_id: str | None
) -> Path | tuple[str, ...]:
    """A path to read from, or the Hub ids to try."""
    if data_dir is not None and dataset_id is not None:
        raise UsageError("--data-dir and --dataset-id name two places for one dataset: pass one of them")
    path = Path(data_dir if data_dir is not None else dataset).expanduser()
    if data_dir is not None or (entry is None and dataset_id is None):
        if path.exists():
            return path
        if data_dir is not None or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", dataset):
            if data_dir is None and not re.search(r"[/\\.~]", dataset):
                raise unknown("dataset", dataset, CATALOG, hint="a folder, a file or a Hub id ORG/NAME works as well")
            where = f"--data-dir {path}" if data_dir is not None else path
            named = "" if data_dir is not None else f", or one of {', '.join(CATALOG)}"
            raise UsageError(f"{where} does not exist: pass a folder of images or a table{named}")
        return (dataset,)
    return entry.ids if dataset_id is None else (dataset_id,)


def _on_hub(dataset: str, ids: tuple[str, ...], **options: Any) -> Source:
    try:
        return hub.open_stream(ids, **options)
    except UsageError as error:
        if ids == (dataset,):
            raise UsageError(f"{dataset} is no local path; {error}") from error
        raise


def _built_in(
    entry: Entry, *, split: str | None, wanted: int, seed: int
) -> tuple[str, dict[str, Any], Iterator[Sample]]:
    split = choose_split(split, entry.splits, where=entry.name, entry=entry)
    return "uniform", {"split": split}, import_module(entry.module).candidates(split, wanted, seed)


def _details(source: Source) -> dict[str, Any]:
    columns = source.columns
    read = {"image": columns.image, "text": columns.text, "guessed": list(columns.guessed)}
    return {**source.details, "columns": read}


def _candidates(source: Source) -> Iterator[Sample | dict[str, str]]:
    """A sample for each row, or {"id", "reason"} for a row that can't be one. Images are not decoded here."""
    columns = source.columns
    for number, (name, row) in enumerate(source.rows):
        name = f"row {number} of the stream" if name is None else name
        lines = texts(row.get(columns.text)) if columns.text else ()
        if columns.text and not lines:
            yield {"id": name, "reason": f"no text in column {columns.text!r}"}
            continue
        try:
            image = encoded_image(row.get(columns.image), source.folder) if columns.image else None
        except ValueError as error:
            yield {"id": name, "reason": str(error)}
            continue
        yield Sample(id=name, source=image, texts=lines)
