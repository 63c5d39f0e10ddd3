"""What a run reads from the Hub and does not have yet: the files of a model, a split of a dataset.

It asks for sizes alone and downloads none of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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

# what beside the weights stands in a model's folder and is read with it: settings, tokenizers, templates, code
SETTINGS = re.compile(r"[^/]+\.(json|txt|jinja|model|py)")


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
            return f"download  unknown for {self.name}: the Hub was not reached"
        if self.split is not None:
            each = f", about {size(self.bytes / self.rows)} a row" if self.rows else ""
            files = f"{self.files} file{'s' * (self.files != 1)}"
            return f"stream    up to {size(self.bytes)} of {self.name} ({self.split}, {files}){each}"
        if not self.bytes:
            return f"download  nothing of {self.name}: its {self.files} files are in the cache"
        return f"download  {size(self.bytes)} of {self.name}, {self.files - self.cached} of {self.files} files"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def of_model(
    name: str, *, revision: str | None = None, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> Download | None:
    """What loading a model downloads; None for one that is not on the Hub, or that loading refuses."""
    if local_files_only or locate(name)[1]:
        return None
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, timeout=30)
        wanted = files_read([sibling.rfilename for sibling in info.siblings])
        options = {"revision": info.sha, "cache_dir": cache_dir, "dry_run": True}
        files = [hf_hub_download(name, file, **options) for file in wanted]
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError):
        return None
    except Exception as error:
        if not unreachable(error):
            raise
        return Download(name=name)
    missing = [file.file_size or 0 for file in files if file.will_download]
    return Download(name=name, bytes=sum(missing), files=len(files), cached=len(files) - len(missing))


def files_read(names: Sequence[str]) -> list[str]:
    """Of the files of a model's repository, those that loading it reads."""
    weights = next((name for name in WEIGHTS if name in names), None)
    parts = [weights] if weights else []
    if weights and weights.endswith(".index.json"):
        stem, kind = weights.removesuffix(".index.json").split(".")
        parts += [name for name in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{kind}", name)]
    others = [name for name in names if SETTINGS.fullmatch(name) and not name.endswith(".index.json")]
    return sorted({*parts, *others})


def of_dataset(location: Location, split: str | None) -> Download | None:
    """What reading a split streams; None for a dataset that is not on the Hub, or that reading refuses."""
    if location.entry and location.entry.module:
        return None
    try:
        where = path_or_ids(location)
        if isinstance(where, Path):
            return None
        files = hub.split_files(where, split=split, entry=location.entry, cache_dir=location.cache_dir)
    except UsageError as error:
        return Download(name=location.dataset) if unreachable(error) else None
    return Download(name=files.dataset_id, bytes=files.bytes, files=files.count, split=files.split, rows=files.rows)
