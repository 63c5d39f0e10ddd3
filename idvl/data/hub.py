"""A dataset on the Hub as a stream of rows: only the shards and row groups that a run looks at are downloaded.

It knows nothing of images or captions beyond which columns hold them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from idvl.data.catalog import Entry, choose_split
from idvl.data.rows import Source, find_columns
from idvl.errors import RunError, UsageError

log = logging.getLogger(__name__)

# rows held and mixed before any is looked at
SHUFFLE_BUFFER = 1_000
# each is six requests over 23 seconds by the Hub's client; the 20 of `datasets` are nine minutes before one hears of it
READ_ATTEMPTS = 2


def open_stream(
    ids: Sequence[str],
    *,
    split: str | None,
    seed: int,
    entry: Entry | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Source:
    """The rows of the first of `ids` that exists, shards and rows shuffled by seed, images left encoded.

    Raises UsageError when none can be reached or read, RunError when the connection breaks while rows are taken.
    """
    from datasets import Image, load_dataset

    dataset_id, commit = _find(ids, revision, token)
    try:
        cache_dir = None if cache_dir is None else str(cache_dir)
        splits = load_dataset(dataset_id, revision=commit, streaming=True, token=token, cache_dir=cache_dir)
    except Exception as error:
        raise _explained(error, dataset_id) from error
    split = choose_split(split, splits, where=dataset_id, entry=entry)
    try:
        stream = splits[split] if splits[split].features else splits[split]._resolve_features()
    except Exception as error:
        raise _explained(error, dataset_id) from error
    kinds = dict(stream.features or {})
    pixels = [name for name, kind in kinds.items() if isinstance(kind, Image) or _is_bytes(kind)]
    columns = find_columns(
        list(kinds), where=dataset_id, image=image_column, text=text_column, entry=entry, pixels=pixels
    )
    stream = stream.select_columns([name for name in kinds if name in (columns.image, columns.text, columns.id)])
    if isinstance(kinds.get(columns.image), Image):
        stream = stream.cast_column(columns.image, Image(decode=False))
    # one shard after the other: reading several at a time downloads batches ahead from each, and ends in a long pause
    shuffled = stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER, max_buffer_input_shards=1)
    details = {
        "dataset_id": dataset_id,
        "revision": commit,
        "split": split,
        "shuffle": {"buffer": SHUFFLE_BUFFER, "shards": stream.num_shards},
    }
    return Source(
        rows=_rows(shuffled, columns.id, dataset_id), columns=columns, folder=None, method="stream", details=details
    )


def _rows(stream: Any, id_column: str | None, dataset_id: str) -> Iterator[tuple[str | None, dict[str, Any]]]:
    try:
        for row in _patiently(stream):
            name = None if id_column is None else row[id_column]
            yield None if name is None else str(name), row
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


def _find(ids: Sequence[str], revision: str | None, token: str | None) -> tuple[str, str]:
    """The first of `ids` that the Hub has, and the commit that `revision` stands for there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    for dataset_id in ids:
        try:
            return dataset_id, HfApi(token=token).dataset_info(dataset_id, revision=revision, timeout=30).sha
        except (HFValidationError, RepositoryNotFoundError) as error:
            if _is_gated(error):
                raise _explained(error, dataset_id) from error
            log.info("%s is not on the Hub", dataset_id)
        except RevisionNotFoundError as error:
            raise UsageError(f"{dataset_id} has no revision {revision!r}: leave it out for the newest") from error
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
    if any(isinstance(cause, connection) or type(cause).__module__.startswith("http") for cause in _chain(error)):
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
        for cause in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_bytes(kind: Any) -> bool:
    """Whether a feature is plain binary, or the struct of bytes and path that an image is stored as."""
    return getattr(kind, "dtype", None) in ("binary", "large_binary") or (isinstance(kind, dict) and "bytes" in kind)
