"""Samples that were streamed from the Hub, kept for later runs: a folder for each selection, beside other downloads.

It does not know how samples are chosen.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from idvl import __version__, json_file
from idvl.data.image_spool import SpooledImage
from idvl.data.sample import Sample
from idvl.files import checksum, disk_errors, read_text, write_json

log = logging.getLogger(__name__)

FOLDER = "idvl-samples"
LIST, IMAGES = "samples.json", "images"


class SampleCache:
    """The folder of a selection, below `cache_dir` (None: where huggingface_hub downloads to).

    `made_from` is JSON-ready and holds all that decides the selection: repository, commit, split, columns, seed ...
    """

    def __init__(self, cache_dir: str | Path | None, made_from: Mapping[str, Any]):
        from huggingface_hub import constants

        facts = json.dumps({"idvl": __version__, **made_from}, sort_keys=True)
        name = hashlib.sha256(facts.encode()).hexdigest()[:32]
        self.folder = Path(cache_dir or constants.HF_HOME) / FOLDER / name
        # downloads may be shared by several machines
        self._prefix = f".{name}.{platform.node()}."
        self._unfinished = self.folder.with_name(f"{self._prefix}{os.getpid()}")

    @property
    def images(self) -> Path:
        """The file for the images of a selection in the making."""
        return self._unfinished / IMAGES

    def read(self) -> tuple[list[Sample], dict[str, Any]] | None:
        """The kept samples and their description; None where there are none or they differ from their checksums."""
        if not self.folder.exists():
            return None
        try:
            kept = json_file.parse(read_text(self.folder / LIST))
            if kept.get("sha256") != _list_sum(kept):
                raise ValueError(f"{LIST} differs from its checksum or has none")
            if kept["images"] and kept["images"] != checksum(self.folder / IMAGES):
                raise ValueError(f"{IMAGES} differs from its checksum")
            samples = [self._sample(row) for row in kept["samples"]]
            description = dict(kept["description"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s cannot be used (%s): its samples are read from the Hub again", self.folder, error)
            shutil.rmtree(self.folder, ignore_errors=True)
            return None
        log.info("%d samples are kept in %s: nothing to download", len(samples), self.folder)
        return samples, description

    def prepare(self) -> bool:
        """Make the folder for a selection in the making. False, with a warning, where it cannot be made."""
        try:
            self.discard()
            self._unfinished.mkdir(parents=True)
        except OSError as error:
            log.warning("no samples can be kept in %s (%s): each run streams them", self.folder.parent, error.strerror)
            return False
        return True

    def keep(self, samples: Sequence[Sample], description: Mapping[str, Any]) -> list[Sample]:
        """Keep samples whose images are in the file `images`; the same as they are read from now on.

        Raises RunError where the disk is full, UsageError where the folder cannot be written.
        """
        rows = [_row(sample) for sample in samples]
        images = checksum(self.images) if self.images.exists() else None
        kept = {"images": images, "samples": rows, "description": description}
        write_json(self._unfinished / LIST, {**kept, "sha256": _list_sum(kept)})
        with disk_errors(self.folder, "--cache-dir"):
            try:
                self._unfinished.rename(self.folder)
            except OSError:
                if not self.folder.exists():  # else another run has kept the same meanwhile
                    raise
        return [self._sample(row) for row in rows]

    def discard(self) -> None:
        """Remove what an unfinished selection has left, of this process or of one of this machine that was killed."""
        for left in self.folder.parent.glob(f"{glob.escape(self._prefix)}*"):
            pid = left.name.removeprefix(self._prefix)
            killed = not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists()
            if killed or left == self._unfinished:
                shutil.rmtree(left, ignore_errors=True)

    def _sample(self, row: Mapping[str, Any]) -> Sample:
        place = {name: SpooledImage(self.folder / IMAGES, *row[name]) for name in ("source", "second") if row[name]}
        return Sample(id=row["id"], texts=row["texts"], label=row["label"], answers=row["answers"], **place)


def _list_sum(kept: Mapping[str, Any]) -> str:
    """The checksum of all of the list but this sum itself."""
    return hashlib.sha256(json.dumps({**kept, "sha256": None}).encode()).hexdigest()


def _row(sample: Sample) -> dict[str, Any]:
    place = {
        name: None if (image := getattr(sample, name)) is None else [image.start, image.length]
        for name in ("source", "second")
    }
    return {"id": sample.id, "texts": sample.texts, "label": sample.label, "answers": sample.answers, **place}
