"""A matrix of runs: which cells a file means, what is refused, and that cells survive failures, breaks and budgets."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from idvl import runs, tasks
from idvl.errors import RunError, UsageError
from idvl.models.loading import load
from idvl.pruning.dimensions import dense_recipe
from idvl.reporting.collect import collect
from idvl.sweep import grid, profiles, restartable, sweep, worker
from idvl.sweep.worker import Failed
from tests.support.reporter import Silent

BASE = {
    "model": {"name": "builtin/vit"},
    "data": {"dataset": "digits", "split": "train", "samples": 120},
    "train": {"max_steps": 6, "batch_size": 8},
    "prune": {"window": 2, "mask_every": 2},
    "eval": {"limit": 20},
}
VARYING = {"prune.sparsity": [0.5, 0.8], "prune.id_weight": ["none", "multiply"]}
GOLDEN = Path(__file__).parents[1] / "golden" / "pruned-vit"
NAMES = [f"sparsity-{s}-{w}" for s in (0.5, 0.8) for w in ("id_weight-none", "multiply")]


def file(folder, **changes):
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump({"base": BASE, "matrix": VARYING} | changes, sort_keys=False))
    return path


def names(path, given=None):
    return [cell.name for cell in grid.read(path, given).cells]


@pytest.fixture
def works(monkeypatch):
    """What carries out a cell's runs: here, a function that a test may replace, called with (folder, recipe)."""
    asked = []

    def fake(work, recipe, place, *, reporter, name):
        asked.append((work.__name__, place.name))
        if work is restartable.identify and (trouble := troubles.get("identify")):
            raise trouble.pop()
        if work is restartable.identify:
            return {"fingerprint": troubles.get("fingerprint", "first")}
        if trouble := troubles.get(place.name):
            raise trouble.pop(0)
        signature = {"fingerprint": troubles.get("fingerprint", "first")}
        resume = runs.read_record(place) is not None
        try:
            run = runs.Run.open(place, recipe=recipe.to_dict(), signature=signature, resume=resume)
        except UsageError as error:
            raise Failed(str(error), lasting=True) from error
        with run as opened:
            if work is restartable.prune:
                for name in ("model", "eval"):
                    shutil.copytree(GOLDEN / name, opened.folder / name, dirs_exist_ok=True)
                for name in ("masks.safetensors", "report.json"):
                    shutil.copy(GOLDEN / name, opened.folder)
            else:
                shutil.copy(GOLDEN / "profile.json", opened.folder)
            return {"headline": "top-1", "metrics": {"top-1": 50.0}}

    troubles = {}
    monkeypatch.setattr(sweep, "isolated", fake)
    return asked, troubles


@pytest.fixture
def here(monkeypatch):
    """Real runs, in this process: what a cell's own process does is tested with it."""

    def work_here(work, *arguments, reporter, name):
        try:
            return work(*arguments, reporter=reporter)
        except UsageError as error:
            raise Failed(str(error), lasting=True) from error

    monkeypatch.setattr(sweep, "isolated", work_here)


def carry_out(path, folder, **options):
    reporter = Silent()
    return sweep.run(path, overrides={}, folder=folder, reporter=reporter, **options), reporter


def states(folder):
    return {line["name"]: line["state"] for line in runs.read_metrics(folder / "matrix.jsonl")}


def test_a_cell_is_a_combination_and_its_first_key_changes_last(tmp_path):
    assert names(file(tmp_path)) == NAMES
    more = file(tmp_path, cells=[{"prune.criterion": "gradient"}])
    assert names(more) == [*NAMES, "gradient"]
    some = file(tmp_path, **{"except": [{"prune.sparsity": [0.5, 0.6], "prune.id_weight": "none"}]})
    assert names(some) == NAMES[1:]
    many = {"data.seed": list(range(3000)), **VARYING}
    assert len(names(file(tmp_path, matrix=many, **{"except": [{"data.seed": list(range(1, 3000))}]}))) == 4
    ordered = file(tmp_path, first=[{"prune.sparsity": 0.8, "prune.id_weight": "multiply"}, {"prune.sparsity": 0.8}])
    assert names(ordered) == [NAMES[3], NAMES[2], *NAMES[:2]]
    cell = grid.read(file(tmp_path), {"train.max_steps": 4}).cells[1]
    assert (cell.recipe.prune.sparsity, cell.recipe.prune.id_weight, cell.recipe.train.max_steps) == (
        0.5,
        "multiply",
        4,
    )


def test_published_numbers_belong_to_cells(tmp_path):
    found = grid.read(file(tmp_path, published=[{"prune.sparsity": 0.8, "prune.id_weight": "none", "top-1": 44.5}]))
    assert [cell.published for cell in found.cells] == [{}, {}, {"top-1": 44.5}, {}]


def test_a_cell_whose_axes_do_not_go_together_is_left_out_with_the_reason(tmp_path):
    found = grid.read(file(tmp_path, matrix={"prune.id_weight": ["none", "divide"], "prune.structure": ["2:4"]}))
    assert [cell.name for cell in found.cells] == ["id_weight-none-2-4"]
    assert "set id_weight none" in found.left_out["divide-2-4"]
    result, reporter = carry_out(found.path, None, plan_only=True)
    assert [line.state for line in result.lines] == ["waiting", "left out"]
    assert reporter.warnings == [f"divide-2-4 is left out: {found.left_out['divide-2-4']}"]


def test_a_run_that_two_cells_are_is_made_once(tmp_path):
    found = grid.read(file(tmp_path, matrix={"prune.sparsity": [0.3, "0.3", 0.4]}))
    assert [cell.name for cell in found.cells] == ["sparsity-0.3", "sparsity-0.4"]
    assert found.left_out == {"0.3": "it is the same run as sparsity-0.3"}


def test_a_cell_has_no_name_of_the_sweep_itself(tmp_path):
    found = names(file(tmp_path, matrix={"model.name": ["a/matrix.jsonl", "a/profiles", "a/run.json", "a/b"]}))
    assert len(set(found)) == 4 and not {"matrix.jsonl", "profiles", "run.json"} & set(found) and found[3] == "b"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"matrix": {}}, "has no cells"),
        ({"matrix": {f"prune.{key}": list(range(100)) for key in "abcd"}}, "has 100,000,000 combinations, more than 1"),
        ({"matrix": {f"prune.{key}": list(range(101)) for key in "ab"}}, "has 10,201 cells, more than 10,000"),
        ({"matrix": {"prune.sparsity": []}}, "prune.sparsity in the matrix .* takes a list of values"),
        ({"matrix": {"prune.sparsty": [0.5]}}, "unknown key 'prune.sparsty'; did you mean 'prune.sparsity'?"),
        ({"matrix": {"prune.criterion": ["plato"]}}, "'plato' is not one of .*; did you mean 'platon'?"),
        ({"base": {"modl": {"name": "builtin/vit"}}}, "unknown key 'modl'; did you mean 'model'?"),
        ({"base": "recipes/demo.yaml"}, "base of .* is a recipe"),
        ({"base": {"model": "builtin/vit"}}, "base.model of .* is a section"),
        ({"matrx": {}}, "unknown key 'matrx' .*; did you mean 'matrix'?"),
        ({"except": [{"prune.scope": "all"}]}, "'prune.scope' in except of .* does not vary"),
        ({"except": {"prune.sparsity": 0.5}}, "except of .* is a list of settings"),
        ({"except": [{"prune.sparsity": [0.5, 0.8]}]}, "has no cells"),
        ({"published": [{"prune.sparsity": 0.4, "top-1": 1.0}]}, "numbers for no cell"),
        ({"published": [{"prune.scope": "all", "top-1": 1.0}]}, "neither a setting nor a number"),
        ({"matrix": {"prune.structure": ["2:4"]}}, "every cell of .* is refused: id_weight multiply and structure 2:4"),
        ({"cells": [{"prune.sparsity": 0.5, "prune.id_weight": "none"}]}, "has a cell twice"),
        ({"run": ["estimate"]}, "run of .* is one of"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(tmp_path, changes, told):
    with pytest.raises(UsageError, match=told) as refusal:
        carry_out(file(tmp_path, **changes), tmp_path / "out")
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()


def test_a_flag_for_what_varies_is_refused_and_so_are_several_processes(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="prune.sparsity varies in the matrix"):
        grid.read(file(tmp_path), {"prune.sparsity": 0.5})
    with pytest.raises(UsageError, match="there is no matrix"):
        grid.read(tmp_path / "none.yaml")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="launch one process"):
        carry_out(file(tmp_path), tmp_path / "out")


def test_models_that_do_not_exist_are_refused_before_any_cell_runs(tmp_path, works, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = r"^runs/small/dense/blip-1 does not exist \(the first of 3 such models\); see the head of .*core.yaml'; no"
    with pytest.raises(UsageError, match=told):
        carry_out("small/core", tmp_path / "out")
    with pytest.raises(UsageError, match="^runs/classifier/vit does not exist; see the head of .*fashion.yaml'; no"):
        carry_out("small/fashion", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # cells that are done need no model any more
    shutil.copytree(GOLDEN / "model", tmp_path / "dense")
    matrix = file(tmp_path, base=BASE | {"model": {"name": str(tmp_path / "dense")}})
    carry_out(matrix, tmp_path / "out")
    shutil.rmtree(tmp_path / "dense")
    result, _ = carry_out(matrix, tmp_path / "out", resume=True)
    assert {line.state for line in result.lines} == {"done"}


def test_a_failed_cell_is_tried_again_at_the_end_and_stops_no_other(tmp_path, works):
    asked, troubles = works
    troubles |= {
        NAMES[0]: [Failed("once", trace="where")],
        NAMES[2]: [Failed("lasting", lasting=True)],
        NAMES[3]: [Failed("first"), Failed("second")],
    }
    result, reporter = carry_out(file(tmp_path), tmp_path / "out")
    told = {line.name: (line.state, line.tries, line.reason) for line in result.lines}
    assert told == {
        NAMES[0]: ("done", 2, None),
        NAMES[1]: ("done", 1, None),
        NAMES[2]: ("failed", 1, "lasting"),
        NAMES[3]: ("failed", 2, "second"),
    }
    order = [place for work, place in asked if work == "prune"]
    assert order == [*NAMES, NAMES[0], NAMES[3]]
    assert f"{NAMES[0]} failed: once; it is tried again at the end" in reporter.warnings
    # with --resume what failed has another chance, and nothing else is done again
    asked.clear()
    result, _ = carry_out(file(tmp_path), tmp_path / "out", resume=True)
    assert {line.state for line in result.lines} == {"done"}
    assert {place for work, place in asked if work == "prune"} == {NAMES[2], NAMES[3]}


def test_a_matrix_that_was_killed_goes_on_with_what_is_left(tmp_path, works):
    asked, troubles = works
    troubles[NAMES[2]] = [KeyboardInterrupt()]
    reporter, folder = Silent(), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        sweep.run(file(tmp_path), overrides={}, folder=folder, reporter=reporter)
    assert "--resume continues it" in reporter.warnings[-1]
    assert list(states(folder).values()) == ["done", "done", "waiting", "waiting"]
    with pytest.raises(UsageError, match="is not empty: add --resume"):
        carry_out(file(tmp_path), folder)
    asked.clear()
    carry_out(file(tmp_path), folder, resume=True)
    assert [place for work, place in asked if work == "prune"] == NAMES[2:]
    assert set(states(folder).values()) == {"done"}
    # more cells may join; a finished one of other settings is refused
    carry_out(file(tmp_path, cells=[{"prune.criterion": "gradient"}]), folder, resume=True)
    assert len(states(folder)) == 5
    other = file(tmp_path, base=BASE | {"train": {"max_steps": 7}})
    with pytest.raises(UsageError, match="cannot resume .*: train.max_steps was 6, is 7; train.batch_size was 8"):
        carry_out(other, folder, resume=True)


LOST = ["model", "model/model.safetensors", "masks.safetensors", "report.json", "eval", "eval/predictions.jsonl"]


@pytest.mark.parametrize("lost", [*LOST, "recipe.yaml", "run.json"])
def test_a_cell_whose_files_are_gone_is_run_again(tmp_path, works, lost):
    asked, _ = works
    folder, path = tmp_path / "out", file(tmp_path, matrix={"prune.id_weight": ["none"]})
    carry_out(path, folder)
    lost = folder / "id_weight-none" / lost
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    asked.clear()
    _, reporter = carry_out(path, folder, resume=True)
    assert asked == [("prune", "id_weight-none")]
    assert reporter.warnings == ["id_weight-none is run again: files that it left are missing or damaged"]
    asked.clear()
    _, reporter = carry_out(path, folder, resume=True)
    assert not asked and not reporter.warnings


@pytest.mark.parametrize("name", ["recipe.yaml", "run.json"])
def test_a_cell_whose_recipe_or_record_is_cut_is_run_again(tmp_path, works, name):
    asked, _ = works
    folder, path = tmp_path / "out", file(tmp_path, matrix={"prune.id_weight": ["none"]})
    carry_out(path, folder)
    cut = folder / "id_weight-none" / name
    whole = cut.read_bytes()
    # cut inside a key, and behind a value, where it is still a recipe
    for end in [whole.index(b"max_steps: 6") + at for at in (9, 12)] if name == "recipe.yaml" else [20]:
        cut.write_bytes(whole[:end])
        left = cut.with_name("left")
        left.touch()
        asked.clear()
        _, reporter = carry_out(path, folder, resume=True)
        assert asked == [("prune", "id_weight-none")]
        assert reporter.warnings == ["id_weight-none is run again: files that it left are missing or damaged"]
        assert cut.read_bytes()[:20] == whole[:20] and len(cut.read_bytes()) > end and not left.exists()


def test_a_cell_without_its_recipe_keeps_nothing_that_other_settings_gave(tmp_path, here):
    one_shot = {"criterion": "magnitude", "calibration": "sequential", "id_weight": "none", "allocation": "uniform"}
    base = {"model": BASE["model"], "data": {"dataset": "digits"}, "prune": one_shot}
    folder, matrix = tmp_path / "out", {"prune.sparsity": [0.5]}
    carry_out(file(tmp_path, base=base | {"eval": {"limit": 10, "split": "test"}}, matrix=matrix), folder)
    path = folder / "sparsity-0.5" / "recipe.yaml"
    path.unlink()
    other = file(tmp_path, base=base | {"eval": {"limit": 12, "split": "train"}}, matrix=matrix)
    result, reporter = carry_out(other, folder, resume=True)
    assert [line.state for line in result.lines] == ["done"] and "is run again" in reporter.warnings[0]
    results = json.loads((path.parent / "eval" / "results.json").read_text())
    assert (results["dataset"]["split"], results["samples"]) == ("train", 12)
    assert yaml.safe_load(path.read_text())["eval"]["split"] == "train"


@pytest.mark.parametrize("what", ["a key of another version", "what cannot be read now"])
def test_a_recipe_that_is_whole_is_not_called_damaged(tmp_path, works, monkeypatch, what):
    asked, _ = works
    folder, path = tmp_path / "out", file(tmp_path, matrix={"prune.id_weight": ["none"]})
    carry_out(path, folder)
    recipe = folder / "id_weight-none" / "recipe.yaml"
    before, told = (folder / runs.MATRIX).read_bytes(), "unknown key 'prune.sharpness'.*recipe.yaml"
    if what == "a key of another version":
        recipe.write_text(recipe.read_text().replace("prune:\n", "prune:\n  sharpness: 3\n"))
    else:
        told = "cannot read the recipe .*id_weight-none.*recipe.yaml': Too many open files"
        refuse_to_open(recipe, monkeypatch)
    asked.clear()
    with pytest.raises(UsageError, match=told):
        carry_out(path, folder, resume=True)
    assert not asked and (folder / runs.MATRIX).read_bytes() == before


def refuse_to_open(path, monkeypatch):
    def busy(name, *options, opened=os.open, **named):
        if Path(name) == path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(name))
        return opened(name, *options, **named)

    monkeypatch.setattr(os, "open", busy)


def test_what_lies_in_the_way_of_a_new_cell_is_kept(tmp_path, works):
    folder = tmp_path / "out"
    carry_out(file(tmp_path, matrix={"prune.id_weight": ["none"]}), folder)
    note = folder / "gradient" / "note"
    note.parent.mkdir()
    note.write_text("mine")
    more = file(tmp_path, matrix={"prune.id_weight": ["none"]}, cells=[{"prune.criterion": "gradient"}])
    result, _ = carry_out(more, folder, resume=True)
    assert [line.state for line in result.lines] == ["done", "failed"] and note.read_text() == "mine"
    assert "gradient' is not empty" in result.lines[1].reason


def test_a_damaged_list_of_cells_is_made_again_from_their_folders(tmp_path, works):
    folder, path = tmp_path / "out", file(tmp_path, matrix={"prune.id_weight": ["none"]})
    carry_out(path, folder)
    listed = folder / runs.MATRIX
    for junk in (b"\xff\xfe{\n", b"[1]\n", listed.read_bytes()[:-20]):
        listed.write_bytes(junk)
        _, reporter = carry_out(path, folder, resume=True)
        (warning,) = reporter.warnings
        assert "matrix.jsonl' is damaged (line " in warning and "what is finished in its folder is kept" in warning
        assert "--overwrite" not in warning and set(states(folder).values()) == {"done"}


def test_a_list_of_cells_that_cannot_be_read_now_is_left_as_it_is(tmp_path, works, monkeypatch):
    folder, path = tmp_path / "out", file(tmp_path, matrix={"prune.id_weight": ["none"]})
    carry_out(path, folder)
    before = (folder / runs.MATRIX).read_bytes()
    refuse_to_open(folder / runs.MATRIX, monkeypatch)
    with pytest.raises(RunError, match="cannot read .*matrix.jsonl': Too many open files"):
        carry_out(path, folder, resume=True)
    monkeypatch.undo()
    assert (folder / runs.MATRIX).read_bytes() == before


def test_a_cell_whose_pruned_model_has_no_profile_any_more_is_run_again(tmp_path, works):
    asked, _ = works
    folder = tmp_path / "out"
    path = file(tmp_path, matrix={"prune.id_weight": ["none"]}, run=["prune", "estimate-id"])
    carry_out(path, folder)
    for name in ("profile.json", "run.json"):
        (folder / "profiles" / "id_weight-none" / name).unlink()
    asked.clear()
    carry_out(path, folder, resume=True)
    assert [work for work, _ in asked] == ["prune", "measure_again"]


def test_cells_of_an_older_idvl_count_where_they_are_what_the_recipe_comes_to_now(tmp_path, works):
    """Of version 0.1.0 here, which set masks every 10 steps in all runs, and knew no data.allow_outside."""
    asked, _ = works
    cell = tmp_path / "out" / "multiply"
    runs.Run.open(tmp_path / "out", recipe={}, signature={}).close()
    shutil.copytree(GOLDEN, cell)
    recipe, report = yaml.safe_load((cell / "recipe.yaml").read_text()), json.loads((cell / "report.json").read_text())
    profile = tmp_path / "out" / "profiles" / "vit-c808c702" / "profile.json"
    recipe["prune"] |= {"mask_every": 10, "profile": str(profile)}
    recipe["train"]["max_steps"] = report["made"]["steps"] = 200
    (cell / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (cell / "report.json").write_text(json.dumps(report))
    line = sweep.Line(name="multiply", state="done", settings={}, published={}, seconds=9.0, metrics={})
    (tmp_path / "out" / runs.MATRIX).write_text(json.dumps(line.to_json()) + "\n")
    base = {key: recipe[key] for key in ("model", "data", "estimate", "train", "eval")}
    base["prune"] = {key: value for key, value in recipe["prune"].items() if key not in ("mask_every", "profile")}
    path = file(tmp_path, base=base, matrix={"prune.id_weight": ["multiply"]})
    carry_out(path, tmp_path / "out", resume=True)
    assert states(tmp_path / "out") == {"multiply": "done"} and not asked
    # in 30 steps the masks would be others now
    report["made"]["steps"] = 30
    (cell / "report.json").write_text(json.dumps(report))
    with pytest.raises(UsageError, match="cannot resume .*: prune.mask_every was 10, is 1;"):
        carry_out(path, tmp_path / "out", resume=True)


def test_cells_of_a_model_that_has_changed_since_are_not_mixed_with_others(tmp_path, works):
    asked, troubles = works
    carry_out(file(tmp_path), tmp_path / "out")
    more = file(tmp_path, cells=[{"prune.criterion": "gradient"}])
    troubles["fingerprint"] = "second"
    with pytest.raises(UsageError, match=f'cannot resume .*{NAMES[0]}.: fingerprint was "first", is "second"'):
        carry_out(more, tmp_path / "out", resume=True)
    troubles["fingerprint"] = "first"
    asked.clear()
    carry_out(more, tmp_path / "out", resume=True)
    assert [place for work, place in asked if work == "identify"] == [NAMES[0]]
    # cells whose model is gone fail by themselves
    troubles["identify"] = [Failed("there is no model")]
    last = file(tmp_path, cells=[{"prune.criterion": "gradient"}, {"prune.criterion": "magnitude"}])
    _, reporter = carry_out(last, tmp_path / "out", resume=True)
    assert any("has changed is not known: there is no model" in warning for warning in reporter.warnings)
    # where nothing is left, the model is not opened
    asked.clear()
    carry_out(last, tmp_path / "out", resume=True)
    assert not asked


def test_models_in_folders_of_one_name_have_folders_of_their_own(tmp_path):
    path = file(tmp_path, matrix={"model.name": ["a/model", "b/model", "c"]})
    first, second, third = names(path)
    assert first.startswith("model-") and second.startswith("model-") and first != second and third == "c"
    assert names(path) == [first, second, third]


def test_no_cell_starts_that_would_end_after_the_budget(tmp_path, works, monkeypatch):
    clock = iter(range(0, 10_000, 10))
    now = iter(range(10, 10_000, 10))
    # a run takes 10 s
    ticking = SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=lambda: float(next(now)))
    monkeypatch.setattr(sweep, "time", ticking)
    result, reporter = carry_out(file(tmp_path), tmp_path / "out", budget=35)
    assert [line.state for line in result.lines] == ["done", "done", "waiting", "waiting"]
    assert reporter.warnings == ["the budget ends before 2 runs: --resume continues with them"]


def test_cells_share_the_profile_of_the_same_dense_model(tmp_path, works):
    asked, _ = works
    scopes = {"prune.scope": ["all", "vision"], "prune.id_weight": ["none", "multiply", "divide"]}
    carry_out(file(tmp_path, matrix=scopes, run=["prune", "estimate-id"]), tmp_path / "out")
    recipe = yaml.safe_load((tmp_path / "out" / "vision-divide" / "recipe.yaml").read_text())
    shared = Path(recipe["prune"]["profile"])
    assert shared.parent.parent == tmp_path / "out" / "profiles"
    assert [place for work, place in asked if work == "measure"] == [shared.parent.name]
    assert "vision-divide" in {place for work, place in asked if work == "measure_again"}
    measured = yaml.safe_load((shared.parent / "recipe.yaml").read_text())
    assert (measured["data"]["split"], measured["estimate"]["modality"]) == ("train", None)
    after = yaml.safe_load((tmp_path / "out" / "profiles" / "vision-divide" / "recipe.yaml").read_text())
    assert after["model"]["name"] == str(tmp_path / "out" / "vision-divide" / "model")
    assert after["data"] == measured["data"] and after["estimate"] == measured["estimate"]
    assert len({profiles.shared_name(dense_recipe(cell.recipe)) for cell in grid.read(file(tmp_path)).cells}) == 1


def test_cells_are_ordinary_runs_in_folders_of_their_own(tmp_path, here):
    folder = tmp_path / "out"
    both = {"run": ["prune", "estimate-id"], "matrix": {"prune.id_weight": ["multiply", "divide"]}}
    result, _ = carry_out(file(tmp_path, **both), folder)
    assert [(line.state, line.headline) for line in result.lines] == [("done", "top-1")] * 2
    (profile,) = (folder / "profiles").glob("vit-*/profile.json")
    for line, written in zip(result.lines, runs.read_metrics(folder / "matrix.jsonl"), strict=True):
        report = json.loads((folder / line.name / "report.json").read_text())
        assert report["evaluation"]["metrics"]["top-1"]["value"] == line.metrics["top-1"] == written["metrics"]["top-1"]
        layers = json.loads((folder / line.name / "profile.json").read_text())["layers"]
        assert layers == json.loads(profile.read_text())["layers"]
    # a run that is repeated with other settings has its pruned model measured again, one without its model is repeated
    (folder / "multiply" / "model" / "model.safetensors").unlink()
    recipe = yaml.safe_load((folder / "multiply" / "recipe.yaml").read_text())
    recipe["train"]["max_steps"] = 4
    (folder / "multiply" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    one = file(tmp_path, **both | {"matrix": {"prune.id_weight": ["multiply"]}})
    sweep.run(one, overrides={"train.max_steps": 4}, folder=folder, reporter=Silent(), resume=True)
    after = runs.read_record(folder / "profiles" / "multiply")["signature"]["fingerprint"]
    assert after == load(str(folder / "multiply" / "model")).description["fingerprint"]
    asked = grid.read(file(tmp_path, run=["eval"], matrix={"eval.limit": [10, 20]}))
    assert [cell.recipe.eval.limit for cell in asked.cells] == [10, 20]
    result, _ = carry_out(asked.path, tmp_path / "evaluated")
    assert [line.metrics.keys() >= {"top-1"} for line in result.lines] == [True, True]
    assert worker.PRELOADED[0] == sweep.restartable.__name__


def test_a_cell_whose_evaluation_cannot_run_is_not_done(tmp_path, here, monkeypatch):
    def lacking():
        raise UsageError("pycocoevalcap is not installed")

    ready = tasks.load
    monkeypatch.setattr(tasks, "load", lambda name: replace(ready(name), ready=lacking))
    one = file(tmp_path, matrix={"prune.id_weight": ["none"]})
    result, reporter = carry_out(one, tmp_path / "out")
    assert [(line.state, line.metrics) for line in result.lines] == [("failed", None)]
    assert "not evaluated: pycocoevalcap is not installed" in result.lines[0].reason
    report = tmp_path / "out" / "id_weight-none" / "report.json"
    assert json.loads(report.read_text())["evaluation"] == {"skipped": "pycocoevalcap is not installed"}
    assert any("is not evaluated: pycocoevalcap" in warning for warning in reporter.warnings)
    (seen,) = collect([report.parent]).runs
    assert "not evaluated: pycocoevalcap is not installed" in seen.troubles
    # what was missing is there now
    monkeypatch.setattr(tasks, "load", ready)
    result, _ = carry_out(one, tmp_path / "out", resume=True)
    assert [line.state for line in result.lines] == ["done"] and result.lines[0].metrics["top-1"] > 0
    assert json.loads(report.read_text())["evaluation"]["headline"] == "top-1"
