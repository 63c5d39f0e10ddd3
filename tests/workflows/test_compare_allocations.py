"""idvl prune --plan with several allocations: a table, a plot, and no model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from idvl.commands import main
from idvl.errors import UsageError
from idvl.json_file import read
from idvl.recipe import load as load_recipe
from idvl.reporting.allocations import AllocationsFile
from idvl.reporting.figures.allocations import of_document
from idvl.workflows import analyze
from idvl.workflows.compare_allocations import run
from tests.pruning.test_calibrate import WANDA, checkpoint, pruned
from tests.support.reporter import Silent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("compare"))


def words(place: Path, names: str, folder: Path, *more: str) -> list[str]:
    flags = ["--plan", "--allocation", names, "--sparsity", "0.6", "--calibration-samples", "22", "--output", folder]
    return list(map(str, ["prune", place / "model", "--dataset", place / "pictures", *flags, *more]))


def test_allocations_are_compared_at_one_budget(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idvl.reliability.FEWEST_RELIABLE_POINTS", 10)
    monkeypatch.setenv("COLUMNS", "120")
    names = ["uniform", "id", "owl", "alpha", "ecoflap", "depth"]
    more = ("--set", "data.force=true", "--floor", "0.1", "--ecoflap-order", "first")
    assert main(words(place, ",".join(names), tmp_path / "run", *more)) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown if line.strip()] == ["allocation", *names]
    document = read(tmp_path / "run" / "allocations.json", AllocationsFile)
    weights = {name: layer["weights"] for name, layer in document["layers"].items()}
    for name in names:
        sparsity = document["allocations"][name]["sparsity"]
        zeros = {layer: round(share * weights[layer]) for layer, share in sparsity.items()}
        assert sum(zeros.values()) == round(0.6 * sum(weights.values()))
        assert (max(sparsity.values()) - min(sparsity.values()) < 0.01) == (name == "uniform")
        assert min(sparsity.values()) >= 0.1 - 1e-3
    first, *_ = document["layers"]
    assert first.startswith("vision_model.encoder.layers.0")
    assert (tmp_path / "run" / "allocations.png").read_bytes().startswith(b"\x89PNG")
    assert [panel.name for panel in of_document(document).panels] == ["vision", "language", "cross"]
    assert not (tmp_path / "run" / "model").exists()
    # analyze shows the same numbers, and a run that was cut off as one
    table = [line.split()[:2] for line in shown if line.strip()][1:]
    (tmp_path / "cut").mkdir()
    for name in ("run.json", "recipe.yaml"):
        shutil.copy(tmp_path / "run" / name, tmp_path / "cut" / name)
    analysis = analyze.run([tmp_path / "run", tmp_path / "cut"], page_at=None, reporter=Silent())
    (each,) = analysis.tables
    assert [[row[0][0], f"{row[1][0].value:.2f}"] for row in each.rows] == table
    assert [figure.key for figure in analysis.figures] == ["allocations"]
    ((cut, why),) = analysis.overview.troubles
    assert cut.endswith("cut") and why.startswith("not finished: continue with the same command and --output ")
    assert why.endswith("cut --overwrite")
    # with a profile nothing is estimated, whichever comes first
    profile = ("--profile", tmp_path / "run" / "profile" / "profile.json")
    assert main(words(place, "owl,id", tmp_path / "again", *profile, "--floor", "0.1")) == 0
    again = read(tmp_path / "again" / "allocations.json", AllocationsFile)
    assert again["allocations"]["id"]["sparsity"] == document["allocations"]["id"]["sparsity"]
    assert not (tmp_path / "again" / "profile").exists()
    # what a run does is what was shown
    report, _ = pruned(place, tmp_path / "owl", **WANDA, **{"prune.allocation": "owl", "prune.sparsity": 0.6,
        "prune.floor": 0.1})  # fmt: skip
    shares = {name: layer["sparsity"] for name, layer in report["layers"].items()}
    assert shares == document["allocations"]["owl"]["sparsity"]


def test_budgets_of_modalities_are_compared_too(place: Path, tmp_path: Path) -> None:
    named = {"model.name": str(place / "model"), "data.dataset": str(place / "pictures"), "data.batch_size": 4}
    recipe = load_recipe(None, named | {"prune.sparsity": "vision=0.3,language=0.6", "prune.calibration_samples": 22})
    document = run(recipe, ["depth", "alpha"], folder=tmp_path / "run", reporter=Silent()).document
    for allocation in document["allocations"].values():
        vision = [layer for layer, about in document["layers"].items() if about["modality"] == "vision"]
        zeros = sum(allocation["sparsity"][name] * document["layers"][name]["weights"] for name in vision)
        assert round(zeros) == round(0.3 * sum(document["layers"][name]["weights"] for name in vision))
    assert json.loads((tmp_path / "run" / "allocations.json").read_text()) == document


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        ("uniform,owl", ("--resume",), "leave --resume and --push-to-hub out"),
        ("uniform,owls", (), "no allocation 'owls'; did you mean 'owl'"),
        ("uniform,global", (), "allocation global: layers are pruned one after the other"),
        ("uniform,owl", ("--structure", "2:4", "--set", "prune.sparsity=null"), "allocation owl and structure 2:4"),
        ("uniform,owl", ("--criterion", "platon"), "platon and several allocations: they are for pruning from calib"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    place: Path, tmp_path: Path, names: str, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words(place, names, tmp_path / "run", *more)
    if "--structure" in given:
        del given[given.index("--sparsity") : given.index("--sparsity") + 2]
    assert main(given) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " ")) and not (tmp_path / "run").exists()


def test_several_allocations_without_a_plan_are_refused(place: Path, tmp_path: Path, capsys) -> None:
    given = [word for word in words(place, "uniform,owl", tmp_path / "run") if word != "--plan"]
    assert main(given) == 2 and "nothing is pruned: add --plan, or choose one" in capsys.readouterr().err


def test_a_model_without_a_loss_refuses_ecoflap_before_anything_is_written(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, "dinov2")
    recipe = load_recipe(None, {"model.name": str(place / "model"), "data.dataset": str(place / "pictures")})
    with pytest.raises(UsageError, match="idvl has no loss for Dinov2Model: allocation ecoflap needs one"):
        run(recipe, ["owl", "ecoflap"], folder=tmp_path / "run", reporter=Silent())
    assert not (tmp_path / "run").exists()
