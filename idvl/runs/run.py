"""One run while it writes: its folder, which it alone holds, its record and its metrics."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from idvl import yaml_file
from idvl.errors import quoted
from idvl.files import append, disk_errors, write_json, write_text
from idvl.profile import finite
from idvl.runs.environment import provenance
from idvl.runs.folder import acquire, check, clear, remove
from idvl.runs.record import RunFile, cut_broken_line, read_metrics, read_record, refuse_difference

logger = logging.getLogger(__name__)


class Run:
    """The folder of one run, held by this process until `close`. Open it on the main process only."""

    def __init__(self, folder: Path, record: dict[str, Any], lock: FileLock):
        self.folder = folder
        self.record = record
        self._lock = lock

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        recipe: Mapping[str, Any],
        signature: Mapping[str, Any],
        resume: bool = False,
        overwrite: bool = False,
    ) -> Run:
        """Take `folder` for a run, and write recipe.yaml and run.json into it.

        `signature` is what a resumed run must share with the one that was cut off; JSON values only. With `resume` a
        folder without a run begins one, with a warning: a job that is started again and again has one command.
        UsageError for a folder that is not empty (unless `resume` or `overwrite`), in use, not writable, or of another
        signature.
        """
        folder = Path(folder)
        check(folder, resume=resume, overwrite=overwrite)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = acquire(folder)
        try:
            check(folder, resume=resume, overwrite=overwrite)  # another run may have ended since
            if resume and read_record(folder) is None:
                logger.warning("there is no run in %r to resume: starting a new one", str(folder))
            with disk_errors(folder):
                return cls(folder, _prepare(folder, recipe, json.loads(json.dumps(signature)), overwrite), lock)
        except BaseException:
            lock.release()
            raise

    def path(self, name: str) -> Path:
        """The path of a file or folder of this run. It is recorded, so that --overwrite removes it later."""
        if Path(name).name != name:
            raise ValueError(f"a name inside the run folder, without separators, not {quoted(name)}")
        if name not in self.record["files"]:
            self.record["files"].append(name)
            write_json(self.folder / "run.json", self.record)
        return self.folder / name

    def log_metric(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl. A number that is not finite becomes null."""
        line = json.dumps(finite(dict(values)), allow_nan=False) + "\n"
        append(self.path("metrics.jsonl"), line.encode())

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off is left out."""
        return read_metrics(self.folder / "metrics.jsonl")

    def close(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare(folder: Path, recipe: Mapping[str, Any], signature: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Clear or continue what is in `folder`, then write recipe.yaml and run.json."""
    record = read_record(folder)
    clear(folder, record["files"] if record else [])
    if record is not None and overwrite:
        remove(folder, record["files"])
        record = None
    if record is None:
        record = {
            "schema": RunFile.NAME,
            **provenance(),
            "seed": (recipe.get("data") or {}).get("seed"),
            "signature": signature,
            "files": ["run.json", "recipe.yaml"],
            "resumed": [],
        }
    else:
        refuse_difference(folder, record["signature"], signature)
        cut_broken_line(folder / "metrics.jsonl")
        record["resumed"].append(provenance())
    record["directory"] = os.path.abspath(os.curdir)
    write_json(folder / "run.json", record)
    write_text(folder / "recipe.yaml", yaml_file.dump(dict(recipe)))
    return record
