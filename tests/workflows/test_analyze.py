"""The page with what lies beside it, what it may replace, and images drawn again from their ids."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idvl.data import digits, shapes
from idvl.errors import UsageError
from idvl.workflows import analyze
from tests.support import folders
from tests.support.reporter import Silent


def test_page_and_figures_are_written(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "runs" / "a", id_weight="multiply")
    page = tmp_path / "new" / "report.html"
    found = analyze.run([tmp_path / "runs"], page_at=page, reporter=Silent())
    files = {path.name for path in analyze.figures_beside(page).iterdir()}
    # the quality of a single run is a table, not a drawing
    assert [figure.key for figure in found.figures] == ["depth", "sparsity", "quality", "scale"]
    assert files == {f"{key}.{kind}" for key in ("depth", "sparsity", "scale") for kind in ("png", "svg")}
    assert 'href="report-figures/depth.svg"' in page.read_text()
    assert page.read_text().count("data:image/png") == 3


def test_pages_of_ours_are_passed_over_and_other_files_told(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "run", id_weight="multiply")
    analyze.run([tmp_path / "run"], page_at=tmp_path / "run.html", reporter=Silent())
    (tmp_path / "notes.html").write_text("mine")
    found = analyze.run(sorted(tmp_path.iterdir()), page_at=None, reporter=Silent())
    assert [Path(run.label).name for run in found.study.runs] == ["run"]
    assert [Path(name).name for name, _ in found.study.refused] == ["notes.html"]
    with pytest.raises(UsageError, match="no run to analyze .*a file"):
        analyze.run([tmp_path / "run.html"], page_at=None, reporter=Silent())


def test_another_file_is_not_replaced(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "run")
    page = tmp_path / "thesis.html"
    page.write_text("mine")
    with pytest.raises(UsageError, match="was not written by idvl: add --overwrite"):
        analyze.run([tmp_path / "run"], page_at=page, reporter=Silent())
    assert page.read_text() == "mine"
    for overwrite in (True, False):  # the second time it is ours
        analyze.run([tmp_path / "run"], page_at=page, overwrite=overwrite, reporter=Silent())
    assert analyze.MARK in page.read_text()
    with pytest.raises(UsageError, match="is a folder"):
        analyze.run([tmp_path / "run"], page_at=tmp_path, reporter=Silent())


@pytest.mark.parametrize("name", ["e/results.json", "link/results.json", "e/masks.safetensors", "e/model/config.json"])
def test_no_page_replaces_a_file_of_a_run(tmp_path: Path, name: str) -> None:
    folders.evaluated(tmp_path / "e")
    (tmp_path / "link").symlink_to("e")
    (tmp_path / "e" / "model").mkdir()
    before = {path: path.read_bytes() for path in (tmp_path / "e").iterdir() if path.is_file()}
    with pytest.raises(UsageError, match="is where the files of the run in .* are: name a new file"):
        analyze.run([tmp_path / "e"], page_at=tmp_path / name, overwrite=True, reporter=Silent())
    assert {path: path.read_bytes() for path in (tmp_path / "e").iterdir() if path.is_file()} == before


def test_a_page_may_lie_beside_the_files_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.evaluated(tmp_path / "e")
    for _ in range(2):
        analyze.run([tmp_path / "e"], page_at=tmp_path / "e" / "report.html", reporter=Silent())
    monkeypatch.chdir(tmp_path / "e")
    with pytest.raises(UsageError, match="'.' is a folder: name a file, as in --output report.html"):
        analyze.run([tmp_path / "e"], page_at=Path("."), reporter=Silent())


def test_a_drawing_that_is_none_of_ours_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyze, "drawn", lambda figure, kind: b"a drawing made by idvl analyze")
    folders.evaluated(tmp_path / "run")
    folders.measured(tmp_path / "measured")
    page, mine = tmp_path / "x.html", tmp_path / "x-figures" / "depth.png"

    def make(**options: Any) -> None:
        analyze.run([tmp_path / "run", tmp_path / "measured"], page_at=page, reporter=Silent(), **options)

    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    with pytest.raises(UsageError, match="depth.png' was not written by idvl: add --overwrite"):
        make()
    assert mine.read_bytes() == b"mine" and not page.exists()
    make(overwrite=True)
    make()  # by now it is ours
    mine.write_bytes(b"drawn by an older idvl")
    make()  # the page that is there links to it
    page.unlink()
    make()  # what is left of a page that was interrupted
    assert mine.read_bytes() == b"a drawing made by idvl analyze"


@pytest.mark.parametrize("name", ["x" * 260 + ".html", "x" * 245 + ".html", "fifo.html", "loop/x.html"])
def test_a_page_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo.html")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="cannot write to .*choose another --output"):
        analyze.run([tmp_path / "nowhere"], page_at=tmp_path / name, reporter=Silent())


def test_a_figure_that_cannot_be_drawn_leaves_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyze, "drawn", lambda figure, kind: 1 / 0)
    folders.measured(tmp_path / "run")
    reporter = Silent()
    analyze.run([tmp_path / "run"], page_at=tmp_path / "x.html", reporter=reporter)
    assert (tmp_path / "x.html").exists() and any("'depth' cannot be drawn" in told for told in reporter.warnings)


def test_built_in_images_are_those_that_were_evaluated() -> None:
    for sample in [*shapes.samples("test", 3, seed=5), *digits.samples("test", 2, seed=5)]:
        drawn = Image.open(io.BytesIO(analyze.picture(sample.id)))
        assert np.array_equal(np.asarray(drawn), np.asarray(sample.image))
    for other in ("coco/test/1", "shapes/nowhere/000001", "digits/test/9999", "shapes/test/../x", "", "shapes"):
        assert analyze.picture(other) is None


def test_the_document_is_json_with_a_file_for_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.pruned(tmp_path / "a")
    folders.pruned(tmp_path / "b", float("nan"), seed=1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    found = analyze.run([Path("a"), Path("b"), Path("empty")], page_at=None, expect=True, reporter=Silent())
    document = json.loads(json.dumps(analyze.document(found), allow_nan=False))
    assert [run["folder"] for run in document["runs"]] == ["a", "b"] and document["refused"] == {"empty": "empty"}
    for table in document["tables"]:
        for number in (number for row in table["rows"] for number in row["numbers"].values()):
            assert number["sources"] or table["key"].startswith("expected")
            assert all(Path(source).exists() for source in number["sources"])
