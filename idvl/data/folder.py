"""A path on disk as a table: the format of what is there, and which of its files belong to the split.

It chooses no rows.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath

from idvl import runs
from idvl.data.catalog import CatalogEntry
from idvl.data.columns import FILE_NAME, METADATA_NAMES
from idvl.data.folder_splits import (
    IMAGE_SUFFIXES,
    first_few,
    left_out,
    look_like_splits,
    of_split,
    passed_over,
    spellings_of,
    split_folders,
)
from idvl.data.formats.idx import idx, is_idx
from idvl.data.formats.karpathy import karpathy
from idvl.data.formats.nlvr2 import NAMES as NLVR2_NAMES
from idvl.data.formats.nlvr2 import nlvr2
from idvl.data.formats.parquet import parquet
from idvl.data.formats.records import records
from idvl.data.formats.saved import saved
from idvl.data.formats.table import WHOLE, DataTable, table_of, whole
from idvl.data.splits import spelling_of
from idvl.errors import UsageError, quoted
from idvl.files import open_regular

KARPATHY_NAMES = ("dataset_coco.json", "dataset_flickr30k.json", "dataset_flickr8k.json")
# the share of images that may be a mistake where they lie higher or deeper than the others
MOST_ODD = 0.1


def table_at(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    """The table at a path. Raises UsageError for a path without data, an unknown split or an unreadable table."""
    if not path.is_dir():
        return _of_file(path, split, entry)
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return saved(path, split, entry)
    if annotations := _annotations(path, entry):
        return karpathy(annotations, split, entry)
    if annotations := [path / name for name in NLVR2_NAMES if (path / name).is_file()]:
        return nlvr2(annotations, split, entry)
    every = [file for file in sorted(_listing(path)) if not _hidden(file, path)]
    files = [file for file in every if os.path.isfile(file)]
    if shards := [file for file in files if file.suffix.lower() == ".parquet"]:
        chosen, name, warnings = of_split(shards, path, split, entry)
        _check_numbered(chosen)
        warnings += passed_over(shards, every, path, entry)
        return replace(parquet(chosen, path, name), warnings=warnings)
    if numbered := [file for file in files if is_idx(file)]:
        return idx(numbered, path, split, entry)
    if metadata := [file for file in files if file.name.lower() in METADATA_NAMES]:
        return _of_metadata(metadata, every, path, split, entry)
    lists = [file for file in files if file.suffix.lower() == ".jsonl" and file.parent == path]
    if len(lists) == 1:
        table = _of_file(lists[0], split, entry)
        return replace(table, warnings=passed_over(lists, every, path, entry))
    # a link whose image is gone is an unusable sample
    if images := [
        file
        for file in every
        if file.suffix.lower() in IMAGE_SUFFIXES and (os.path.isfile(file) or not os.path.exists(file))
    ]:
        return _of_images(images, every, path, split, entry)
    raise UsageError(
        f"{path} holds no dataset: expected images, metadata.jsonl, one .jsonl, parquet or idx files, or "
        f"dataset_coco.json, or nlvr_train.json{_tables_among(files)}"
    )


def _listing(path: Path) -> Iterator[Path]:
    """Every file in a folder and those below it, but for the run folders of idvl, which hold images of their own.

    Links to folders are followed, but for those to a folder that holds the link: they have no end.
    """
    # the real paths on the way down to each folder, its own last
    ways = {os.fspath(path): (os.path.realpath(path),)}
    # not rglob, which raises for a folder that vanishes meanwhile
    for folder, inside, names in os.walk(path, followlinks=True):
        way, below = ways.pop(folder), {}
        for name in inside:
            at = os.path.join(folder, name)
            link = os.path.islink(at)
            real = os.path.realpath(at) if link else os.path.join(way[-1], name)
            endless = link and any(os.path.commonpath([real, above]) == real for above in way)
            # what may not be entered, as the lost+found of a disk, holds no files for this user
            if not endless and os.access(at, os.X_OK) and runs.read_record(Path(at)) is None:
                below[name], ways[at] = at, (*way, real)
        inside[:] = below
        yield from (Path(folder) / name for name in names)


def _of_file(path: Path, split: str | None, entry: CatalogEntry | None) -> DataTable:
    try:
        open_regular(path).close()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; pass a folder or a file") from error
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet([path], path.parent, whole(path, split))
    if suffix in (".jsonl", ".csv", ".tsv"):
        return table_of(records(path), path.parent, whole(path, split))
    if path.name in NLVR2_NAMES:
        raise UsageError(f"{path} holds annotations of NLVR2: name its folder instead, {quoted(path.parent)}")
    if suffix == ".json":
        return karpathy(path, split, entry)
    raise UsageError(f"{path} is not a dataset: expected a folder, .parquet, .jsonl, .csv, .tsv or a Karpathy .json")


def _annotations(path: Path, entry: CatalogEntry | None) -> Path | None:
    """Karpathy's file in a folder, of several that of the dataset. UsageError where that leaves more than one."""
    files = [path / name for name in KARPATHY_NAMES if (path / name).is_file()]
    own = [file for file in files if entry and entry.name in file.name]
    if len(own or files) > 1:
        raise UsageError(f"{path} holds {' and '.join(file.name for file in files)}: name one of the files")
    return next(iter(own or files), None)


def _of_metadata(
    metadata: list[Path], every: list[Path], path: Path, split: str | None, entry: CatalogEntry | None
) -> DataTable:
    """The rows of metadata files, one a folder, that lie beside the images which they name."""
    if len({file.parent for file in metadata}) < len(metadata):
        both = " and ".join(sorted({file.name for file in metadata}))
        raise UsageError(f"{path} has both {both} in a folder: remove one, or name its path")
    files, name, warnings = of_split(metadata, path, split, entry)
    parts = {file: records(file) for file in files}
    warnings += passed_over(metadata, every, path, entry)
    table = table_of([row for rows in parts.values() for row in rows], path, name)
    return replace(table, files={file: len(rows) for file, rows in parts.items()}, warnings=warnings)


def _of_images(
    images: list[Path], every: list[Path], path: Path, split: str | None, entry: CatalogEntry | None
) -> DataTable:
    """A folder of images without any table, whose folders may be classes; `every` file counts, images or not."""
    spellings = spellings_of(entry)
    odd = _classes_called_like_splits(images, path, spellings)
    files, name, of_splits = of_split(images, path, split, entry, odd)
    # what lies beside the splits gives no class either
    inside, strange = (images, {}) if name == WHOLE else _labelled(images, path, spellings, odd)
    classes = _class_folders(inside, path, spellings, odd)
    rows = [{FILE_NAME: file.relative_to(path).as_posix()} for file in files]
    if classes:
        labelled = {*inside}
        labels = [{"label": classes.index(file.parent.name)} if file in labelled else {} for file in files]
        rows = [{**row, **label} for row, label in zip(rows, labels, strict=True)]
    others = {*every} - {*images}
    warnings = [
        f"the folder {quoted(folder.relative_to(path))} is read as a class, like the folders beside it, not as a split"
        for folder in sorted(odd)
    ]
    unequal = [] if classes else _unequally_deep(inside, path, spellings, odd)
    # those of folders that look like splits are told
    merged = [] if name == WHOLE and of_splits else inside if classes else files
    together = _several_folders(merged, path, spellings, odd, classes)
    return replace(
        table_of(rows, path, name, classes={"label": classes} if classes else {}),
        warnings=[
            *warnings,
            *of_splits,
            *(unequal or together),
            *(
                f"the folders of the split {name} ({first_few(folders, split)}) share no name with the classes of the "
                "training split: its images have no label"
                for split, folders in strange.items()
                if split.name.lower() == name
            ),
            *([left_out(len(others), every, path, "are not images", others) + _tables_among(others)] if others else []),
        ],
    )


def _labelled(
    images: list[Path], root: Path, spellings: Collection[str], odd: Collection[Path]
) -> tuple[list[Path], dict[Path, set[Path]]]:
    """The images whose folders may be classes, and splits whose folders cannot be, with these.

    Where one split holds folders, a split without is not labelled. Neither is one whose folders share no name with
    those of the training split, as test/unknown beside train/cat and train/dog.
    """
    splits = split_folders(images, root, spellings, odd)
    deep = {split: {folder for folder in splits if split in folder.parents} for split in {*splits.values()}}
    deep = {split: folders for split, folders in deep.items() if folders}
    training = {
        folder.name for split, folders in deep.items() if spelling_of("train", [split.name]) for folder in folders
    }
    strange = {
        split: folders
        for split, folders in deep.items()
        if training and training.isdisjoint(folder.name for folder in folders)
    }
    labelled = {*deep} - {*strange} or {*splits.values()}
    return [file for file in images if splits.get(file.parent) in labelled], strange


def _tables_among(files: Iterable[Path]) -> str:
    """How to read a table that a folder is not read by, as train.csv beside images; "" where there is none."""
    table = next((file for file in sorted(files) if file.suffix.lower() in (".csv", ".tsv", ".jsonl")), None)
    return f"; to read a table, name it in place of the folder, as {quoted(table)}" if table else ""


def _class_folders(images: list[Path], root: Path, spellings: Collection[str], odd: Collection[Path]) -> list[str]:
    """The classes that folders of images stand for, sorted, as in `datasets`: all equally deep, and more than one.

    Folders that are splits are none; those that mostly look like splits are none either. Below a split, a class may
    have any name.
    """
    folders = {file.parent for file in images}
    names, depths = {folder.name for folder in folders}, {len(folder.parts) for folder in folders}
    splits = split_folders(images, root, spellings, odd)
    nearly = look_like_splits((file for file in images if file.parent not in splits), root, spellings)
    is_split = folders & {*splits.values()} or 2 * len(folders & nearly) >= len(folders)
    return sorted(names) if len(names) > 1 and len(depths) == 1 and not is_split else []


def _several_folders(
    images: list[Path], root: Path, spellings: Collection[str], odd: Collection[Path], classes: Collection[str]
) -> list[str]:
    """A warning where images lie in several folders that are neither splits nor classes, as of images and of masks."""
    splits = split_folders(images, root, spellings, odd)
    outer = set()
    for folder in {file.parent for file in images}:
        parts = [part for part in (folder, *folder.parents) if root in part.parents and part != splits.get(folder)]
        outer.add(PurePath(*(part.name for part in reversed(parts[1:] if classes else parts))))
    if len(outer) < 2:
        return []
    if not classes:
        return [
            f"images of several folders are read together ({first_few(outer, Path())}): to leave some out, name one of "
            "the folders"
        ]
    return [
        f"the innermost folders are the classes ({first_few({*map(Path, classes)}, Path())}), whichever folders above "
        f"they lie in ({first_few(outer, Path())}): if those are the classes, or some are not meant, move their images"
    ]


def _unequally_deep(images: list[Path], root: Path, spellings: Collection[str], odd: Collection[Path]) -> list[str]:
    """A warning where a few images, higher or deeper than the others, keep their folders from being classes."""
    common = Counter(len(file.parts) for file in images).most_common(1)[0][0]
    strays = [file for file in images if len(file.parts) != common]
    others = [file for file in images if len(file.parts) == common]
    if not strays or len(strays) > MOST_ODD * len(images) or not _class_folders(others, root, spellings, odd):
        return []
    return [
        f"folders of images are not read as classes, since {len(strays)} of {len(images)} images lie higher or deeper "
        f"than the others ({first_few(strays, root)}): for classes, move or remove them"
    ]


def _classes_called_like_splits(images: list[Path], root: Path, spellings: Collection[str]) -> set[Path]:
    """Folders of images that alone among those beside them have the name of a split: classes, as bus, car and train."""
    folders = {file.parent for file in images} - {root}
    nearly = look_like_splits(images, root, spellings)
    classes = set()
    for folder in folders:
        above = {part.lower() for part in folder.parent.relative_to(root).parts}
        if folder.name.lower() in spellings and not above & {*spellings}:
            beside = {other for other in folders if folder.parent in other.parents} - {folder}
            if (
                beside.isdisjoint(nearly)
                and beside
                and all(other.parent == folder.parent and other.name.lower() not in spellings for other in beside)
            ):
                classes.add(folder)
    return classes


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _check_numbered(files: list[Path]) -> None:
    if missing := lacking(files):
        raise UsageError(f"{missing}: download it again, or name one file to read it alone")


def lacking(files: Iterable[PurePath]) -> str | None:
    """What is missing where files are called train-00000-of-00003 and so on, and one of the number is not there."""
    series: dict[tuple[PurePath, str, str, str], set[int]] = {}
    for file in files:
        if match := re.fullmatch(r"(.*-)?(\d{5})-of-(\d{5})(-[^-]*)?", file.stem):
            series.setdefault((file.parent, match[1] or "", match[3], file.suffix), set()).add(int(match[2]))
    for (folder, prefix, of, suffix), numbers in series.items():
        if missing := sorted({*range(int(of))} - numbers):
            return f"{folder} lacks {prefix}{missing[0]:05d}-of-{of}{suffix} ({len(missing)} of {int(of)} missing)"
    return None
