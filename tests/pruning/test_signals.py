"""What allocations read of layers, measured on tiny models: equal to references in float64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from idvl.errors import RunError, UsageError
from idvl.profile import Profile
from idvl.pruning import outliers, spectra
from idvl.pruning.settings import resolve
from idvl.recipe import load as load_recipe
from idvl.sparsity.allocation.alpha import exponent
from idvl.sparsity.allocation.owl import outliers as share_of
from idvl.sweep.profiles import estimation_of, with_profile
from idvl.units import percent
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
    data = {"data.second_image_column": "second"} if kind.endswith("nlvr2") else {}
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


def test_magnitudes_are_counted_under_one_threshold_a_modality(place: Path, tmp_path: Path) -> None:
    """Statement 31, through a whole run of MULTIFLOW as published."""
    settings = {"prune.criterion": "multiflow", "prune.allocation": "magnitude", "prune.calibration": "dense"}
    job = job_of(place, **settings)
    expected = {}
    for modality in ("vision", "language", "cross"):
        sizes = {n: one.module.weight.detach().abs() for n, one in job.layers.items() if one.modality == modality}
        smallest = torch.cat([size.flatten() for size in sizes.values()]).sort(stable=True).indices
        pruned_ones = torch.zeros(len(smallest), dtype=torch.bool)
        pruned_ones[smallest[: round(0.5 * len(smallest))]] = True
        parts = pruned_ones.split([size.numel() for size in sizes.values()])
        expected |= {name: int(part.sum()) for name, part in zip(sizes, parts, strict=True)}
    report, _ = pruned(place, tmp_path / "run", **settings)
    zeros = {name: layer["zeros"] for name, layer in report["layers"].items()}
    assert {name: zeros[name] for name in expected} == expected
    assert len({round(layer["sparsity"], 2) for layer in report["layers"].values()}) > 1


def test_dimensions_are_estimated_first_where_no_profile_is_named(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("idvl.reliability.FEWEST_RELIABLE_POINTS", 10)
    settings = {**WANDA, "prune.allocation": "id", "data.force": True}
    report, _ = pruned(place, tmp_path / "run", **settings)
    total = report["total"]
    assert total["zeros"] == round(0.5 * total["weights"]) and (tmp_path / "run" / "profile" / "run.json").exists()
    profile = Profile.load(tmp_path / "run" / "profile.json")
    assert profile.layers.keys() == report["layers"].keys() and "profile" not in report
    assert len({row["sparsity"] for row in report["layers"].values()}) > 2


def test_runs_of_a_sweep_share_a_profile_where_they_allocate_by_it_alone() -> None:
    named = {"model.name": "builtin/blip", "data.dataset": "shapes"}
    assert estimation_of(load_recipe(None, named | WANDA)) is None
    assert estimation_of(load_recipe(None, named | WANDA | {"prune.allocation": "owl"})) is None
    assert estimation_of(load_recipe(None, named | WANDA | {"prune.allocation": "id"})) is not None
    # a cell with a number of samples, which its shared profile was measured with
    cell = load_recipe(None, named | WANDA | {"prune.allocation": "id", "data.samples": 200})
    assert estimation_of(cell).data.samples == 200 and resolve(with_profile(cell, Path("p"))).prune.profile == "p"


def file_of(folder: Path, document: str) -> dict[str, str]:
    (folder / "allocation.yaml").write_text(document)
    return {"prune.allocation": f"file:{folder / 'allocation.yaml'}"}


def test_a_file_gives_each_layer_its_sparsity(place: Path, tmp_path: Path) -> None:
    job = job_of(place, **WANDA)
    given = {name: 0.3 if layer.modality == "vision" else 0.6 for name, layer in job.layers.items()}
    weights = {name: layer.module.weight.numel() for name, layer in job.layers.items()}
    total = sum(given[name] * weights[name] for name in given) / sum(weights.values())
    for kind, values in (("sparsity", given), ("density", {name: 0.5 * (1 - s) for name, s in given.items()})):
        settings = file_of(tmp_path, json.dumps({kind: values})) | {"prune.sparsity": total}
        report, reporter = pruned(place, tmp_path / kind, **WANDA, **settings)
        notes = [note for note in reporter.notes if "is scaled to" in note]
        assert len(notes) == (kind == "density")
        assert all(row["sparsity"] == pytest.approx(given[name], abs=1e-3) for name, row in report["layers"].items())
    own = 1 - 0.5 * (1 - total)
    assert f"comes to sparsity {percent(own)} over the layers in scope and is scaled to {percent(total)}" in notes[0]
    with pytest.raises(UsageError, match="other settings|densities"):
        (tmp_path / "density" / "report.json").unlink()
        file_of(tmp_path, json.dumps({"density": dict.fromkeys(given, 0.5)}))
        pruned(place, tmp_path / "density", resume=True, **WANDA, **settings)


def test_a_file_with_unknown_missing_or_impossible_layers_is_refused(place: Path, tmp_path: Path) -> None:
    first, second, *others = list(job_of(place, **WANDA).layers)
    rest = dict.fromkeys(others, 0.5)
    for values, message in (
        (rest | {first: 0.5}, f"allocation.yaml' lacks 1 layers in scope: {second}$"),
        (rest | {first: 0.5, second: 0.5, "a": 1, "b": 2}, "does not have 2 layers of .*allocation.yaml': a, b$"),
        (rest | dict.fromkeys([first, second, *others], 1), "every layer in scope has density 0 in .*allocation.yaml'"),
        (rest | {first: 0.5, second: 1.5}, f"the sparsity of {second} in .* must be from 0 to 1, not 1.5"),
    ):
        with pytest.raises(UsageError, match=message):
            pruned(place, tmp_path / "run", **WANDA, **file_of(tmp_path, json.dumps({"sparsity": values})))
    for document in ("0.5", "sparsity: 0.5", "layers: {}", "{}"):
        with pytest.raises(UsageError, match="must hold sparsity: or density: with a number a layer"):
            pruned(place, tmp_path / "run", **WANDA, **file_of(tmp_path, document))
    assert not (tmp_path / "run").exists()


def test_layers_that_an_allocation_empties_are_named(place: Path, tmp_path: Path) -> None:
    """Statement 24: the published code empties them silently."""
    settings = {**WANDA, "prune.allocation": "alpha", "prune.spread": 0.9, "prune.sparsity": 0.8}
    report, reporter = pruned(place, tmp_path / "run", **settings)
    empty = [name for name, row in report["layers"].items() if row["sparsity"] > 0.99]
    assert empty and [text for text in reporter.warnings if text.startswith(f"{len(empty)} layers keep less than 1 %")]
    report, reporter = pruned(place, tmp_path / "ceiling", **settings, **{"prune.ceiling": 0.95})
    assert max(row["sparsity"] for row in report["layers"].values()) <= 0.9503 and not reporter.warnings
    assert report["total"]["zeros"] == round(0.8 * report["total"]["weights"])


@pytest.mark.parametrize("allocation", ["owl", "alpha"])
def test_blocks_get_other_sparsities_and_the_budget_is_exact(place: Path, tmp_path: Path, allocation: str) -> None:
    """Statements 4, 26 and 38."""
    report, reporter = pruned(place, tmp_path / "run", **WANDA, **{"prune.allocation": allocation})
    total, sparsities = report["total"], [layer["sparsity"] for layer in report["layers"].values()]
    assert total["zeros"] == round(0.5 * total["weights"]) and not reporter.warnings
    assert max(sparsities) - min(sparsities) > 0.01
    assert all(
        layer["asked"] == layer["sparsity"] == layer["zeros"] / layer["weights"] for layer in report["layers"].values()
    )
    for modality, row in report["modalities"].items():
        inside = [layer for layer in report["layers"].values() if layer["modality"] == modality]
        assert (row["layers"], row["zeros"]) == (len(inside), sum(layer["zeros"] for layer in inside))
        assert row["asked"] == row["sparsity"] == row["zeros"] / row["weights"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["zeros"] for line in lines) == total["zeros"] and all(line["seconds"] > 0 for line in lines)
    assert report["made"]["seconds"] >= sum(line["seconds"] for line in lines) and report["made"]["peak_memory"] > 0
    assert report["made"]["calibration"]["tokens"].keys() == report["layers"].keys()
