"""The data of a run's model: the dataset that the run read, wherever a later command is started."""

import json
from pathlib import Path

import pytest

from idvl import recipe as recipes
from idvl import runs
from idvl.errors import UsageError
from idvl.recovery.start import find
from idvl.recovery.teacher import teacher_of
from idvl.session import data_of, history_of, run_of, runs_behind, with_dataset
from tests.support import folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a dataset and the run that was started there."""
    (tmp_path / "home" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "home")
    recipe = {"model": {"name": "builtin/vit"}, "data": {"dataset": "images"}}
    with runs.Run.open("run", recipe=recipe, signature={}) as run:
        (run.folder / "model").mkdir()
        (run.folder / "model" / "config.json").write_text("{}")
    return tmp_path / "home"


def dataset(model: Path | str, **data: str) -> str:
    return with_dataset(recipes.load(None, {"model.name": str(model), **data})).data.dataset


def test_a_relative_dataset_is_that_of_the_folder_where_the_run_was_started(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dataset("run/model") == "images"
    (tmp_path / "elsewhere" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert dataset(home / "run" / "model") == str(home / "images")
    assert dataset(home / "run" / "model", **{"data.data_dir": "images"}) == "images"
    (home / "images").rmdir()
    with pytest.raises(UsageError, match=r"home/images' does not exist, the dataset of .*recipe.yaml': pass --dataset"):
        dataset(home / "run" / "model")


def test_a_model_that_is_no_folder_and_has_no_dataset_is_told_as_missing(home: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder 'runs/pruned', .* set dataset \(--dataset\)"):
        dataset("runs/pruned")


def test_an_older_run_does_not_say_where_it_was_started(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = home / "run" / "run.json"
    record.write_text(record.read_text().replace('"directory"', '"other"'))
    assert data_of(Path("run")).dataset == "images" and not caplog.text
    assert dataset("run/model") == "images"
    assert "is read from the current folder" in caplog.text
    monkeypatch.chdir(home / "images")
    with pytest.raises(UsageError, match="'images' does not exist, the dataset of .*recipe.yaml'"):
        dataset(home / "run" / "model")


def test_the_run_of_a_model_in_the_home_folder_and_of_the_current_folder_is_found(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_of("run/model") == Path("run") and run_of("run") is None
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    assert run_of("~/run/model") == home / "run"
    assert dataset("~/run/model") == str(home / "images")
    (tmp_path / "link").symlink_to(home / "run" / "model")
    assert run_of("link") == home / "run" and dataset("link") == str(home / "images")
    monkeypatch.chdir(home / "run" / "model")
    assert run_of(".") == run_of("sub/..") == home / "run" and run_of("..") is None
    assert dataset(".") == str(home / "images")


def test_runs_behind_a_model_and_its_dense_one_are_found_from_any_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signature = {"fingerprint": "dense", "revision": None}
    (home / "dense").mkdir()
    for folder in (home / "dense", home / "run" / "model"):
        (folder / "config.json").write_text("{}")
    for name, before, more in (
        ("earlier", "dense", {}),
        ("pruned", "earlier/model", {}),
        ("first", "pruned/model", {"recover.method": "full"}),
        ("second", "first/model", {"recover.method": "full"}),
    ):
        model = {"name": before, "revision": "main"}
        with runs.Run.open(name, recipe={"model": model}, signature=signature | more) as run:
            run.path("report.json").write_text("{}")
            run.path("model").mkdir()
            (run.folder / "model" / "config.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    behind = [Path("../home/second"), *(home / name for name in ("first", "pruned", "earlier"))]
    assert runs_behind("../home/second/model") == behind
    start = find("../home/second")
    assert start.pruned.run == home / "pruned"
    # older versions recorded a revision that a local model does not have
    teacher = teacher_of(start, recipes.load(None, {"model.name": "../home/second"}))
    assert (teacher.name, teacher.revision) == (str(home / "earlier" / "model"), None)
    (home / "earlier").rename(tmp_path / "elsewhere" / "earlier")
    assert runs_behind("../home/second/model") == [*behind[:-1], Path("earlier")]


def test_the_history_of_a_model_says_what_its_masks_depend_on(tmp_path: Path) -> None:
    """Also what the signature of its run does not hold: split, columns, and how dimensions were measured."""
    run = folders.pruned(tmp_path / "run", id_weight="multiply", densities={"a": 0.5}, processes=2)
    (run / "model").mkdir()
    measured = {"estimator": "twonn", "tokens": "flatten", "capture": "input", "n_samples": 300, "knn": "torch"}
    folders.write(run / "profile" / "profile.json", folders.profile(protocol=measured))
    report = json.loads((run / "report.json").read_text())
    report["made"]["training"] = {"split": "extra"}
    folders.write(run / "report.json", report)
    (step,) = history_of(str(run / "model"))
    assert {key: value for key, value in step.items() if key.startswith("estimate.")} == {
        **{"estimate.estimator": "twonn", "estimate.tokens": "flatten", "estimate.capture": "input"},
        **{"estimate.n_samples": 300, "estimate.split": None},
    }
    assert (step["data.split"], step["data.text_column"], step["data.dataset"]) == ("extra", None, "shapes")
    assert (step["densities"], step["processes"]) == ({"a": 0.5}, 2)
    for folder in (run, run / "profile"):
        (folder / "profile.json").write_text("{")
    assert not any(key.startswith("estimate.") for key in history_of(str(run / "model"))[0])
