"""Where a dataset is, and its samples one by one before any is chosen. It does not know which of them a run takes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from idvl.data import hub, local
from idvl.data.catalog import CATALOG, CatalogEntry
from idvl.data.columns import Columns, Source
from idvl.data.fields import answers, encoded_image, label, texts, writable
from idvl.data.image_spool import ImageSpool
from idvl.data.sample import Sample
from idvl.data.splits import choose_split
from idvl.errors import QUOTED, UsageError, quoted, unknown

# what may be the name of a repository on the Hub
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"


class Location(NamedTuple):
    """What says where a dataset is: its name, path or Hub id, and what replaces these."""

    dataset: str
    entry: CatalogEntry | None
    data_dir: Path | None = None
    dataset_id: str | None = None
    cache_dir: str | Path | None = None
    allow_outside: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleCandidates:
    """Samples in the order in which they are to be looked at; {"id", "reason"} for a row that can't be one.

    `size` is the number of rows where it is known, `warnings` what was left out; `details` goes into the description
    of the selection.
    """

    samples: Iterator[Sample | dict[str, str]]
    method: str
    details: dict[str, Any]
    size: int | None = None
    classes: Sequence[str] | None = None
    warnings: Sequence[str] = ()


def built_in_candidates(
    location: Location, overrides: Columns, *, split: str | None, n: int, seed: int
) -> SampleCandidates:
    """Samples of a built-in dataset, drawn by seed. Raises UsageError for settings that have no meaning there."""
    entry = location.entry
    if location.data_dir or location.dataset_id or overrides.read:
        raise UsageError(f"{entry.name} is built in: data_dir, dataset_id and names of columns do not apply")
    split = choose_split(split, entry.splits, where=entry.name, entry=entry)
    module = import_module(entry.module)
    return SampleCandidates(
        samples=module.candidates(split, n, seed),
        method="uniform",
        details={"split": split},
        classes=list(module.LABELS) if hasattr(module, "LABELS") else None,
    )


def external_candidates(
    location: Location, overrides: Columns, *, split: str | None, n: int, seed: int | None, store: ImageSpool
) -> SampleCandidates:
    """Samples at a path or on the Hub, shuffled by seed, in their own order without one."""
    where = path_or_ids(location)
    order = {"split": split, "seed": seed, "entry": location.entry, "overrides": overrides}
    source = (
        local.open_path(where, n=n, store=store, allow_outside=location.allow_outside, **order)
        if isinstance(where, Path)
        else _on_hub(location, where, **order)
    )
    columns = {use: name for use, name in source.columns.by_use.items() if use != "id"}
    columns = {use: name for use, name in columns.items() if name is not None or use in ("image", "text")}
    columns["guessed"] = list(source.columns.guessed)
    if source.columns.unread:
        columns["unread"] = list(source.columns.unread)
    classes = None if source.classes is None else _class_names(source.classes, location.dataset)
    return SampleCandidates(
        samples=_samples(source),
        method=source.method,
        details={**source.details, "columns": columns},
        size=source.size,
        classes=classes,
        warnings=[*source.warnings, *_alike_but_for_case(classes or ())],
    )


def _class_names(names: Sequence[Any], dataset: str) -> list[str]:
    """The names of classes. UsageError for one that is no text."""
    if odd := [name for name in names if not isinstance(name, str)]:
        raise UsageError(f"{dataset} calls a class {quoted(odd[0])}, which is not text: repair its class names")
    return [writable(name) for name in names]


def _alike_but_for_case(classes: Sequence[str]) -> Iterator[str]:
    """That two classes may be one, the first time that their names differ in case only."""
    seen: dict[str, str] = {}
    for name in classes:
        if (first := seen.setdefault(name.casefold(), name)) != name:
            yield (
                f"the classes {quoted(first)} and {quoted(name)} differ in case only, and are two classes: where they "
                "are one, give them one name"
            )
            return


def path_or_ids(location: Location) -> Path | tuple[str, ...]:
    """A path to read from, or the Hub ids to try."""
    dataset, entry, data_dir, dataset_id = location[:4]
    named = str(dataset if data_dir is None else data_dir)
    try:
        named.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the dataset's name {quoted(named)} is not UTF-8: rename it") from None
    if data_dir is not None and dataset_id is not None:
        raise UsageError("data_dir and dataset_id name two places for one dataset: set one of them")
    path = Path(os.path.expanduser(dataset if data_dir is None else data_dir))
    if data_dir is not None or (entry is None and dataset_id is None):
        if os.path.exists(path):
            return path
        if data_dir is not None or not re.fullmatch(HUB_ID, dataset):
            if data_dir is None and not re.search(r"[/\\.~]", dataset):
                raise unknown("dataset", dataset, CATALOG, hint="a folder, a file or a Hub id ORG/NAME works as well")
            if data_dir is None and re.fullmatch(HUB_ID, dataset.rstrip("/")):
                raise UsageError(
                    f"there is no folder {quoted(dataset)}: for the dataset of that name on the Hub, leave out the "
                    "slash at the end; a path is a folder of images or a table"
                )
            where = f"{'' if data_dir is None else 'data_dir '}{str(path)[:QUOTED]}"
            named = "" if data_dir is not None else f", or one of {', '.join(CATALOG)}"
            raise UsageError(f"{where} does not exist: pass a folder of images or a table{named}")
        return (dataset,)
    return entry.ids if dataset_id is None else (dataset_id,)


def _on_hub(location: Location, ids: tuple[str, ...], **order: Any) -> Source:
    try:
        return hub.open_stream(ids, cache_dir=location.cache_dir, **order)
    except UsageError as error:
        if ids == (location.dataset,):
            raise UsageError(f"{location.dataset} is not a local path; {error}") from error
        raise


def _samples(source: Source) -> Iterator[Sample | dict[str, str]]:
    """A sample for each row, or {"id", "reason"} for a row that can't be one. Images are not decoded here."""
    columns, where = source.columns, (source.folder, source.within)
    for number, (name, row) in enumerate(source.rows):
        name = f"row {number} of the stream" if name is None else name
        try:
            lines = texts(row.get(columns.text)) if columns.text else ()
            if columns.text and not lines:
                raise ValueError(f"no text in column {quoted(columns.text)}")
            if columns.answers and len(lines) > 1:
                raise ValueError(f"{len(lines)} questions with answers in a row, which takes one")
            yield Sample(
                id=name,
                source=encoded_image(row.get(columns.image), *where) if columns.image else None,
                texts=lines,
                label=label(row.get(columns.label), source.classes) if columns.label else None,
                answers=answers(row.get(columns.answers)) if columns.answers else (),
                second=encoded_image(row.get(columns.second_image), *where) if columns.second_image else None,
            )
        except ValueError as error:
            yield {"id": name, "reason": str(error)}
