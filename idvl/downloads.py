"""What a run reads from the Hub and does not have yet: the files of a model, a split of a dataset.

It asks for sizes alone and downloads none of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idvl.data import hub
from idvl.data.repository import unreachable
from idvl.data.sources import Location, path_or_ids
from idvl.errors import UsageError
from idvl.models.locating import locate
from idvl.models.stated import WEIGHTS
from idvl.units import size

# what transformers reads beside the weights, and code where it is trusted
READ = re.compile(
    r"((generation_|preprocessor_|video_preprocessor_|processor_|audio_tokenizer_|tokenizer_)?config|tokenizer|vocab"
    r"|special_tokens_map|added_tokens|chat_template)\.json|vocab\.txt|merges\.txt|[^/]+\.model"
    r"|(additional_chat_templates/)?[^/]+\.jinja"
)


@dataclass(frozen=True, kw_only=True)
class Download:
    """What is read of one repository: `bytes` in all `files` that are not in the cache, None where none tells.

    `cached`: how many of the files are in the cache. `split`: that of a dataset, whose files are streamed as far as
    samples are taken from them; `rows`: how many it has, None where its card does not say.
    """

    name: str
    bytes: int | None = None
    files: int = 0
    cached: int = 0
    split: str | None = None
    rows: int | None = None

    def line(self) -> str:
        """The download in words."""
        if self.bytes is None:
            return f"download  unknown for {self.name}: the Hub gave no sizes"
        files = f"{self.files} file{'s' * (self.files != 1)}"
        if self.split is not None:
            each = f", about {size(self.bytes / self.rows)} a row" if self.rows else ""
            return f"stream    up to {size(self.bytes)} of {self.name} ({self.split}, {files}){each}, less kept samples"
        if not self.bytes:
            return f"download  nothing of {self.name}: {files} in the cache"
        return f"download  {size(self.bytes)} of {self.name}, {self.files - self.cached} of {files}"


def to_json(found: Iterable[Download]) -> dict[str, Any]:
    """Downloads for programs, as a part of a plan."""
    return {"downloads": [asdict(each) for each in found]}


def of_model(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Download | None:
    """What loading a model downloads; None where the Hub is not asked for it, or has no such model."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if local_files_only or constants.is_offline_mode():
        return None
    try:
        if locate(name)[1]:
            return None
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=30)
        stored = {file.rfilename: file for file in info.siblings}
        files = [stored[path] for path in files_read(stored, trust_remote_code=trust_remote_code)]
        missing = [file.size or 0 for file in files if not _is_cached(file, name, info.sha, cache_dir)]
    except (UsageError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError):
        return None
    except Exception:
        return Download(name=name)
    return Download(name=name, bytes=sum(missing), files=len(files), cached=len(files) - len(missing))


def _is_cached(file: Any, name: str, commit: str, cache_dir: str | Path | None) -> bool:
    """Whether the cache holds a file of a model, for this commit or for another one that has the same file."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    blobs = cache / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    held = (blobs / (file.lfs.sha256 if file.lfs else file.blob_id)).exists()
    return held or isinstance(try_to_load_from_cache(name, file.rfilename, cache, commit), str)


def files_read(names: Collection[str], *, trust_remote_code: bool = False) -> list[str]:
    """Of the files of a model's repository, those that loading it reads."""
    parts = [name for name in WEIGHTS if name in names][:1]
    if parts and parts[0].endswith(".index.json"):
        stem, kind = parts[0].removesuffix(".index.json").split(".")
        shards = [name for name in names if re.fullmatch(rf"[^/]+-\d+-of-\d+\.{kind}", name)]
        # those of another precision may lie beside them
        parts += [name for name in shards if name.startswith(f"{stem}-")] or shards
    code = [name for name in names if trust_remote_code and name.endswith(".py") and "/" not in name]
    return sorted({*parts, *code, *filter(READ.fullmatch, names)})


def of_dataset(location: Location, split: str | None) -> Download | None:
    """What reading a split streams; None where the Hub is not asked for it, or reading it is refused."""
    from huggingface_hub import constants

    if constants.is_offline_mode() or (location.entry and location.entry.module):
        return None
    try:
        where = path_or_ids(location)
        if isinstance(where, Path):
            return None
        name, split, sizes, rows = hub.split_files(where, split, location.entry, location.cache_dir)
    except Exception as error:
        refused = isinstance(error, UsageError) and not unreachable(error)
        return None if refused else Download(name=location.dataset)
    return Download(name=name, bytes=sum(sizes), files=len(sizes), split=split, rows=rows)
