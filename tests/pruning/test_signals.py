"""What allocations read of layers, measured on tiny models: equal to references in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idvl.errors import RunError
from idvl.pruning import outliers, spectra
from idvl.sparsity.allocation.alpha import exponent
from idvl.sparsity.allocation.owl import outliers as share_of
from tests.pruning.test_calibrate import WANDA, checkpoint, inputs_of, job_of, pruned, samples_of


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("signals"))


def silent(*_) -> None:
    pass


def test_outliers_are_those_of_the_dense_model(place: Path) -> None:
    job = job_of(place, **WANDA, **{"prune.allocation": "owl"})
    found = outliers.shares(job, silent)
    inputs = inputs_of(job.loaded, samples_of(place), job.layers)
    blocks: dict[str, list[torch.Tensor]] = {}
    for name, layer in job.layers.items():
        rms = inputs[name].square().mean(0).sqrt()
        blocks.setdefault(layer.block, []).append(layer.module.weight.detach().double().abs() * rms)
    expected = {name: share_of(blocks[layer.block]) for name, layer in job.layers.items()}
    assert found == expected and len(set(found.values())) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "llava", "blip2", "vilt-nlvr2", "gpt2"])
def test_outliers_of_other_families(kind: str, tmp_path: Path) -> None:
    data = {"data.second_image_column": "second"} if kind == "vilt-nlvr2" else {}
    place = checkpoint(tmp_path, kind)
    for name in ("owl", "alpha"):
        report, _ = pruned(place, tmp_path / name, **WANDA, **{"prune.allocation": name}, **data)
        assert report["total"]["zeros"] == round(0.5 * report["total"]["weights"])


def test_spectra_are_those_of_singular_values(place: Path) -> None:
    job = job_of(place, **WANDA, **{"prune.allocation": "alpha"})
    found = spectra.exponents(job, silent)
    for name, layer in job.layers.items():
        values = torch.linalg.svdvals(layer.module.weight.detach().double()).square()
        assert found[name] == pytest.approx(exponent(values), rel=1e-6)
    name, layer = next(iter(job.layers.items()))
    with torch.no_grad():
        layer.module.weight[1:] = layer.module.weight[0]
    with pytest.raises(RunError, match=f"{name}: a spectrum of fewer than two eigenvalues above 0 has no exponent: le"):
        spectra.exponents(job, silent)


@pytest.mark.parametrize("allocation", ["owl", "alpha"])
def test_blocks_get_other_sparsities_and_the_budget_is_exact(place: Path, tmp_path: Path, allocation: str) -> None:
    """Statements 4 and 26."""
    report, reporter = pruned(place, tmp_path / "run", **WANDA, **{"prune.allocation": allocation})
    total, sparsities = report["total"], [layer["sparsity"] for layer in report["layers"].values()]
    assert total["zeros"] == round(0.5 * total["weights"]) and not reporter.warnings
    assert max(sparsities) - min(sparsities) > 0.01
