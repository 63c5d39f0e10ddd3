"""What the built-in models give is what was recorded: to the bit on the same kind of machine, else within a tolerance.

Elsewhere sums round otherwise: dimensions may differ by 1e-4 of their value, and a layer's zeros after training by
2 % of its weights. Masks of drawn gradients and predictions are the same everywhere.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from idvl.checkpoints.verify import verify
from idvl.profile import Profile
from idvl.recipe import load as load_recipe
from idvl.sparsity.masks import Masks
from idvl.workflows import analyze, prune
from tests.golden import record
from tests.support.reporter import Silent

OLD_RUN = record.HERE / "pruned-vit"


@pytest.fixture(scope="module", params=sorted(record.DATASETS))
def results(request) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Recorded results, those of today's code, and whether they must have the same bits."""
    golden = json.loads((record.HERE / f"{request.param}.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(record.record(request.param)))
    return golden, now, golden["made"] == now["made"]


def test_dimensions(results) -> None:
    golden, now, same_machine = results
    if same_machine:
        assert now["dimensions"] == golden["dimensions"]
    for protocol, layers in golden["dimensions"].items():
        assert now["dimensions"][protocol].keys() == layers.keys()
        for layer, dimension in layers.items():
            found = now["dimensions"][protocol][layer]
            # None: no dimension could be estimated
            assert found == (None if dimension is None else pytest.approx(dimension, rel=1e-4)), (protocol, layer)


def test_masks(results) -> None:
    golden, now, _ = results
    assert len(golden["masks"]) == 42
    assert now["masks"] == golden["masks"]


def test_a_whole_run(results) -> None:
    golden, now, same_machine = results
    golden, now = golden["pruned"], now["pruned"]
    if same_machine:
        assert now == golden
    for name, run in golden.items():
        assert sum(now[name]["zeros"].values()) == sum(run["zeros"].values())
        for layer, zeros in run["zeros"].items():
            assert abs(now[name]["zeros"][layer] - zeros) <= 0.02 * run["sizes"][layer], (name, layer)


def test_predictions(results) -> None:
    golden, now, _ = results
    assert now["predictions"] == golden["predictions"]


def test_a_run_folder_of_the_first_version_is_still_complete(tmp_path: Path) -> None:
    """The run of builtin/vit in pruned-vit/ was made before the package was reorganised."""
    folder = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    report = json.loads((folder / "report.json").read_text())
    assert Masks.load(folder / "masks.safetensors").zeros == {k: v["zeros"] for k, v in report["layers"].items()}
    assert Profile.load(folder / "profile.json").layers.keys() == report["layers"].keys()
    verify(folder / "model", Masks.load(folder / "masks.safetensors"))
    before = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    reporter = Silent()
    result = prune.run(load_recipe(folder / "recipe.yaml"), folder=folder, reporter=reporter, resume=True)
    assert "the model is pruned already" in reporter.notes
    assert result.report == report
    assert {path.name: path.read_bytes() for path in (folder / "model").iterdir()} == before


def test_a_run_folder_of_the_first_version_is_still_shown(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD_RUN, tmp_path / "run"))
    report = json.loads((folder / "report.json").read_text())
    page = tmp_path / "page.html"
    reporter = Silent()
    analysis = analyze.run([folder], page_at=page, reporter=reporter)
    assert not reporter.warnings
    assert [(run.kind, run.finished, run.troubles) for run in analysis.study.runs] == [("prune", True, ())]
    text = page.read_text(encoding="utf-8")
    assert f"{report['evaluation']['metrics']['top-1']['value']:.1f}" in text
    assert all(layer in text for layer in report["layers"])
