"""A dataset's repository on the Hub: its newest commit, its splits as streams, and why it cannot be read.

It does not know what the rows hold.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from idvl.errors import RunError, UsageError, causes, statuses

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo

log = logging.getLogger(__name__)

# each is six requests over 23 seconds by the Hub's client; the 20 of `datasets` are nine minutes before one hears of it
READ_ATTEMPTS = 2
# rows of an image folder whose files are fetched at a time, as in `datasets`: each file is a request
READ_AHEAD = 32
# bytes that a request reads of an archive at least: at the 5 MB of the client, most would not be of the image
BLOCK = 1 << 18
# what the file of a row's image is called, as in the metadata of an image folder
FILE_NAME = "file_name"
# most paths that one request to the Hub names, as in huggingface_hub
PATHS = 500


def open_splits(ids: Sequence[str], cache_dir: str | None) -> tuple[str, str, Any, dict[str, list[str]]]:
    """The first of `ids` that exists, its commit, its splits as streams, and the data files of each."""
    dataset_id, info = find(ids)
    builder = _builder(dataset_id, info.sha, cache_dir)
    try:
        return dataset_id, info.sha, builder.as_streaming_dataset(), _files(builder, dataset_id, info.sha)
    except Exception as error:
        raise _unreadable(error, dataset_id) from error


def list_files(dataset_id: str, commit: str, cache_dir: str | None) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The data files of each split, as paths in the repository, and the rows of those splits whose card states them."""
    builder = _builder(dataset_id, commit, cache_dir)
    rows = {str(split): info.num_examples for split, info in (builder.info.splits or {}).items()}
    return _files(builder, dataset_id, commit), rows


def _builder(dataset_id: str, commit: str, cache_dir: str | None) -> Any:
    from datasets import load_dataset_builder

    try:
        return load_dataset_builder(dataset_id, revision=commit, cache_dir=cache_dir)
    except Exception as error:
        raise _unreadable(error, dataset_id) from error


def _files(builder: Any, dataset_id: str, commit: str) -> dict[str, list[str]]:
    start, files = _start(dataset_id, commit), builder.config.data_files or {}
    return {str(split): [str(file).removeprefix(start) for file in of] for split, of in files.items()}


def _start(dataset_id: str, commit: str) -> str:
    """What the paths of a repository's files start with."""
    return f"hf://datasets/{dataset_id}@{commit}/"


def sizes_of(dataset_id: str, commit: str, files: Sequence[str]) -> list[int]:
    """The bytes of each of the files of a repository."""
    from huggingface_hub import HfApi

    at = {"repo_type": "dataset", "revision": commit}
    parts = [list(files[start : start + PATHS]) for start in range(0, len(files), PATHS)]
    try:
        return [file.size for part in parts for file in HfApi().get_paths_info(dataset_id, part, **at)]
    except Exception as error:
        raise _unreadable(error, dataset_id) from error


def resolved(stream: Any, dataset_id: str) -> Any:
    """The stream with known columns: where the repository does not say, its first rows are looked at."""
    try:
        return stream if stream.features else stream._resolve_features()
    except Exception as error:
        raise _unreadable(error, dataset_id) from error


def rows_of(stream: Any, dataset_id: str, commit: str) -> Iterator[dict[str, Any]]:
    """The rows of a stream; images that are files of the repository hold their bytes, and FILE_NAME the first's path.

    Raises RunError when the connection breaks, or for a damaged file, UsageError for what `datasets` refuses.
    """
    from pyarrow import ArrowInvalid

    try:
        yield from _patiently(_with_files(stream, _start(dataset_id, commit)))
    except Exception as error:
        if _is_gated(error):
            raise _unreadable(error, dataset_id) from error
        if any(isinstance(cause, ArrowInvalid) for cause in causes(error)):
            raise RunError(
                f"{dataset_id} holds a file that is damaged on the Hub ({_line(error)}); dataset_id (--dataset-id) "
                "names another copy"
            ) from error
        # of the builders of `datasets`; the clients' own are other subclasses
        if type(error) in (ValueError, UnicodeDecodeError):
            # it takes the folder of an archive for the class of what is in folders of classes there
            repair = "unpack its archives or correct its labels" if "class label" in str(error) else "correct it"
            raise UsageError(
                f"{dataset_id} cannot be read by datasets ({_line(error)}): download it, {repair}, and set data_dir "
                "(--data-dir) to the folder"
            ) from error
        raise RunError(
            f"reading {dataset_id} from the Hub broke off ({_line(error)}): run the same command again"
        ) from error


def _with_files(stream: Any, start: str) -> Iterator[dict[str, Any]]:
    """The rows in their order, READ_AHEAD of those whose images are files below `start` fetched at a time."""
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        fetched = deque()
        for row in stream:
            files = [name for name, cell in row.items() if _is_file(cell, start)]
            if not files:
                yield from (done.result() for done in fetched)
                fetched.clear()
                yield row
                continue
            fetched.append(pool.submit(_with_bytes, row, files, start))
            if len(fetched) == READ_AHEAD:
                yield fetched.popleft().result()
        yield from (done.result() for done in fetched)


def _is_file(cell: Any, start: str) -> bool:
    """Whether an image is given by its path below `start`, in a zip archive or not: nothing else is opened."""
    path = isinstance(cell, Mapping) and cell.get("bytes") is None and cell.get("path")
    return isinstance(path, str) and bool(re.fullmatch(rf"(zip://((?!::).)*::)?{re.escape(start)}((?!::).)*", path))


def _with_bytes(row: Mapping[str, Any], files: Sequence[str], start: str) -> dict[str, Any]:
    """A row with the bytes of its `files`, and their paths from `start`; None for bytes of a file that is not there."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    row = dict(row)
    for name in files:
        inside, _, outer = (path := row[name]["path"]).rpartition("::")
        at = "/".join([outer.removeprefix(start), *([inside.removeprefix("zip://")] if inside else [])])
        options = {"hf": {"block_size": BLOCK}} if inside else {}
        try:
            with xopen(path, "rb", download_config=DownloadConfig(storage_options=options)) as file:
                row[name] = {"bytes": file.read(), "path": at}
        except FileNotFoundError:
            row[name] = {"bytes": None, "path": at}
        row.setdefault(FILE_NAME, at)
    return row


def _patiently(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of a stream, giving up on a broken connection after READ_ATTEMPTS."""
    from datasets import config

    attempts, config.STREAMING_READ_MAX_RETRIES = config.STREAMING_READ_MAX_RETRIES, READ_ATTEMPTS
    try:
        yield from rows
    finally:
        config.STREAMING_READ_MAX_RETRIES = attempts


def find(ids: Sequence[str]) -> tuple[str, DatasetInfo]:
    """The first of `ids` that the Hub has, and what it says of it, as `sha`, the newest commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    for dataset_id in ids:
        try:
            return dataset_id, HfApi().dataset_info(dataset_id, timeout=30)
        except (HFValidationError, RepositoryNotFoundError) as error:
            if _is_gated(error):
                raise _unreadable(error, dataset_id) from error
            log.info("%s is not on the Hub", dataset_id)
        except Exception as error:
            raise _unreadable(error, dataset_id) from error
    raise UsageError(
        f"the Hub has no dataset {' or '.join(ids)}, or it is private: where it has moved, set dataset_id "
        "(--dataset-id ORG/NAME); for a local copy, data_dir (--data-dir); for a private one, HF_TOKEN"
    )


def _unreadable(error: Exception, dataset_id: str) -> UsageError:
    """What stands between the user and a dataset, in one line."""
    if _is_gated(error):
        return UsageError(
            f"{dataset_id} is gated: accept its terms on its page on the Hub, then set HF_TOKEN to a token of yours "
            "that may read it"
        )
    if 401 in statuses(error):
        return UsageError(
            f"the Hub refused to give {dataset_id} (401): run hf auth login, or set HF_TOKEN to a token of yours"
        )
    if unreachable(error):
        return UsageError(
            f"cannot reach {dataset_id} on the Hub ({_line(error)}): check the network and HF_HUB_OFFLINE, or set "
            "data_dir (--data-dir) to a local copy; the dataset shapes needs no network"
        )
    return UsageError(f"{dataset_id} cannot be read: {_line(error)}; dataset_id (--dataset-id) names another copy")


def unreachable(error: BaseException) -> bool:
    """Whether a Hub that gave no answer, or none of use, is behind an error."""
    from huggingface_hub.errors import HfHubHTTPError

    connection = (ConnectionError, TimeoutError, HfHubHTTPError)
    return any(isinstance(cause, connection) or type(cause).__module__.startswith("http") for cause in causes(error))


def _is_gated(error: BaseException) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return any(
        isinstance(cause, GatedRepoError) or "is a gated dataset" in str(cause) for cause in causes(error)
    ) or 403 in statuses(error)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
