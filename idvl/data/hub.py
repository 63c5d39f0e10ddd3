"""A dataset on the Hub as a stream of rows: only the shards and row groups that a run looks at are downloaded.

It knows nothing of images or captions beyond which columns hold them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from idvl.data.catalog import CatalogEntry, Join
from idvl.data.columns import LABEL_NAMES, SPLIT, Columns, Source, find_columns
from idvl.data.fields import TRUTH_CLASSES, is_word
from idvl.data.folder import lacking
from idvl.data.formats.table import Row
from idvl.data.repository import find, list_files, open_splits, resolved, rows_of, sizes_of
from idvl.data.splits import TRAINING, choose_split
from idvl.errors import UsageError, listed, quoted, unknown

log = logging.getLogger(__name__)

# rows held and mixed before any is looked at
SHUFFLE_BUFFER = 1_000


def split_files(
    ids: Sequence[str], split: str | None, entry: CatalogEntry | None, cache_dir: str | Path | None
) -> tuple[str, str, list[int], int | None]:
    """The first of `ids` that exists, the split that `open_stream` reads, the bytes of each file of it, and its rows.

    Of a joined split that is the one with the images. The number of rows is None where the card does not state it.
    """
    dataset_id, info = find(ids)
    commit = info.sha
    files, rows = list_files(dataset_id, commit, None if cache_dir is None else str(cache_dir))
    _, _, images = _read_split(split, files, _joins(ids, entry), dataset_id, entry)
    return dataset_id, images, sizes_of(dataset_id, commit, files[images]), rows.get(images)


def open_stream(
    ids: Sequence[str],
    *,
    split: str | None,
    seed: int | None,
    overrides: Columns,
    entry: CatalogEntry | None = None,
    cache_dir: str | Path | None = None,
) -> Source:
    """The rows of the first of `ids` that exists, images left encoded, in their own order or shuffled by seed.

    Raises UsageError when none can be reached or read, RunError when the connection breaks while rows are taken.
    """
    cache_dir = None if cache_dir is None else str(cache_dir)
    dataset_id, commit, splits, files = open_splits(ids, cache_dir)
    joins = _joins(ids, entry)
    training = split == TRAINING
    split, join, images = _read_split(split, splits, joins, dataset_id, entry)
    if missing := lacking(PurePosixPath(dataset_id, file) for file in files.get(images, ())):
        log.warning("%s: only what is there is read; dataset_id (--dataset-id) names another copy", missing)
    # what another split is made of is not trained on
    held_out = [other for other in joins.values() if training and other.images_split == split]
    stream = splits[images]
    size = _size(stream)
    stream = resolved(stream, dataset_id)
    features = dict(stream.features or {})
    if entry and ids is entry.ids:
        _refuse_moved_columns(features, overrides, entry, dataset_id)
    columns = _columns(features, overrides, entry, dataset_id)
    details = {"dataset_id": dataset_id, "revision": commit, "split": split}
    stream = _undecoded(stream, [*columns.read, *(each.key for each in [join, *held_out] if each)], dataset_id)
    if seed is not None:
        details["shuffle"] = {"buffer": SHUFFLE_BUFFER, "shards": stream.num_shards}
        stream = _shuffled(stream, seed)
    labels = features.get(columns.label)
    classes = TRUTH_CLASSES if getattr(labels, "dtype", None) == "bool" else getattr(labels, "names", None)
    rows = rows_of(stream, dataset_id)
    if columns.label and classes is None:
        rows = _refuse_words(rows, columns.label, dataset_id)
    rows, size, joined = _joined(rows, size, join, held_out, columns.text, cache_dir)
    return Source(
        rows=((None if row.get(columns.id) is None else str(row[columns.id]), row) for row in rows),
        columns=columns,
        folder=None,
        method="whole" if seed is None else "stream",
        details=details | joined,
        size=size,
        warnings=[]
        if entry and ids is entry.ids
        else [*_unread_labels(features, columns, overrides), *_unread_split(features, columns, split)],
        classes=classes,
    )


def _joins(ids: Sequence[str], entry: CatalogEntry | None) -> Mapping[str, Join]:
    """The joined splits of a dataset that is read where the catalogue says."""
    return entry.joins if entry and ids is entry.ids else {}


def _read_split(
    split: str | None, splits: Iterable[str], joins: Mapping[str, Join], dataset_id: str, entry: CatalogEntry | None
) -> tuple[str, Join | None, str]:
    """The split that a name or a purpose stands for, how it is joined, and the one of `splits` that has its images."""
    name = choose_split(split, dict.fromkeys([*splits, *joins]), where=dataset_id, entry=entry)
    join = joins.get(name)
    return name, join, choose_split(join.images_split if join else name, splits, where=dataset_id)


def _joined(
    rows: Iterator[Row],
    size: int | None,
    join: Join | None,
    held_out: Sequence[Join],
    text_column: str | None,
    cache_dir: str | None,
) -> tuple[Iterator[Row], int | None, dict[str, Any]]:
    """The rows with the texts of `join` and without the rows of `held_out`, how many, and the details of both."""
    details = {}
    for other in held_out:
        texts, details["without"] = _texts(other, cache_dir)
        rows, size = _without(rows, other.key, texts), size and size - len(texts)
    if join:
        texts, details["join"] = _texts(join, cache_dir)
        rows, size = _with_texts(rows, join.key, texts, text_column), len(texts)
    return rows, size, details


def _refuse_moved_columns(
    features: Mapping[str, Any], overrides: Columns, entry: CatalogEntry, dataset_id: str
) -> None:
    """UsageError where the catalogue's own repository lacks one of its columns: a guess might take another's place."""
    for use in ("image", "second_image", "text", "label", "answers"):
        name = getattr(entry, f"{use}_column")
        if name and name not in features and getattr(overrides, use) is None:
            raise UsageError(
                f"{dataset_id} has no column {name!r}, which holds the {use.replace('_', ' ')} of {entry.name} (it has "
                f"{listed(list(features))}): set {use}_column (--{use.replace('_', '-')}-column), or dataset_id "
                "(--dataset-id) to another copy"
            )


def _unread_labels(features: Mapping[str, Any], columns: Columns, overrides: Columns) -> Iterator[str]:
    """Which columns with the usual names of labels are not read, where there is no other one."""
    if columns.label or overrides.label:
        return
    for name in (name for name in features if name.lower() in LABEL_NAMES and name not in columns.read):
        kind = str(getattr(features[name], "dtype", None))
        if re.fullmatch(r"float\d+|(large_)?string", kind):
            yield (
                f"the column {quoted(name)} holds {kind} and is not read as labels: if its values are whole numbers or "
                f"true and false, set label_column (--label-column {name})"
            )


def _unread_split(features: Mapping[str, Any], columns: Columns, split: str) -> Iterator[str]:
    """That a column may name other splits of the rows."""
    if SPLIT in features and SPLIT not in columns.read:
        yield f"the column {SPLIT!r} is not read: whatever it holds, all rows of the split {split} are taken"


def _refuse_words(rows: Iterator[Row], column: str, dataset_id: str) -> Iterator[Row]:
    """The rows. UsageError at the first label that is a word: the whole column alone says which classes there are."""
    for row in rows:
        if is_word(row[column]):
            raise UsageError(
                f"the column {quoted(column)} of {dataset_id} holds words ({quoted(row[column])}), which are read as "
                f"classes from a local copy alone: run hf download {dataset_id} --repo-type dataset --local-dir DIR, "
                "and set data_dir (--data-dir) to DIR or its table, in place of any dataset_id"
            )
        yield row


def _columns(features: Mapping[str, Any], overrides: Columns, entry: CatalogEntry | None, dataset_id: str) -> Columns:
    return find_columns(
        list(features),
        where=dataset_id,
        overrides=overrides,
        entry=entry,
        pixels=[name for name, feature in features.items() if _is_pixels(feature)],
        is_class=lambda name: _is_class(features[name]),
    )


def _undecoded(stream: Any, names: Sequence[str], dataset_id: str) -> Any:
    """The stream with these columns alone, images left encoded. UsageError for a column that it does not have."""
    from datasets import Image

    for name in names:
        if name not in stream.features:
            raise unknown("column", name, stream.features, hint=f"in {dataset_id}")
    stream = stream.select_columns([name for name in stream.features if name in names])
    for name in [name for name, feature in stream.features.items() if isinstance(feature, Image)]:
        stream = stream.cast_column(name, Image(decode=False))
    return stream


def _shuffled(stream: Any, seed: int) -> Any:
    """Shards and rows shuffled.

    One shard after the other: reading several at a time downloads batches ahead from each, and ends in a long pause.
    """
    return stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER, max_buffer_input_shards=1)


def _size(stream: Any) -> int | None:
    """The number of rows, where the repository says it."""
    info = (stream.info.splits or {}).get(str(stream.split))
    return info.num_examples if info else None


def _texts(join: Join, cache_dir: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Key -> texts of a joined split, and how it is put together."""
    try:
        list_id, commit, splits, _ = open_splits(join.ids, cache_dir)
    except UsageError as error:
        raise UsageError(f"the split is listed in another repository: {error}") from error
    split = choose_split(join.split, splits, where=list_id)
    stream = _undecoded(resolved(splits[split], list_id), [join.list_key, join.texts], list_id)
    texts = {row[join.list_key]: row[join.texts] for row in rows_of(stream, list_id)}
    details = {"images": join.images_split, "on": f"{join.key} = {join.list_key}", "texts": join.texts}
    return texts, {**details, "list": list_id, "list_revision": commit, "list_split": split, "listed": len(texts)}


def _without(rows: Iterator[Row], key: str, texts: Mapping[str, Any]) -> Iterator[Row]:
    return (row for row in rows if row[key] not in texts)


def _with_texts(rows: Iterator[Row], key: str, texts: Mapping[str, Any], column: str) -> Iterator[Row]:
    return ({**row, column: texts[row[key]]} for row in rows if row[key] in texts)


def _is_pixels(feature: Any) -> bool:
    """Whether a feature is an image, plain binary, or the struct of bytes and path that an image is stored as."""
    from datasets import Image

    if isinstance(feature, Image) or (isinstance(feature, dict) and "bytes" in feature):
        return True
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _is_class(feature: Any) -> bool:
    """Whether a feature is the number of a class."""
    return hasattr(feature, "names") or bool(re.fullmatch(r"u?int\d+|bool", str(getattr(feature, "dtype", ""))))
