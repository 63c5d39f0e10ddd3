"""Run folders of every kind, and everything that can be wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from idvl.errors import UsageError
from idvl.reporting.collect import collect
from idvl.reporting.figures import figures_of
from idvl.reporting.overview import overview_of
from idvl.reporting.tables import tables_of
from tests.support import folders


def test_kinds_are_told_by_what_is_in_a_folder(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a")
    folders.evaluated(tmp_path / "b")
    folders.measured(tmp_path / "c")
    folders.sensitivity(tmp_path / "d")
    folders.allocations(tmp_path / "e")
    study = collect([tmp_path])
    assert [run.kind for run in study.runs] == ["prune", "eval", "estimate-id", "sensitivity", "allocations"]
    assert all(run.finished and not run.troubles for run in study.runs)


def test_every_number_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.pruned(tmp_path / "runs" / "a", 51.5)
    monkeypatch.chdir(tmp_path)
    for given in (Path("runs/a"), tmp_path / "runs" / "a", Path("./runs")):
        (run,) = collect([given]).runs
        number = run.metrics()["CIDEr"]
        assert (number.value, number.low, number.high) == (51.5, 50.5, 52.5)
        assert number.sources == ("runs/a/eval/results.json",) and Path(*number.sources).exists()


def test_a_run_is_taken_once_and_what_is_inside_of_it_not_at_all(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a")
    folders.measured(tmp_path / "a" / "profile")
    study = collect([tmp_path, tmp_path / "a"])
    assert [run.kind for run in study.runs] == ["prune"] and study.runs[0].dense is not None


def test_of_a_matrix_the_cells_are_the_runs(tmp_path: Path) -> None:
    folders.record(tmp_path, {}, {})
    (tmp_path / "matrix.jsonl").write_text("{}\n")
    folders.pruned(tmp_path / "one")
    folders.pruned(tmp_path / "two")
    assert [run.label.rpartition("/")[2] for run in collect([tmp_path]).runs] == ["one", "two"]


def test_a_matrix_whose_cells_are_not_all_there_is_told(tmp_path: Path) -> None:
    for name in ("done", "failed"):
        folders.pruned(tmp_path / "m" / name)
    lines = [{"name": name, "state": name} for name in ("done", "failed", "waiting", "left out")]
    (tmp_path / "m" / "matrix.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    study = collect([tmp_path])
    ((name, why),) = study.matrices
    assert Path(name).name == "m" and why.startswith("1 of 4 cells failed and 1 of 4 cells have not run: ")
    assert why.endswith(f"continue with the same command and --output {name} --resume")
    assert (name, why) in overview_of(study).troubles
    (tmp_path / "m" / "matrix.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert collect([tmp_path]).matrices == ()


def test_a_matrix_whose_cells_have_all_failed_is_told_as_that(tmp_path: Path) -> None:
    folders.record(tmp_path / "m", {}, {})
    line = json.dumps({"name": "a", "state": "failed", "reason": "no disk"})
    (tmp_path / "m" / "matrix.jsonl").write_text(f"{line}\n" * 54)
    with pytest.raises(
        UsageError, match=r"54 of 54 cells failed \(no disk\): continue with the same command and --out"
    ):
        collect([tmp_path / "m"])
    (tmp_path / "m" / "matrix.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="none of its cells is there"):
        collect([tmp_path / "m"])


@pytest.mark.parametrize(
    ("run", "command", "output"),
    [
        ("a", "idvl prune builtin/vit", "a"),
        ("pruned", "idvl prune builtin/vit --output pruned", "pruned"),
        ("my runs/x/pruned", "idvl prune builtin/vit --output 'my runs/x/pruned'", "'my runs/x/pruned'"),
        ("my runs/x/pruned", "idvl prune builtin/vit '--output=my runs/x/pruned'", "'my runs/x/pruned'"),
        ("my runs/x/pruned", "idvl prune builtin/vit --recover lora --output 'my runs/x'", "'my runs/x'"),
        ("a/pruned", "idvl prune builtin/vit --recover lora", "a"),
        ("m/cell", "", "m"),
        ("a/pruned", "idvl prune 'builtin/vit", "a/pruned"),
    ],
)
def test_an_unfinished_run_is_continued_in_the_folder_of_its_command(
    tmp_path: Path, run: str, command: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folders.pruned(Path(run)) / "report.json").unlink()
    record = json.loads(Path(run, "run.json").read_text())
    Path(run, "run.json").write_text(json.dumps(record | {"command": command}))
    if output == "m":
        Path("m", "matrix.jsonl").write_text("{}\n")
    ((_, why),) = overview_of(collect([Path(run)])).troubles
    assert why.endswith(f"continue with the same command and --output {output} --resume")


def test_a_run_that_ended_with_a_damaged_file_is_not_to_be_gone_on_with(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "a")
    (run / "report.json").write_text('{"schema": "idvl/report/1", ')
    made = overview_of(collect([run]))
    assert [row[made.columns.index("state")] for row in made.rows] == ["damaged"]
    assert not any("--resume" in why for _, why in made.troubles) and "report.json cannot" in made.troubles[0][1]


def test_what_is_no_run_is_told_with_the_reason(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text("[]")
    study = collect(sorted(tmp_path.iterdir()))
    assert len(study.runs) == 1
    assert [why.split(",")[0] for _, why in study.refused] == [
        "empty",
        "a file",
        "its run.json was not written by idvl",
    ]
    with pytest.raises(UsageError, match="no run to analyze .*empty"):
        collect([tmp_path / "empty"])
    with pytest.raises(UsageError, match="there is no folder"):
        collect([tmp_path / "nowhere"])


def test_an_unfinished_run_is_one_and_says_how_far_it_came(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "a")
    (run / "report.json").unlink()
    (run / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n{"ste')
    (found,) = collect([run]).runs
    assert found.kind == "prune" and not found.finished and found.last == {"step": 20}
    assert collect([run]).of("prune") == []


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("idvl/profile/2", "written by a newer idvl"),
        ("idvl/profile/0", "which no idvl has written"),
        (None, "is not an idvl profile"),
    ],
)
def test_profiles_of_another_schema_are_refused_with_a_reason(tmp_path: Path, schema: str | None, told: str) -> None:
    run = folders.pruned(tmp_path / "a", id_weight="multiply")
    old = folders.profile()
    del old["layers"]
    folders.write(run / "profile.json", {**old, "schema": schema})
    (found,) = collect([run]).runs
    assert found.finished and found.profile is None
    assert any(told in trouble for trouble in found.troubles)


def test_missing_damaged_and_newer_documents_are_told(tmp_path: Path) -> None:
    without = folders.pruned(tmp_path / "a")
    (without / "eval" / "results.json").unlink()
    damaged = folders.evaluated(tmp_path / "b")
    (damaged / "results.json").write_text('{"schema": "idvl/results/1", ')
    newer = folders.evaluated(tmp_path / "c")
    folders.write(newer / "results.json", {"schema": "idvl/results/2"})
    bare = folders.evaluated(tmp_path / "d")
    (bare / "run.json").unlink()
    (bare / "recipe.yaml").write_text("a: [")
    a, b, c, d = collect([tmp_path]).runs
    assert a.finished and a.metrics() == {} and "not evaluated" in a.troubles[0]
    assert not b.finished and "results.json cannot be read" in b.troubles[0]
    assert not c.finished and "'idvl/results/2'" in c.troubles[0]
    assert d.finished and "run.json is not there" in d.troubles[0] and "recipe.yaml cannot be read" in d.troubles[1]


def test_a_cell_that_is_no_number_has_no_value(tmp_path: Path) -> None:
    run = folders.evaluated(tmp_path / "a")
    text = (run / "results.json").read_text().replace('"value": 90.0', '"value": NaN')
    (run / "results.json").write_text(text)
    (found,) = collect([run]).runs
    assert found.metrics()["CIDEr"].value is None
    assert json.dumps(found.results, allow_nan=False)


@pytest.mark.parametrize(
    ("name", "broken", "told"),
    [
        ("report.json", {"layers": [1]}, "layers should be an object, not [1]"),
        ("report.json", {"layers": {"a.b": {"modality": 5}}}, "layers['a.b'].modality should be text, not 5"),
        ("report.json", {"total": None}, "total should be an object, not None"),
        ("eval/results.json", {"metrics": "x"}, "metrics should be an object, not 'x'"),
        ("eval/results.json", {"metrics": {"CIDEr": 1.0}}, "metrics.CIDEr should be an object, not 1.0"),
    ],
)
def test_a_document_whose_parts_are_not_what_they_should_be_is_refused(
    name: str, broken: dict, told: str, tmp_path: Path
) -> None:
    run = folders.pruned(tmp_path / "a")
    folders.write(run / name, json.loads((run / name).read_text()) | broken)
    study = collect([run])
    assert any(f"{Path(name).name} cannot be read: " in why and told in why for why in study.runs[0].troubles)
    # and nothing stumbles over what is left of it
    tables_of(study), figures_of(study)


@pytest.mark.parametrize(
    ("name", "place", "broken", "told"),
    [
        ("run.json", ("versions",), 1.0, "run.json cannot be read: versions should be an object, not 1.0"),
        ("run.json", ("signature", "class"), 1, "run.json cannot be read: signature.class should be text, not 1"),
        ("recipe.yaml", ("model",), -1, "recipe.yaml cannot be read: model should be an object, not -1"),
        (
            "recipe.yaml",
            ("data", "dataset"),
            ["x"],
            "recipe.yaml cannot be read: data.dataset should be text, not ['x']",
        ),
        (
            "profile.json",
            ("layers", "text.0.query", "n_features"),
            "",
            "layers['text.0.query'].n_features should be a whole number, not ''",
        ),
        (
            "profile.json",
            ("layers", "text.0.query", "estimate", "stderr"),
            [],
            "layers['text.0.query'].estimate.stderr should be a number, not []",
        ),
    ],
)
def test_what_a_run_was_asked_or_measured_is_refused_where_it_is_damaged(
    name: str, place: tuple[str, ...], broken: Any, told: str, tmp_path: Path
) -> None:
    run = folders.pruned(tmp_path / "a", id_weight="multiply")
    values = yaml.safe_load((run / name).read_text())
    part = values
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = broken
    folders.write(run / name, values)
    study = collect([run])
    assert any(told in why for why in study.runs[0].troubles)
    tables_of(study), figures_of(study), overview_of(study)


def test_a_setting_of_another_kind_is_a_setting(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "a", prune__sparsity={"a": 1}, samples={"b": 2}, seed=[3])
    (table,) = [one for one in tables_of(collect([tmp_path])) if one.key == "quality-1"]
    assert table.columns == ("80 %",)  # what the report says


def test_a_sensitivity_run_whose_losses_are_none_is_refused(tmp_path: Path) -> None:
    run = folders.sensitivity(tmp_path / "s")
    found = json.loads((run / "sensitivity.json").read_text())
    found["modalities"]["vision"]["losses"] = {"0.4": 1.0}
    folders.write(run / "sensitivity.json", found)
    (run,) = collect([run]).runs
    assert not run.finished and "modalities.vision.losses should be a list, not {'0.4': 1.0}" in run.troubles[0]


def test_json_too_deep_to_read_is_told(tmp_path: Path) -> None:
    run = folders.evaluated(tmp_path / "a")
    (run / "results.json").write_text('{"schema": "idvl/results/1", "metrics": ' + "[" * 100_000)
    (found,) = collect([run]).runs
    assert "results.json cannot be read" in found.troubles[0]
