"""A dataset's repository on the Hub: its newest commit, its splits as streams, and why it cannot be read.

It does not know what the rows hold.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from idvl.errors import RunError, UsageError, causes, listed, statuses

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo

log = logging.getLogger(__name__)

# each is six requests over 23 seconds by the Hub's client; the 20 of `datasets` are nine minutes before one hears of it
READ_ATTEMPTS = 2
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
    """How `datasets` reads a repository.

    UsageError for several configurations, and for a folder of images, whose splits, classes and texts it finds by other
    rules than `folder` does.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(dataset_id, revision=commit, cache_dir=cache_dir)
    except Exception as error:
        if str(error).startswith("Config name is missing"):
            raise UsageError(
                f"{dataset_id} has several configurations{_configurations(dataset_id, commit)}, read from a local copy "
                "alone: run hf download "
                f"{dataset_id} --repo-type dataset --local-dir DIR, and set data_dir (--data-dir) to the folder "
                "or file in DIR of the one to read, in place of any dataset_id"
            ) from error
        raise _unreadable(error, dataset_id) from error
    if builder.name == "imagefolder":
        raise UsageError(
            f"{dataset_id} holds images as files, which are read from a local copy alone: run hf download {dataset_id} "
            "--repo-type dataset --local-dir DIR, unpack archives in DIR, name its folders of splits train and test, "
            "and set data_dir (--data-dir) to DIR, in place of any dataset_id"
        )
    return builder


def _configurations(dataset_id: str, commit: str) -> str:
    """Their names in brackets; "" where the Hub does not tell any more."""
    from datasets import get_dataset_config_names

    try:
        return f" ({listed(get_dataset_config_names(dataset_id, revision=commit))})"
    except Exception:
        return ""


def _files(builder: Any, dataset_id: str, commit: str) -> dict[str, list[str]]:
    start, files = f"hf://datasets/{dataset_id}@{commit}/", builder.config.data_files or {}
    return {str(split): [str(file).removeprefix(start) for file in of] for split, of in files.items()}


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


def rows_of(stream: Any, dataset_id: str) -> Iterator[dict[str, Any]]:
    """The rows of a stream.

    Raises RunError when the connection breaks, or for a damaged file, UsageError for what `datasets` refuses.
    """
    from pyarrow import ArrowInvalid

    try:
        yield from _patiently(stream)
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
            raise UsageError(
                f"{dataset_id} cannot be read by datasets ({_line(error)}): download it, correct it, and set data_dir "
                "(--data-dir) to the folder"
            ) from error
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
