"""A pruned model: exactly as sparse as asked for, the same after a break and from several processes, or refused."""

import json
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    BlipForConditionalGeneration,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)
from transformers.models.blip.modeling_blip import BlipMLP

from idvl import predictions
from idvl.data.samples import select
from idvl.distributed import Team
from idvl.errors import RunError, UsageError
from idvl.evaluation.learnt import learnt_from
from idvl.models.loading import load
from idvl.profile import Profile
from idvl.pruning import training
from idvl.pruning.job import training_samples
from idvl.pruning.saving import check_saved
from idvl.recipe import DataSection
from idvl.recipe import load as load_recipe
from idvl.reporting.collect import Study, collect
from idvl.reporting.lineage import dense_of
from idvl.reporting.tables import tables_of
from idvl.sparsity.masks import Masks
from idvl.sparsity.schedule import Schedule
from idvl.sparsity.weighting import Multipliers
from idvl.sweep import restartable
from idvl.workflows import estimate_id, evaluate, recover, verify
from idvl.workflows.model_run import state_of
from idvl.workflows.prune import run
from tests.coverage.architectures import build
from tests.support import processes, tiny
from tests.support.hub import write_dataset
from tests.support.reporter import Silent

N = 104
# 26 steps, pruning from the 5th on
STEPS = {"train.batch_size": 8, "train.epochs": 2, "train.checkpoint_every": 4, "train.learning_rate": 1e-3}
SHARES = "which count in no share of the report but that of all weights"
PRUNE = {"prune.mask_every": 3, "prune.window": 3, "prune.sparsity": 0.6}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint, blip/, and a dataset, pictures/."""
    folder = tmp_path_factory.mktemp("prune")
    tiny.save("blip", folder / "blip")
    tiny.save_samples(folder / "pictures", tiny.samples(N), lambda _, sample: [{"text": sample.texts[0]}])
    return folder


def settings(place, **changes):
    wanted = {"model.name": str(place / "blip"), "data.dataset": str(place / "pictures"), **STEPS, **PRUNE}
    return wanted | {key.replace("__", "."): value for key, value in changes.items()}


def pruned(place, folder, *, resume=False, overwrite=False, plan_only=False, **changes):
    recipe = load_recipe(None, settings(place, **changes))
    torch.set_num_threads(1)
    reporter, how = Silent(), {"resume": resume, "overwrite": overwrite, "plan_only": plan_only}
    return run(recipe, folder=folder, reporter=reporter, **how), reporter


def weights(folder):
    return BlipForConditionalGeneration.from_pretrained(folder / "model").state_dict()


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory):
    """A run from beginning to end: its folder and report."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    result, _ = pruned(place, folder)
    return folder, result.report


def test_plain_transformers_opens_what_is_exactly_as_sparse_as_asked(whole):
    folder, report = whole
    found, masks = weights(folder), Masks.load(folder / "masks.safetensors")
    total = report["total"]
    assert total["zeros"] == round(0.6 * total["weights"]) == sum(masks.zeros.values())
    assert total["weights"] == sum(found[f"{name}.weight"].numel() for name in masks.shapes)
    for name in masks.shapes:
        assert torch.equal(found[f"{name}.weight"] == 0, ~masks.kept(name)), name
        assert report["layers"][name]["zeros"] == masks.zeros[name]
    assert report == json.loads((folder / "report.json").read_text())
    assert report["made"]["peak_memory"] > 2**20 and report["made"]["seconds"] > 0
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "how", [{"prune.criterion": "magnitude", "prune.id_weight": "none"}, {"prune.criterion": "wanda"}]
)
def test_fused_experts_are_named_as_not_covered(place, tmp_path, how):
    """Both kinds of pruning name them in the plan and in the report, with the sparsity of all weights."""
    model = build("mixtral", tmp_path / "mixtral")
    changes = {"model.name": str(model), "prune.sparsity": 0.5, "prune.window": None, "prune.mask_every": None, **how}
    if how["prune.criterion"] == "magnitude":
        changes |= {"train.epochs": None, "train.max_steps": 2}
    else:
        changes |= dict.fromkeys(STEPS) | {"prune.calibration_samples": 4}
    recipe = load_recipe(None, {key: value for key, value in (settings(place) | changes).items() if value is not None})
    options = {"folder": tmp_path / "run", "reporter": Silent()}
    plan = run(recipe, plan_only=True, **options).plan
    report = run(recipe, **options).report
    for found in (plan.report, report):
        assert found["not_covered"]["fused experts"]["weights"] == 2 * 4 * 3 * 32 * 64
    said = "fused experts 49,152 (model.layers.*.mlp.experts.gate_up_proj and 1 more)"
    assert said in plan.lines()[-1] and said in (tmp_path / "run" / "README.md").read_text().replace("\\", "")
    assert plan.lines()[-2] == "50.00 % of the weights in scope are 5.45 % of all weights of the model"
    assert report["total"]["model_sparsity"] == pytest.approx(0.0545, abs=1e-4)


def test_the_tied_head_of_a_decoder_counts_once_and_stays_tied(place, tmp_path):
    model = build("gpt2", tmp_path / "gpt2")
    changes = {"model.name": str(model), "data.dataset": str(place / "pictures"), "prune.calibration_samples": 4}
    recipe = load_recipe(None, {**changes, "prune.criterion": "wanda", "prune.sparsity": 0.5})
    report = run(recipe, folder=tmp_path / "run", reporter=Silent()).report
    reopened = GPT2LMHeadModel.from_pretrained(tmp_path / "run" / "model")
    assert reopened.lm_head.weight is reopened.transformer.wte.weight
    stored = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert report["total"]["model_weights"] == sum(tensor.numel() for tensor in stored.values())
    assert "lm_head.weight" not in stored and "heads and projections" not in report["not_covered"]


def test_factors_are_the_dimensions_of_the_profile_that_was_estimated_first(whole):
    folder, report = whole
    profile = Profile.load(folder / "profile" / "profile.json")
    assert Profile.load(folder / "profile.json").layers.keys() == profile.layers.keys() == report["layers"].keys()
    for name, layer in report["layers"].items():
        if layer["substituted"] is None:
            assert layer["factor"] == layer["dimension"] == profile.layers[name].estimate.dimension
    assert profile.dataset["split"] == "all"
    assert profile.protocol["n_samples"] == N


def test_each_logged_step_tells_the_sparsity_of_every_modality(whole):
    folder, report = whole
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 26]
    assert lines[0]["sparsity"] < lines[1]["sparsity"] < lines[2]["sparsity"]
    assert lines[-1]["sparsity"] == report["total"]["sparsity"]
    assert lines[-1]["sparsity.vision"] == report["modalities"]["vision"]["sparsity"]


def test_what_is_shared_names_no_place_of_this_machine(place, whole):
    folder, _ = whole
    shared = [path for path in (folder / "model").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert {"README.md", "config.json"} <= {path.name for path in shared}
    for path in shared:
        assert str(place.parent) not in path.read_text(), path.name
    assert "name: blip\n" in (folder / "model" / "README.md").read_text()


def test_a_second_resume_shows_what_is_there(place, whole):
    folder, report = whole
    again, reporter = pruned(place, folder, resume=True)
    assert again.report == report
    assert "the model is pruned already" in reporter.notes


@pytest.mark.parametrize(
    "changes",
    [
        {"prune__criterion": "magnitude", "prune__id_weight": "divide", "prune__scope": "vision"},
        {"prune__criterion": "gradient", "prune__id_weight": "none", "prune__schedule": "one-shot"},
        {
            "prune__criterion": "magnitude",
            "prune__id_weight": "none",
            "prune__structure": "2:4",
            "prune__sparsity": None,
        },
        {"prune__criterion": "gradient", "prune__refresh_profile": 1, "prune__monotone": True},
        {"prune__compat": "icml24", "prune__scope": "*.0.crossattention.*"},
        {"prune__scope": "*.mlp.fc1", "train__distill": 0.1, "train__mixed_precision": "bf16"},
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_every_kind_of_run_ends_verified(place, tmp_path, changes):
    if changes.get("prune__schedule") == "one-shot":
        changes |= {"train__epochs": None, "train__max_steps": 5}
    report = pruned(place, tmp_path / "run", **changes)[0].report
    total, masks = report["total"], Masks.load(tmp_path / "run" / "masks.safetensors")
    ended = weights(tmp_path / "run")
    if changes.get("prune__compat"):
        # its strict comparison prunes a few less, its inverted minimum a few more
        assert abs(total["zeros"] - 0.6 * total["weights"]) < 0.02 * total["weights"]
        biases = {name: ended[f"{name}.bias"] for name in masks.shapes}
        found = {name: (len(bias), int((bias == 0).sum())) for name, bias in biases.items()}
        assert found == {name: (row["biases"], row["bias_zeros"]) for name, row in report["layers"].items()}
        assert total["biases"] > total["bias_zeros"] > 0
    else:
        assert total["zeros"] == round(total["asked"] * total["weights"])
    layers = {name: ended[f"{name}.weight"] for name in masks.shapes}
    masks.verify(layers, changes.get("prune__structure", "unstructured"))
    assert report["verified"]["zeros"] == total["zeros"]


def test_dimensions_are_estimated_anew_until_the_steps_reach_the_final_phase(monkeypatch):
    measured = []
    monkeypatch.setattr(training.dimensions, "refreshed", lambda job, pruner, opened, epoch: measured.append(epoch))

    def train(*args, on_epoch, **more):
        for epoch, step in ((1, 13), (2, 19), (3, 20)):  # fp16 has skipped steps
            on_epoch(epoch, step)

    monkeypatch.setattr(training, "train", train)
    job = Mock(layers={}, schedule=Schedule(target=0.5, total_steps=26, final=6 / 26))
    job.recipe.prune.refresh_profile = 1
    job.multipliers.return_value = Multipliers({})
    training.prune(job, None, Path("none"), None, Silent(), resume=False)
    assert measured == [1, 2]


@pytest.mark.parametrize(
    ("asked", "compat", "used", "told"),
    [
        (None, "none", 1, []),
        (5, "none", 5, ["2 masks are set while the sparsity"]),
        # the steps are the paper's code's own
        (None, "icml24", 10, []),
    ],
)
def test_a_short_run_sets_masks_more_often_unless_it_is_told_not_to(place, tmp_path, asked, compat, used, told):
    changes = {
        "prune__mask_every": asked,
        "prune__compat": compat,
        "prune__id_weight": "none",
        "train__max_steps": 14,
        "eval__after": False,
    }
    result, reporter = pruned(place, tmp_path / "run", plan_only=True, **changes)
    assert result.plan.schedule.mask_every == used
    assert ("masks at every step" in result.plan.lines()[0]) == (used == 1)
    assert len(reporter.warnings) == len(told)
    assert all(start in warning for start, warning in zip(told, reporter.warnings, strict=True))


def test_a_sparsity_far_from_the_one_asked_for_is_a_warning(place, tmp_path):
    few = {"prune__compat": "icml24", "prune__window": 10, "prune__id_weight": "none", "train__max_steps": 6}
    result, reporter = pruned(place, tmp_path / "run", **few)
    assert result.report["total"]["sparsity"] < 0.01
    assert any("are zero, the target is 60.00 %; compat icml24" in warning for warning in reporter.warnings)
    assert result.report["made"]["schedule"]["mask_every"] == 3


def test_one_shot_leaves_the_weights_that_stay_as_they_were(place, tmp_path):
    pruned(place, tmp_path / "run", prune__schedule="one-shot", train__epochs=None, train__max_steps=3)
    found, dense = weights(tmp_path / "run"), BlipForConditionalGeneration.from_pretrained(place / "blip").state_dict()
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    for name, tensor in dense.items():
        layer = name.removesuffix(".weight")
        kept = masks.kept(layer) if layer in masks.shapes else torch.ones_like(tensor, dtype=torch.bool)
        assert torch.equal(found[name], tensor * kept), name


def test_magnitude_in_one_shot_needs_no_loss(place, tmp_path):
    # a bare encoder, which no loss is known of
    ViTModel(ViTConfig(**tiny.VISION)).save_pretrained(tmp_path / "vit")
    tiny.vit()[1].save_pretrained(tmp_path / "vit")
    changes = {"prune.schedule": "one-shot", "train.epochs": None, "prune.id_weight": "none", "train.max_steps": 3}
    changes |= {"model.name": str(tmp_path / "vit"), "prune.criterion": "magnitude"}
    result, _ = pruned(place, tmp_path / "run", **changes)
    dense, found = (ViTModel.from_pretrained(at).state_dict() for at in (tmp_path / "vit", tmp_path / "run" / "model"))
    layers = [f"{name}.weight" for name in result.report["layers"]]
    sizes = torch.cat([dense[name].abs().flatten() for name in layers])
    least = sizes.kthvalue(round(0.6 * len(sizes))).values
    for name in dense:
        expected = dense[name] * (dense[name].abs() > least) if name in layers else dense[name]
        assert torch.equal(found[name], expected), name
    assert (result.report["made"]["steps"], result.report["made"]["loss"]) == (3, None)
    assert result.plan.seconds == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 3 and lines[-1]["sparsity"] == pytest.approx(0.6, abs=1e-4)
    with pytest.raises(UsageError, match="has no loss for a ViTModel"):
        pruned(place, tmp_path / "other", **changes | {"prune.criterion": "gradient"})


def test_layers_that_the_loss_does_not_reach_are_left_out(place, tmp_path):
    # the picture's features are those of the last block but one
    model, dead = tiny.save("llava", tmp_path / "llava"), "model.vision_tower.encoder.layers.1"
    changes = {"model.name": str(model), "prune.id_weight": "none", "train.max_steps": 3, "train.batch_size": 4}
    changes |= {"prune.criterion": "gradient", "train.epochs": None}
    result, reporter = pruned(place, tmp_path / "run", **changes)
    report = result.report
    assert not [name for name in report["layers"] if name.startswith(dead)]
    assert report["total"]["prunable_weights"] == report["total"]["weights"]
    assert f"left out: 6 layers that the loss does not reach, {SHARES}: {dead}" in reporter.notes
    found, dense = (load_file(at / "model.safetensors") for at in (tmp_path / "run" / "model", model))
    still = [name for name in dense if "vision" in name and ".layers.1." in name]
    assert len(still) == 16 and all(torch.equal(found[name], dense[name]) for name in still)
    one_shot = {"prune.criterion": "magnitude", "prune.schedule": "one-shot"}
    magnitude, _ = pruned(place, tmp_path / "magnitude", **changes | one_shot)
    assert magnitude.report["layers"].keys() == report["layers"].keys()
    named = {"prune.scope": f"{dead}.*"}
    with pytest.raises(UsageError, match="the loss of LlavaForConditionalGeneration reaches no layer of the scope"):
        pruned(place, tmp_path / "named", **changes | named)
    # magnitude asks for no loss
    magnitude, _ = pruned(place, tmp_path / "named", **changes | one_shot | named)
    assert len(magnitude.report["layers"]) == 6


@pytest.mark.parametrize("plan_only", [True, False], ids=["plan", "run"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval__min_length": 30, "eval__max_length": 20}, "30 tokens at least is longer than 20"),
        ({"eval__min_length": 30}, "30 tokens at least is longer than 20"),
        ({"eval__max_length": 3000}, "a text of 3000 tokens at most"),
        ({"eval__prompt": "a " * 900}, "the prompt has 902 tokens"),
        ({"eval__task": "vqa"}, "cannot do vqa"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_before_training(place, tmp_path, plan_only, changes, message):
    with pytest.raises(UsageError, match=message):
        pruned(place, tmp_path / "run", plan_only=plan_only, prune__id_weight="none", **changes)
    assert not (tmp_path / "run").exists()


def test_a_plan_writes_nothing(place, tmp_path):
    result, _ = pruned(place, tmp_path / "run", plan_only=True)
    assert result.report is None
    assert not (tmp_path / "run").exists()
    planned = result.plan.to_json()
    assert planned["schedule"]["total_steps"] == 26
    assert planned["report"]["total"]["asked"] == 0.6
    assert planned["seconds"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prune__structure": "2:4"}, "set sparsity to it|id_weight none"),
        ({"prune__allocation": "uniform"}, "id_weight multiply and allocation uniform: .*set id_weight none"),
        ({"prune__schedule": "one-shot"}, "one-shot trains nothing: leave epochs out"),
        ({"prune__ceiling": 0.5}, "sparsity 0.6 cannot be reached"),
        ({"prune__floor": 0.6, "prune__ceiling": 0.6}, "floor and ceiling 0.6 and id_weight multiply"),
        ({"train__mixed_precision": "fp16"}, "fp16 needs a GPU"),
        ({"train__mixed_precision": "fp16", "prune__compat": "icml24"}, "icml24 and mixed_precision fp16: .*use bf16"),
        ({"model__dtype": "bfloat16"}, "trained in float32, not bfloat16"),
        ({"data__samples": 50, "data__force": True}, "50 samples give no reliable ID: ask for 100 or more"),
        ({"prune__scope": "vison"}, "no scope 'vison'; did you mean 'vision'"),
        ({"prune__scope": "nothing.*"}, "no layer is named like 'nothing"),
        ({"prune__profile": "published:blip-coco"}, "of another model: .* has 2304 features there, 96 here"),
        ({"prune__profile": "there-is-none.json"}, "there is no profile"),
        ({"train__batch_size": 200}, "fewer than one step"),
        ({"train__batch_size": 60, "prune__compat": "icml24"}, "one step an epoch: nothing would be trained"),
        (
            {"prune__schedule": "one-shot", "train__epochs": None, "train__max_steps": 5, "prune__window": 6},
            "over windows of 6 steps, and 5 steps",
        ),
        ({"train__lr_schedule": "cosin"}, "lr_schedule 'cosin'"),
        ({"train__report_to": "nothing"}, "no tracker 'nothing'"),
        ({"prune__id_weight": "none", "prune__refresh_profile": 1}, "refresh_profile and id_weight none"),
        ({"train__new_head": True}, "new_head|new-head"),
        ({"data__split": "test"}, "no split 'test'"),
        ({"eval__task": "captoin", "eval__after": False}, "'captoin' is not one of .*; did you mean 'caption'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(place, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as refusal:
        pruned(place, tmp_path / "run", **changes)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_a_budget_that_is_too_small_is_refused_before_the_old_run_is_removed(place, whole):
    folder, report = whole
    with pytest.raises(UsageError, match="memory of 1KiB"):
        pruned(place, folder, overwrite=True, estimate__memory="1KiB")
    assert json.loads((folder / "report.json").read_text()) == report
    assert weights(folder) and Profile.load(folder / "profile" / "profile.json")


def test_a_full_gpu_is_told_with_a_batch_size_that_fits(place, tmp_path, monkeypatch):
    def full(self, hidden_states, **more):
        if len(hidden_states) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total of ...")
        return forward(self, hidden_states, **more)

    forward = BlipMLP.forward
    monkeypatch.setattr(BlipMLP, "forward", full)
    with pytest.raises(RunError, match=r"full with a batch_size of 8: use batch_size 2 and accumulate 4") as refusal:
        pruned(place, tmp_path / "run", prune__id_weight="none")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def digits(tmp_path):
    """How a tiny classifier of digits is pruned in 26 steps."""
    tiny.save("vit", tmp_path / "vit")
    changes = {"model.name": str(tmp_path / "vit"), "data.dataset": "digits", "train.new_head": True}
    changes |= {"prune.id_weight": "none", "train.samples": N, "eval.batch_size": 50, "eval.resamples": 100}
    changes |= {"eval.limit": 200}
    return changes


def test_batch_norm_is_measured_and_saved_as_it_came(place, tmp_path, digits):
    model = str(tmp_path / "mobilevit")
    for part in tiny.mobilevit():
        part.save_pretrained(model)
    changes = (
        digits
        | {"data.samples": 200}
        | {"model.name": model, "train.new_head": False, "train.epochs": None, "eval.after": False}
    )
    changes |= {"prune.id_weight": "multiply", "prune.schedule": "one-shot", "train.max_steps": 3}
    pruned(place, tmp_path / "run", **changes)
    alone = load_recipe(
        None, {"model.name": model, "data.dataset": "digits", "data.split": "train", "data.samples": 200}
    )
    measured = estimate_id.run(alone, folder=tmp_path / "alone", reporter=Silent()).profile
    assert {name: layer.estimate for name, layer in measured.layers.items()} == {
        name: layer.estimate for name, layer in Profile.load(tmp_path / "run" / "profile.json").layers.items()
    }
    dense, found = (load_file(Path(at) / "model.safetensors") for at in (model, tmp_path / "run" / "model"))
    running = [name for name in dense if "running" in name]
    assert running and all(torch.equal(dense[name], found[name]) for name in running)


def test_the_pruned_model_is_evaluated_on_the_split_it_was_not_trained_on(place, tmp_path, digits):
    folder = tmp_path / "run"
    result, _ = pruned(place, folder, **digits | {"eval.limit": None}, eval__every=10)
    found = result.report["evaluation"]
    assert (found["task"], found["samples"], found["dataset"]["split"]) == ("classification", 899, "test")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "top-1" in line] == [10, 20]
    saved = ViTForImageClassification.from_pretrained(folder / "model").eval()
    processor = ViTImageProcessorPil.from_pretrained(folder / "model")
    first = [json.loads(line) for line in (folder / "eval" / "predictions.jsonl").read_text().splitlines()][:40]
    pictures = {sample.id: sample for sample in select("digits", split="test", n=899, distinct=False).samples}
    pixels = processor([pictures[line["id"]].image for line in first], return_tensors="pt")
    with torch.no_grad():
        best = saved(**pixels).logits.argmax(1).tolist()
    assert [line["top"][0] for line in first] == best
    card = ModelCard((folder / "model" / "README.md").read_text())
    measured = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert measured["top-1"] == pytest.approx(found["metrics"]["top-1"]["value"], abs=1e-4)
    assert (folder / "README.md").read_text() == (folder / "model" / "README.md").read_text()


def test_a_metric_of_the_recipe_is_computed_for_the_pruned_model(place, tmp_path, digits, metric_modules):
    folder = tmp_path / "spread"
    folder.mkdir()
    (folder / "spread.py").write_text(
        "import datasets\nimport evaluate\n\n\nclass Spread(evaluate.Metric):\n    def _info(self):\n"
        "        number = datasets.Value('int64')\n"
        "        features = datasets.Features({'predictions': number, 'references': number})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'classes': len(set(predictions)), 'count': len(predictions)}\n"
    )
    short = digits | {"train.epochs": None, "train.max_steps": 4, "eval.limit": 60, "eval.metrics": [str(folder)]}
    pruned(place, tmp_path / "run", **short, eval__every=2)
    for at in ("eval", "evaluations/step-000000002"):
        lines = predictions.read(tmp_path / "run" / at / "predictions.jsonl")
        expected = {"classes": len({line["top"][0] for line in lines}), "count": 60}
        results = json.loads((tmp_path / "run" / at / "results.json").read_text())
        assert results["other_metrics"] == {str(folder): expected}


def test_a_metric_that_does_not_exist_is_refused_before_training(place, tmp_path, digits):
    with pytest.raises(UsageError, match="there is no metric folder './nothere'"):
        pruned(place, tmp_path / "run", **digits, eval__metrics=["./nothere"])
    assert not (tmp_path / "run").exists()


def test_a_run_killed_in_an_evaluation_on_the_way_goes_on_there(place, tmp_path, digits, monkeypatch):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    pruned(place, whole, **digits, eval__every=10, eval__after=False)
    append, calls = predictions.append, []

    def broken(path, records):
        append(path, records)
        calls.append(path)
        if len(calls) == 6:  # 4 batches of the evaluation at step 10, then 2 of that at step 20
            raise KeyboardInterrupt

    monkeypatch.setattr(predictions, "append", broken)
    with pytest.raises(KeyboardInterrupt):
        pruned(place, folder, **digits, eval__every=10, eval__after=False)
    monkeypatch.undo()
    pruned(place, folder, resume=True, **digits, eval__every=10, eval__after=False)
    found = json.loads((folder / "evaluations" / "step-000000020" / "results.json").read_text())["found"]
    assert found == 100
    lines = [[json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()] for at in (whole, folder)]
    assert lines[0] == lines[1]
    files = [(at / "model" / "model.safetensors").read_bytes() for at in (whole, folder)]
    assert files[0] == files[1]


def test_an_evaluation_of_someone_elses_is_not_removed(place, tmp_path, digits):
    folder = tmp_path / "run"
    pruned(place, folder, **digits, eval__after=False)
    (folder / "eval").mkdir()
    (folder / "eval" / "predictions.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="holds another evaluation"):
        pruned(place, folder, resume=True, **digits)
    assert (folder / "eval" / "predictions.jsonl").read_text() == "mine"


def test_a_run_interrupted_in_its_evaluation_resumes_there(place, tmp_path, digits, monkeypatch):
    folder = tmp_path / "run"
    append, calls = predictions.append, []

    def broken(path, records):
        append(path, records)
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(predictions, "append", broken)
    with pytest.raises(KeyboardInterrupt):
        pruned(place, folder, **digits)
    assert "evaluation" not in json.loads((folder / "report.json").read_text())
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.undo()
    result, reporter = pruned(place, folder, resume=True, **digits)
    assert "the model is pruned already" in reporter.notes
    results = json.loads((folder / "eval" / "results.json").read_text())
    assert (results["found"], results["samples"]) == (150, 200)
    assert result.report["evaluation"]["metrics"] == results["metrics"]
    assert result.report["verified"]["fingerprint"] == results["model"]["fingerprint"]
    assert results["model"]["path"] == str((folder / "model").resolve())
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_recipe_and_results_of_a_resumed_run_are_of_one_run(place, tmp_path, digits):
    folder = tmp_path / "run"
    settings = digits | {"train.epochs": None, "train.max_steps": 3, "prune.window": 1, "prune.mask_every": 1}
    settings |= {"train.new_head": False, "model.name": "builtin/vit", "eval.limit": 40}

    def recipe():
        return yaml.safe_load((folder / "recipe.yaml").read_text())

    pruned(place, folder, **settings, eval__after=False)
    # what is done keeps its settings, also those that no number depends on; the evaluation is still to come
    pruned(place, folder, resume=True, **settings | {"data.batch_size": 8})
    made = recipe()
    assert (made["eval"]["limit"], made["eval"]["after"], made["data"]["batch_size"]) == (40, True, 16)
    for key, was, value in (
        ("eval.limit", "40", 20),
        ("estimate.tokens", '"flatten"', "mean"),
        ("eval.every", "null", 2),
    ):
        with pytest.raises(UsageError, match=f"cannot resume .*{key} was {was}, is"):
            pruned(place, folder, resume=True, **settings | {key: value})
    assert recipe() == made
    (folder / "checkpoints" / "step-000000003").mkdir(parents=True)  # as a kill may leave it
    report = pruned(place, folder, resume=True, **settings, eval__after=False)[0].report
    assert report["evaluation"]["limit"] == 40 and recipe() == made
    assert not (folder / "checkpoints").exists()
    (folder / "recipe.yaml").write_text("eval: [")
    # the results are of its settings, and no longer of those that it would say
    with pytest.raises(UsageError, match="its recipe.yaml is missing, damaged or of another version: restore it"):
        pruned(place, folder, resume=True, **settings | {"eval.limit": 20})
    assert (folder / "recipe.yaml").read_text() == "eval: ["


@pytest.mark.parametrize("name", ["model/config.json", "model/model.safetensors", "masks.safetensors"])
@pytest.mark.parametrize("kept", [None, 100])
def test_a_saved_model_that_is_not_whole_any_more_is_told(tmp_path, name, kept):
    folder = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "golden" / "pruned-vit", folder)
    check_saved(folder)
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if kept:
        (folder / name).write_bytes(data[:kept])
    with pytest.raises(RunError, match="not whole any more"):
        check_saved(folder)


def test_a_saved_model_that_lacks_any_file_is_told(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    (folder / "model" / "README.md").write_text("a card of my own")
    check_saved(folder)
    names = {path.name for path in (folder / "model").iterdir()} - {"README.md"}
    assert {"config.json", "processor_config.json", "tokenizer_config.json", "model.safetensors"} <= names
    for name in names:
        path = (folder / "model" / name).rename(tmp_path / name)
        with pytest.raises(RunError, match=rf"not whole any more \(.*{name}"):
            state_of(folder)
        (folder / "model" / name).write_bytes(path.read_bytes() + b" ")
        with pytest.raises(RunError, match=rf"not whole any more \({name} has [\d,]* bytes, and had "):
            restartable.is_pruned(load_recipe(folder / "recipe.yaml"), folder)
        path.rename(folder / "model" / name)
    check_saved(folder)


def test_a_profile_of_other_weights_is_told(place, tmp_path, digits):
    golden = Path(__file__).parents[1] / "golden" / "pruned-vit" / "profile.json"
    values = json.loads(golden.read_text())
    values["model"]["fingerprint"] = "another"
    (tmp_path / "profile.json").write_text(json.dumps(values))
    changes = digits | {"model.name": "builtin/vit", "prune.id_weight": "multiply", "train.new_head": False}
    changes |= {"train.epochs": None, "train.max_steps": 2, "prune.window": 1, "eval.after": False}
    result, reporter = pruned(place, tmp_path / "run", **changes | {"prune.profile": str(tmp_path / "profile.json")})
    assert any("was measured on other weights than builtin/vit has" in warning for warning in reporter.warnings)
    assert result.report["profile"]["other_weights"] is True
    assert "measured on other weights" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_predictions_of_other_weights_are_not_taken_for_these(place, tmp_path, digits):
    folder = tmp_path / "run"
    pruned(place, folder, **digits, eval__after=False)
    stale = folder / "eval"
    stale.mkdir()
    (stale / "signature.json").write_text('{"fingerprint": "another"}')
    line = {"number": 0, "id": "digits/test/0000", "label": 0, "top": [9, 8, 7, 6, 5]}
    (stale / "predictions.jsonl").write_text(json.dumps(line))
    report = pruned(place, folder, resume=True, **digits)[0].report
    assert report["evaluation"]["samples"] == 200
    assert json.loads((stale / "results.json").read_text())["found"] == 0


def test_without_a_split_beside_the_trained_one_nothing_is_evaluated(place, tmp_path):
    result, reporter = pruned(place, tmp_path / "run", prune__criterion="magnitude", prune__id_weight="none")
    assert "the split is all, and it was used for training" in result.report["evaluation"]["skipped"]
    assert any("is not evaluated: " in warning for warning in reporter.warnings)
    assert "It has not been evaluated" in (tmp_path / "run" / "README.md").read_text()
    with pytest.raises(UsageError, match="cannot do vqa"):
        pruned(place, tmp_path / "other", eval__task="vqa")
    assert not (tmp_path / "other").exists()


def test_the_evaluation_of_a_split_that_an_earlier_run_learnt_from_is_told(place, whole, tmp_path, monkeypatch):
    folder, report = whole
    learnt = report["made"]["training"]
    assert (learnt["split"], learnt["samples"]) == ("all", N)
    monkeypatch.chdir(place)
    further = {
        "model.name": str(folder / "model"),
        "prune.id_weight": "none",
        "prune.schedule": "one-shot",
        "train.epochs": None,
        "train.max_steps": 1,
    }
    few, told = {"eval.limit": 2, "eval.resamples": 100}, Silent()
    made = run(
        load_recipe(None, {**settings(place), **further, **few, "prune.criterion": "magnitude", "eval.split": "all"}),
        folder=tmp_path / "further",
        reporter=told,
    ).report
    assert any(f"'{folder}' used samples of this split, all, for training" in line for line in told.warnings)
    assert made["evaluation"]["dataset"]["learnt"] == "training"
    card = (tmp_path / "further" / "README.md").read_text()
    assert "Samples of this split were used for training: these numbers are not a test." in card
    notes = [note for made in tables_of(collect([str(tmp_path)])) for note in made.notes]
    assert any("no test, since the split evaluated was used to make the models: " in note for note in notes)
    other = shutil.copytree(place / "pictures", tmp_path / "pictures")
    of_train = shutil.copytree(folder, tmp_path / "of_train")
    learnt_train = {**report, "made": {**report["made"], "training": {**learnt, "split": "train"}}}
    (of_train / "report.json").write_text(json.dumps(learnt_train))
    for model, data, behind, named in (
        (folder, None, folder, "this split, all"),
        (tmp_path / "further", "pictures", folder, "this split, all"),
        (of_train, None, of_train, "train, which overlaps with all"),
        (folder, str(other), folder, None),
    ):
        reporter = Silent()
        results = evaluate.run(
            load_recipe(None, {"model.name": str(model / "model"), "data.dataset": data, **few}),
            folder=tmp_path / "eval",
            overwrite=True,
            reporter=reporter,
        ).results
        assert results["dataset"].get("learnt") == (named and "training")
        warned = f"'{behind}' used samples of {named}, for training: these scores are not a test"
        assert any(warned in line for line in reporter.warnings) == bool(named), reporter.warnings
    # a copy, from its first sample to its last
    copied = select(str(other), distinct=False, force=True).description
    copy = learnt_from(str(folder / "model"), DataSection(dataset=str(other)), copied)
    assert copy.warning.startswith(f"'{folder}' used the same samples, for training: these scores are not a test")


def test_a_copy_of_the_training_split_is_no_test(place, tmp_path):
    for split in ("train", "test"):
        shutil.copytree(place / "pictures", tmp_path / "data" / split)
    once = {"data__dataset": str(tmp_path / "data"), "prune__id_weight": "none", "prune__criterion": "magnitude"}
    _, reporter = pruned(place, tmp_path / "run", plan_only=True, **once)
    reason = "the split test overlaps with train, which was used for training: name another split with eval.split"
    assert f"the pruned model is not evaluated: {reason}" in reporter.warnings
    _, reporter = pruned(place, tmp_path / "run", plan_only=True, eval__split="test", **once)
    assert any("the run uses the same samples, for training: these" in line for line in reporter.warnings)


def test_the_evaluation_of_a_split_that_the_dimensions_were_measured_on_is_told(place, whole, tmp_path):
    """No sample is learnt from, of a named profile and of one that the run estimates."""
    profile = str(whole[0] / "profile" / "profile.json")
    once = {
        "prune__schedule": "one-shot",
        "prune__criterion": "magnitude",
        "train__max_steps": 1,
        "train__epochs": None,
    }
    few = {"eval__limit": 2, "eval__resamples": 100}
    made, reporter = pruned(place, tmp_path / "named", prune__profile=profile, **once, **few)
    told = f"the profile '{profile}' was measured on samples of this split, all: these scores are not a test"
    assert any(told in line for line in reporter.warnings)
    assert made.report["evaluation"]["dataset"]["learnt"] == "intrinsic dimensions"
    card = (tmp_path / "named" / "README.md").read_text()
    assert "Samples of this split were used for intrinsic dimensions: these numbers are not a test." in card
    moved = json.loads(Path(profile).read_text())
    moved["dataset"]["path"] = str(tmp_path / "elsewhere")
    (tmp_path / "moved.json").write_text(json.dumps(moved))
    _, reporter = pruned(place, tmp_path / "run", prune__profile=str(tmp_path / "moved.json"), plan_only=True, **once)
    assert not reporter.warnings
    reporter = Silent()
    recipe = {"model.name": str(tmp_path / "named" / "model"), "eval.limit": 2, "eval.resamples": 100}
    evaluate.run(load_recipe(None, recipe), folder=tmp_path / "eval", reporter=reporter)
    assert any("used samples of this split, all, for intrinsic dimensions: " in line for line in reporter.warnings)
    made, reporter = pruned(place, tmp_path / "estimated", eval__split="all", **once, **few)
    told = "the run uses samples of this split, all, for intrinsic dimensions: these scores are not a test"
    assert any(told in line for line in reporter.warnings)
    assert made.report["evaluation"]["dataset"]["learnt"] == "intrinsic dimensions"
    made, reporter = pruned(place, tmp_path / "none", prune__id_weight="none", **once, **few)
    assert made.report["evaluation"]["dataset"]["learnt"] is None and not reporter.warnings


def test_a_loss_that_is_no_number_ends_the_run(place, tmp_path):
    with pytest.raises(RunError, match="lower learning rate"):
        pruned(place, tmp_path / "run", train__learning_rate=1e12, prune__id_weight="none")
    assert not (tmp_path / "run" / "report.json").exists()


def command(place, folder, *more, **changes):
    recipe = folder.with_name(f"{folder.name}.yaml")
    nested: dict = {}
    for key, value in settings(place, **changes).items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    recipe.write_text(yaml.safe_dump(nested))
    return ["-m", "idvl", "prune", "--recipe", str(recipe), "--output", str(folder), "--quiet", *more]


def same(first, second):
    ours, theirs = weights(first), weights(second)
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("profile", marks=pytest.mark.slow),
        pytest.param("step-000000004", marks=pytest.mark.slow),
        "step-000000016",
        pytest.param("SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(place, whole, tmp_path, moment):
    folder = tmp_path / "run"
    process = processes.start(*command(place, folder))
    waited = {
        "profile": folder / "profile" / "metrics.jsonl",
        "SIGTERM": folder / "checkpoints" / "step-000000004",
    }.get(moment, folder / "checkpoints" / moment)
    deadline = time.monotonic() + 120
    while not waited.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM if moment == "SIGTERM" else signal.SIGKILL)
    assert process.wait() == (143 if moment == "SIGTERM" else -signal.SIGKILL), process.stderr
    assert not (folder / "report.json").exists()
    made = pruned(place, folder, resume=True)[0].report["made"]
    assert same(whole[0], folder) == []
    assert made["loss"] == whole[1]["made"]["loss"] and made["seconds"] > 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [10, 20, 26]


@pytest.mark.slow
def test_a_killed_run_that_measures_anew_resumes_to_the_same_bits(place, tmp_path):
    asked = {"prune__refresh_profile": 1, "train__epochs": 3, "prune__criterion": "gradient", "prune__final": 0.1}
    whole, folder = tmp_path / "whole", tmp_path / "run"
    pruned(place, whole, **asked)
    process = processes.start(*command(place, folder, **asked))
    waited = folder / "checkpoints" / "step-000000016"  # an epoch has 13 steps
    deadline = time.monotonic() + 120
    while not waited.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    pruned(place, folder, resume=True, **asked)
    for name in ("profile-epoch-0001.json", "profile-epoch-0002.json", "profile.json"):
        assert Profile.load(folder / name).layers == Profile.load(whole / name).layers
    assert same(whole, folder) == []
    assert len({Masks.load(place / "masks.safetensors").hash() for place in (whole, folder)}) == 1


def test_a_changed_recipe_is_refused_with_its_key(place, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunError):
        pruned(place, folder, train__learning_rate=1e12, prune__id_weight="none")
    with pytest.raises(UsageError, match=r"prune\.sparsity was 0\.6, is 0\.7"):
        pruned(place, folder, resume=True, train__learning_rate=1e12, prune__id_weight="none", prune__sparsity=0.7)


@pytest.mark.slow
def test_two_processes_prune_almost_the_same_weights_as_one(place, tmp_path):
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    same_steps = {"prune__profile": "auto", "prune__criterion": "magnitude"}
    assert processes.run(*command(place, alone, **same_steps)).returncode == 0
    for process in processes.team(*command(place, pair, **same_steps, train__batch_size=4)):
        assert process.wait() == 0, process.stderr
    one, two = (Masks.load(folder / "masks.safetensors") for folder in (alone, pair))
    equal = sum(int((one.kept(name) == two.kept(name)).sum()) for name in one.shapes)
    assert one.zeros.keys() == two.zeros.keys() and sum(one.zeros.values()) == sum(two.zeros.values())
    assert equal / one.total >= 0.995


RECIPES = Path(__file__).parents[2] / "recipes"
READY = [
    path
    for path in sorted(RECIPES.glob("*.yaml"))
    if "prune" in (said := yaml.safe_load(path.read_text())) and "recover" not in said
]


@pytest.fixture(scope="module")
def disk(place):
    """The pictures again, as datasets lie on a user's disk, and checkpoints of the families."""
    for name in ("coco", "flickr30k"):
        folder = place / name
        folder.mkdir()
        images = []
        for sample in tiny.samples(N):
            sample.source.save(folder / f"{sample.id}.png")
            sentences = [{"raw": sample.texts[0]}, {"raw": f"a {sample.texts[0]}"}]
            images.append({"filename": f"{sample.id}.png", "split": "train", "sentences": sentences})
        (folder / f"dataset_{name}.json").write_text(json.dumps({"images": images}))
    for name in ("cifar100", "imagenet-1k"):
        write_dataset(name, place / name, 140, split="train")
    tiny.save_pairs(place / "nlvr2", tiny.samples(N), 1)
    tiny.save("blip-nlvr2", place / "blip-nlvr2")
    tiny.save("clip", place / "clip")
    tiny.save("vit", place / "vit")
    config = ViTConfig.from_pretrained(place / "vit", id2label={k: f"class {k}" for k in range(1000)})
    ViTForImageClassification(config).save_pretrained(place / "vit")
    return place


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_shipped_recipes_plan(path, disk, tmp_path):
    recipe = load_recipe(path)
    if not recipe.model.name.startswith("builtin/"):
        model = disk / next(name for name in ("clip", "blip-nlvr2", "blip", "vit") if name in recipe.model.name)
        # the published profile is as wide as the real model
        data = {"data.data_dir": str(disk / recipe.data.dataset), "data.dataset_id": None, "prune.profile": "auto"}
        recipe = load_recipe(path, {"model.name": str(model), **data})
    else:
        recipe = load_recipe(path, {"train.samples": 200, "eval.limit": 40, "data.samples": 100})
    planned = run(recipe, folder=tmp_path / "run", reporter=Silent(), plan_only=True).plan
    assert planned.report["total"]["asked"] == recipe.prune.sparsity
    assert planned.schedule.total_steps == (
        recipe.train.max_steps or planned.steps_per_epoch * (recipe.train.epochs or 5)
    )
    if recipe.train.texts == "all":
        assert planned.steps_per_epoch == 2 * N // 20
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("texts", "read"), [("any", [(2, 1)] * 3), ("first", [(1, 1)] * 3), ("all", [(1, 1)] * 6)])
def test_training_reads_any_the_first_or_all_captions(texts, read, disk, tmp_path):
    data = {"data.dataset": "coco", "data.data_dir": str(disk / "coco"), "train.samples": 3, "train.texts": texts}
    recipe = load_recipe(None, {"model.name": str(disk / "blip"), **data})
    loaded = load(recipe.model.name)
    samples = training_samples(recipe, loaded, Team(), Silent(), store=tmp_path / "images").samples
    assert [(len(sample.texts), sample.source is not None) for sample in samples] == read
    assert len({text for sample in samples for text in sample.texts}) == (3 if texts == "first" else 6)


@pytest.mark.parametrize(("model", "column", "told"), [("blip", None, 1), ("blip", "question", 0), ("vit", None, 0)])
def test_a_model_of_captions_that_is_to_learn_from_questions_is_told(
    model, column, told, disk, tmp_path, idvl_log, caplog
):
    rows = [{"file_name": f"{k}.png", "question": f"what {k}", "answers": ["red"], "label": 0} for k in range(3)]
    for row, sample in zip(rows, tiny.samples(3), strict=True):
        sample.source.save(tmp_path / row["file_name"])
    (tmp_path / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    recipe = load_recipe(
        None, {"model.name": str(disk / model), "data.dataset": str(tmp_path), "data.text_column": column}
    )
    training_samples(recipe, load(recipe.model.name), Team(), Silent(), store=tmp_path / "images")
    said = [message for message in caplog.messages if "'question' is read as captions" in message]
    assert len(said) == told


def test_a_new_head_is_trained_dense_first(tmp_path):
    tiny.save("vit", tmp_path / "vit")
    # as an earlier pruning leaves it
    model, layer = ViTForImageClassification.from_pretrained(tmp_path / "vit"), "vit.layers.0.mlp.fc1"
    model.get_submodule(layer).weight.data[0] = 0
    model.save_pretrained(tmp_path / "vit")
    zeros = model.get_submodule(layer).in_features
    changes = {"model.name": str(tmp_path / "vit"), "data.dataset": "digits", "train.new_head": True}
    steps = {"train.max_steps": 12, "train.batch_size": 16, "train.learning_rate": 1e-3, "data.samples": 120}
    recipe = load_recipe(None, {**PRUNE, **changes, **steps})
    torch.set_num_threads(1)
    reporter = Silent()
    report = run(recipe, folder=tmp_path / "run", reporter=reporter).report
    told = f"1 layers hold {zeros} zeros, probably of an earlier pruning, which training fills ({layer} first)"
    assert sum(told in line for line in reporter.warnings) == 1
    dense, sparse = (ViTForImageClassification.from_pretrained(tmp_path / "run" / name) for name in ("dense", "model"))
    assert dense.config.num_labels == sparse.config.num_labels == 10
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    assert all(int((dense.get_submodule(name).weight == 0).sum()) == 0 for name in masks.shapes)
    assert sum(masks.zeros.values()) == report["total"]["zeros"] == round(0.6 * report["total"]["weights"])
    assert Profile.load(tmp_path / "run" / "profile.json").model["name"] == str(tmp_path / "run" / "dense")
    assert (tmp_path / "run" / "README.md").read_text().count("# vit, 60.0% sparse") == 1
    verified = partial(verify.run, str(tmp_path / "run"), reporter=reporter)
    assert not verified(base=str(tmp_path / "run" / "dense")).defects
    assert not any("only shapes are compared" in line for line in reporter.warnings)
    assert not verified(base=str(tmp_path / "vit")).defects and "only shapes are compared" in reporter.warnings[-1]
    # the dense model of its reports, and the teacher of a recovery
    described = load(str(tmp_path / "run" / "dense")).description
    assert report["made"]["dense_fingerprint"] == described["fingerprint"]
    distilling = load_recipe(None, {"model.name": str(tmp_path / "run"), "train.distill": 0.5, "train.max_steps": 1})
    options = {"folder": tmp_path / "recovered", "reporter": Silent(), "plan_only": True}
    assert recover.run(distilling, **options).plan.method == "lora"
    (pruned,) = collect([tmp_path / "run"]).runs
    results = pruned.results | {"model": described}
    evaluated = replace(pruned, kind="eval", results=results, folder=tmp_path / "eval", label="eval")
    assert dense_of(pruned, Study(runs=(pruned, evaluated))) is evaluated
    file = tmp_path / "run" / "dense" / "model.safetensors"
    save_file(load_file(file) | {"classifier.bias": torch.ones(10)}, file, {"format": "pt"})
    with pytest.raises(UsageError, match="dense' has changed since .*run' pruned it: set teacher"):
        recover.run(distilling, **options)
    shutil.rmtree(tmp_path / "run" / "dense")
    with pytest.raises(UsageError, match="the dense model that got a new head in .*run' was not kept: set teacher"):
        recover.run(distilling, **options)
