"""--overwrite never takes away what the run reads: refused with exit code 2 before anything goes."""

from pathlib import Path

import pytest
import yaml

from idvl.commands import main
from idvl.runs import Run

INSIDE = ("model", "data", "profile.json", "recipe.yaml", "results.json", "matrix.yaml")


def write(path, values):
    Path(path).write_text(yaml.safe_dump(values))


@pytest.fixture
def there(tmp_path, monkeypatch):
    """The working folder: a run folder `a` with everything that a run may read, and a link `link` to it."""
    monkeypatch.chdir(tmp_path)
    with Run.open("a", recipe={}, signature={}) as opened:
        for name in INSIDE:
            opened.path(name)
    for name in ("model", "data"):
        (tmp_path / "a" / name).mkdir()
    write("a/recipe.yaml", {"model": {"name": "builtin/vit"}})
    write("a/matrix.yaml", {"base": {"model": {"name": "builtin/vit"}}, "cells": [{"prune.sparsity": 0.5}]})
    for name in ("profile.json", "results.json"):
        (tmp_path / "a" / name).write_text("{}")
    (tmp_path / "link").symlink_to("a")
    write("cells.yaml", {"base": {"data": {"dataset": "digits"}}, "cells": [{"model.name": "a/model"}]})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a").symlink_to("../a")
    return tmp_path / "a"


@pytest.mark.parametrize(
    "line",
    [
        "eval a/model --dataset digits --output a",
        "eval ./b/../a/model/ --dataset digits --output link",
        "eval link/model --dataset digits --output b/a",
        "eval builtin/vit --dataset a/data --output a",
        "eval builtin/vit --dataset digits --data-dir a/data --output a",
        "eval builtin/vit --dataset digits --compare a/results.json --output a",
        "eval builtin/vit --dataset digits --compare a --output a",
        "estimate-id a/model --dataset digits --output a",
        "estimate-id builtin/vit --dataset digits --compare blip-coco --output a --recipe link/recipe.yaml",
        "prune a/model --dataset digits --output a",
        "prune builtin/vit --profile a/profile.json --output a",
        "prune --recipe a/recipe.yaml --output a",
        "prune --matrix a/matrix.yaml --output a",
        "prune --matrix cells.yaml --output a",
        "analyze --sensitivity a/model --dataset digits --output a",
        "analyze --sensitivity builtin/vit a --dataset digits --output a",
    ],
)
def test_what_the_run_reads_is_kept(there, line, capsys):
    before = sorted(there.iterdir())
    assert main([*line.split(), "--overwrite"]) == 2
    told = capsys.readouterr().err
    assert "--overwrite of" in told and "which this run reads" in told and told.count("\n") == 1
    assert sorted(there.iterdir()) == before


def test_names_that_are_no_paths_are_no_reason(there, monkeypatch, capsys):
    # folders that are called like what is built in
    from idvl import recipe, runs
    from idvl.session import read_by

    for name in ("digits", "auto", "builtin/vit", "demo"):
        (there / name).mkdir(parents=True)
    monkeypatch.chdir(there)
    assert main(["prune", "--recipe", "demo", "--output", "demo", "--overwrite", "--sparsity", "80"]) == 2
    assert "80 % is 0.8" in capsys.readouterr().err
    named = recipe.load(None, {"model.name": "builtin/vit", "data.dataset": "digits"})
    runs.check(there, overwrite=True, reads=read_by(named))


def test_a_model_that_was_recovered_there_is_kept(there, capsys):
    with Run.open("b/recovered", recipe={}, signature={}) as opened:
        opened.path("model").mkdir()
    line = "prune b/recovered/model --criterion wanda --recover lora --dataset digits --output b --overwrite"
    assert main(line.split()) == 2
    told = capsys.readouterr().err
    assert "--overwrite of 'b/recovered' would remove 'b/recovered/model', which this run reads" in told


def test_data_beyond_memory_is_not_stored_in_the_folder_of_the_run(there, capsys):
    line = "estimate-id builtin/vit --dataset digits --samples 100 --output new --spill new/points"
    assert main(line.split()) == 2
    assert "spill 'new/points' is in the folder of the run, 'new'" in capsys.readouterr().err
    assert not Path("new").exists()
