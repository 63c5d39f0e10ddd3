"""The command as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idvl.commands import main
from tests.support import folders, tiny


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folders.pruned(tmp_path / "runs" / "a", 50.0)
    folders.pruned(tmp_path / "runs" / "b", 55.0, id_weight="multiply")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tables_go_to_stdout_and_notes_do_not(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form, start in {"markdown": "### CIDEr", "latex": "\\begin{table}", "csv": "table,row"}.items():
        assert main(["analyze", "runs", "--table", form]) == 0
        told = capsys.readouterr()
        assert told.out.startswith(start) and told.out.endswith("\n") and not told.err
    assert main(["analyze", "runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "idvl/analysis/1"
    assert main(["analyze", "runs"]) == 0
    assert "PLATON × ID" in capsys.readouterr().out


def test_the_page_is_named_at_the_end(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "runs" / "b" / "report.json").unlink()
    assert main(["analyze", "runs/a", "runs/b", "--output", "report.html"]) == 0
    told = capsys.readouterr()
    assert "the report is report.html" in told.err and "runs/b: not finished" in told.err and not told.out
    assert (runs / "report.html").exists()


def test_what_cannot_be_done_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "empty").mkdir()
    for arguments, line in {
        ("empty",): "no run to analyze (empty: empty)",
        ("nowhere",): "there is no folder 'nowhere'",
        ("runs", "--table", "word"): "--table is markdown, latex or csv, not 'word'",
        ("runs", "--table", "csv", "--json"): "--table and --json exclude each other",
        ("runs", "--output", "new/"): "'new/' is a folder: name a file, as in --output new/report.html",
        (): "name the folders of runs",
    }.items():
        assert main(["analyze", *arguments]) == 2
        told = capsys.readouterr()
        assert line in told.err and told.err.count("\n") == 1 and not told.out


def test_a_sensitivity_run_is_measured_resumed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, model = tmp_path / "s", tiny.save("vit", tmp_path / "vit")
    measure = ["analyze", "--sensitivity", str(model), "--dataset", "digits", "--samples", "100", "--limit", "40"]
    measure += ["--ratio", "0.5", "--ratio", "0.9", "--output", str(place)]
    assert main([*measure, "--plan"]) == 0 and not place.exists()
    assert "27 losses" in capsys.readouterr().out
    assert main(measure) == 0
    told = capsys.readouterr()
    assert "Spearman's rho of dimension and loss" in told.out and "the report is" in told.err
    assert (place / "report-figures" / "sensitivity.svg").exists()
    assert main([*measure, "--resume", "--table", "csv"]) == 0
    assert "sensitivity-1,of each layer alone=90 %," in capsys.readouterr().out
    assert main(["analyze", "--ratio", "0.5", str(place)]) == 2
    assert "--ratio is for --sensitivity MODEL" in capsys.readouterr().err
