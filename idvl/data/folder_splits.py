"""Which files of a folder belong to which split, and what is said of those that belong to none.

It opens no file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from idvl.data.catalog import CatalogEntry
from idvl.data.formats.table import WHOLE
from idvl.data.splits import EVALUATION, SAME_SPLIT, TRAINING, choose_split, same_split, spelling_of
from idvl.errors import quoted

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
# the words of a name, also of one as TrainSet, and what may be written together with the name of a split
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
JOINED = re.compile(r"(set|data|dataset|images|dir|split)$")


def of_split(
    files: list[Path], root: Path, split: str | None, entry: CatalogEntry | None, odd: Collection[Path] = ()
) -> tuple[list[Path], str, list[str]]:
    """The files of a split, its name, and what is to be said of the files that belong to none.

    A folder's name or a word of a file's tells the split, as in `data/train-00000.parquet` and `birds_train.parquet`.
    Case does not matter: a folder `Train` is the split "train". `odd` folders are none, whatever they are called.
    Where several splits are there, files that belong to none are left out, unless the split "all" is named: all files
    together. Where there is one split, or none, "all" is the default, and what is read for a purpose that the one is
    not for.
    """
    spellings = spellings_of(entry)
    folders = split_folders(files, root, spellings, odd)
    groups: dict[str, list[Path]] = {}
    outside = []
    for file in files:
        if word := _split_word(file, folders.get(file.parent), spellings):
            groups.setdefault(word, []).append(file)
        else:
            outside.append(file)
    divided, unnamed = len({same_split(name)[0] for name in groups}) > 1, split in (None, TRAINING, EVALUATION)
    available = [*groups, *([WHOLE] if outside else [])]
    if unnamed and outside and not divided and (split is None or spelling_of(split, available, entry) is None):
        name = WHOLE
    else:
        name = choose_split(split, available, where=str(root), entry=entry)
    parents = {file.parent for group in groups.values() for file in group}
    beside = _outermost(outside, root, {folder for parent in parents for folder in (parent, *parent.parents)})
    if name == WHOLE:
        unread = beside if groups else look_like_splits(outside, root, spellings)
        return files, name, (_undivided(unread, groups, root) or _several_tables(files, root)) if unnamed else []
    why = f"belong to no split, while {name} is one"
    told = [left_out(len(outside), files, root, why, beside)] if outside and unnamed else []
    return groups[name], name, told + _several_tables(groups[name], root)


def split_folders(
    files: Iterable[Path], root: Path, spellings: Collection[str], odd: Collection[Path] = ()
) -> dict[Path, Path]:
    """The outermost folder that is a split, of each file's folder that is in one; `odd` folders are called like one."""
    splits = {}
    for parent in {file.parent for file in files}:
        for folder in (parent, *parent.parents):
            if root in folder.parents and folder.name.lower() in spellings and folder not in odd:
                splits[parent] = folder
    return splits


def _split_word(file: Path, folder: Path | None, spellings: Collection[str]) -> str | None:
    """The name of a file's split, in lower case: of the `folder` that is one, or of a table itself."""
    if folder:
        return folder.name.lower()
    return None if file.suffix.lower() in IMAGE_SUFFIXES else split_of_file(file.name, spellings)


def split_of_file(name: str, spellings: Collection[str]) -> str | None:
    """The name of a split that a file's begins with, or its one word that is one; None for none or several.

    Words are divided as `datasets` does, by digits too.
    """
    first, *_ = re.split("[.-]", name.lower())
    words = {first} & {*spellings} or {*re.split(r"[-._ \d]+", name.lower())} & {*spellings}
    return words.pop() if len(words) == 1 else None


def spellings_of(entry: CatalogEntry | None) -> set[str]:
    """Every name that a split may have, in lower case."""
    return {name for group in SAME_SPLIT for name in group} | {*(entry.splits if entry else ())}


def _undivided(unread: Collection[Path], groups: Collection[str], root: Path) -> list[str]:
    """A warning where all data is one split, though it is in `groups` beside what is unread as a split."""
    if not unread:
        return []
    folders = {*map(os.path.isdir, unread)}
    kind, several = "path" if len(folders) > 1 else "folder" if True in folders else "file", len(unread) > 1
    which = f"the {kind}{'s' * several} {first_few(unread, root)} {'are' if several else 'is'} not read as "
    beside = f", while {', '.join(sorted(groups))} {'are' if len(groups) > 1 else 'is'}" if groups else ""
    return [
        f"{which}{'splits' if several else 'a split'}{beside}: all data is one split, {WHOLE}; to keep it apart, name "
        "the folders train, validation or test"
    ]


def look_like_splits(files: Iterable[Path], root: Path, spellings: Collection[str]) -> set[Path]:
    """Folders called nearly like splits, as train_set and Test Data; none where all are called like the same one."""
    kinds, folders = set(), set()
    parents = {file.parent for file in files}
    for folder in {folder for parent in parents for folder in (parent, *parent.parents) if root in folder.parents}:
        words = (JOINED.sub("", word.lower()) for word in WORD.findall(folder.name))
        if of := {same_split(word)[0] for word in words} & {group[0] for group in SAME_SPLIT}:
            kinds |= of
            folders |= {folder} if folder.name.lower() not in spellings else set()
    return folders if len(kinds) > 1 else set()


def _outermost(files: Iterable[Path], root: Path, shared: Collection[Path]) -> set[Path]:
    """Where files lie: the outermost folder of each that is not in `shared`, or the file itself."""
    return {
        next((folder for folder in reversed(file.parents) if root in folder.parents and folder not in shared), file)
        for file in files
    }


def passed_over(tables: list[Path], every: list[Path], root: Path, entry: CatalogEntry | None) -> list[str]:
    """A warning where images lie in folders of splits that none of the tables is of."""
    spellings = spellings_of(entry)
    images = [file for file in every if file.suffix.lower() in IMAGE_SUFFIXES]
    folders = split_folders(tables, root, spellings)
    of_tables = {_split_word(file, folders.get(file.parent), spellings) for file in tables} - {None}
    kinds = {same_split(word)[0] for word in of_tables}
    without = {folder: same_split(folder.name)[0] for folder in split_folders(images, root, spellings).values()}
    without = {folder: kind for folder, kind in without.items() if kind not in kinds}
    if kinds and without:
        return [
            f"the images in {first_few(without, root)} are not read: no table is of their split, as "
            f"{first_few(tables, root)} is of another; put a table into each of the folders, or remove the tables"
        ]
    if len({*without.values()}) > 1:
        return [
            f"the folders {first_few(without, root)} are not read as splits: the rows of {first_few(tables, root)} are "
            f"one split, {WHOLE}; to keep them apart, put a table of its own into each of the folders"
        ]
    return []


def _several_tables(files: Iterable[Path], root: Path) -> list[str]:
    """A warning where tables are more than the parts of one, which differ in numbers and a hash alone."""
    series: dict[tuple[Path, str], Path] = {}
    for file in sorted(files):
        name = re.sub(r"-[0-9a-f]{16}$", "", file.stem)
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            series.setdefault((file.parent, re.sub(r"\d+", "0", name)), file)
    if len(series) < 2:
        return []
    return [f"several tables are read together ({first_few(series.values(), root)}): to read one alone, name it"]


def left_out(n: int, files: Collection[Path], root: Path, why: str, places: Collection[Path]) -> str:
    return f"left out {n} of the {len(files)} files in {root}, which {why}: {first_few(places, root)}"


def first_few(paths: Collection[Path], root: Path) -> str:
    """The first three of the paths, as seen from the root."""
    names = [quoted(path.relative_to(root).as_posix()) for path in sorted(paths)]
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])
