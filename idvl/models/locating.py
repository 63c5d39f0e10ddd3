"""Where a model's name points: a built-in model, a folder, or one commit on the Hub."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from idvl.errors import UsageError, first_line, quoted
from idvl.models.load_errors import QUANTIZED, holds_gguf, nearby

logger = logging.getLogger(__name__)


def locate(name: str, revision: str | None = None) -> tuple[str, Path | None]:
    """(source, folder): where the name points, the folder None for a hub id.

    UsageError for what is no model, and for a `revision` of one that is not on the Hub.
    """
    source, folder = _place(name)
    if folder and revision:
        raise UsageError(f"revision {quoted(revision)} is for a model of the Hub, not for {quoted(name)}: leave it out")
    return source, folder


def _place(name: str) -> tuple[str, Path | None]:
    if name.startswith("builtin/"):
        from idvl import builtin

        return "builtin", builtin.path(name)
    path = Path(name).expanduser()
    like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or name.endswith("/") or os.path.isabs(name)
    if not os.path.exists(path):
        if like_path:
            raise UsageError(f"{name} does not exist{nearby(path)}")
        return "hub", None
    if path.suffix == ".gguf" or (path.is_dir() and holds_gguf(path)):
        raise UsageError(QUANTIZED.format(name, "as GGUF"))
    if not path.is_dir():
        raise UsageError(f"{name} is a file; give the folder that holds the model's config.json")
    if not (path / "config.json").is_file():
        raise UsageError(f"{name} is not a model: it has no config.json{nearby(path)}")
    return "folder", path


def pin(name: str, *, revision: str | None, cache_dir: str | None, local: bool) -> dict[str, Any]:
    """The options that take all files from one commit, from the local cache if the hub cannot be asked."""
    from huggingface_hub import HfApi, constants, resolve_revision
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    local = local or constants.is_offline_mode()
    unreachable = None
    try:
        if not local:
            HfApi().model_info(name, revision=revision)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception as error:
        # each of the many files would be tried several times, with pauses
        unreachable, local = error, True
    pinned = resolve_revision(name, revision=revision, cache_dir=cache_dir, local_files_only=local)
    if unreachable:
        logger.warning("the hub cannot be reached (%s): taking %s from the local cache", first_line(unreachable), name)
    return {"revision": pinned, "local_files_only": local}
