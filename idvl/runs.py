"""What a run leaves behind: its folder, provenance and metrics.

A folder belongs to one process at a time, and remembers which files the run wrote, so that overwriting removes those
and nothing else. It knows no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from idvl import yaml_file
from idvl.errors import RunError, UsageError, quoted
from idvl.files import append, disk_errors, parse_json, read_bytes, read_json, write_bytes, write_json, write_text
from idvl.profile import finite

logger = logging.getLogger(__name__)

SCHEMA = "idvl/run/1"
LOCK = ".lock"
# what the signatures of older versions do not hold
LATER = ("configuration",)
# the lines of a matrix of runs: the runs are in folders beside it
MATRIX = "matrix.jsonl"
PACKAGES = ("idvl", "torch", "torchvision", "transformers", "accelerate", "datasets", "safetensors", "numpy", "pillow")
PACKAGES += ("faiss-cpu", "faiss-gpu")
# what `write_bytes` calls a file until it is whole
UNFINISHED = re.compile(r"\..+\.\d+\.tmp")


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
            lock = _acquire(folder)
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


def check(
    folder: Path | str, *, resume: bool = False, overwrite: bool = False, reads: Iterable[Path | str | None] = ()
) -> None:
    """Raise the UsageError with which `Run.open` would refuse `folder`, as far as it shows without writing.

    `reads`: what the run reads, which overwriting must not take away.
    """
    folder = Path(folder)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other: continue the run, or replace it")
    places = (folder, *folder.absolute().parents)
    if lost := next((path for path in places if path.is_symlink() and not path.exists()), None):
        raise UsageError(f"cannot write to {quoted(folder)}: {quoted(lost)} leads nowhere; choose another --output")
    there = next((path for path in places if path.exists()), Path("/"))
    if not there.is_dir():
        raise UsageError(f"cannot write to {quoted(folder)}: {quoted(there)} is a file; choose another --output")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to {quoted(folder)}: no permission in {quoted(there)}; choose another --output")
    if overwrite:
        keep(folder, reads)
    if there != folder or not _entries(folder):
        return
    if not (resume or overwrite):
        raise UsageError(
            f"{quoted(folder)} is not empty: add --resume to continue the run in it, --overwrite to replace it, "
            "or choose another --output"
        )
    if read_record(folder) is None:
        raise UsageError(
            f"{quoted(folder)} is not empty and holds no idvl run (no run.json), so there is nothing to "
            "resume or to overwrite; choose another --output"
        )


def keep(folder: Path | str, reads: Iterable[Path | str | None]) -> None:
    """Raise UsageError where --overwrite of `folder` would remove or replace something that the run reads.

    Anything inside the folder counts: the new run may write over what the old one has not recorded. Names that are no
    paths are passed over.
    """
    forms = (os.path.abspath, os.path.realpath)
    within = {form(folder) for form in forms}
    for read in filter(None, reads):
        path = os.path.expanduser(read)
        if os.path.exists(path) and any(Path(form(path)).is_relative_to(place) for form in forms for place in within):
            raise UsageError(
                f"--overwrite of {quoted(folder)} would remove {quoted(read)}, which this run reads; "
                "choose another --output"
            )


def read_record(folder: Path | str) -> dict[str, Any] | None:
    """The run.json of a run folder, None when there is none or it isn't ours."""
    try:
        record = read_json(Path(folder) / "run.json")
    except (OSError, ValueError):
        return None
    ours = isinstance(record, dict) and record.get("schema") == SCHEMA
    kinds = {"files": list, "resumed": list, "signature": dict}
    if not ours or not all(isinstance(record.get(key), kind) for key, kind in kinds.items()):
        return None
    return record if all(isinstance(name, str) for name in record["files"]) else None


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, [] when there is none. RunError for a broken line before the last."""
    path = Path(path)
    try:
        whole = read_bytes(path).rpartition(b"\n")[0] if path.exists() else b""
        lines = [parse_json(line) for line in whole.split(b"\n") if line.strip()]
        if odd := [line for line in lines if not isinstance(line, dict)]:
            raise ValueError(f"{quoted(odd[0])} is no object")
        if odd := [line["step"] for line in lines if type(line.get("step", 0)) is not int]:
            raise ValueError(f"{quoted(odd[0])} is no step")
        return lines
    except (OSError, ValueError) as error:
        raise RunError(f"{quoted(path)} has a broken line ({error}); start again with --overwrite") from error


def default_folder(kind: str, model: str, dataset: str, base: Path | str = "runs") -> Path:
    """A folder that is not taken: runs/estimate-id-blip-shapes, then runs/estimate-id-blip-shapes-2, -3, ..."""
    words = [re.sub(r"[^A-Za-z0-9._-]+", "-", Path(word).name).strip("-.") for word in (model, dataset)]
    stem = "-".join([kind, *filter(None, words)])
    folders = (Path(base) / (stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def new_folder(kind: str, model: str, dataset: str, base: Path | str = "runs") -> Path:
    """Make the `default_folder`, which no other run gets then, even one that asks at the same moment."""
    while True:
        folder = default_folder(kind, model, dataset, base)
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder


def provenance() -> dict[str, Any]:
    """What a number depends on besides its recipe: versions, platform, git commit, command line, time. JSON-ready."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _program() -> list[str]:
    """What a user types for this program."""
    path = Path(sys.argv[0])
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]


def _prepare(folder: Path, recipe: Mapping[str, Any], signature: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Clear or continue what is in `folder`, then write recipe.yaml and run.json."""
    record = read_record(folder)
    _clear(folder, record["files"] if record else [])
    if record is not None and overwrite:
        _remove(folder, record["files"])
        record = None
    if record is None:
        record = {
            "schema": SCHEMA,
            **provenance(),
            "seed": (recipe.get("data") or {}).get("seed"),
            "signature": signature,
            "files": ["run.json", "recipe.yaml"],
            "resumed": [],
        }
    else:
        refuse_difference(folder, record["signature"], signature)
        _cut_broken_line(folder / "metrics.jsonl")
        record["resumed"].append(provenance())
    write_json(folder / "run.json", record)
    write_text(folder / "recipe.yaml", yaml_file.dump(dict(recipe)))
    return record


def refuse_difference(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise UsageError, naming every difference, unless both signatures are the same."""
    known = [*before, *(key for key in now if key not in before and key not in LATER)]
    keys = [key for key in known if before.get(key) != now.get(key)]
    if keys:
        told = "; ".join(f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}" for key in keys)
        raise UsageError(
            f"cannot resume {quoted(folder)}: {told}; use the same settings, --overwrite or another --output"
        )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


def _cut_broken_line(path: Path) -> None:
    """Remove an unfinished last line, so that the next one starts on its own."""
    if path.exists():
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            write_bytes(path, whole)


def _remove(folder: Path, names: list[str]) -> None:
    """Remove what the run recorded; run.json last, so that a cut-off removal can be repeated."""
    for name in names:
        if Path(name).name != name or name in ("", "..", ".") or "\0" in name:
            raise UsageError(
                f"run.json of {quoted(folder)} lists {quoted(name)}, which is not inside it: remove the run by hand"
            )
    for name in sorted(names, key=lambda name: name == "run.json"):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _clear(folder: Path, names: list[str]) -> None:
    """Remove the files that killed runs were about to rename, in the folder itself and in those that it recorded."""
    within = (folder / name for name in names if Path(name).name == name and "\0" not in name)
    parts = [path for path in within if path.is_dir() and not path.is_symlink()]
    for path in [*folder.iterdir(), *(path for part in parts for path in part.rglob(".*.tmp"))]:
        if UNFINISHED.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[str]:
    # a file that a killed run was about to rename is nobody's
    return [name for name in os.listdir(folder) if name != LOCK and not UNFINISHED.fullmatch(name)]


def _acquire(folder: Path) -> FileLock:
    """Hold the folder's lock file; the system releases it when the process ends, however it ends."""
    lock = FileLock(folder / LOCK, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"another process is writing to {quoted(folder)}; wait for it or choose another --output"
        ) from None
    except OSError as error:
        if error.filename:  # the file cannot be opened; without a name, the file system has no locks
            raise
        logger.warning("cannot lock %s (%s): do not start a second run in it", folder, error.strerror)
    return lock


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _git_commit() -> str | None:
    """The commit of the working folder's repository, with -dirty after it when files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
