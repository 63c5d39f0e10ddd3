"""A dataset on the Hub as a stream of rows: only the shards and row groups that a run looks at are downloaded.

It knows nothing of images or captions beyond which columns hold them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from idvl.data.catalog import TRAINING, CatalogEntry, Join, choose_split, unknown
from idvl.data.columns import Columns, Source, find_columns
from idvl.errors import RunError, UsageError, causes

log = logging.getLogger(__name__)

# rows held and mixed before any is looked at
SHUFFLE_BUFFER = 1_000
# each is six requests over 23 seconds by the Hub's client; the 20 of `datasets` are nine minutes before one hears of it
READ_ATTEMPTS = 2


def open_stream(
    ids: Sequence[str],
    *,
    split: str | None,
    seed: int | None,
    asked: Columns,
    entry: CatalogEntry | None = None,
    cache_dir: str | Path | None = None,
) -> Source:
    """The rows of the first of `ids` that exists, images left encoded, in their own order or shuffled by seed.

    Raises UsageError when none can be reached or read, RunError when the connection breaks while rows are taken.
    """
    cache_dir = None if cache_dir is None else str(cache_dir)
    dataset_id, commit, splits = _open(ids, cache_dir)
    joins = entry.joins if entry and ids is entry.ids else {}
    training = split == TRAINING
    split = choose_split(split, dict.fromkeys([*splits, *joins]), where=dataset_id, entry=entry)
    join = joins.get(split)
    # what another split is made of is not trained on
    held_out = [other for other in joins.values() if training and other.images_split == split]
    stream = splits[choose_split(join.images_split if join else split, splits, where=dataset_id)]
    size = _size(stream)
    stream = _resolved(stream, dataset_id)
    kinds = dict(stream.features or {})
    columns = find_columns(
        list(kinds),
        where=dataset_id,
        asked=asked,
        entry=entry,
        pixels=[name for name, kind in kinds.items() if _is_pixels(kind)],
        is_class=lambda name: _is_class(kinds[name]),
    )
    details = {"dataset_id": dataset_id, "revision": commit, "split": split}
    stream = _undecoded(stream, [*columns.read, *(one.key for one in [join, *held_out] if one)], dataset_id)
    if seed is not None:
        details["shuffle"] = {"buffer": SHUFFLE_BUFFER, "shards": stream.num_shards}
        stream = _shuffled(stream, seed)
    rows = _rows(stream, dataset_id)
    for other in held_out:
        listed, details["without"] = _listed(other, cache_dir)
        rows = _without(rows, other.key, listed)
        size = size and size - len(listed)
    if join:
        texts, details["join"] = _listed(join, cache_dir)
        rows = ({**row, columns.text: texts[row[join.key]]} for row in rows if row[join.key] in texts)
        size = len(texts)
    return Source(
        rows=((None if row.get(columns.id) is None else str(row[columns.id]), row) for row in rows),
        columns=columns,
        folder=None,
        method="whole" if seed is None else "stream",
        details=details,
        size=size,
        classes=getattr(kinds.get(columns.label), "names", None),
    )


def _open(ids: Sequence[str], cache_dir: str | None) -> tuple[str, str, Any]:
    """The first of `ids` that exists, its commit, and its splits as streams."""
    from datasets import load_dataset

    dataset_id, commit = _find(ids)
    try:
        return dataset_id, commit, load_dataset(dataset_id, revision=commit, streaming=True, cache_dir=cache_dir)
    except Exception as error:
        raise _explained(error, dataset_id) from error


def _resolved(stream: Any, dataset_id: str) -> Any:
    """The stream with known columns: where the repository does not say, its first rows are looked at."""
    try:
        return stream if stream.features else stream._resolve_features()
    except Exception as error:
        raise _explained(error, dataset_id) from error


def _undecoded(stream: Any, names: Sequence[str], dataset_id: str) -> Any:
    """The stream with these columns alone, images left encoded. UsageError for a column that it does not have."""
    from datasets import Image

    for name in names:
        if name not in stream.features:
            raise unknown("column", name, stream.features, hint=f"in {dataset_id}")
    stream = stream.select_columns([name for name in stream.features if name in names])
    for name in [name for name, kind in stream.features.items() if isinstance(kind, Image)]:
        stream = stream.cast_column(name, Image(decode=False))
    return stream


def _shuffled(stream: Any, seed: int) -> Any:
    """Shards and rows shuffled.

    One shard after the other: reading several at a time downloads batches ahead from each, and ends in a long pause.
    """
    return stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER, max_buffer_input_shards=1)


def _size(stream: Any) -> int | None:
    """The number of rows, where the repository says it."""
    known = (stream.info.splits or {}).get(str(stream.split))
    return known.num_examples if known else None


def _listed(join: Join, cache_dir: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Key -> texts of a joined split, and how it is put together."""
    try:
        list_id, commit, splits = _open(join.ids, cache_dir)
    except UsageError as error:
        raise UsageError(f"the split is listed in another repository: {error}") from error
    split = choose_split(join.split, splits, where=list_id)
    stream = _undecoded(_resolved(splits[split], list_id), [join.list_key, join.texts], list_id)
    rows = _rows(stream, list_id)
    texts = {row[join.list_key]: row[join.texts] for row in rows}
    how = {"images": join.images_split, "on": f"{join.key} = {join.list_key}", "texts": join.texts}
    return texts, {**how, "list": list_id, "list_revision": commit, "list_split": split, "listed": len(texts)}


def _without(rows: Iterator[dict[str, Any]], key: str, listed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return (row for row in rows if row[key] not in listed)


def _rows(stream: Any, dataset_id: str) -> Iterator[dict[str, Any]]:
    try:
        yield from _patiently(stream)
    except Exception as error:
        if _is_gated(error):
            raise _explained(error, dataset_id) from error
        raise RunError(
            f"reading {dataset_id} from the Hub broke off ({_line(error)}): run the same command again"
        ) from error


def _patiently(stream: Any) -> Iterator[dict[str, Any]]:
    """The rows of a stream, giving up on a broken connection after READ_ATTEMPTS."""
    from datasets import config

    attempts, config.STREAMING_READ_MAX_RETRIES = config.STREAMING_READ_MAX_RETRIES, READ_ATTEMPTS
    try:
        yield from stream
    finally:
        config.STREAMING_READ_MAX_RETRIES = attempts


def _find(ids: Sequence[str]) -> tuple[str, str]:
    """The first of `ids` that the Hub has, and its newest commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    for dataset_id in ids:
        try:
            return dataset_id, HfApi().dataset_info(dataset_id, timeout=30).sha
        except (HFValidationError, RepositoryNotFoundError) as error:
            if _is_gated(error):
                raise _explained(error, dataset_id) from error
            log.info("%s is not on the Hub", dataset_id)
        except Exception as error:
            raise _explained(error, dataset_id) from error
    raise UsageError(
        f"the Hub has no dataset {' or '.join(ids)}, or it is private: it may have moved, then pass --dataset-id "
        "ORG/NAME; with a local copy pass --data-dir; for a private one set HF_TOKEN"
    )


def _explained(error: Exception, dataset_id: str) -> UsageError:
    """What stands between the user and a dataset, in one line."""
    from huggingface_hub.errors import HfHubHTTPError

    if _is_gated(error):
        return UsageError(
            f"{dataset_id} is gated: accept its terms on its page on the Hub, then set HF_TOKEN to a token of yours "
            "that may read it"
        )
    connection = (ConnectionError, TimeoutError, HfHubHTTPError)
    if any(isinstance(cause, connection) or type(cause).__module__.startswith("http") for cause in causes(error)):
        return UsageError(
            f"cannot reach {dataset_id} on the Hub ({_line(error)}): check the network and HF_HUB_OFFLINE, or pass "
            "--data-dir with a local copy; --dataset shapes needs no network"
        )
    return UsageError(f"{dataset_id} cannot be read: {_line(error)}; another copy can be named with --dataset-id")


def _is_gated(error: BaseException) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return any(
        isinstance(cause, GatedRepoError)
        or "is a gated dataset" in str(cause)
        or getattr(getattr(cause, "response", None), "status_code", None) == 403
        for cause in causes(error)
    )


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_pixels(kind: Any) -> bool:
    """Whether a feature is an image, plain binary, or the struct of bytes and path that an image is stored as."""
    from datasets import Image

    if isinstance(kind, Image) or (isinstance(kind, dict) and "bytes" in kind):
        return True
    return getattr(kind, "dtype", None) in ("binary", "large_binary")


def _is_class(kind: Any) -> bool:
    """Whether a feature is the number of a class."""
    return hasattr(kind, "names") or bool(re.fullmatch(r"u?int\d+|bool", str(getattr(kind, "dtype", ""))))
