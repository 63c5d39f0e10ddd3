"""The data of a run's model: the dataset that the run read, wherever a later command is started."""

from pathlib import Path

import pytest

from idvl import recipe as recipes
from idvl import runs
from idvl.errors import UsageError
from idvl.session import with_dataset


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
    assert dataset("run/model") == "images"
    assert "is read from the current folder" in caplog.text
    monkeypatch.chdir(home / "images")
    with pytest.raises(UsageError, match="'images' does not exist, the dataset of .*recipe.yaml'"):
        dataset(home / "run" / "model")
