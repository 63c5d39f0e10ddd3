"""Run folders -> tables, figures, one HTML page. It reads what runs left behind and computes nothing anew of a model.

folders -> study -> tables -> page, with the drawn figures in a folder beside it. It does not know how a terminal looks.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from idvl.data import digits, shapes
from idvl.errors import UsageError, quoted
from idvl.files import disk_errors, write_bytes, write_text
from idvl.reporting.collect import Study, collect
from idvl.reporting.drawing import drawn
from idvl.reporting.expected import expected
from idvl.reporting.figures import figures_of
from idvl.reporting.figures.panel import Figure
from idvl.reporting.formats import as_json
from idvl.reporting.made import Made, made_of
from idvl.reporting.page import MARK, page
from idvl.reporting.samples import galleries
from idvl.reporting.tables import Table, tables_of
from idvl.workflows.reporter import Reporter

SCHEMA = "idvl/analysis/1"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What runs say when looked at together."""

    study: Study
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    made: Made


def run(
    folders: Sequence[Path], *, page_at: Path | None, expect: bool = False, overwrite: bool = False, reporter: Reporter
) -> Analysis:
    """Analyze the runs in `folders`, and write the page to `page_at` where it is given.

    `expect` puts the paper's numbers beside the measured ones. Pages among `folders`, as runs/* may name, are passed
    over. UsageError, before anything is read, for a page that would replace a file that is none of ours.
    """
    if page_at is not None:
        _check(page_at, overwrite)
    study = collect([folder for folder in folders if not _is_page(folder)] or folders)
    for name, why in study.refused:
        reporter.warn(f"{name} is left out: {why}")
    tables = tables_of(study)
    if expect:
        tables += expected(study)
    made = Analysis(study=study, tables=tuple(tables), figures=tuple(figures_of(study)), made=made_of(study))
    if page_at is not None:
        _write(made, page_at, reporter)
    return made


def document(found: Analysis) -> dict[str, Any]:
    """All numbers with their files, and the runs that they are from, as JSON values."""
    return {
        "schema": SCHEMA,
        "runs": [
            {
                **{"folder": run.label, "kind": run.kind, "finished": run.finished, "model": run.model},
                **{"dataset": run.dataset, "started": run.record.get("started"), "troubles": list(run.troubles)},
            }
            for run in found.study.runs
        ],
        "refused": dict(found.study.refused),
        "incomplete": dict(found.study.matrices),
        "tables": [as_json(table) for table in found.tables],
    }


def figures_beside(path: Path) -> Path:
    """The folder of the drawn figures of a page."""
    return path.with_name(f"{path.stem}-figures")


def _is_page(path: Path) -> bool:
    """Whether this is a page of ours, or the folder of the figures of one."""
    figures = path.name.endswith("-figures") and path.is_dir()
    page = path.with_name(f"{path.name.removesuffix('-figures')}.html") if figures else path
    try:
        return page.suffix == ".html" and page.is_file() and _has_mark(page)
    except OSError:
        return False


def _has_mark(path: Path) -> bool:
    return MARK in path.read_text(encoding="utf-8", errors="replace")


def _check(path: Path, overwrite: bool) -> None:
    """A page of ours is made anew without a word; anything else is kept unless `overwrite`."""
    if path.is_dir():
        raise UsageError(f"{quoted(path)} is a folder: name a file, as in --output {path / 'report.html'}")
    try:
        ours = not path.exists() or _has_mark(path)
    except OSError as error:
        raise UsageError(f"cannot write to {quoted(path)}: {error.strerror}; choose another --output") from error
    if not ours and not overwrite:
        raise UsageError(
            f"{quoted(path)} is no report of idvl's: add --overwrite to replace it, or name another --output"
        )


def _write(made: Analysis, path: Path, reporter: Reporter) -> None:
    """The drawn figures, then the page, which links to them."""
    folder = figures_beside(path)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    kinds = ("png", "svg")
    with reporter.progress("drawing figures") as progress:
        for done, figure in enumerate(made.figures):
            for kind in kinds:
                write_bytes(folder / f"{figure.key}.{kind}", drawn(figure, kind))
            progress(done + 1, len(made.figures))
    text = page(
        made.study,
        tables=made.tables,
        figures=made.figures,
        galleries=galleries(made.study),
        made=made.made,
        picture=picture,
        beside=folder.name if made.figures else None,
    )
    write_text(path, text)


def picture(id_: str) -> bytes | None:
    """The image of a built-in dataset's sample as PNG, drawn again from its id; None for any other id."""
    dataset, _, place = id_.partition("/")
    split, _, number = place.partition("/")
    known = {"shapes": _shape, "digits": _digit}
    if dataset not in known or not number.isdecimal():
        return None
    return known[dataset](split, int(number))


def _shape(split: str, number: int) -> bytes | None:
    if split not in shapes.SPLITS:
        return None
    return _png(shapes.sample(split, number).image)


def _digit(split: str, number: int) -> bytes | None:
    try:
        image = _digits(split).get(f"digits/{split}/{number:04d}") if split in digits.SPLITS else None
    except UsageError:  # without scikit-learn there are none
        return None
    return None if image is None else _png(image)


@cache
def _digits(split: str) -> dict[str, Image.Image]:
    return {sample.id: sample.image for sample in digits.samples(split)}


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
