"""A dataset's repository on the Hub: its newest commit, its splits as streams, its files, and why it cannot be read.

It does not know what the rows hold.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from idvl.errors import RunError, UsageError, causes, quoted, statuses
from idvl.files import disk_errors

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo

log = logging.getLogger(__name__)

# each is six requests over 23 seconds by the Hub's client; the 20 of `datasets` are nine minutes before one hears of it
READ_ATTEMPTS = 2
# most paths that one request to the Hub names, as in huggingface_hub
PATHS = 500
ARCHIVE = re.compile(r".*\.(zip|tar|tgz|gz|bz2|xz|zst|lz4|7z|rar)", re.IGNORECASE)


class Repository(NamedTuple):
    """A dataset on the Hub at a commit, the names of its files, and how `datasets` reads it."""

    dataset_id: str
    commit: str
    names: Sequence[str]
    builder: Any

    @property
    def is_image_folder(self) -> bool:
        """Whether it holds images as files, and no table that `datasets` reads. UsageError if they are in archives."""
        if self.builder.name != "imagefolder":
            return False
        if archive := next(filter(ARCHIVE.fullmatch, self.names), None):
            raise UsageError(
                f"{self.dataset_id} holds images in archives ({quoted(archive)}), which are not unpacked: run hf "
                f"download {self.dataset_id} --repo-type dataset --local-dir DIR, unpack them in DIR, and set data_dir "
                "(--data-dir) to it"
            )
        return True

    @property
    def files(self) -> dict[str, list[str]]:
        """The data files of each split, as paths in the repository."""
        start, files = f"hf://datasets/{self.dataset_id}@{self.commit}/", self.builder.config.data_files or {}
        return {str(split): [str(file).removeprefix(start) for file in of] for split, of in files.items()}

    @property
    def rows(self) -> dict[str, int]:
        """The number of rows of those splits whose card states it."""
        return {str(split): info.num_examples for split, info in (self.builder.info.splits or {}).items()}


def open_repository(ids: Sequence[str], cache_dir: str | None) -> Repository:
    """The first of `ids` that exists, at its newest commit; without the Hub, one whose images are in the cache."""
    from huggingface_hub import constants

    if constants.is_offline_mode() and (kept := _in_cache(ids, cache_dir)):
        return kept
    dataset_id, info = find(ids)
    builder = _builder(dataset_id, dataset_id, cache_dir, revision=info.sha)
    return Repository(dataset_id, info.sha, [file.rfilename for file in info.siblings], builder)


def _in_cache(ids: Sequence[str], cache_dir: str | None) -> Repository | None:
    """The first of `ids` that was downloaded as a folder of images, at its newest known commit."""
    from huggingface_hub import get_cached_repo_tree, resolve_revision
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, RevisionResolutionError

    at = {"repo_type": "dataset", "cache_dir": cache_dir}
    for dataset_id in ids:
        try:
            commit = resolve_revision(dataset_id, local_files_only=True, **at).resolved
            names = [file.path for file in get_cached_repo_tree(dataset_id, revision=commit, **at)]
        except (CachedRepoTreeNotFoundError, HFValidationError, RevisionResolutionError):
            continue
        builder = _builder(dataset_id, str(_snapshot(dataset_id, commit, cache_dir)), cache_dir)
        if builder.name == "imagefolder":
            return Repository(dataset_id, commit, names, builder)
    return None


def download(repository: Repository, cache_dir: str | None) -> Path:
    """The folder in the cache that holds all files of a repository, after a download of those that it lacks."""
    from huggingface_hub import constants, resolve_revision

    offline = constants.is_offline_mode()
    try:
        # later runs without the Hub find the commit by it
        resolve_revision(repository.dataset_id, repo_type="dataset", cache_dir=cache_dir, local_files_only=offline)
    except Exception as error:
        raise _unreadable(error, repository.dataset_id) from error
    return _snapshot(repository.dataset_id, repository.commit, cache_dir)


def _snapshot(dataset_id: str, commit: str, cache_dir: str | None) -> Path:
    """The folder in the cache with all files of a commit; without the Hub, UsageError where some are not there."""
    from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any):
            # no bar where no terminal shows it
            super().__init__(*args, **(options if sys.stderr.isatty() else {**options, "disable": True}))

    at = {"repo_type": "dataset", "revision": commit, "cache_dir": cache_dir}
    offline = constants.is_offline_mode()
    try:
        with disk_errors(Path(cache_dir or constants.HF_HUB_CACHE), "--cache-dir"):
            folder = snapshot_download(dataset_id, local_files_only=offline, tqdm_class=Bar, **at)
        # where the Hub gives no list of files, what the cache has of them would be taken for all
        get_cached_repo_tree(dataset_id, **at)
    except (RunError, UsageError):
        raise
    except Exception as error:
        raise _unreadable(error, dataset_id) from error
    return Path(folder)


def _builder(dataset_id: str, path: str, cache_dir: str | None, revision: str | None = None) -> Any:
    """How `datasets` reads a repository, or a folder that holds its files."""
    from datasets import load_dataset_builder

    try:
        return load_dataset_builder(path, revision=revision, cache_dir=cache_dir)
    except Exception as error:
        raise _unreadable(error, dataset_id) from error


def open_splits(repository: Repository) -> dict[str, Any]:
    """The splits of a repository as streams."""
    try:
        return repository.builder.as_streaming_dataset()
    except Exception as error:
        raise _unreadable(error, repository.dataset_id) from error


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


def _patiently(stream: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
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
