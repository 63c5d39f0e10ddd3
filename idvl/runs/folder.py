"""The folder of a run: whether it may be written to, who holds it, its name, and what overwriting removes."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from idvl.errors import UsageError, listed, quoted
from idvl.files import disk_errors
from idvl.runs.record import damage, read_record

logger = logging.getLogger(__name__)

LOCK = ".lock"
# what `write_bytes` calls a file until it is whole
UNFINISHED = re.compile(r"\..+\.\d+\.tmp")


def check(
    folder: Path | str, *, resume: bool = False, overwrite: bool = False, reads: Iterable[Path | str | None] = ()
) -> None:
    """Raise the UsageError with which `Run.open` would refuse `folder`, as far as it shows without writing.

    `reads`: what the run reads, which overwriting must not take away.
    """
    folder = Path(folder)
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other: continue the run, or replace it")
    _check_writable(folder)
    if overwrite:
        keep(folder, reads)
    if not folder.exists() or not entries(folder):
        return
    if not (resume or overwrite):
        raise UsageError(
            f"{quoted(folder)} is not empty: add --resume to continue the run in it, --overwrite to replace it, "
            "or choose another --output"
        )
    if read_record(folder) is None:
        if reason := damage(folder):
            raise UsageError(
                f"{quoted(folder / 'run.json')} cannot be read ({reason}): restore it, or choose another --output"
            )
        if inside := sorted(name for name in entries(folder) if os.path.lexists(folder / name / "run.json")):
            raise UsageError(
                f"{quoted(folder)} is no run, but holds runs ({listed(inside)}): name one of them with --output, "
                "choose another folder or, if prune --recover or --matrix made it, add that option too"
            )
        raise UsageError(
            f"{quoted(folder)} is not empty and holds no idvl run (no run.json of idvl), so there is nothing to "
            "resume or to overwrite; choose another --output"
        )


def _check_writable(folder: Path) -> None:
    """Raise UsageError where the folder, or the nearest of those above it that exists, cannot be written to."""
    ancestors = (folder, *folder.absolute().parents)
    if broken := next((path for path in ancestors if path.is_symlink() and not path.exists()), None):
        raise UsageError(f"cannot write to {quoted(folder)}: {quoted(broken)} leads nowhere; choose another --output")
    base = next((path for path in ancestors if path.exists()), Path("/"))
    if not base.is_dir():
        raise UsageError(f"cannot write to {quoted(folder)}: {quoted(base)} is a file; choose another --output")
    if not os.access(base, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to {quoted(folder)}: no permission in {quoted(base)}; choose another --output")


def keep(folder: Path | str, reads: Iterable[Path | str | None]) -> None:
    """Raise UsageError where --overwrite of `folder` would remove or replace something that the run reads.

    Anything inside the folder counts: the new run may write over what the old one has not recorded. Names that are no
    paths are passed over.
    """
    for read in filter(None, reads):
        path = os.path.expanduser(read)
        if os.path.exists(path) and is_inside(path, folder):
            raise UsageError(
                f"--overwrite of {quoted(folder)} would remove {quoted(read)}, which this run reads; "
                "choose another --output"
            )


def is_inside(path: Path | str, folder: Path | str) -> bool:
    """Whether a path is a folder or inside it, by its name or through links."""
    forms = (os.path.abspath, os.path.realpath)
    roots = {form(folder) for form in forms}
    return any(Path(form(path)).is_relative_to(root) for form in forms for root in roots)


@dataclass(frozen=True)
class FolderName:
    """What a run without --output calls its folder: `command` and, where they are given, the model and the dataset."""

    command: str
    model: str = ""
    dataset: str = ""
    parent: Path | str = "runs"


def default_folder(name: FolderName) -> Path:
    """A folder that does not exist: runs/estimate-id-blip-shapes, then runs/estimate-id-blip-shapes-2, -3, ...

    A model at RUN/model is called by the name of RUN.
    """
    model = Path(name.model)
    called = model.parent.name or model.name if model.name == "model" else model.name
    words = [re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-.") for word in (called, Path(name.dataset).name)]
    stem = "-".join([name.command, *filter(None, words)])
    folders = (Path(name.parent) / (stem if number == 1 else f"{stem}-{number}") for number in itertools.count(1))
    return next(folder for folder in folders if not folder.exists())


def new_folder(name: FolderName) -> Path:
    """Make the `default_folder`, which no other run gets then, even one that asks at the same moment."""
    while True:
        folder = default_folder(name)
        with disk_errors(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder


def remove(folder: Path, names: list[str]) -> None:
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


def clear(folder: Path, names: list[str]) -> None:
    """Remove the files that killed runs were about to rename, in the folder itself and in those that it recorded."""
    recorded = (folder / name for name in names if Path(name).name == name and "\0" not in name)
    parts = [path for path in recorded if path.is_dir() and not path.is_symlink()]
    for path in [*folder.iterdir(), *(path for part in parts for path in part.rglob(".*.tmp"))]:
        if UNFINISHED.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


def entries(folder: Path) -> list[str]:
    # a file that a killed run was about to rename is nobody's
    return [name for name in os.listdir(folder) if name != LOCK and not UNFINISHED.fullmatch(name)]


def acquire(folder: Path) -> FileLock:
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
