"""Pruning from calibration samples: exact, equal to a float64 reference, to a resumed run and to two processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from idvl.data.samples import select
from idvl.data.splits import TRAINING
from idvl.distributed import Team
from idvl.errors import RunError, UsageError
from idvl.models.inputs import encode
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.models.trace import MadeBytes
from idvl.profile import Estimate, LayerProfile, Profile
from idvl.pruning import calibrate
from idvl.pruning.calibration import Calibration, gather
from idvl.pruning.calibration_plan import make as make_plan
from idvl.pruning.evaluation import prepare_evaluation
from idvl.pruning.settings import resolve
from idvl.recipe import load as load_recipe
from idvl.sparsity.masks import Masks
from idvl.workflows.prune import run
from tests.sparsity.test_obs import naive
from tests.support import processes, tiny
from tests.support.reporter import Silent

N, BATCH = 22, 4
COMMON = {"data.batch_size": BATCH, "prune.calibration_samples": N, "prune.sparsity": 0.5}
WANDA, SPARSEGPT = {"prune.criterion": "wanda"}, {"prune.criterion": "sparsegpt"}
# scores nearer than this to the threshold may fall on either side of it
GAP = 1e-5


def checkpoint(folder: Path, kind: str = "blip", save: Callable[[str, Path], Any] = tiny.save) -> Path:
    """A folder with the checkpoint of a kind, model/, and pictures/ with captions and labels."""
    save(kind, folder / "model")
    pictures = folder / "pictures"
    pictures.mkdir()
    lines, labels = [], 2 if kind.endswith("nlvr2") else 10
    for number, sample in enumerate(tiny.samples(N)):
        sample.source.save(pictures / f"{number}.png")
        sample.second.save(pictures / f"{number}-second.png")
        names = {"file_name": f"{number}.png", "second": f"{number}-second.png"}
        lines.append(json.dumps({**names, "text": sample.texts[0], "label": number % labels}))
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("calibrate"))


def recipe(place: Path, **settings: Any):
    named = {"model.name": str(place / "model"), "data.dataset": str(place / "pictures"), "eval.after": False}
    return load_recipe(None, named | COMMON | settings)


def pruned(place: Path, folder: Path, *, resume: bool = False, **settings: Any):
    torch.set_num_threads(1)
    reporter = Silent()
    result = run(recipe(place, **settings), folder=folder, reporter=reporter, resume=resume)
    return result.report, reporter


def weights(folder: Path) -> dict[str, Tensor]:
    loaded = load(str(folder), device="cpu")
    return {name: layer.module.weight.detach() for name, layer in find_layers(loaded.model, loaded.family).items()}


def inputs_of(loaded, samples, names, *, text_alone: bool = False) -> dict[str, Tensor]:
    """What enters layers, real tokens alone, in float64, from whole forward passes.

    `text_alone` leaves out the image's tokens of a decoder that reads them among those of its text.
    """
    tokens: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in encode(loaded, samples, batch_size=BATCH):

        def keep(module, args, *, name, batch=batch):
            x = args[0].reshape(len(next(iter(batch.values()))), -1, args[0].shape[-1])
            real = loaded.family.token_mask(name, x.shape[1], batch)
            if text_alone and "language_model" in name:
                real = real & (batch["input_ids"] != loaded.model.config.image_token_id)
            tokens[name].append((x.flatten(0, 1) if real is None else x[real]).double())

        handles = [
            loaded.model.get_submodule(name).register_forward_pre_hook(
                lambda m, a, name=name, keep=keep: keep(m, a, name=name)
            )
            for name in names
        ]
        with torch.no_grad():
            loaded.family.call(loaded.model, batch)
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in tokens.items()}


def blocks_in_order(report: dict[str, Any], folder: Path) -> list[list[str]]:
    """The layers of each block, in the order in which the run pruned them."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    block_of = {name: layer["block"] or name for name, layer in report["layers"].items()}
    return [[name for name, block in block_of.items() if block == line["block"]] for line in lines]


def check_row_mask(kept: Tensor, scores: Tensor) -> None:
    """The mask of a reference in float64, where a row's score is not too near its threshold."""
    for row, (mask, score) in enumerate(zip(kept, scores, strict=True)):
        zeros = int((~mask).sum())
        if 0 < zeros < len(mask):
            threshold = score.sort().values[zeros - 1 : zeros + 1].mean()
            clear = (score - threshold).abs() > GAP * threshold
            assert torch.equal(mask[clear], (score > threshold)[clear]), row


@pytest.mark.parametrize("calibration", ["sequential", "dense"])
def test_wanda_equals_a_reference_in_float64(place: Path, tmp_path: Path, calibration: str) -> None:
    """Statements 1, 6 and 15: each block is measured behind pruned ones, or all in the dense model."""
    report, _ = pruned(place, tmp_path / "run", **WANDA, **{"prune.calibration": calibration})
    check_wanda(place, tmp_path / "run", report, sequential=calibration == "sequential")


def check_wanda(
    place: Path,
    folder: Path,
    report: dict[str, Any],
    *,
    sequential: bool = True,
    text_alone: bool = False,
    **columns: str,
) -> None:
    """The masks of a run are those of a reference in float64, whose inputs are from whole forward passes."""
    masks, loaded = Masks.load(folder / "masks.safetensors"), load(str(place / "model"), device="cpu")
    samples = samples_of(place, **columns)
    assert sum(masks.zeros.values()) == round(masks.total / 2) == report["total"]["zeros"]
    assert sum(map(len, blocks_in_order(report, folder))) == len(masks.shapes)
    for names in blocks_in_order(report, folder):
        inputs = inputs_of(loaded, samples, names, text_alone=text_alone)
        for name in names:
            module = loaded.model.get_submodule(name)
            weight, kept = module.weight.detach(), masks.kept(name)
            if not isinstance(module, nn.Linear):
                weight, kept = weight.T, kept.T
            check_row_mask(kept, weight.double().abs() * inputs[name].square().mean(0).sqrt())
            counts = (~kept).sum(1)
            assert counts.sum() == weight.numel() // 2 and counts.max() - counts.min() <= 1
            assert sum(report["made"]["calibration"]["tokens"][name].values()) == len(inputs[name])
        if sequential:
            for name in names:
                loaded.model.get_submodule(name).weight.data.mul_(masks.kept(name))
    saved, dense = weights(folder / "model"), weights(place / "model")
    assert all(torch.equal(saved[name], dense[name] * masks.kept(name)) for name in masks.shapes)
    assert all(torch.equal(saved[name], dense[name]) for name in dense if name not in masks.shapes)


BUILT_IN = {"model.name": "builtin/blip", "data.dataset": "shapes", "eval.after": False, "data.seed": 3}
# one layer, which the dense model feeds
QUERY = "text_decoder.bert.encoder.layer.1.attention.self.query"


@pytest.mark.parametrize(
    "settings",
    [
        {**SPARSEGPT, "prune.structure": "2:4"},
        {"prune.criterion": "multiflow", "prune.repair": "obs"},
        pytest.param(SPARSEGPT, marks=pytest.mark.slow),
        pytest.param({"prune.criterion": "magnitude", "prune.calibration": "sequential"}, marks=pytest.mark.slow),
    ],
)
def test_a_layer_of_a_built_in_model_equals_a_reference_in_float64(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Masks wherever the gap to the threshold exceeds 1e-5, and weights but for the dtype in which they are saved."""
    from idvl.session import choose_samples

    made = load_recipe(None, BUILT_IN | COMMON | {"prune.scope": QUERY} | settings)
    run(made, folder=tmp_path / "run", reporter=Silent())
    samples = choose_samples(made, Team(), split=TRAINING, n=N, force=True, distinct=False).samples
    loaded, kept = load("builtin/blip", device="cpu"), Masks.load(tmp_path / "run" / "masks.safetensors").kept(QUERY)
    x, dense = inputs_of(loaded, samples, [QUERY])[QUERY], loaded.model.get_submodule(QUERY).weight.detach().double()
    if settings["prune.criterion"] == "sparsegpt":
        group = 4 * ("prune.structure" in settings)
        expected_kept, expected = naive(dense, x.T @ x, None, dense.numel() // 2, group=group)
        # no score of this layer is near its threshold
        assert torch.equal(kept, expected_kept)
    else:
        flow = dense.abs() * x.square().mean(0).sqrt()
        flows = dense.abs() * flow.mean(1, keepdim=True) * flow.mean(0, keepdim=True)
        scores = flows if settings["prune.criterion"] == "multiflow" else dense.abs()
        check_row_mask(kept.flatten().unsqueeze(0), scores.flatten().unsqueeze(0))
        expected = naive(dense, x.T @ x, kept)[1] if "prune.repair" in settings else dense * kept
    saved = load(str(tmp_path / "run" / "model"), device="cpu")
    stored = getattr(torch, saved.description["stored_dtype"])
    torch.testing.assert_close(saved.model.get_submodule(QUERY).weight.detach().to(stored), expected.to(stored))


def samples_of(place: Path, **columns: str):
    how = {"split": TRAINING, "n": N, "seed": 0, "force": True, "distinct": False, **columns}
    return select(str(place / "pictures"), **how).samples


def check_family(kind: str, folder: Path) -> None:
    place = checkpoint(folder, kind)
    columns = {"second_image_column": "second"} if kind.endswith("nlvr2") else {}
    data = {f"data.{name}": value for name, value in columns.items()}
    report, _ = pruned(place, folder / "wanda", **WANDA, **data)
    check_wanda(place, folder / "wanda", report, **columns)
    report, _ = pruned(place, folder / "sparsegpt", **SPARSEGPT, **data)
    assert report["total"]["zeros"] == round(report["total"]["weights"] / 2)


# encoder and decoder, one decoder for images and text, Q-Former, blocks that run twice, weights of (in, out)
@pytest.mark.parametrize("kind", ["t5", "llava", "blip2", "vilt-nlvr2", "gpt2"])
def test_families(kind: str, tmp_path: Path) -> None:
    check_family(kind, tmp_path)


def test_a_class_of_tokens_counts_where_a_layer_reads_both(tmp_path: Path) -> None:
    """The others read tokens of one class alone, which count."""
    place, tokens = checkpoint(tmp_path, "llava"), {}
    for chosen in ("all", "image", "text"):
        report, reporter = pruned(place, tmp_path / chosen, **WANDA, **{"prune.tokens_from": chosen})
        tokens[chosen] = report["made"]["calibration"]["tokens"]
    check_wanda(place, tmp_path / "text", report, text_alone=True)
    # the connector reads the state before the last block of the tower
    assert "left out: 6 layers that the model does not use" in "".join(reporter.notes)
    assert report["not_covered"]["unreached layers"]["weights"] == 4 * 32 * 32 + 2 * 32 * 64
    assert not any("vision_tower.encoder.layers.1." in name for name in report["layers"])
    assert {name: {**tokens["image"][name], **tokens["text"][name]} for name in tokens["all"]} == tokens["all"]
    for name, counts in tokens["all"].items():
        if "language_model" in name:
            assert counts["image"] == N * 16 and counts["text"] > N
            assert (tokens["image"][name].keys(), tokens["text"][name].keys()) == ({"image"}, {"text"})
        else:
            assert counts.keys() == tokens["text"][name].keys() == {"image"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {**WANDA, "prune.scope": "vision"},
            "tokens_from text: no layer in scope of .* reads images and texts together",
        ),
        (
            {"prune.criterion": "magnitude", "prune.calibration": "dense"},
            "tokens_from text and criterion magnitude: it reads no tokens",
        ),
        (
            {"prune.criterion": "magnitude", "prune.calibration_samples": None},
            "tokens_from is for pruning from calibration samples",
        ),
    ],
)
def test_a_class_of_tokens_without_a_meaning_is_refused(place: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        job_of(place, **settings, **{"prune.tokens_from": "text"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(tiny.KINDS) - {"blip", "t5", "llava", "blip2", "vilt-nlvr2", "gpt2"}))
def test_other_families(kind: str, tmp_path: Path) -> None:
    check_family(kind, tmp_path)


def test_n_of_m_of_inputs_that_are_stored_as_rows_is_refused(tmp_path: Path) -> None:
    place = checkpoint(tmp_path, "gpt2")
    for scope in ("all", "*.attn.c_proj"):  # one that is not square, one that is
        with pytest.raises(UsageError, match=r"2:4 groups inputs, which transformer.h.0.attn.c_\w+ stores as rows"):
            pruned(place, tmp_path / "run", **WANDA, **{"prune.structure": "2:4", "prune.scope": scope})


def test_sequential_and_dense_agree_on_the_first_block_alone(place: Path, tmp_path: Path) -> None:
    reports = {c: pruned(place, tmp_path / c, **WANDA, **{"prune.calibration": c})[0] for c in ("sequential", "dense")}
    first, *others = blocks_in_order(reports["dense"], tmp_path / "dense")
    one, two = (Masks.load(tmp_path / c / "masks.safetensors").hashes() for c in reports)
    assert all(one[name] == two[name] for name in first)
    assert any(one[name] != two[name] for names in others for name in names)


@pytest.mark.parametrize(
    "settings",
    [
        SPARSEGPT,
        {**SPARSEGPT, "prune.structure": "2:4"},
        {**WANDA, "prune.structure": "4:8", "prune.repair": "obs"},
        {**WANDA, "prune.compare_within": "layer", "prune.sparsity": 0.83, "prune.scope": "vision"},
        {"prune.criterion": "magnitude", "prune.calibration": "sequential", "prune.repair": "obs"},
        {**SPARSEGPT, "model.dtype": "bfloat16"},
        {**WANDA, "prune.repair": "reconstruct", "prune.repair_epochs": 2, "prune.calibration": "dense"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_every_kind_of_run_is_exact_and_verified(place: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    report, reporter = pruned(place, tmp_path / "run", **settings)
    total, masks = report["total"], Masks.load(tmp_path / "run" / "masks.safetensors")
    assert total["zeros"] == round(total["asked"] * total["weights"]) == sum(masks.zeros.values())
    assert not (tmp_path / "run" / "blocks").exists() and not reporter.warnings
    saved, dense = weights(tmp_path / "run" / "model"), weights(place / "model")
    masks.verify({name: saved[name] for name in masks.shapes}, settings.get("prune.structure", "unstructured"))
    for name, layer in report["layers"].items():
        assert layer["zeros"] == masks.zeros[name] and layer["sparsity"] == pytest.approx(layer["asked"])
    repaired = "sparsegpt" in settings.values() or settings.get("prune.repair") in ("obs", "reconstruct")
    assert repaired != all(torch.equal(saved[name], dense[name] * masks.kept(name)) for name in masks.shapes)
    others = set(dense) - set(masks.shapes)
    assert all(torch.equal(saved[name], dense[name]) for name in others)


def test_nothing_outside_of_the_layers_changes(place: Path, tmp_path: Path) -> None:
    """Statement 13."""
    pruned(place, tmp_path / "run", **SPARSEGPT)
    saved, dense = (
        load(str(folder), device="cpu").model.state_dict() for folder in (tmp_path / "run" / "model", place / "model")
    )
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    pruned_weights = {f"{name}.weight" for name in masks.shapes}
    assert all(torch.equal(saved[name], dense[name]) for name in dense if name not in pruned_weights)


def job_of(place: Path, **settings: Any) -> Calibration:
    made = resolve(recipe(place, **settings))
    return gather(made, torch.device("cpu"), Team(), Silent(), store=place / "images")


def test_layers_that_read_one_tensor_share_its_sums(place: Path) -> None:
    """Statements 9 and 10: the plan counts their bytes once."""
    job = job_of(place, **SPARSEGPT)
    groups = [names for names in job.groups if len(names) > 1]
    block = "text_decoder.bert.encoder.layer"
    assert [f"{block}.0.attention.self.{part}" for part in ("query", "key", "value")] in groups
    cross = [f"{block}.{n}.crossattention.self.{part}" for n in (0, 1) for part in ("key", "value")]
    assert cross in groups
    assert {job.kind(name) for name in cross} == {"image"}
    assert job.kind(f"{block}.0.crossattention.self.query") == "text"
    assert job.tokens[cross[0]] == N * 17 and job.tokens[f"{block}.0.crossattention.self.query"] < N * 12
    # the ten layers of a decoder block read six inputs of width 32 and one of 64
    assert make_plan(job).statistics == 6 * (32 * 32 * 8 + 32 * 8) + (64 * 64 * 8 + 64 * 8)


def test_one_statistic_serves_the_cross_attention_of_all_blocks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from idvl.pruning.inputs import InputSums

    made, join = [], InputSums._join

    def joined(self, layer, seen, tensor):
        before = len(self._inputs)
        join(self, layer, seen, tensor)
        if len(self._inputs) > before:
            made.append(layer)

    monkeypatch.setattr(InputSums, "_join", joined)
    job = job_of(place, **WANDA)
    plan = make_plan(job)
    made.clear()
    calibrate.calibrate(job, plan, place / "unused", None, Silent())
    assert [name for name in made if ".crossattention.self.key" in name] == [
        "text_decoder.bert.encoder.layer.0.crossattention.self.key"
    ]
    assert not [name for name in made if name.endswith(".self.value")]


@pytest.mark.parametrize(
    "settings",
    [
        WANDA,
        SPARSEGPT,
        pytest.param({**WANDA, "prune.calibration": "dense"}, marks=pytest.mark.slow),
        pytest.param({**SPARSEGPT, "prune.repair": "reconstruct", "prune.repair_epochs": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_resumed_run_ends_with_the_same_bytes(
    place: Path, tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statement 37: killed after each block in turn."""
    report, _ = pruned(place, tmp_path / "whole", **settings)
    blocks, save = len(blocks_in_order(report, tmp_path / "whole")), calibrate.FinishedBlocks.save

    class Killed(BaseException):
        pass

    for last in (0, blocks // 2, blocks - 1):
        folder = tmp_path / f"broken-{last}"

        def saved(self, number, layers, dense, cost, *, last=last):
            # as if each block had taken an hour
            save(self, number, layers, dense, {"seconds": 3600.0 + cost["seconds"], "peak_memory": cost["peak_memory"]})
            if number == last:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(calibrate.FinishedBlocks, "save", saved)
            pruned(place, folder, **settings)
        assert len(list((folder / "blocks").iterdir())) == last + 1
        report, _ = pruned(place, folder, resume=True, **settings)
        assert 0 < report["made"]["seconds"] - 3600 * (last + 1) < 60 and report["made"]["peak_memory"] > 2**20
        for name in ("masks.safetensors", "model/model.safetensors"):
            assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_reconstruction_brings_every_block_nearer_to_the_dense_one(place: Path, tmp_path: Path) -> None:
    """Statement 36, behind blocks that are pruned and trained already."""
    settings = {**WANDA, "prune.repair": "reconstruct", "prune.repair_epochs": 4}
    pruned(place, tmp_path / "run", **settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    blocks = [line for line in lines if "error_pruned" in line]
    assert len(blocks) == len({line["block"] for line in lines if "zeros" in line})
    assert all(0 < line["error_repaired"] <= line["error_pruned"] for line in blocks)
    assert sum(line["error_repaired"] for line in blocks) < 0.8 * sum(line["error_pruned"] for line in blocks)


def test_reconstruction_is_refused_in_several_processes(place: Path) -> None:
    settings = {**WANDA, "prune.repair": "reconstruct"}
    selection = select(dataset=str(place / "pictures"), n=N, split=TRAINING, force=True)
    loaded = load(str(place / "model"), device="cpu")
    options = (loaded, selection, Mock(size=2), Silent())
    with pytest.raises(UsageError, match="repair reconstruct trains in one process, not in 2"):
        Calibration(resolve(recipe(place, **settings)), *options)


def test_evaluation_on_the_split_of_calibration_is_told(place: Path, tmp_path: Path) -> None:
    for split, evaluated, told in (
        (
            None,
            None,
            "the split is all, and it was used for calibration: add folders train/ and test/, or name another split",
        ),
        ("all", None, "the split is all, and it was used for calibration: leave --split out, or name another split"),
        (None, "all", "the run uses samples of this split, all, for calibration: these scores are not a test"),
    ):
        settings = {"eval.after": True, "data.split": split, "eval.split": evaluated}
        reporter = Silent()
        run(recipe(place, **WANDA, **settings), folder=tmp_path / "run", reporter=reporter, plan_only=True)
        assert [told in text for text in reporter.warnings] == [True], reporter.warnings


@pytest.mark.parametrize(
    ("folders", "used", "evaluated"), [("train holdout", "train", "all"), ("photos test", "all", "test")]
)
def test_evaluation_on_a_split_that_overlaps_with_that_of_calibration_is_told(
    place: Path, tmp_path: Path, folders: str, used: str, evaluated: str
) -> None:
    for name in folders.split():
        shutil.copytree(place / "pictures", tmp_path / name)
    settings = {**WANDA, "eval.after": True, "data.dataset": str(tmp_path), "prune.calibration_samples": 4}
    job, reporter, store = job_of(place, **settings), Silent(), tmp_path / "images"
    work, reason = prepare_evaluation(job, reporter, store=store)
    assert work is None and f"the pruned model is not evaluated: {reason}" in reporter.warnings
    assert reason.startswith(f"the split {evaluated} overlaps with {used}, which was used for calibration: add folders")
    job = job.with_recipe(resolve(recipe(place, **settings, **{"eval.split": evaluated})))
    work, reason = prepare_evaluation(job, reporter, store=store)
    assert reason is None and work.selection.description["learnt"] == "calibration"
    assert reporter.warnings[-1].startswith(
        f"the run uses samples of {used}, which overlaps with {evaluated}, for calibration: these scores are not a test"
    )


def test_a_damaged_block_and_other_settings_are_not_resumed(place: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_):
        raise RunError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(RunError, match="full"):
        patch.setattr(calibrate.FinishedBlocks, "save", lambda self, number, *rest: full() if number else None)
        pruned(place, tmp_path / "run", **WANDA)
    (tmp_path / "run" / "blocks").mkdir(exist_ok=True)
    (tmp_path / "run" / "blocks" / "block-0000.safetensors").write_bytes(b"12345678")
    with pytest.raises(RunError, match="block-0000.safetensors' is damaged: delete it, and --resume prunes its block"):
        pruned(place, tmp_path / "run", resume=True, **WANDA)
    with pytest.raises(UsageError, match='prune.criterion was "wanda", is "sparsegpt"'):
        pruned(place, tmp_path / "run", resume=True, **SPARSEGPT)
    for setting in ("chat_template", "clean_texts"):
        with pytest.raises(UsageError, match=f"{setting} was true, is false"):
            pruned(place, tmp_path / "run", resume=True, **WANDA, **{f"model.{setting}": False})


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_two_processes_prune_as_one(place: Path, tmp_path: Path, criterion: str) -> None:
    """Statement 22: six batches, the last one smaller, three for each."""
    words = ["-m", "idvl", "prune", place / "model", "--dataset", place / "pictures", "--criterion", criterion]
    words += ["--sparsity", 0.5, "--calibration-samples", N, "--no-eval", "--set", f"data.batch_size={BATCH}"]
    one = processes.run(*words, "--output", tmp_path / "one", "--device", "cpu")
    assert one.returncode == 0, one.stderr
    for process in processes.team(*words, "--output", tmp_path / "two"):
        assert process.poll() == 0, process.stderr
    one, two = (Masks.load(tmp_path / name / "masks.safetensors") for name in ("one", "two"))
    assert one.hash() == two.hash()
    one, two = (weights(tmp_path / name / "model") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-3, atol=1e-5)


def test_a_weight_of_two_modules_is_pruned_once_by_what_enters_both(place: Path, tmp_path: Path) -> None:
    """Statement 12."""
    job = job_of(place, **WANDA)
    first, second = (f"text_decoder.bert.encoder.layer.{n}.intermediate.dense" for n in (0, 1))
    job.loaded.model.get_submodule(second).weight = job.loaded.model.get_submodule(first).weight
    tied = Calibration(job.recipe, job.loaded, job.selection, job.team, Silent())
    assert second not in tied.layers and tied.users_of(first) == [first, second]
    assert tied.tokens[first] == 2 * job.tokens[second]
    dense = tied.layers[first].module.weight.detach().clone()
    masks, _ = calibrate.calibrate(tied, make_plan(tied), tmp_path, None, Silent())
    assert torch.equal(tied.loaded.model.get_submodule(second).weight, dense * masks.kept(first))
    assert sum(masks.zeros.values()) == round(0.5 * masks.total)


def test_a_layer_that_no_token_enters_is_named_and_not_counted(place: Path) -> None:
    """Statement 11."""
    job, reporter = job_of(place, **WANDA), Silent()
    name = "text_decoder.bert.encoder.layer.0.output.dense"
    family, mask = job.loaded.family, job.loaded.family.token_mask

    def nothing(layer, tokens, inputs):
        return (
            torch.zeros(inputs["input_ids"].shape, dtype=torch.bool) if layer == name else mask(layer, tokens, inputs)
        )

    from dataclasses import replace

    loaded = replace(job.loaded, family=replace(family, token_mask=nothing))
    without = Calibration(job.recipe, loaded, job.selection, job.team, reporter)
    assert name not in without.layers and len(without.layers) == len(job.layers) - 1
    (warning,) = reporter.warnings
    assert warning.startswith("1 layers are neither pruned nor counted")
    assert warning.endswith(f"{name}: no token of the calibration samples enters it")
    plan = make_plan(without)
    assert plan.report["total"]["weights"] == sum(layer.module.weight.numel() for layer in without.layers.values())


def test_nan_in_an_input_names_layer_and_sample(place: Path, tmp_path: Path) -> None:
    job = job_of(place, **WANDA)
    job.batches[2]["pixel_values"][1] = torch.nan
    with pytest.raises(RunError, match=r"what enters vision_model.* is NaN or too large for sample ") as refused:
        calibrate.calibrate(job, make_plan(job), tmp_path, None, Silent())
    assert str(refused.value).endswith(job.names[2][1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"train.max_steps": 5},
            "train.max_steps 5 and criterion wanda prunes once, from calibration samples: nothing is",
        ),
        ({"train.learning_rate": 1e-3}, "leave train.learning_rate out"),
        ({"prune.schedule": "linear"}, "prune.schedule linear and criterion wanda .*: it has none; leave"),
        ({"prune.floor": 0.2}, "allocation uniform and floor 0.2: every layer gets the same sparsity"),
        ({"prune.allocation": "file"}, "takes the sparsity of each layer from a file: write file:FILE"),
        (
            {"prune.allocation": "id", "data.samples": 64},
            "64 samples give no reliable ID: .*, for another profile, or for an",
        ),
        ({"prune.allocation": "owl", "prune.ecoflap_order": "first"}, "first and allocation owl: set allocation ecofl"),
        ({"prune.repair_epochs": 3}, "repair_epochs is for repair reconstruct: leave it out"),
        ({"prune.spread": 0.1}, "spread 0.1 and allocation uniform: it has none"),
        ({"prune.allocation": "id", "prune.allocate_by": "block"}, "block and allocation id: it goes by layer; leave"),
        ({"prune.allocation": "depth", "prune.profile": "x"}, "profile and allocation depth: no dimension is used"),
        (
            {"prune.allocation": "depth", "prune.structure": "2:4"},
            "allocation depth and structure 2:4: every layer gets",
        ),
        ({"prune.allocation": "id", "prune.profile": "published:blip-coco"}, "is of another model"),
        ({"prune.allocation": "depth", "prune.ceiling": 0.4}, "sparsity 0.5 cannot be reached: floor 0.0, ceiling 0.4"),
        (
            {"prune.criterion": "magnitude", "prune.calibration_samples": None, "prune.allocation": "depth"},
            "depth is for",
        ),
        ({"data.samples": 64}, "set prune.calibration_samples; leave data.samples out"),
        ({"prune.id_weight": "multiply"}, "id_weight multiply: weights are compared within a layer only"),
        ({"prune.allocation": "global"}, "allocation global: layers are pruned one after the other"),
        ({"prune.structure": "2:4", "prune.sparsity": 0.7}, "structure 2:4 has sparsity 0.5, not 0.7"),
        ({"prune.criterion": "sparsegpt", "prune.repair": "none"}, "it updates weights while it chooses"),
        (
            {"prune.criterion": "platon", "prune.calibration": "dense"},
            "platon and calibration dense: it smooths over",
        ),
        ({"prune.criterion": "platon"}, "calibration_samples is for pruning from calibration samples: set"),
        ({"prune.structure": "3:5", "prune.sparsity": None}, "3:5 needs layers whose inputs divide by 5"),
        ({"prune.min_keep": 10**6}, "sparsity 0.5 cannot be reached"),
        (
            {"estimate.memory": "2KiB"},
            "2KiB is too little for 22 samples: give at least .* or fewer calibration_samples$",
        ),
    ],
)
def test_refused_before_anything_is_written(
    place: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        pruned(place, tmp_path / "run", **(WANDA | settings))
    assert not (tmp_path / "run").exists()


def test_a_small_budget_measures_a_block_in_several_runs_with_the_same_masks(place: Path, tmp_path: Path) -> None:
    job = job_of(place, **SPARSEGPT)
    plan = make_plan(job)
    held = plan.capture.held_bytes
    small = make_plan(job_of(place, **SPARSEGPT, **{"estimate.memory": held - 8000}))
    runs, more = (sum(map(len, one.blocks.values())) for one in (plan, small))
    assert small.capture.walks and more > runs and small.statistics < plan.statistics
    whole, _ = pruned(place, tmp_path / "whole", **SPARSEGPT)
    parts, _ = pruned(place, tmp_path / "parts", **SPARSEGPT, **{"estimate.memory": held - 8000})
    assert whole["layers"] == parts["layers"]
    assert (tmp_path / "whole" / "masks.safetensors").read_bytes() == (
        tmp_path / "parts" / "masks.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("settings", [WANDA, SPARSEGPT], ids=str)
def test_the_memory_of_a_walk_is_that_of_its_plan(place: Path, settings: dict[str, Any]) -> None:
    """Counted operator by operator; benchmarks/layerwise.py measures a process with a larger model."""
    job = job_of(place, **settings)
    plan, made = make_plan(job), MadeBytes()
    with made:
        calibrate.calibrate(job, plan, place / "unused", None, Silent())
    inputs = sum(value.nbytes for batch in job.batches for value in batch.values())
    assert made.most + inputs <= plan.capture.held_bytes <= 1.15 * (made.most + inputs)


def test_depth_gives_the_first_blocks_of_each_tower_more(place: Path, tmp_path: Path) -> None:
    report, _ = pruned(place, tmp_path / "run", **WANDA, **{"prune.allocation": "depth", "prune.sparsity": 0.6})
    total = report["total"]
    assert total["zeros"] == round(0.6 * total["weights"])
    for layer in report["layers"].values():
        # densities of 1.2 and 0.8 of the mean
        assert layer["sparsity"] == pytest.approx(0.52 if layer["block"].endswith(".0") else 0.68, abs=0.001)


def test_id_allocates_by_the_profile(place: Path, tmp_path: Path) -> None:
    loaded = load(str(place / "model"), device="cpu")
    layers = find_layers(loaded.model, loaded.family)
    values = {name: 2.0 + number % 5 for number, name in enumerate(layers)}
    profile_of(layers, values).save(tmp_path / "profile.json")
    settings = {**WANDA, "prune.allocation": "id", "prune.profile": str(tmp_path / "profile.json")}
    report, _ = pruned(place, tmp_path / "run", **settings, **{"prune.id_exponent": 0.5, "prune.sparsity": 0.7})
    assert report["total"]["zeros"] == round(0.7 * report["total"]["weights"])
    level = {name: (1 - layer["sparsity"]) / values[name] ** 0.5 for name, layer in report["layers"].items()}
    assert max(level.values()) - min(level.values()) < 0.001
    assert all(
        layer["dimension"] == values[name] and layer["factor"] is None for name, layer in report["layers"].items()
    )
    assert (tmp_path / "run" / "profile.json").exists() and report["profile"]["source"] == settings["prune.profile"]
    with pytest.raises(UsageError, match="profile was"):
        profile_of(layers, dict.fromkeys(layers, 3.0)).save(tmp_path / "profile.json")
        pruned(place, tmp_path / "run", resume=True, **settings, **{"prune.id_exponent": 0.5, "prune.sparsity": 0.7})


def profile_of(layers, values: dict[str, float]) -> Profile:
    """A profile with these dimensions."""
    estimates = {
        name: Estimate(dimension=value, stderr=0.1, n_points=500, n_duplicates=0, estimator="twonn")
        for name, value in values.items()
    }
    measured = {
        name: LayerProfile(
            modality=layer.modality,
            block=layer.block,
            depth=depth,
            width=layer.out_features,
            n_features=1000,
            reads_image=layer.reads_image,
            estimate=estimates[name],
        )
        for depth, (name, layer) in enumerate(layers.items())
    }
    return Profile(layers=measured, model={}, dataset={}, protocol={"n_samples": 500}, provenance={})


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_fewer_tokens_than_inputs_are_said_where_they_matter(place: Path, tmp_path: Path, criterion: str) -> None:
    """Statement 19."""
    few = {"prune.criterion": criterion, "prune.calibration_samples": 2}
    report, reporter = pruned(place, tmp_path / "run", **few)
    assert report["total"]["zeros"] == round(0.5 * report["total"]["weights"]) and not report["made"]["notes"]
    said = [text for text in reporter.warnings if "damping decides what is left open" in text]
    assert len(said) == (criterion == "sparsegpt")
