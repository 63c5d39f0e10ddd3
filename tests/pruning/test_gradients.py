"""The scores of ECoFLaP: equal to autograd's gradients, one at a time, and every weight as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from idvl.errors import RunError, UsageError
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.pruning import gradients, signals
from idvl.pruning.held_out import Probe
from idvl.sparsity.masks import Masks
from idvl.training.batches import Collate
from tests.pruning.test_calibrate import BATCH, WANDA, N, checkpoint, job_of, pruned
from tests.support import processes, tiny

ECOFLAP = {**WANDA, "prune.allocation": "ecoflap", "prune.sparsity": 0.6}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("gradients"))


def probe_of(kind: str, folder: Path, n: int = 6) -> tuple[Any, Probe]:
    loaded = load(str(tiny.save(kind, folder / kind)), device="cpu")
    samples = tiny.samples(n)
    if kind == "blip-vqa":
        samples = [replace(sample, answers=("red",)) for sample in samples]
    if kind.endswith("nlvr2"):
        samples = [replace(sample, label=number % 2) for number, sample in enumerate(samples)]
    if kind == "vit":
        samples = [replace(sample, label=number) for number, sample in enumerate(samples)]
    return loaded, Probe(loaded, samples, batch_size=4, budget=10**9)


def check_norms(kind: str, folder: Path) -> None:
    """The scores of whole gradients that autograd keeps, although blocks are computed twice."""
    loaded, probe = probe_of(kind, folder)
    model = loaded.model
    weights = {name: layer.module.weight for name, layer in find_layers(model, loaded.family).items()}
    expected = {order: dict.fromkeys(weights, 0.0) for order in gradients.SCORES}
    for number in range(len(probe.batches)):
        model.zero_grad()
        probe.mean_loss(number).backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                gradient = weight.grad.double()
                expected["gradient-norm"][name] += float(gradient.norm())
                expected["first"][name] += float((gradient * weight.detach()).abs().sum())
    model.zero_grad()
    for order, score in gradients.SCORES.items():
        alive = []

        def scored(weight, gradient, score=score, alive=alive):
            alive.append(sum(other.grad is not None for other in model.parameters()))
            return score(weight, gradient)

        found = gradients.differentiated(probe, weights, scored, gradients.repeatable(loaded), lambda *_: None)
        assert found.tolist() == pytest.approx(list(expected[order].values()), rel=1e-5)
        assert set(alive) == {1} and all(weight.requires_grad for weight in model.parameters())


# position bias that blocks share; hooks that are gone when a block would run again
@pytest.mark.parametrize("kind", ["t5", "blip-vqa"])
def test_scores_are_those_of_autograd_and_one_gradient_exists_at_a_time(kind: str, tmp_path: Path) -> None:
    """Statement 28, its second half."""
    check_norms(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(tiny.KINDS) - {"t5", "blip-vqa", "vilt", "dinov2"}))
def test_scores_of_other_families(kind: str, tmp_path: Path) -> None:
    check_norms(kind, tmp_path)


class Toy(nn.Module):
    """A model whose loss is bent in its weights, and has as many batches as are wanted."""

    def __init__(self, batches: int):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(9, 12, bias=False), nn.Linear(12, 3, bias=False)
        self.input, self.batches = torch.randn(20, 9), [None] * batches

    def mean_loss(self, number: int) -> torch.Tensor:
        return self.second(self.first(self.input).tanh()).float().square().mean()


def test_the_zeroth_order_is_the_norm_times_a_constant_on_average() -> None:
    """Statement 28, its first half: sqrt(2 / pi), with 76 % of noise a draw."""
    toy = Toy(400)
    weights = {"first": toy.first.weight, "second": toy.second.weight}
    found = gradients.shifted(toy, weights, 0, lambda *_: None) / 400
    toy.mean_loss(0).backward()
    for mean, weight in zip(found.tolist(), weights.values(), strict=True):
        assert mean / float(weight.grad.norm()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_zeroth_order_leaves_every_weight_bit_equal_even_where_it_fails(dtype: torch.dtype) -> None:
    """Statement 27."""
    toy = Toy(3).to(dtype)
    toy.input = toy.input.to(dtype)
    weights, dense = {"first": toy.first.weight}, toy.first.weight.detach().clone()
    one = gradients.shifted(toy, weights, 0, lambda *_: None)
    assert torch.equal(toy.first.weight, dense) and float(one) > 0
    # the same noise for the same layer and draw, another for others
    assert torch.equal(one, gradients.shifted(toy, weights, 0, lambda *_: None))
    assert not torch.equal(one, gradients.shifted(toy, weights, 3, lambda *_: None))

    def failing(number: int) -> torch.Tensor:
        assert not torch.equal(toy.first.weight, dense)
        raise RunError("the loss is nan")

    toy.mean_loss = failing
    with pytest.raises(RunError):
        gradients.shifted(toy, weights, 0, lambda *_: None)
    assert torch.equal(toy.first.weight, dense)


@pytest.mark.parametrize("order", ["gradient-norm", pytest.param("zeroth", marks=pytest.mark.slow)])
def test_ecoflap_spares_the_blocks_that_the_loss_feels(place: Path, tmp_path: Path, order: str) -> None:
    """Statement 26: the released code is silently uniform for BLIP, and misses the budget."""
    report, reporter = pruned(place, tmp_path / "run", **ECOFLAP, **{"prune.ecoflap_order": order})
    total, document = report["total"], json.loads((tmp_path / "run" / "allocation.json").read_text())
    assert total["zeros"] == round(0.6 * total["weights"]) and not reporter.warnings
    sparsities, weights = {}, {}
    for layer in report["layers"].values():
        sparsities.setdefault(layer["block"], []).append(layer["sparsity"])
        weights[layer["block"]] = weights.get(layer["block"], 0) + layer["weights"]
    assert document["signal"] == "gradient" and document["values"].keys() == sparsities.keys()
    assert all(max(values) - min(values) < 0.002 for values in sparsities.values())
    floor = sum(0.3 * size for size in weights.values())
    share = (0.4 * total["weights"] - floor) / sum(document["values"].values())
    for block, value in document["values"].items():
        assert 1 - sparsities[block][0] == pytest.approx(0.3 + share * value / weights[block], abs=0.002)
    means = [sum(values) / len(values) for values in sparsities.values()]
    assert max(means) - min(means) > 0.1


def test_scores_of_a_run_that_is_resumed_are_not_measured_again(place: Path, tmp_path: Path, monkeypatch) -> None:
    whole, _ = pruned(place, tmp_path / "whole", **ECOFLAP)

    def stopped(*_):
        raise RunError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="full"):
        patch.setattr("idvl.workflows.prune.calibrate", stopped)
        pruned(place, tmp_path / "run", **ECOFLAP)
    with monkeypatch.context() as patch:
        patch.setattr(signals, "measure", stopped)
        resumed, _ = pruned(place, tmp_path / "run", resume=True, **ECOFLAP)
    assert resumed["layers"] == whole["layers"]
    (tmp_path / "run" / "report.json").unlink()
    (tmp_path / "run" / "allocation.json").write_text("{")
    with pytest.raises(RunError, match=r"allocation.json' is damaged .*: delete it, and --resume measures again"):
        pruned(place, tmp_path / "run", resume=True, **ECOFLAP)


@pytest.mark.slow
def test_two_processes_score_as_one(place: Path, tmp_path: Path) -> None:
    words = ["-m", "idvl", "prune", place / "model", "--dataset", place / "pictures", "--criterion", "wanda"]
    words += ["--allocation", "ecoflap", "--sparsity", 0.6, "--calibration-samples", N, "--no-eval"]
    words += ["--set", f"data.batch_size={BATCH}"]
    one = processes.run(*words, "--output", tmp_path / "one", "--device", "cpu")
    assert one.returncode == 0, one.stderr
    for process in processes.team(*words, "--output", tmp_path / "two"):
        assert process.poll() == 0, process.stderr
    values = [json.loads((tmp_path / name / "allocation.json").read_text())["values"] for name in ("one", "two")]
    assert values[1] == pytest.approx(values[0], rel=1e-6)
    one, two = (Masks.load(tmp_path / name / "masks.safetensors") for name in ("one", "two"))
    assert one.hash() == two.hash()


def test_the_gradient_of_all_samples_scores_weights_in_the_walk(place: Path, tmp_path: Path) -> None:
    settings = {"prune.criterion": "gradient", "prune.calibration": "sequential", "prune.scope": "language"}
    job = job_of(place, **settings)
    model, probe = job.loaded.model, gradients.probe_of(job, None)
    assert len(probe.batches) == math.ceil(N / BATCH)
    expected = {name: torch.zeros(layer.module.weight.shape).double() for name, layer in job.layers.items()}
    for number in range(len(probe.batches)):
        model.zero_grad()
        probe.mean_loss(number).backward()
        for name, layer in job.layers.items():
            expected[name] += layer.module.weight.grad.double() / len(probe.batches)
    model.zero_grad()
    found = gradients.of_weights(job, lambda *_: None)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name].double(), gradient, rtol=1e-4, atol=1e-8)
    report, _ = pruned(place, tmp_path / "run", **settings)
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    for name, layer in job.layers.items():
        scores = (layer.module.weight.detach().double() * expected[name]).abs()
        kept = masks.kept(name)
        assert report["layers"][name]["zeros"] == int((~kept).sum())
        assert scores[~kept].max() <= scores[kept].min() * (1 + 1e-4)


def test_a_model_without_a_loss_is_refused_in_a_line(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, "dinov2")
    with pytest.raises(UsageError, match="^idvl has no loss for Dinov2Model: allocation ecoflap needs one$"):
        pruned(place, tmp_path / "run", **ECOFLAP)
    assert not (tmp_path / "run").exists()


def test_gradients_that_are_no_numbers_name_the_layer(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(place, **ECOFLAP)
    monkeypatch.setitem(gradients.SCORES, "gradient-norm", lambda weight, gradient: torch.tensor(torch.nan))
    with pytest.raises(RunError, match=f"the gradient of {next(iter(job.layers))} holds NaN"):
        gradients.scores(job, lambda *_: None)
    monkeypatch.setitem(gradients.SCORES, "gradient-norm", lambda weight, gradient: torch.tensor(0.0))
    with pytest.raises(RunError, match="the loss does not depend on any layer in scope"):
        gradients.scores(job, lambda *_: None)


def test_samples_are_the_first_ones_in_their_batches(place: Path) -> None:
    job = job_of(place, **ECOFLAP)
    seconds = [replace_team(job, rank) for rank in (0, 1)]
    parts = [gradients.probe_of(one).batches for one in seconds]
    assert [len(part) for part in parts] == [3, 3]
    assert [gradients._part(one).start for one in seconds] == [0, 3]
    assert gradients.probe_of(replace_team(job, 7, size=8)) is not None
    assert gradients.probe_of(replace_team(job, 0, size=8)) is None


@pytest.mark.parametrize("settings", [ECOFLAP, {"prune.criterion": "gradient", "prune.calibration": "sequential"}])
def test_samples_are_prepared_once_and_refused_before_that(
    place: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal needs the first batch, which says how much memory all of them take."""
    collate, sizes = Collate.__call__, []
    monkeypatch.setattr(Collate, "__call__", lambda self, some: sizes.append(len(some)) or collate(self, some))
    job = job_of(place, **settings)
    assert sizes == [BATCH]
    gradients.scores(job, lambda *_: None)
    assert sum(sizes) == BATCH + N
    monkeypatch.setattr(gradients, "free_memory", lambda *_: 1000)
    with pytest.raises(UsageError, match=r"^22 prepared samples take .* set a smaller prune\.calibration_samples$"):
        job_of(place, **settings)


def replace_team(job: Any, rank: int, size: int = 2) -> Any:
    from idvl.distributed import Team

    same = {name: getattr(job, name) for name in ("recipe", "selection", "learnable", "loaded", "device")}
    return SimpleNamespace(**same, team=Team(rank, size))
