"""Prunability: the loss with each part pruned alone, by known answers; nothing stays pruned; breaks and refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from idvl import runs
from idvl.data.samples import select
from idvl.distributed import Team
from idvl.errors import RunError, UsageError
from idvl.models.layers import find_layers, in_scope
from idvl.models.loading import load
from idvl.pruning.held_out import Probe, pruned
from idvl.pruning.sensitivity import SensitivityRun
from idvl.recipe import load as load_recipe
from idvl.reporting.run_folder import read_run
from idvl.reporting.sensitivity import sensitivity_tables
from idvl.workflows import sensitivity
from tests.support.reporter import Silent

ROOT = Path(__file__).parents[2]
ASKED = {"model.name": "builtin/vit", "data.dataset": "digits", "data.samples": 120, "eval.limit": 48}


def measured(folder, *, ratios=(0.5, 0.9), resume=False, plan_only=False, **changes):
    reporter = Silent()
    recipe = load_recipe(None, ASKED | {key.replace("__", "."): value for key, value in changes.items()})
    how = {"resume": resume, "plan_only": plan_only}
    return sensitivity.run(recipe, folder=folder, reporter=reporter, ratios=ratios, **how), reporter


@pytest.fixture(scope="module")
def vit():
    return load("builtin/vit", device="cpu")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity") / "run"
    return measured(folder)[0], folder


def test_a_probe_measures_the_mean_loss_of_all_samples(vit):
    samples = select("digits", split="test", n=20, force=True).samples
    losses = [Probe(vit, samples, batch_size=size, budget=2**30).loss() for size in (20, 7)]
    inputs = vit.family.training_task.inputs(vit.processor, samples, 0, vit.model.config)
    with torch.no_grad():
        logits = vit.model(pixel_values=inputs["pixel_values"]).logits
    expected = torch.nn.functional.cross_entropy(logits, inputs["labels"]).item()
    assert losses == pytest.approx([expected, expected], rel=1e-5)
    with pytest.raises(UsageError, match="20 prepared samples take .* set a smaller eval.limit"):
        Probe(vit, samples, batch_size=20, budget=100)


def test_a_loss_that_is_nan_names_the_samples(vit):
    samples = select("digits", split="test", n=6, force=True).samples
    probe = Probe(vit, samples, batch_size=2, budget=2**30)
    probe.batches[1]["pixel_values"][1] = float("nan")
    with pytest.raises(RunError, match=f"the loss is nan for a sample of {samples[2].id} to {samples[3].id}"):
        probe.loss()


def test_the_smallest_weights_are_zero_inside_and_all_are_back_afterwards(vit):
    layers = list(find_layers(vit.model, vit.family).items())[:2]
    weights = {name: layer.module.weight for name, layer in layers}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    every = torch.cat([weight.abs().flatten() for weight in before.values()])
    with pruned(weights, 0.3) as zeros:
        assert zeros == round(0.3 * len(every)) == sum(int((weight == 0).sum()) for weight in weights.values())
        assert min(weight[weight != 0].abs().min() for weight in weights.values()) >= every.sort().values[zeros - 1]
    with pytest.raises(RunError), pruned(weights, 0.9):
        raise RunError("on the way")
    assert all(torch.equal(weights[name], before[name]) for name in weights)


def test_every_layer_and_modality_has_its_losses_beside_its_dimension(ended, vit):
    result, folder = ended
    found = json.loads((folder / "sensitivity.json").read_text())
    assert found == result.document and found["schema"] == "idvl/sensitivity/1"
    profile = json.loads((folder / "profile" / "profile.json").read_text())["layers"]
    assert list(found["layers"]) == list(find_layers(vit.model, vit.family)) == list(profile)
    for name, layer in found["layers"].items():
        assert (layer["dimension"], layer["depth"]) == (profile[name]["estimate"]["dimension"], profile[name]["depth"])
        assert [loss["ratio"] for loss in layer["losses"]] == [0.5, 0.9]
        assert [loss["zeros"] for loss in layer["losses"]] == [round(r * layer["weights"]) for r in (0.5, 0.9)]
    vision = found["modalities"]["vision"]
    assert vision["weights"] == sum(layer["weights"] for layer in found["layers"].values())
    # all layers at once cost more than any of them
    assert vision["losses"][1]["loss"] > max(layer["losses"][1]["loss"] for layer in found["layers"].values())
    samples = select("digits", split="test", n=48, force=True, distinct=False).samples
    probe = Probe(vit, samples, batch_size=16, budget=2**30)
    assert found["dense"]["loss"] == pytest.approx(probe.loss(), rel=1e-6)
    name = "vit.layers.1.attention.q_proj"
    with pruned({name: vit.model.get_submodule(name).weight}, 0.9):
        assert found["layers"][name]["losses"][1]["loss"] == pytest.approx(probe.loss(), rel=1e-6)


def test_a_run_that_was_cut_off_measures_what_is_left(ended, tmp_path, monkeypatch):
    result, _ = ended
    folder, count = tmp_path / "run", iter(range(100))
    loss = Probe.loss

    def cut_off(self):
        if next(count) == 9:
            raise KeyboardInterrupt
        return loss(self)

    monkeypatch.setattr(Probe, "loss", cut_off)
    with pytest.raises(KeyboardInterrupt):
        measured(folder)
    lines = runs.read_metrics(folder / "metrics.jsonl")
    assert len(lines) == 9
    # as if the first loss had taken an hour
    lines[0]["seconds"] = 3600.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again, reporter = measured(folder, resume=True)
    assert (again.plan.trials, again.plan.done) == (51, 9)
    assert any(note.startswith("51 losses, 9 of them measured already: about ") for note in reporter.notes)
    assert again.document["layers"] == result.document["layers"] and again.document["dense"] == result.document["dense"]
    assert 3600 < again.document["provenance"]["seconds"] < 3660 and again.document["provenance"]["peak_memory"] > 2**20
    assert measured(folder, resume=True, plan_only=True)[0].plan.done == 51
    assert measured(folder, resume=True, plan_only=True, ratios=(0.5, 0.7))[0].plan.done == 26
    with pytest.raises(UsageError, match="cannot resume .*batch_size was 16, is 8"):
        measured(folder, resume=True, eval__batch_size=8)
    record = json.loads((folder / "run.json").read_text())
    record["signature"]["clean_texts"] = False
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="cannot resume .*clean_texts was false, is null"):
        measured(folder, resume=True)


def test_samples_that_the_model_learnt_from_are_told(ended, tmp_path):
    one = {"prune.scope": "vit.layers.1.attention.q_proj", "prune.profile": str(ended[1] / "profile"), "eval.limit": 8}
    result, reporter = measured(tmp_path / "run", ratios=(0.5,), eval__split="train", **one)
    assert [line for line in reporter.warnings if "builtin/vit was trained on this split, train: these scores" in line]
    assert result.document["dataset"]["learnt"] == "training" and "learnt" not in ended[0].document["dataset"]
    told = "CAUTION: samples are not held out: the split was used for training of the model"
    assert told in next(sensitivity_tables([read_run(tmp_path / "run", "run")])).notes


def test_layers_without_a_reliable_dimension_are_told_and_have_no_part_in_the_correlation(ended, tmp_path):
    made = json.loads((ended[1] / "profile" / "profile.json").read_text())
    made["layers"]["vit.layers.1.attention.q_proj"]["estimate"]["n_points"] = 36
    (tmp_path / "profile.json").write_text(json.dumps(made))
    some = {"prune.scope": "vit.layers.1.attention.*", "prune.profile": str(tmp_path / "profile.json"), "eval.limit": 8}
    result, reporter = measured(tmp_path / "run", ratios=(0.5,), **some)
    count, reason = len(result.document["layers"]), "estimated from 36 distinct points, fewer than 100"
    (told,) = [line for line in reporter.warnings if "no reliable ID" in line]
    assert told.startswith(f"1 of {count} layers have") and told.endswith(f"vit.layers.1.attention.q_proj: {reason}")
    unsound = {name: layer["unsound"] for name, layer in result.document["layers"].items() if layer["unsound"]}
    assert unsound == {"vit.layers.1.attention.q_proj": reason}
    left_out = f"CAUTION: left out, as they have no reliable ID: 1 of {count} layers"
    assert left_out in next(sensitivity_tables([read_run(tmp_path / "run", "run")])).notes


def test_a_plan_writes_nothing(tmp_path):
    result, _ = measured(tmp_path / "run", plan_only=True)
    assert result.document is None and result.plan.trials == 51 and result.plan.estimating > 0
    assert result.plan.memory > 0 and not (tmp_path / "run").exists()


def test_the_language_stack_is_pruned_as_a_whole_too():
    asked = {"model.name": "builtin/blip", "data.dataset": "shapes", "eval.limit": 4, "data.samples": 20}
    loaded = load("builtin/blip", device="cpu")
    selection = select("shapes", split="test", n=4, force=True)
    work = SensitivityRun(load_recipe(None, asked), loaded, selection, Team(), Silent(), [0.5])
    parts = work.parts()
    both = parts["modality", "language and cross"]
    assert both == parts["modality", "language"] + parts["modality", "cross"]
    assert set(both) == set(in_scope(loaded.model, loaded.family, "language"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ratios": (0.5, 1.0)}, "between 0 and 1, not 1.0"),
        ({"prune__scope": "language"}, "scope language is empty"),
        ({"prune__profile": "published:blip-coco"}, "lacks 24 of 24 layers in scope .*, unless it is of another model"),
        ({"data__dataset": "shapes"}, "no loss of sample shapes/.*: it has no label"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, changes, told):
    with pytest.raises(UsageError, match=told):
        measured(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


SHARED = f"""
import sys
from pathlib import Path
from idvl.recipe import load
from idvl.workflows import sensitivity
from tests.support.reporter import Silent
sensitivity.run(load(None, {ASKED}), folder=Path(sys.argv[1]), reporter=Silent(), ratios=(0.5, 0.9))
"""


@pytest.mark.slow
def test_two_processes_share_the_losses_and_find_the_same(ended, tmp_path):
    result, _ = ended
    script, folder = tmp_path / "shared.py", tmp_path / "run"
    script.write_text(SHARED)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", str(script), str(folder)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(launch, env=environment, check=True, capture_output=True, timeout=300)
    found = json.loads((folder / "sensitivity.json").read_text())
    assert found["provenance"]["processes"] == 2
    for name, layer in found["layers"].items():
        for one, other in zip(layer["losses"], result.document["layers"][name]["losses"], strict=True):
            assert (one["ratio"], one["zeros"]) == (other["ratio"], other["zeros"])
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_ratio_that_prunes_nothing_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(UsageError, match="sparsity 1e-09 of .* weights prunes none: use at least"):
        measured(tmp_path / "run", ratios=(0.5, 1e-9), plan_only=True)
