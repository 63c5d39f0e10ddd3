"""idvl verify finds every way in which a pruned checkpoint is not what it claims, with its run folder or without."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from idvl.errors import RunError, UsageError
from idvl.recipe import load as load_recipe
from idvl.sparsity.masks import Masks
from idvl.workflows import prune, recover, verify
from tests.support import processes, tiny
from tests.support.reporter import Silent

LAYER = "vision_model.encoder.layers.1.mlp.fc2"
N = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A dense checkpoint, dense/, and the run that pruned it to 2:4, run/."""
    folder = tmp_path_factory.mktemp("verify")
    tiny.save("blip", folder / "dense")
    tiny.save_samples(folder / "pictures", tiny.samples(N), lambda _, sample: [{"text": sample.texts[0]}])
    settings = {
        "model.name": str(folder / "dense"),
        "data.dataset": str(folder / "pictures"),
        "data.batch_size": 4,
        "prune.calibration_samples": N,
        "prune.criterion": "wanda",
        "prune.structure": "2:4",
        "prune.sparsity": 0.5,
        "eval.after": False,
    }
    prune.run(load_recipe(None, settings), folder=folder / "run", reporter=Silent())
    return folder


@pytest.fixture
def spoilt(place, tmp_path) -> Callable[[Callable[[dict[str, torch.Tensor]], None]], Path]:
    """change -> a copy of the run whose stored tensors `change` has altered."""

    def copy(change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None) -> Path:
        run = shutil.copytree(place / "run", tmp_path / "run")
        file = run / "model" / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, {"format": "pt"})
        return run

    return copy


def defects(model: Path, **options) -> str:
    """All defects; the same text is an error where the model does not even open."""
    try:
        return "\n".join(verify.run(str(model), reporter=Silent(), **options).defects)
    except RunError as error:
        return str(error)


def rewrite(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_run_and_a_foreign_model_pass(place) -> None:
    run = place / "run"
    claims = {"sparsity": 0.5, "structure": "2:4", "base": str(place / "dense")}
    for model in (run, run / "model"):
        assert defects(model, **claims) == ""
    stranger = place / "stranger"
    shutil.copytree(run / "model", stranger)
    result = verify.run(str(stranger), reporter=Silent(), **claims)
    assert result.defects == []
    assert result.report["layers"][LAYER]["sparsity"] == 0.5
    reporter = Silent()
    dense = verify.run(str(place / "dense"), structure="2:4", reporter=reporter)
    assert dense.defects == []  # it claims nothing, and no layer holds zeros
    assert reporter.warnings == [
        f"no weight of {dense.report['total']['weights']:,} is zero: nothing in {dense.model} is pruned"
    ]
    assert defects(place / "dense", sparsity=0.5).startswith("0.00 % of ")


def test_a_zero_filled_in(spoilt) -> None:
    run = spoilt(lambda tensors: tensors[f"{LAYER}.weight"].view(-1)[:4].fill_(0.5))
    wrong = defects(run)
    assert f"2 masked weights of {LAYER} are not zero" in wrong
    assert "the weights differ from those that report.json verified" in wrong


def test_a_mask_bit_flipped(spoilt) -> None:
    run = spoilt()
    masks = Masks.load(run / "masks.safetensors")
    kept = masks.kept(LAYER)
    kept[0, 0] = ~kept[0, 0]
    masks.set(LAYER, kept)
    masks.save(run / "masks.safetensors")
    wrong = defects(run)
    assert f"the mask of {LAYER} does not keep 2 of every 4 inputs" in wrong
    assert f"{LAYER}: {masks.zeros[LAYER]} weights are masked, the report says" in wrong


def test_one_row_off_2_of_4_in_a_model_without_masks(spoilt) -> None:
    def fill(tensors: dict[str, torch.Tensor]) -> None:
        row = tensors[f"{LAYER}.weight"][3]
        row[row == 0] = 1e-3

    model = spoilt(fill) / "model"
    (model.parent / "run.json").unlink()  # a stranger's
    wrong = defects(model, structure="2:4")
    groups = load_file(model / "model.safetensors")[f"{LAYER}.weight"].numel() // 4
    inputs = load_file(model / "model.safetensors")[f"{LAYER}.weight"].shape[1]
    assert wrong == f"{LAYER}: {inputs // 4} of {groups:,} groups keep more than 2 of 4 inputs"


def test_a_broken_tie(place, spoilt) -> None:
    from idvl.models.loading import load

    tied = load(str(place / "dense"), device="cpu").model.get_expanded_tied_weights_keys(all_submodels=True)
    target, source = next(iter(tied.items()))

    def untie(tensors: dict[str, torch.Tensor]) -> None:
        weight = tensors[target if target in tensors else source]
        tensors[target], tensors[source] = weight.clone(), weight + 1

    assert f"{target} and {source} are one weight, and two in the saved model" in defects(spoilt(untie))


def test_nan_and_infinity(spoilt) -> None:
    other = LAYER.replace("fc2", "fc1")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.bias"][0] = float("nan")
        tensors[f"{other}.bias"][1] = -float("inf")

    wrong = defects(spoilt(spoil))
    assert f"{LAYER}.bias: 1 of " in wrong and f"{other}.bias: 1 of " in wrong


def test_a_shape_that_config_does_not_state(spoilt) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.weight"] = tensors[f"{LAYER}.weight"][:-1].clone()

    assert f"mismatched: {LAYER}.weight" in defects(spoilt(cut))


def test_a_missing_shard(spoilt) -> None:
    model = spoilt() / "model"
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    parts = {key: names[number % 2] for number, key in enumerate(tensors)}
    save_file({key: tensors[key] for key in tensors if parts[key] == names[0]}, model / names[0], {"format": "pt"})
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    wrong = defects(model)
    assert "does not open" in wrong and names[1] in wrong


def test_a_wrong_base(place, tmp_path) -> None:
    other, vit = tiny.save("blip", tmp_path / "other", seed=1), tiny.save("vit", tmp_path / "vit")
    assert defects(place / "run", base=str(other)) == f"the run pruned other weights than those of {other}"
    assert f"the model is a BlipForConditionalGeneration, {vit} a ViTForImageClassification" in defects(
        place / "run", base=str(vit)
    )


def test_another_dtype(spoilt) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{LAYER}.weight"] = tensors[f"{LAYER}.weight"].double()

    run = spoilt(widen)
    assert f" tensors are stored as float64, {LAYER}.weight first; config.json says float32" in defects(run)
    rewrite(run / "model" / "config.json", dtype="float64")
    assert "the weights are float64, those that report.json verified were float32" in defects(run)


def test_stale_masks(place, spoilt) -> None:
    run = spoilt()
    masks = Masks.load(run / "masks.safetensors")
    for name, shape in masks.shapes.items():
        masks.set(name, torch.tensor([True, False, False, True]).repeat(torch.Size(shape).numel() // 4))
    masks.save(run / "stale.safetensors")
    assert "are not zero" in defects(place / "run" / "model", masks=run / "stale.safetensors")


def test_masks_of_an_earlier_run_are_not_compared_with_the_report(place, tmp_path) -> None:
    masks = Masks.load(place / "run")
    earlier = Masks({LAYER: masks.shapes[LAYER]})  # of one layer, unstructured: some of the zeros of today
    keep = masks.kept(LAYER)
    keep[0] = True
    earlier.set(LAYER, keep)
    earlier.save(tmp_path / "masks.safetensors")
    reporter = Silent()
    result = verify.run(str(place / "run"), masks=tmp_path, reporter=reporter)
    assert result.defects == [] and "whose report.json is not compared with them" in reporter.notes[0]
    reporter = Silent()
    assert not verify.run(str(place / "run"), masks=place / "run" / "masks.safetensors", reporter=reporter).defects
    assert not reporter.notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda report: report["layers"][LAYER].update(sparsity=0.9), f"{LAYER}: the report says sparsity 0.9, "),
        (lambda report: report["layers"][LAYER].update(weights=9), f"{LAYER}: .* have a mask, the report says 9"),
        (lambda report: report["layers"].pop(LAYER), f"{LAYER} has a mask, the report lacks it"),
        (lambda report: report["total"].update(sparsity=0.9), "total: the report says sparsity 0.9, "),
        (lambda report: report["total"].update(model_weights=9), r"the model has [\d,]+ weights, the report says 9"),
        (
            lambda report: report["total"].update(model_sparsity=0.9),
            "total: the report says model_sparsity 0.9, and that",
        ),
        (
            lambda report: report["total"].update(prunable_sparsity=0.9),
            "total: the report says prunable_sparsity 0.9, ",
        ),
        (lambda report: report["total"].update(prunable_weights=9), "total: the report says prunable_weights 9, "),
        (lambda report: report["modalities"]["vision"].update(zeros=9), "vision: the report says sparsity 0.5, 9 of"),
        (lambda report: report["modalities"].pop("vision"), "the report lacks vision, of which it has"),
        (lambda report: report.pop("verified"), "report.json lacks verified"),
    ],
)
def test_an_edited_report(place, tmp_path, change, told) -> None:
    run = shutil.copytree(place / "run", tmp_path / "run")
    report = json.loads((run / "report.json").read_text())
    change(report)
    (run / "report.json").write_text(json.dumps(report))
    assert re.search(told, wrong := defects(run)) and "None" not in wrong


def test_a_pruned_model_that_is_pruned_further(place, tmp_path) -> None:
    settings = {
        **{"model.name": str(place / "run" / "model"), "data.dataset": str(place / "pictures"), "data.batch_size": 4},
        **{"prune.calibration_samples": N, "prune.criterion": "wanda", "eval.after": False},
    }
    half, less = Silent(), Silent()
    changes = {"prune.scope": "language", "prune.sparsity": 0.75}
    prune.run(load_recipe(None, settings | changes), folder=tmp_path / "run", reporter=half)
    prune.run(load_recipe(None, settings | {"prune.sparsity": 0.25}), folder=tmp_path / "less", reporter=less)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    total = report["total"]
    tensors = load_file(tmp_path / "run" / "model" / "model.safetensors")
    zeros = sum(int((tensor == 0).sum()) for name, tensor in tensors.items() if tensor.ndim == 2 and ".encoder" in name)
    more = zeros - total["zeros"]
    assert total["zeros"] == 0.75 * total["weights"] and more > 0
    assert total["prunable_zeros"] == total["model_zeros"] == zeros
    assert total["prunable_sparsity"] * total["prunable_weights"] == zeros
    assert report["before"]["zeros"] * 2 == total["prunable_weights"]
    told = f"layers outside the scope hold {more:,} zeros, probably of an earlier pruning"
    assert sum(told in warning for warning in half.warnings) == 1
    history = json.loads((tmp_path / "run" / "run.json").read_text())["signature"]["history"]
    assert [(step["prune.criterion"], step["prune.structure"]) for step in history] == [("wanda", "2:4")]
    assert "of all weights in scope, these included, and those that the masks lack stay zero" in less.warnings[0]
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"which with {more:,} more zeros are" in card
    assert f"| {zeros:,} | {zeros / total['prunable_weights']:.2%} |" in card
    verified = verify.run(str(tmp_path / "run"), reporter=Silent())
    assert not verified.defects and verified.report["total"]["model_zeros"] == zeros
    # a model whose earlier zeros were filled since
    outside = next(
        name for name in tensors if name not in report["layers"] and name.endswith("layers.0.mlp.fc1.weight")
    )
    tensors[outside] += 1
    save_file(tensors, tmp_path / "run" / "model" / "model.safetensors", {"format": "pt"})
    assert f"zeros, the report says {zeros:,}" in defects(tmp_path / "run")


def test_a_layer_without_a_mask(spoilt) -> None:
    run = spoilt()
    masks = Masks.load(run / "masks.safetensors")
    fewer = Masks({name: shape for name, shape in masks.shapes.items() if name != LAYER})
    for name in fewer.shapes:
        fewer.set(name, masks.kept(name))
    fewer.save(run / "masks.safetensors")
    assert f"{LAYER} has no mask, the report has it" in defects(run)


def test_nothing_to_verify_is_refused(place, spoilt) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        verify.run(str(place / "none"), reporter=Silent())
    with pytest.raises(UsageError, match=r"--sparsity is between 0 and 1, not 50"):
        verify.run(str(place / "run"), sparsity=50, reporter=Silent())
    with pytest.raises(UsageError, match="revision 'v1' is for a model of the Hub, not for .*: leave it out"):
        verify.run(str(place / "run"), revision="v1", reporter=Silent())
    with pytest.raises(UsageError, match="^.*none does not exist"):
        verify.run(str(place / "run"), base=str(place / "none"), reporter=Silent())
    with pytest.raises(UsageError, match="^--scope vision is for a model without masks, which are in .*: leave it out"):
        verify.run(str(place / "run"), scope="vision", reporter=Silent())
    with pytest.raises(UsageError, match="nope"):
        verify.run("nope", reporter=Silent())
    with pytest.raises(UsageError, match=r"^[^\n]*$"):
        verify.run("n" * 5_000, reporter=Silent())
    run = spoilt()
    whole = (run / "run.json").read_text()
    (run / "run.json").write_text(whole[:100])
    for model in (run, run / "model"):
        with pytest.raises(UsageError, match=r"run/run.json' cannot be read \(.*\): restore it, or remove it"):
            verify.run(str(model), reporter=Silent())
    (run / "run.json").write_text(whole)
    (run / "masks.safetensors").unlink()
    with pytest.raises(UsageError, match="there are no masks"):
        verify.run(str(run), reporter=Silent())


def test_the_command_ends_with_1_where_something_is_wrong(place) -> None:
    whole = processes.run("-m", "idvl", "verify", str(place / "run"), "--json")
    assert whole.returncode == 0
    assert json.loads(whole.stdout)["defects"] == []
    wrong = processes.run("-m", "idvl", "verify", str(place / "run"), "--sparsity", "0.6")
    assert wrong.returncode == 1
    assert "weights in scope are pruned, not 60.00 %" in wrong.stdout
    assert wrong.stderr.splitlines()[-1].startswith("idvl: ")
    missing = processes.run("-m", "idvl", "verify", str(place / "none"))
    assert missing.returncode == 2


def test_the_first_of_several_processes_tells_the_result(place) -> None:
    first, second = processes.team("-m", "idvl", "verify", str(place / "run"), "--sparsity", "0.6")
    assert "weights in scope are pruned, not 60.00 %" in first.stdout and (first.wait(), second.wait()) == (1, 0)
    assert second.stdout == "" and second.stderr == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "recipe.yaml",
            "the run folder '.*run' lacks recipe.yaml: restore it, or copy its model",
        ),
        (
            "run.json",
            "'.*run' lacks run.json, so it is no run: restore it, or name .*run/model', with --masks '",
        ),
    ],
)
def test_a_run_folder_that_lacks_a_file_is_told_as_that(tmp_path: Path, name: str, said: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(Path(__file__).parents[1] / "golden" / "pruned-vit", run)
    (run / name).unlink()
    with pytest.raises(UsageError, match=said):
        verify.run(str(run), reporter=Silent())
    with pytest.raises(UsageError, match=said):
        recover.run(load_recipe(None, {"model.name": str(run)}), folder=tmp_path / "again", reporter=Silent())
