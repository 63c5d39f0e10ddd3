"""Run folders -> tables, figures, one HTML page. It reads the files of runs and runs no model.

folders -> study -> tables -> page, with the drawn figures in a folder beside it. It does not know how a terminal looks.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from idvl.data import digits, shapes
from idvl.errors import UsageError, quoted
from idvl.files import disk_errors, open_regular, read_bytes, write_bytes, write_text
from idvl.reporter import Reporter
from idvl.reporting.collect import Study, collect, holds_run, unforeseen
from idvl.reporting.drawing import MADE, drawn
from idvl.reporting.entry import Table
from idvl.reporting.expected import expected
from idvl.reporting.export import as_json
from idvl.reporting.figure import Figure
from idvl.reporting.figures import figures_of
from idvl.reporting.overview import Overview, overview_of
from idvl.reporting.page import MARK, page
from idvl.reporting.run_record import RunRecord
from idvl.reporting.samples import galleries
from idvl.reporting.tables import tables_of

SCHEMA = "idvl/analysis/1"
KINDS = ("png", "svg")
# bytes at the beginning of a page or a drawing that tell whose it is
HEAD = 4096
# of the number of a drawn sample
DIGITS = 9
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What runs say when looked at together."""

    study: Study
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    overview: Overview


def run(
    folders: Sequence[Path], *, page_at: Path | None, expect: bool = False, overwrite: bool = False, reporter: Reporter
) -> Analysis:
    """Analyze the runs in `folders`, and write the page to `page_at` where it is given.

    `expect` puts the paper's numbers beside the measured ones. Pages among `folders`, as runs/* may name, are passed
    over. UsageError, before anything is read, for a page that would replace a file that idvl did not write.
    """
    if page_at is not None:
        _check(page_at, overwrite)
    study = collect([folder for folder in folders if not _is_page(folder)] or folders)
    analysis, text = standing(study, partial(_analysis, expect=expect, page_at=page_at))
    for name, why in analysis.study.refused:
        reporter.warn(f"{name} is left out: {why}")
    if page_at is not None:
        _write(analysis, text, page_at, overwrite, reporter)
    return analysis


def standing(study: Study, show: Callable[[Study], Result]) -> Result:
    """What `show` makes of the study, without the runs that it fails on, which are refused with the reason.

    The last line of defence: reading has refused all damage that is known. Raises what `show` raises where no run is to
    blame.
    """
    errors: list[Exception] = []

    def works(runs: Sequence[RunRecord]) -> bool:
        try:
            show(replace(study, runs=tuple(runs)))
        except Exception as error:
            errors.append(error)
            return False
        return True

    def sound(runs: Sequence[RunRecord]) -> list[RunRecord]:
        if works(runs):
            return list(runs)
        if len(runs) == 1:
            failed.append((runs[0].label, unforeseen(errors[-1])))
            return []
        half = len(runs) // 2
        sound_runs, others = sound(runs[:half]), sound(runs[half:])
        if works([*sound_runs, *others]):
            return [*sound_runs, *others]
        for run in others:  # those that only fail beside others
            if works([*sound_runs, run]):
                sound_runs.append(run)
            else:
                failed.append((run.label, unforeseen(errors[-1])))
        return sound_runs

    failed: list[tuple[str, str]] = []
    try:
        return show(study)
    except Exception:
        sound_runs = sound(study.runs)
        if not sound_runs:
            raise
    return show(replace(study, runs=tuple(sound_runs), refused=(*study.refused, *failed)))


def _analysis(study: Study, *, expect: bool, page_at: Path | None) -> tuple[Analysis, str]:
    """The analysis, and its page where that is to be written."""
    tables = [*tables_of(study), *(expected(study) if expect else [])]
    analysis = Analysis(
        study=study, tables=tuple(tables), figures=tuple(figures_of(study)), overview=overview_of(study)
    )
    if page_at is None:
        return analysis, ""
    text = page(
        study,
        tables=analysis.tables,
        figures=analysis.figures,
        galleries=galleries(study),
        overview=analysis.overview,
        picture=picture,
        beside=figures_beside(page_at).name if analysis.figures else None,
    )
    text.encode()
    return analysis, text


def document(analysis: Analysis) -> dict[str, Any]:
    """All numbers with their files, and the runs that they are from, as JSON values."""
    return {
        "schema": SCHEMA,
        "runs": [
            {
                **{"folder": run.label, "kind": run.kind, "finished": run.finished, "model": run.model},
                **{"dataset": run.dataset, "started": run.record.get("started"), "troubles": list(run.troubles)},
            }
            for run in analysis.study.runs
        ],
        "refused": dict(analysis.study.refused),
        "incomplete": dict(analysis.study.matrices),
        "tables": [as_json(table) for table in analysis.tables],
    }


def figures_beside(path: Path) -> Path:
    """The folder of the drawn figures of a page."""
    return path.with_name(f"{path.stem}-figures")


def _is_page(path: Path) -> bool:
    """Whether this is a page that idvl wrote, or the folder of its figures."""
    figures = path.name.endswith("-figures") and path.is_dir()
    page = path.with_name(f"{path.name.removesuffix('-figures')}.html") if figures else path
    try:
        return page.suffix == ".html" and page.is_file() and _has_mark(page)
    except OSError:
        return False


def _has_mark(path: Path) -> bool:
    return MARK.encode() in _head(path)


def _head(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(HEAD)


def _check(path: Path, overwrite: bool) -> None:
    """Overwrites a page that idvl wrote; anything else only with `overwrite`."""
    try:
        if path.is_dir():
            raise UsageError(f"{quoted(path)} is a folder: name a file, as in --output {path / 'report.html'}")
        for target in (figures_beside(path), path.with_name(f".{path.name}.{os.getpid()}.tmp")):
            with suppress(FileNotFoundError):
                os.stat(target)  # a name that is too long, or no file can have, shows now
        exists = os.path.lexists(path)
        replaceable = not exists or (path.exists() and _has_mark(path))
    except OSError as error:
        raise UsageError(f"cannot write to {quoted(path)}: {error.strerror}; choose another --output") from error
    if (exists and not replaceable) or path.suffix != ".html":
        _keep_runs(path)
    if not replaceable and not overwrite:
        raise UsageError(
            f"{quoted(path)} was not written by idvl: add --overwrite to replace it, or name another --output"
        )


def _keep_runs(path: Path) -> None:
    """UsageError for a file in the folder of a run, or in a folder of that one: it may be the run's own."""
    for form in (os.path.abspath, os.path.realpath):
        parent = Path(form(path.parent))
        if run_folder := next((folder for folder in (parent, *parent.parents) if holds_run(folder)), None):
            raise UsageError(
                f"{quoted(path)} is where the files of the run in {quoted(run_folder)} are: name a new file that ends "
                "in .html, or one outside of it, as --output"
            )


def _write(analysis: Analysis, text: str, path: Path, overwrite: bool, reporter: Reporter) -> None:
    """The drawn figures, then the page, which links to them."""
    folder = figures_beside(path)
    drawable = [figure for figure in analysis.figures if not figure.few]
    drawings = [(figure, kind, folder / f"{figure.key}.{kind}") for figure in drawable for kind in KINDS]
    if not overwrite:
        _check_drawings(path, [file for *_, file in drawings])
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with reporter.progress("drawing figures") as progress:
        for count, (figure, kind, file) in enumerate(drawings, 1):
            try:
                drawing = drawn(figure, kind)
            except Exception as error:
                reporter.warn(f"the figure {figure.key!r} cannot be drawn: {type(error).__name__}: {error}")
            else:
                write_bytes(file, drawing)
            progress(count, len(drawings))
    write_text(path, text)


def _check_drawings(page_at: Path, files: Sequence[Path]) -> None:
    """UsageError for a file in the place of a drawing that idvl did not write; its own are replaced."""
    page_text = read_bytes(page_at) if page_at.exists() else b""
    for file in filter(os.path.lexists, files):
        with disk_errors(file):
            written = f'/{file.name}"'.encode() in page_text or MADE.encode() in _head(file)
        if not written:
            raise UsageError(
                f"{quoted(file)} was not written by idvl: add --overwrite to replace it, or name another --output"
            )


def picture(id_: str) -> bytes | None:
    """The image of a built-in dataset's sample as PNG, drawn again from its id; None for any other id."""
    dataset, _, name = id_.partition("/")
    split, _, number = name.partition("/")
    drawers = {"shapes": _shape, "digits": _digit}
    if dataset not in drawers or not (number.isdecimal() and len(number) <= DIGITS):
        return None
    return drawers[dataset](split, int(number))


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
