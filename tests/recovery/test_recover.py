"""A recovered model: trained, with the zeros that it had, the same after a kill, or refused."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForConditionalGeneration

import idvl
from idvl.errors import UsageError
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.recipe import load as load_recipe
from idvl.recovery import job
from idvl.recovery.adapters import attach_lora, dense, take_back_weights
from idvl.recovery.start import find, masks_of
from idvl.reporting.collect import collect
from idvl.reporting.groups import groups_of
from idvl.runs import Run
from idvl.sparsity.masks import Masks
from idvl.workflows import prune, prune_recover, verify
from idvl.workflows.recover import run
from tests.support import processes, tiny
from tests.support.reporter import Silent

N = 24
PRUNE = {"prune.criterion": "wanda", "prune.calibration_samples": 8, "data.batch_size": 4, "eval.after": False}
STEPS = {"train.batch_size": 4, "train.max_steps": 6, "train.checkpoint_every": 2, "train.learning_rate": 1e-2}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a dense model, dense/, pictures/, and runs that pruned it: pruned/ and nm/."""
    folder = tmp_path_factory.mktemp("recover")
    tiny.save("blip", folder / "dense")
    tiny.save_samples(folder / "pictures", tiny.samples(N), lambda _, sample: [{"text": sample.texts[0]}])
    torch.set_num_threads(1)
    dense = {"model.name": str(folder / "dense"), "data.dataset": str(folder / "pictures")}
    for name, structure in (("pruned", "unstructured"), ("nm", "2:4")):
        recipe = load_recipe(None, dense | PRUNE | {"prune.structure": structure})
        prune.run(recipe, folder=folder / name, reporter=Silent())
    return folder


def recovered(place: Path, folder: Path, *, model: str = "pruned", resume=False, overwrite=False, **settings: Any):
    torch.set_num_threads(1)
    named = {key.replace("__", "."): value for key, value in settings.items()}
    ranks = {"recover.rank": 4} if named.get("recover.method", "lora") == "lora" else {}
    recipe = load_recipe(None, {"model.name": str(place / model), **STEPS, "eval.after": False, **ranks, **named})
    reporter = Silent()
    return run(recipe, folder=folder, reporter=reporter, resume=resume, overwrite=overwrite).report, reporter


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return BlipForConditionalGeneration.from_pretrained(folder / "model").state_dict()


WORDS = {"lora": "of adapters", "full": "that are not pruned are trained, ", "biases": "of biases and norms are"}


@pytest.mark.parametrize(
    ("method", "model", "settings"),
    [
        ("lora", "pruned", {"train__distill": 0.1, "recover__temperature": 2.0}),
        ("lora", "nm", {"recover__biases": True, "train__gradient_checkpointing": True, "train__accumulate": 2}),
        ("lora", "nm", {"train__distill": 0.1, "recover__compat": "ressa", "train__mixed_precision": "bf16"}),
        ("full", "nm", {"train__weight_decay": 0.1}),
        ("biases", "pruned", {}),
    ],
)
def test_every_zero_stays_and_the_rest_is_trained(place, tmp_path, method, model, settings):
    folder = tmp_path / "run"
    report, reporter = recovered(place, folder, model=model, recover__method=method, **settings)
    before, after = weights(place / model), weights(folder)
    masks = Masks.load(folder / "masks.safetensors")
    (line,) = (note for note in reporter.notes if note.startswith(f"method {method}: "))
    count = report["recovered"]["parameters"]
    assert line.startswith(f"method {method}: {count:,} parameters {WORDS[method]}")
    assert ("as many as" in line) == (method == "lora") and "of the model's" in line
    if method == "full":
        assert count == report["total"]["model_weights"] - sum(masks.zeros.values())
    assert (folder / "masks.safetensors").read_bytes() == (place / model / "masks.safetensors").read_bytes()
    for name in masks.shapes:
        weight, kept = after[f"{name}.weight"], masks.kept(name)
        assert torch.equal(weight == 0, ~kept), name
        assert torch.equal(weight, before[f"{name}.weight"]) == (method == "biases"), name
    masks.verify({name: after[f"{name}.weight"] for name in masks.shapes}, "2:4" if model == "nm" else "unstructured")
    small = "text_decoder.bert.encoder.layer.0.output.LayerNorm.weight"
    trains_small = method != "lora" or "recover__biases" in settings
    assert torch.equal(after[small], before[small]) != trains_small
    embedding = "text_decoder.bert.embeddings.word_embeddings.weight"
    assert torch.equal(after[embedding], before[embedding]) == (method != "full")
    start = json.loads((place / model / "report.json").read_text())
    assert (report["layers"], report["total"]) == (start["layers"], start["total"])
    assert report["recovered"]["method"] == method and report["made"]["steps"] == 6
    assert not (folder / "checkpoints").exists()
    card = (folder / "model" / "README.md").read_text()
    assert (
        "trained for 6 steps" in card
        and "the zeros stayed in\nplace" in card
        and ("distilled from dense" in card) == ("train__distill" in settings)
    )
    assert "dense with 50.00% of its weights" in card and str(place) not in card


def test_the_first_step_begins_with_the_pruned_model(place, tmp_path):
    """A learning rate of next to nothing leaves it as it was."""
    recovered(place, tmp_path / "run", train__learning_rate=1e-30, train__max_steps=1)
    before, after = weights(place / "pruned"), weights(tmp_path / "run")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_that_teaches_itself_learns_what_a_dense_one_teaches(place, tmp_path, monkeypatch):
    settings = {"train__distill": 1.0, "recover__temperature": 2.0}
    report, _ = recovered(place, tmp_path / "own", **settings)
    monkeypatch.setattr(job, "take_back_weights", lambda *_: False)
    other, _ = recovered(place, tmp_path / "other", **settings)
    assert (report["recovered"]["teacher"]["in_place"], other["recovered"]["teacher"]["in_place"]) == (True, False)
    own, others = weights(tmp_path / "own"), weights(tmp_path / "other")
    assert all(torch.equal(own[name], others[name]) for name in own)


def test_the_pass_of_the_teacher_is_the_dense_model_bit_by_bit(place):
    teacher, student = load(str(place / "dense"), device="cpu"), load(str(place / "pruned" / "model"), device="cpu")
    masks = Masks.load(place / "pruned" / "masks.safetensors")
    attach_lora(student.model, masks, rank=dict.fromkeys(masks.shapes, 4))
    assert take_back_weights(student.model, teacher.model, masks)
    task = student.family.training_task
    batch = task.inputs(student.processor, tiny.samples(4), 12, student.model.config)
    student.model.train()
    with dense(student.model) as model:
        logits = task.loss(model, batch, None).logits()
    assert torch.equal(logits, task.loss(teacher.model, batch, None).logits()) and not logits.requires_grad
    assert all(module.training for module in student.model.modules())
    # another bias, and the two differ in more than zeros
    teacher.model.vision_model.encoder.layers[0].mlp.fc1.bias.data += 1
    assert not take_back_weights(student.model, teacher.model, masks)


def command(place: Path, folder: Path, *more: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in STEPS.items()]
    return [
        "-m",
        "idvl",
        "recover",
        str(place / "pruned"),
        "--distill=0.1",
        f"--output={folder}",
        *settings,
        "--rank=4",
        "--no-eval",
        *more,
    ]


def test_a_killed_run_resumes_to_the_same_bits(place, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert processes.run(*command(place, whole)).returncode == 0
    process = processes.start(*command(place, broken, "--max-steps=6"))
    checkpoint = broken / "checkpoints" / "step-000000002"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr
    held = load_file(next((broken / "checkpoints").glob("step-*")) / "model.safetensors")
    assert held and all(name.endswith(("lora_a", "lora_b")) for name in held)
    refused = processes.run(*command(place, broken, "--resume", "--distill=0.2"))
    assert refused.returncode == 2 and "train.distill was 0.1, is 0.2" in refused.stderr
    resumed = processes.run(*command(place, broken, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert (broken / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()
    # what is finished is only read
    again = processes.run(*command(place, broken, "--resume"))
    assert again.returncode == 0 and "the model is recovered already" in again.stderr


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_two_processes_recover_what_one_does(place, tmp_path, method):
    """At the same batch of all processes: the same masks and report, and weights apart by the order of sums."""
    settings = {"train.distill": 0.5, "train.max_steps": 3, "train.learning_rate": 1e-3, "recover.method": method}
    recovered(place, tmp_path / "one", **settings, **{"train.batch_size": 8})
    flags = [f"--set={key}={value}" for key, value in settings.items()]
    ranks = ["--rank=4"] if method == "lora" else []
    arguments = ["recover", place / "pruned", "--batch-size=4", "--no-eval", f"--output={tmp_path / 'two'}"]
    pair = processes.team("-m", "idvl", *arguments, *flags, *ranks)
    assert [process.wait() for process in pair] == [0, 0], pair[0].stderr
    one, two, pruned = (weights(folder) for folder in (tmp_path / "one", tmp_path / "two", place / "pruned"))
    masks = Masks.load(tmp_path / "two" / "masks.safetensors")
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], rtol=0, atol=1e-5)
        if (layer := name.removesuffix(".weight")) in masks.shapes:
            assert torch.equal(weight == 0, ~masks.kept(layer)) and not torch.equal(weight, pruned[name])
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    assert reports[0]["layers"] == reports[1]["layers"] and reports[0]["recovered"] == reports[1]["recovered"]


def test_from_python(place, tmp_path):
    options = {"max_steps": 2, "batch_size": 4, "eval": False, "output": tmp_path / "run"}
    report = idvl.recover(place / "pruned", method="biases", **options)
    assert report["folder"] == str(tmp_path / "run") and report["recovered"]["method"] == "biases"
    assert idvl.load_masks(report["folder"]).hash() == idvl.load_masks(place / "pruned").hash()


def test_one_command_prunes_and_recovers(place, tmp_path):
    dense = {"model.name": str(place / "dense"), "data.dataset": str(place / "pictures")}
    wanted = dense | PRUNE | STEPS | {"recover.method": "lora", "recover.rank": 4, "train.distill": 0.1}
    recipe, folder, reporter = load_recipe(None, wanted), tmp_path / "both", Silent()
    with pytest.raises(UsageError, match="pruned' is a run, and --recover needs a folder for two: choose another"):
        prune_recover.run(recipe, folder=place / "pruned", reporter=reporter, overwrite=True)
    result = prune_recover.run(recipe, folder=folder, reporter=reporter)
    assert result.folder == folder / "recovered" and result.report["recovered"]["teacher"]["in_place"]
    pruned, recovered = (weights(folder / name) for name in ("pruned", "recovered"))
    zeros = {name: weight == 0 for name, weight in pruned.items()}
    assert all(torch.equal(recovered[name] == 0, zeros[name]) for name in zeros)
    alone = weights(place / "pruned")
    assert all(torch.equal(pruned[name], alone[name]) for name in alone)
    # as after a kill between the two
    shutil.rmtree(folder / "recovered")
    again = prune_recover.run(recipe, folder=folder, reporter=reporter, resume=True)
    assert "the model is pruned already" in str(vars(reporter))
    assert again.report["verified"] == result.report["verified"]
    with pytest.raises(UsageError, match="criterion platon prunes while training, .* or run idvl recover afterwards"):
        prune_recover.run(load_recipe(None, wanted | {"prune.criterion": "platon"}), folder=folder, reporter=reporter)


@pytest.mark.parametrize("name", ["instructblip-sparselora-24", "instructblip-vicuna-sparselora-24"])
def test_shipped_recipes_plan(place, tmp_path, name):
    """With the settings of the paper's released scripts."""
    data = {"data.dataset": str(place / "pictures"), "data.data_dir": None, "data.split": "all"}
    recipe = load_recipe(name, data | {"model.name": str(place / "dense"), "prune.calibration_samples": 8})
    recover, train = recipe.recover, recipe.train
    assert (recover.rank["vision"], recover.rank["language"], recover.rank["connector"], recover.alpha) == (4, 8, 2, 16)
    assert (train.learning_rate, train.weight_decay, train.epochs, train.distill) == (1e-4, 0, 1, 0.1)
    assert train.batch_size == (16 if "vicuna" in name else 32) and train.samples == 25_000
    fewer = recipe.model_copy(update={"train": train.model_copy(update={"batch_size": 4})})
    result = prune_recover.run(fewer, folder=tmp_path / "run", reporter=Silent(), plan_only=True)
    assert result.plan.report["total"]["asked"] == 0.5
    recovery = result.plan.to_json()["recovery"]
    assert recovery["method"] == "lora" and recovery["samples"] == N and recovery["trained"] > 0
    assert f"recovery: {result.plan.recovery.lines()[0]}" in result.plan.lines()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"recover.rank": 33}, "rank 33 of vision: .* use a rank of at most 32"),
        ({"recover.rank": "vision=2,connector=3"}, "rank 3 of connector: none of the layers trained is connector"),
        ({"recover.layers": "zzz"}, "no layer is named like 'zzz'"),
        ({"train.batch_size": 5000}, "use a batch_size of at most"),
        ({"train.mixed_precision": "fp16"}, "mixed_precision fp16 needs a GPU"),
        ({"train.distill": 0.1, "recover.teacher": "vit"}, "is a ViTForImageClassification, the pruned"),
        ({"recover.masks": "file.safetensors"}, "masks 'file.safetensors' and --recover"),
    ],
)
def test_what_the_recovery_refuses_is_refused_before_the_pruning(place, tmp_path, settings, said):
    if "vit" in settings.values():
        tiny.save("vit", tmp_path / "vit")
        settings = settings | {"recover.teacher": str(tmp_path / "vit")}
    dense = {"model.name": str(place / "dense"), "data.dataset": str(place / "pictures")}
    recipe = load_recipe(None, dense | PRUNE | STEPS | {"recover.method": "lora"} | settings)
    for plan_only in (True, False):
        with pytest.raises(UsageError, match=said):
            prune_recover.run(recipe, folder=tmp_path / "both", reporter=Silent(), plan_only=plan_only)
    assert not (tmp_path / "both").exists()


def test_reports_show_it_beside_the_pruned_model(place, tmp_path):
    for name, settings in (("lora", {}), ("distilled", {"train__distill": 0.1}), ("more", {"train__max_steps": 7})):
        recovered(place, tmp_path / name, train__epochs=1, **settings)
    study = collect([place / "pruned", *(tmp_path / name for name in ("lora", "distilled", "more"))])
    assert [run.kind for run in study.runs] == ["prune"] * 4
    assert sorted(str(group.method) for group in groups_of(study)) == [
        "Wanda",
        "Wanda, recovered by masked LoRA",
        "Wanda, recovered by masked LoRA with distillation",
        "Wanda, recovered by masked LoRA, max_steps 7",
    ]


def test_masks_of_others_come_from_zeros(place, tmp_path, caplog):
    shutil.copytree(place / "pruned" / "model", tmp_path / "theirs")
    dense = {"recover__masks": "zeros", "data__dataset": str(place / "pictures")}
    report, _ = recovered(tmp_path, tmp_path / "run", model="theirs", **dense)
    masks, ours = Masks.load(tmp_path / "run" / "masks.safetensors"), Masks.load(place / "pruned" / "masks.safetensors")
    assert masks.hash() == ours.hash() and report["total"]["zeros"] == sum(ours.zeros.values())
    assert not caplog.records
    loaded = load(str(place / "dense"), device="cpu")
    loaded.model.text_decoder.bert.encoder.layer[0].output.dense.weight.data[0, 0] = 0
    loaded.model.save_pretrained(tmp_path / "nearly")
    loaded.processor.save_pretrained(tmp_path / "nearly")
    recovered(tmp_path, tmp_path / "other", model="nearly", **dense)
    assert "1 layers have less than 1 % zeros, which may be there by accident" in caplog.text


def test_zeros_that_an_earlier_run_made_stay_too(place, tmp_path, caplog):
    """The model of a run, pruned again in one scope, and a run recovered with the masks of that scope."""
    shared = {"model.name": str(place / "pruned" / "model"), "data.dataset": str(place / "pictures")}
    prune.run(
        load_recipe(None, shared | PRUNE | {"prune.scope": "language"}), folder=tmp_path / "language", reporter=Silent()
    )
    before, both = weights(tmp_path / "language"), Masks.load(place / "pruned" / "masks.safetensors")
    vision = [name for name in both.shapes if name not in Masks.load(tmp_path / "language").shapes]
    named = {"model": str(tmp_path / "language")}, {"recover__masks": str(tmp_path / "language")}
    for number, settings in enumerate(named):
        caplog.clear()
        report, _ = recovered(place, tmp_path / str(number), recover__method="full", train__max_steps=1, **settings)
        after, masks = weights(tmp_path / str(number)), Masks.load(tmp_path / str(number))
        assert masks.shapes == both.shapes and report["total"]["zeros"] == sum(masks.zeros.values())
        for name in masks.shapes:
            weight = after[f"{name}.weight"]
            assert torch.equal(weight == 0, ~masks.kept(name)) and torch.equal(
                weight == 0, before[f"{name}.weight"] == 0
            )
        assert verify.run(str(tmp_path / str(number)), reporter=Silent()).defects == []
        said = (
            f"{len(vision)} layers hold {sum(both.zeros[name] for name in vision):,} zeros that the masks do not have"
        )
        assert caplog.text.count(said) == 1 and vision[0] in caplog.text


def test_more_zeros_than_a_layer_s_mask_stay_or_are_refused_for_their_structure(place, tmp_path):
    for name, structure in (("pruned", "unstructured"), ("nm", "2:4")):
        loaded = load(str(place / name / "model"), device="cpu")
        layers = find_layers(loaded.model, loaded.family)
        first, second = list(layers)[:2]
        layers[first].module.weight.data[:4] = 0
        layers[second].module.weight.data[0, 0] = 0  # an accident
        if structure == "2:4":
            with pytest.raises(
                UsageError, match=r"1 layers hold 64 zeros .* not 2:4 .*recover the copy with masks zer"
            ):
                masks_of(find(str(place / name)), None, layers, structure)
            continue
        stated, masks = Masks.load(place / name), masks_of(find(str(place / name)), None, layers, structure)
        assert [name for name in masks.shapes if masks.zeros[name] != stated.zeros[name]] == [first]
        assert torch.equal(masks.kept(first), layers[first].module.weight != 0)
        # few of them are of an earlier pruning where the run says that there was one
        again = shutil.copytree(place / name, tmp_path / name)
        report = json.loads((again / "report.json").read_text())
        (again / "report.json").write_text(json.dumps(report | {"before": {"layers": 2, "zeros": 9}}))
        kept = masks_of(find(str(again)), None, layers, structure).kept(second)
        assert torch.equal(kept, layers[second].module.weight != 0)


def test_a_training_prune_tells_of_zeros_that_it_fills_and_a_recovery_keeps_zero_biases(place, tmp_path):
    shared = {
        "model.name": str(place / "pruned" / "model"),
        "data.dataset": str(place / "pictures"),
        "eval.after": False,
    }
    training = {"prune.id_weight": "none", "prune.sparsity": 0.6, "prune.scope": "*.0.crossattention.*"}
    steps = {"train.batch_size": 8, "train.max_steps": 12, "prune.compat": "icml24", "prune.window": 2}
    reporter = Silent()
    trained = prune.run(load_recipe(None, shared | training | steps), folder=tmp_path / "icml24", reporter=reporter)
    earlier = Masks.load(place / "pruned").zeros
    outside = [zeros for name, zeros in earlier.items() if name not in trained.report["layers"]]
    said = f"{len(outside)} layers outside the scope hold {sum(outside):,} zeros"
    assert [
        said in line and "then idvl recover; scope all prunes these layers too" in line for line in reporter.warnings
    ].count(True) == 1
    assert trained.report["total"]["bias_zeros"] > 0
    report, _ = recovered(tmp_path, tmp_path / "run", model="icml24", recover__method="biases", train__max_steps=2)
    assert report["layers"] == trained.report["layers"] and report["total"] == trained.report["total"]
    before, after = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("icml24", "run"))
    biases = [f"{name}.bias" for name, row in report["layers"].items() if row["bias_zeros"]]
    assert all(torch.equal(before[name] == 0, after[name] == 0) for name in biases)
    assert any(not torch.equal(before[name], after[name]) for name in biases)


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("dense", {}, "is not the model of a run: set masks \\(--masks\\) to its masks, or to zeros"),
        ("dense", {"recover__masks": "zeros"}, "dense' has no zeros: there is nothing to keep; prune it first"),
        ("pictures", {}, "is not a model: it has no config.json"),
        ("pruned", {"recover__masks": "nm"}, "the masks do not fit .*masked weights of .* are not zero"),
        ("pruned", {"prune__structure": "2:4"}, "structure 2:4: .*pruned it unstructured; leave structure out"),
        ("pruned", {"recover__rank": 33}, "rank 33 of vision: .* has 32 inputs and .*; use a rank of at most 32"),
        ("pruned", {"recover__rank": "vision=4,vision=5"}, "one rank of each modality, not 'vision=4,vision=5'"),
        ("pruned", {"recover__method": "full", "recover__biases": True}, "biases and method full: it belongs to"),
        ("pruned", {"recover__temperature": 2}, "temperature without distill: nothing is distilled"),
        ("pruned", {"train__new_head": True}, "new_head and idvl recover: a pruned model keeps its head"),
        ("pruned", {"model__dtype": "bfloat16"}, "weights are trained in float32, not bfloat16"),
        ("pruned", {"train__distill": 0.1, "recover__teacher": "gone"}, "the teacher cannot be loaded .*: set teacher"),
        ("pruned", {"train__distill": 0.1, "recover__teacher": "vit"}, "is a ViTForImageClassification, the pruned"),
        ("pruned", {"train__distill": 0.1, "recover__teacher": "words"}, "has another vocabulary"),
        ("pruned", {"train__distill": 0.1, "recover__teacher": "means"}, "other pixels .*\\(by its image_mean"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_anything_is_written(place, tmp_path, model, settings, said):
    tiny.save("vit", tmp_path / "vit")
    for name in ("masks", "teacher"):
        value = settings.get(f"recover__{name}")
        if value and value != "zeros":
            folder = tmp_path if value in ("vit", "words", "gone", "means") else place
            settings = settings | {f"recover__{name}": str(folder / value)}
    if "words" in str(settings):
        other = load(str(place / "dense"), device="cpu")
        other.model.save_pretrained(tmp_path / "words")
        other.processor.tokenizer.add_tokens(["new"])
        other.processor.save_pretrained(tmp_path / "words")
    if "means" in str(settings):
        other = load(str(place / "dense"), device="cpu")
        other.model.save_pretrained(tmp_path / "means")
        other.processor.image_processor.image_mean = [0.0] * 3
        other.processor.save_pretrained(tmp_path / "means")
    with pytest.raises(UsageError, match=said):
        recovered(place, tmp_path / "run", model=model, data__dataset=str(place / "pictures"), **settings)
    assert not (tmp_path / "run").exists()


def test_a_dense_model_that_changed_teaches_nobody(place, tmp_path):
    shutil.copytree(place / "pruned", tmp_path / "pruned")
    recipe = (tmp_path / "pruned" / "recipe.yaml").read_text()
    tiny.save("blip", tmp_path / "dense", seed=1)
    (tmp_path / "pruned" / "recipe.yaml").write_text(recipe.replace(str(place / "dense"), str(tmp_path / "dense")))
    with pytest.raises(UsageError, match="dense' has changed since .*pruned' pruned it: set teacher \\(--teacher\\)"):
        recovered(tmp_path, tmp_path / "run", train__distill=0.1)


def test_a_model_that_has_changed_since_it_was_pruned_is_told(place, tmp_path, caplog):
    recovered(place, tmp_path / "unchanged", train__max_steps=1, recover__method="biases")
    assert "has changed since it was pruned" not in caplog.text
    shutil.copytree(place / "pruned", tmp_path / "pruned")
    model = BlipForConditionalGeneration.from_pretrained(tmp_path / "pruned" / "model")
    model.vision_model.encoder.layers[0].mlp.fc1.bias.data += 0.5
    model.save_pretrained(tmp_path / "pruned" / "model")
    recovered(tmp_path, tmp_path / "run", train__max_steps=1, recover__method="biases")
    assert "pruned/model has changed since it was pruned: its weights are not those that report.json" in caplog.text


def test_a_model_that_holds_nan_is_told_before_it_is_trained(place, tmp_path):
    shutil.copytree(place / "pruned", tmp_path / "pruned")
    file = tmp_path / "pruned" / "model" / "model.safetensors"
    tensors = load_file(file)
    name = "vision_model.encoder.layers.0.mlp.fc1.bias"
    tensors[name][0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(UsageError, match=rf"pruned/model' cannot be trained: {name}: 1 of .* NaN"):
        recovered(tmp_path, tmp_path / "run", recover__method="biases")
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_not_finished_is_no_start(place, tmp_path):
    shutil.copytree(place / "pruned", tmp_path / "pruned")
    (tmp_path / "pruned" / "report.json").unlink()
    with pytest.raises(UsageError, match="has not finished: continue it with --resume first"):
        recovered(tmp_path, tmp_path / "run")
    shutil.rmtree(tmp_path / "pruned" / "model")
    with pytest.raises(UsageError, match="has not finished: continue it with --resume first"):
        find(str(tmp_path / "pruned"))
    record = tmp_path / "pruned" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"signature": {"task": "captioning"}}))
    with pytest.raises(UsageError, match="pruned' holds no pruned model$"):
        find(str(tmp_path / "pruned"))


def test_the_dense_model_of_a_recovered_one_is_that_of_its_pruning(place, tmp_path):
    once = {"train__max_steps": 1, "recover__method": "biases"}
    recovered(place, tmp_path / "first", **once)
    report, _ = recovered(tmp_path, tmp_path / "again", model="first", train__distill=1.0, **once)
    assert report["recovered"]["teacher"]["name"] == str(place / "dense")
    start = find(str(tmp_path / "again"))
    assert start.pruned.run == place / "pruned" and start.origin == str(place / "dense")
    for file, absolute, relative in (
        ("recipe.yaml", tmp_path / "first" / "model", "first/model"),
        ("run.json", Path.cwd(), str(tmp_path)),
    ):
        text = (tmp_path / "again" / file).read_text()
        assert str(absolute) in text
        (tmp_path / "again" / file).write_text(text.replace(str(absolute), relative))
    for earlier in (tmp_path / "first", place / "pruned"):  # which tell what the model is
        with pytest.raises(UsageError, match=f"--overwrite of '{earlier}' would remove '{earlier}', which this run"):
            recovered(tmp_path, earlier, model="again", overwrite=True, **once)
        assert (earlier / "report.json").exists()
    recipe = (tmp_path / "first" / "recipe.yaml").read_text()
    gone = recipe.replace(str(place / "pruned" / "model"), str(tmp_path / "again" / "model"))
    assert gone != recipe
    (tmp_path / "first" / "recipe.yaml").write_text(gone)
    with pytest.raises(UsageError, match="the dense model of .*first/model' is not known: set teacher"):
        recovered(tmp_path, tmp_path / "third", model="first", train__distill=1.0, **once)


def test_a_run_of_the_dense_model_is_not_overwritten(place, tmp_path):
    dense, settings = tmp_path / "dense", {"train__distill": 1.0, "data__dataset": str(place / "pictures")}
    with Run.open(dense, recipe={}, signature={}) as opened:
        shutil.copytree(place / "dense", opened.path("model"))
    shutil.copytree(place / "pruned", tmp_path / "pruned")
    recipe = (tmp_path / "pruned" / "recipe.yaml").read_text()
    (tmp_path / "pruned" / "recipe.yaml").write_text(recipe.replace(str(place / "dense"), str(dense / "model")))
    with pytest.raises(UsageError, match="--overwrite of .*dense' would remove .*dense', which this run reads"):
        recovered(tmp_path, dense, overwrite=True, **settings)
    assert (dense / "model" / "config.json").exists()
