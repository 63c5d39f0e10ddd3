"""A model's profile: the same whatever the batches, the budget, the break and the number of processes."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

import idvl
from idvl import runs
from idvl.device import held_memory, peak_within
from idvl.distributed import Team
from idvl.errors import RunError, UsageError
from idvl.geometry import shortlist
from idvl.geometry.estimators import requirements
from idvl.geometry.neighbors import FEATURE_CHUNK, DenseRows, nearest
from idvl.measurement.api import estimate_id
from idvl.measurement.estimation import Estimation
from idvl.measurement.measurement import Measurement
from idvl.measurement.settings import Settings
from idvl.models.inputs import encode
from idvl.models.layers import find_layers
from idvl.models.loading import load, wrap
from idvl.profile import Profile
from idvl.recipe import load as load_recipe
from idvl.recipe import parse_bytes
from idvl.workflows import estimate_id as workflow
from idvl.workflows.estimate_id import run
from tests.coverage import parts
from tests.coverage.architectures import architectures
from tests.support import processes, tiny
from tests.support.clouds import Pieces, gaussian
from tests.support.reporter import Silent

N = 120


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return str(tiny.save("blip", tmp_path_factory.mktemp("blip")))


@pytest.fixture(scope="module")
def loaded(blip):
    return load(blip)


def measured(loaded, samples, memory=2**30, **settings):
    layers = find_layers(loaded.model, loaded.family)
    return dict(Measurement(loaded, samples, layers, Settings(**settings), memory=memory).estimates())


def dimensions(layers):
    return {name: layer.estimate.dimension for name, layer in layers.items()}


@pytest.mark.parametrize("tokens", ["flatten", "mean", "first", "last", "each"])
@pytest.mark.parametrize("capture", ["output", "input"])
def test_every_layer_equals_the_matrix_estimate_of_its_plain_outputs(loaded, tokens, capture):
    samples = tiny.samples(N)
    layers = find_layers(loaded.model, loaded.family)
    work = Measurement(loaded, samples, layers, Settings(tokens=tokens, capture=capture, batch_size=N), memory=2**30)
    outputs = {}
    for name, layer in layers.items():
        layer.module.register_forward_hook(
            lambda module, args, out, name=name: outputs.__setitem__(name, args[0] if capture == "input" else out)
        )
    with torch.no_grad():
        loaded.family.call(loaded.model, work.batches[0])
    for layer in layers.values():
        layer.module._forward_hooks.clear()
    found = dict(work.estimates())
    assert found.keys() == layers.keys()
    draws = work.draws[0]
    for name, layer in found.items():
        out = outputs[name]
        mask = loaded.family.token_mask(name, out.shape[1], work.batches[0])
        mask = torch.ones(out.shape[:2], dtype=torch.bool) if mask is None else mask
        points = []
        for k in range(N):
            real = out[k][mask[k]]
            pick = {"first": 0, "last": len(real) - 1, "each": int(draws[k] * len(real))}.get(tokens)
            if tokens == "flatten":
                padded = torch.zeros_like(out[k])
                padded[mask[k]] = real
                points.append(padded.flatten())
            else:
                points.append(real.mean(0) if tokens == "mean" else real[pick])
        expected = idvl.intrinsic_dimension(torch.stack(points))
        if layer.estimate.n_duplicates == expected.n_duplicates and layer.estimate.dimension is not None:
            assert layer.estimate.dimension == pytest.approx(expected.dimension, rel=1e-4), name
        assert layer.n_features == points[0].numel()
    assert any(layer.estimate.dimension for layer in found.values())


def test_the_provenance_of_a_profile_is_taken_when_it_begins(loaded, monkeypatch):
    calls, estimates, provenance = iter("abc"), Measurement.estimates, runs.provenance
    monkeypatch.setattr(runs, "provenance", lambda: provenance() | {"started": next(calls)})
    monkeypatch.setattr(Measurement, "estimates", lambda *all_: runs.provenance() and estimates(*all_))
    found = estimate_id(loaded.model, tiny.samples(20), processor=loaded.processor, layers="*fc1")
    assert (found.provenance["started"], next(calls)) == ("a", "c")


def test_batches_do_not_matter(loaded):
    samples = tiny.samples(N)
    shuffled = [samples[k] for k in torch.randperm(N, generator=torch.Generator().manual_seed(3)).tolist()]
    first = dimensions(measured(loaded, samples, batch_size=16))
    second = dimensions(measured(loaded, shuffled, batch_size=7))
    for name, dimension in first.items():
        assert second[name] == pytest.approx(dimension, rel=1e-4), name


def test_the_same_samples_are_computed_twice_whatever_the_batches(loaded):
    samples, layers = tiny.samples(N), find_layers(loaded.model, loaded.family)
    twice = set()
    for size in (1, 7, 15, 16, 17, 64, N):
        work = Measurement(loaded, samples, layers, Settings(batch_size=size), memory=2**30)
        *plain, again = work.batches
        whole = {key: torch.cat([batch[key] for batch in plain]) for key in again}
        assert all(torch.equal(again[key], value[work.echoes]) for key, value in whole.items())
        sizes = {len(next(iter(batch.values()))) for batch in plain}
        assert len(work.echoes) not in sizes
        twice.add(tuple(sorted(set(work.echoes))))
    assert twice == {tuple(range(N - 16, N))}


def test_the_budget_does_not_matter(loaded, monkeypatch):
    monkeypatch.setattr("idvl.measurement.measurement.workspace_bytes", lambda n: 0)
    monkeypatch.setattr("idvl.measurement.measurement.FEATURE_CHUNK", 64)
    samples = tiny.samples(N)
    layers = find_layers(loaded.model, loaded.family)
    full = Measurement(loaded, samples, layers, Settings(), memory=2**31)
    assert full.plan.walks
    expected = {name: asdict(layer) for name, layer in full.estimates()}
    with pytest.raises(UsageError, match="memory") as refusal:
        Measurement(loaded, samples, layers, Settings(), memory=2**20)
    least = parse_bytes(str(refusal.value).split("at least ")[1].split(",")[0])
    ways = set()
    rows = sum(len(batch["input_ids"]) for batch in full.batches)
    walkable = full.plan.flow_bytes + 2 * N * 64 * 4 + rows * 64 * 4
    assert least < walkable
    for budget in (least, walkable, (walkable + full.plan.held_bytes) // 2, full.plan.held_bytes - 1000):
        tight = Measurement(loaded, samples, layers, Settings(), memory=budget)
        assert tight.plan.forwards > 1
        assert tight.plan.held_bytes <= budget
        ways.add(tight.plan.walks)
        found = {name: asdict(layer) for name, layer in tight.estimates()}
        for name, layer in expected.items():
            assert found[name]["estimate"]["dimension"] == pytest.approx(layer["estimate"]["dimension"], rel=1e-9)
    assert ways == {True, False}


def test_spilled_points_need_one_run_a_block_and_no_memory(loaded, tmp_path, monkeypatch):
    monkeypatch.setattr("idvl.measurement.measurement.workspace_bytes", lambda n: 0)
    monkeypatch.setattr("idvl.measurement.measurement.FEATURE_CHUNK", 64)
    samples, layers = tiny.samples(N), find_layers(loaded.model, loaded.family)
    full = Measurement(loaded, samples, layers, Settings(), memory=2**31)
    memory = (full.plan.flow_bytes + 2 * N * 64 * 4 + full.plan.held_bytes) // 2
    assert Measurement(loaded, samples, layers, Settings(), memory=memory).plan.forwards > full.plan.forwards
    spilled = Measurement(loaded, samples, layers, Settings(), memory=memory, spill=tmp_path / "spill")
    assert spilled.plan.walks and spilled.plan.held_bytes <= memory
    groups = spilled.plan.groups.values()
    assert [(len(group), group[0].runs) for group in groups] == [(1, 1)] * len(groups)
    with pytest.raises(UsageError, match="a memory of 1B is too little"):
        Measurement(loaded, samples, layers, Settings(), memory=1, spill=tmp_path / "spill")
    assert not list((tmp_path / "spill").iterdir())
    assert dict(spilled.estimates()) == dict(full.estimates())
    assert not list((tmp_path / "spill").iterdir())


def test_faiss_finds_the_same_in_layers_that_fit(loaded):
    pytest.importorskip("faiss")
    samples = tiny.samples(N)
    by_torch = measured(loaded, samples, knn="torch", tokens="mean")
    by_faiss = measured(loaded, samples, knn="faiss", tokens="mean")
    assert {layer.estimate.diagnostics["neighbors"]["backend"] for layer in by_faiss.values()} == {"faiss"}
    for name, layer in by_torch.items():
        assert by_faiss[name].estimate.dimension == pytest.approx(layer.estimate.dimension, rel=1e-9), name
        assert by_faiss[name].estimate.n_duplicates == layer.estimate.n_duplicates


class Gathered(Pieces):
    """A layer's rows as views, echoes last."""

    whole = True

    def chunks(self):
        yield from self.points.split(FEATURE_CHUNK, 1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_faiss_takes_no_more_memory_than_was_counted():
    pytest.importorskip("faiss")
    n, width, device = 2000, 2 * FEATURE_CHUNK, torch.device("cpu")
    points = gaussian(n + 16, 10, width)
    rows, echoes = Gathered(points, n=n), list(range(16))
    nearest(DenseRows(points[:300]), backend="faiss")  # whatever it loads is there

    def search(room):
        plan = SimpleNamespace(budget=room, held_bytes=0)
        work = SimpleNamespace(
            plan=plan, n=n, echoes=echoes, device=device, team=Team(), settings=Settings(knn="faiss")
        )
        found.append(Measurement._search(work, rows, requirements("twonn")))

    counted = 4 * (n + 16) * width + shortlist.workspace_bytes(n, width, device)
    found, before = [], held_memory(device)
    took = peak_within(device, lambda: search(counted)) - before
    assert 8 * n * width < took <= counted
    search(counted - 1)
    assert [one.diagnostics["backend"] for one in found] == ["faiss", "torch"]


def test_the_same_call_gives_the_same_numbers(loaded):
    samples = tiny.samples(N)
    assert measured(loaded, samples) == measured(loaded, samples)


def test_nan_activations_name_their_layer_and_give_no_number(blip):
    loaded = load(blip)
    name = "vision_model.encoder.layers.0.mlp.fc1"
    with torch.no_grad():
        loaded.model.get_submodule(name).bias[0] = float("nan")
    layers = measured(loaded, tiny.samples(N))
    assert layers[name].estimate.dimension is None
    assert "NaN" in layers[name].estimate.reason
    assert layers["vision_model.encoder.layers.0.self_attn.qkv"].estimate.dimension is not None


def recipe(model, **overrides):
    values = {"model.name": model, "data.dataset": "shapes", "data.samples": N, "data.batch_size": 8}
    return load_recipe(overrides=values | {key.replace("__", "."): value for key, value in overrides.items()})


@pytest.fixture(scope="module")
def finished(blip, tmp_path_factory):
    """A run from beginning to end: its folder and result."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, run(recipe(blip), folder=folder, reporter=Silent())


@pytest.fixture
def copied(finished, tmp_path):
    """The same, in a folder that a test may change."""
    folder, result = finished
    return shutil.copytree(folder, tmp_path / "run"), result.profile


def test_a_run_leaves_its_folder(blip, finished):
    folder, result = finished
    assert {path.name for path in folder.iterdir()} >= {"profile.json", "profile.png", "recipe.yaml", "run.json"}
    profile = Profile.load(folder / "profile.json")
    assert profile.layers == result.profile.layers
    assert [layer.depth for layer in profile.layers.values()] == list(range(len(profile.layers)))
    assert len(profile.dataset["ids"]) == N
    with pytest.raises(UsageError, match="--resume"):
        run(recipe(blip), folder=folder, reporter=Silent())


def test_a_run_cut_off_goes_on_where_it_stopped(blip, finished, tmp_path, monkeypatch):
    whole = finished[1].profile
    count = 0
    original = Measurement._profile

    def failing(self, *args):
        nonlocal count
        count += 1
        if count == 8:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Measurement, "_profile", failing)
        with pytest.raises(KeyboardInterrupt):
            run(recipe(blip), folder=tmp_path / "cut", reporter=Silent())
    assert not (tmp_path / "cut" / "profile.json").exists()
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 7
    # as if the first layer had taken an hour, and much memory
    hour = {"seconds": 3600.0, "peak_memory": 2**50}
    slow = [json.dumps(json.loads(lines[0]) | hour), *lines[1:]]
    (tmp_path / "cut" / "metrics.jsonl").write_text("\n".join(slow) + "\n")
    with pytest.raises(UsageError, match="estimator"):
        run(recipe(blip, estimate__estimator="twonn-mle"), folder=tmp_path / "cut", resume=True, reporter=Silent())
    result = run(recipe(blip), folder=tmp_path / "cut", resume=True, reporter=Silent())
    assert result.plan.n_layers == len(whole.layers) - 7
    assert result.profile.layers == whole.layers
    took, whole_took = result.profile.provenance, whole.provenance
    assert 3600 < took["seconds"] < 3600 + 60 and took["peak_memory"] == 2**50
    assert 0 < whole_took["seconds"] < 60 and whole_took["peak_memory"] > 2**20


def test_a_finished_run_is_shown_again_without_a_measurement(blip, copied, monkeypatch):
    folder, profile = copied
    before = (folder / "profile.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("idvl.measurement.estimation.Measurement", None)
        reporter = Silent()
        again = run(recipe(blip, data__batch_size=5), folder=folder, resume=True, reporter=reporter)
        assert again.plan is None and again.profile == profile and again.folder == folder
        chosen = "intrinsic dimensions: 120 samples of shapes, split validation"
        assert reporter.notes == [chosen, "everything is measured already"]
        assert (folder / "profile.json").read_bytes() == before
        (folder / "profile.png").unlink()
        run(recipe(blip), folder=folder, resume=True, compare=folder, reporter=Silent())
        assert (folder / "profile.png").exists()
    plan = run(recipe(blip), folder=folder, resume=True, plan_only=True, reporter=Silent()).plan
    assert plan.lines() == ["everything is measured already"]
    (folder / "profile.json").unlink()
    assert run(recipe(blip), folder=folder, resume=True, reporter=Silent()).profile.layers == profile.layers


def test_a_run_goes_on_with_batches_and_neighbours_of_another_kind(blip, copied):
    folder, _ = copied
    (folder / "profile.json").unlink()
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:3]))
    changed = recipe(blip, data__batch_size=5, estimate__knn="torch", estimate__memory="2GiB")
    result = run(changed, folder=folder, resume=True, reporter=Silent())
    assert result.plan.n_layers == len(result.profile.layers) - 3
    assert (result.profile.protocol["batch_size"], result.profile.protocol["knn"]) == (5, "torch")


STOPPED = """
import os, signal, sys
from idvl import runs

def log(self, values, log=runs.Run.log_metric):
    log(self, values)
    os.kill(os.getpid(), signal.{signal})

runs.Run.log_metric = log
sys.argv = ["idvl", "estimate-id", {model!r}, "--dataset", "shapes", "--samples", "100", "--output", {folder!r}]
from idvl.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow)])
def test_a_signal_says_how_to_go_on(blip, tmp_path, name, code):
    folder = tmp_path / "a run"
    program = STOPPED.format(signal=name, model=blip, folder=str(folder))
    done = processes.run("-c", program)
    assert done.returncode == code
    assert f"--output '{folder}' --resume continues it" in done.stderr and "Traceback" not in done.stderr
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_plan_alone_writes_nothing(blip, tmp_path):
    result = run(recipe(blip), folder=tmp_path / "run", plan_only=True, reporter=Silent())
    assert result.profile is None
    assert any("memory" in line for line in result.plan.lines())
    assert not (tmp_path / "run").exists()


def test_the_library_takes_a_model_and_samples(loaded):
    profile = estimate_id(loaded.model, tiny.samples(N), processor=loaded.processor, modality=["vision"])
    assert {layer.modality for layer in profile.layers.values()} == {"vision"}
    assert profile.protocol["n_samples"] == N


def test_layers_that_read_no_text_get_images_whose_texts_repeat(loaded, tmp_path):
    def text(number, sample):
        return [{"text": f"a {number % 3} star"}]

    data = str(tiny.save_samples(tmp_path / "data", tiny.samples(N), text))
    vit = wrap(*tiny.vit())
    for model, modality, count in ((vit, None, N), (loaded, ["vision"], N), (loaded, ["vision", "cross"], 3)):
        values = {"data.dataset": data, "data.force": True, "estimate.modality": modality}
        work = Estimation(recipe("builtin/vit", **values), model, Team(), Silent())
        assert len(work.selection.samples) == count
    chosen = {"samples": data, "processor": vit.processor, "layers": "*0.mlp.fc1"}
    assert estimate_id(vit.model, **chosen).protocol["n_samples"] == N
    with pytest.raises(UsageError, match="has 3 distinct usable samples .117 duplicates, 117 by their text alone"):
        estimate_id(loaded.model, data, processor=loaded.processor)


def test_the_library_measures_texts_uncleaned(blip, loaded):
    """Each text's period is a token of its own, for a model in memory and in a folder."""
    samples = [replace(sample, texts=(f"{sample.texts[0]}.",)) for sample in tiny.samples(N)]
    chosen = {"samples": samples, "layers": "*decoder*0.output.dense", "device": "cpu"}

    def widths(**options) -> list[int]:
        return [layer.n_features for layer in estimate_id(**chosen, **options).layers.values()]

    in_memory = {"model": loaded.model, "processor": loaded.processor}
    ((cleaned,), (raw,)) = (widths(**in_memory, clean_texts=clean) for clean in (True, False))
    assert raw > cleaned and widths(model=Path(blip), clean_texts=False) == [raw]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"tokens": "mena"}, "estimate.tokens: 'mena' is not one of .*did you mean 'mean'"),
        ({"capture": "inputs"}, "did you mean 'input'"),
        ({"estimator": "towonn"}, "did you mean 'twonn'"),
        ({"clean_texts": "no thanks"}, "model.clean_texts: "),
        ({"knn": None}, "estimate.knn: None is not one of"),
        ({"batch_size": 0}, "data.batch_size: .*greater than or equal to 1, not 0"),
        ({"seed": 2**63}, "data.seed: .*less than or equal to 4294967295"),
        ({"seed": -1}, "data.seed: "),
        ({"memory": "lots"}, "memory takes a size such as 8GiB or 500MB, not 'lots'"),
        ({"memory": 0}, "memory takes a size"),
        ({"n": 50}, "n= and split= choose from a dataset"),
        ({"split": "test"}, "n= and split= choose"),
        ({"samples": "digits", "n": "x"}, "n is a whole number from 1 .* not 'x'"),
        ({"samples": []}, "no samples"),
        ({"samples": ["a", "b"]}, "list of idvl.Sample"),
        ({"samples": None}, "list of idvl.Sample"),
        ({"processor": None}, "processor="),
        ({"revision": "main"}, "revision says how a folder or Hub id is loaded, and this model is in memory"),
        ({"dtype": "int8"}, "model.dtype: 'int8' is not one of "),
        ({"processor": "blip"}, "the processor, of type str, has no image processor"),
        ({"processor": tiny.vit()[1]}, "the processor, of type ViTImage.*, has no tokenizer, which a blip"),
        ({"modality": ["visoin"]}, "did you mean 'vision'"),
    ],
)
def test_the_library_refuses_in_one_line(loaded, asked, said):
    with pytest.raises(UsageError, match=said) as refused:
        estimate_id(loaded.model, **{"samples": tiny.samples(3), "processor": loaded.processor, **asked})
    assert "\n" not in str(refused.value)


def test_the_library_takes_paths_and_sizes(blip, loaded):
    chosen = {"layers": "vision_model.*0.mlp.fc1", "seed": 2**32 - 1, "n": 100, "memory": "2GiB", "dtype": "bfloat16"}
    profile = estimate_id(Path(blip), "shapes", local_files_only=True, **chosen)
    assert profile.model["dtype"] == "bfloat16"
    assert profile.provenance["memory_budget"] == 2**31 and profile.dataset["seed"] == 2**32 - 1


def test_two_threads_take_turns_at_a_model(loaded):
    samples = tiny.samples(N)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(estimate_id, loaded.model, samples, processor=loaded.processor) for _ in range(2)]
        first, second = (call.result() for call in calls)
    assert first.layers == second.layers


def test_batches_on_different_paths_end_in_one_line(loaded, monkeypatch):
    samples = tiny.samples(N)
    layers = find_layers(loaded.model, loaded.family)
    work = Measurement(loaded, samples, layers, Settings(), memory=2**30)
    block = loaded.model.vision_model.encoder.layers[1]
    first = loaded.model.vision_model.encoder.layers[0]
    seen = iter(range(10**6))
    monkeypatch.setattr(
        loaded.model.vision_model.encoder,
        "layers",
        torch.nn.ModuleList([first, _Sometimes(block, seen)]),
    )
    with pytest.raises(RunError, match="different paths"):
        list(work.estimates())


class _Sometimes(torch.nn.Module):
    """Skips its block for every other batch."""

    def __init__(self, block, seen):
        super().__init__()
        self.block, self.seen = block, seen

    def forward(self, x, *args, **kwargs):
        return x if next(self.seen) % 2 else self.block(x, *args, **kwargs)


LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
    ],
}


@pytest.mark.parametrize("launcher", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHERS)])
def test_two_processes_give_the_profile_of_one(blip, finished, tmp_path, launcher):
    arguments = ["-m", "idvl", "estimate-id", blip, "--dataset", "shapes", "--samples", str(N), "--batch-size", "8"]
    arguments += ["--quiet", "--output", str(tmp_path / "two")]
    if launcher is None:
        for process in processes.team(*arguments):
            assert process.wait() == 0, process.stderr
    else:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        subprocess.run([sys.executable, *LAUNCHERS[launcher], *arguments], check=True, env=environment)
    one, two = (json.loads((folder / "profile.json").read_text()) for folder in (finished[0], tmp_path / "two"))
    assert two["provenance"]["processes"] == 2
    assert one["layers"].keys() == two["layers"].keys()
    for name, layer in one["layers"].items():
        assert two["layers"][name]["estimate"]["dimension"] == pytest.approx(layer["estimate"]["dimension"], rel=1e-6)


@pytest.mark.slow
def test_a_mistake_is_told_by_one_of_several_processes(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [*launch, "-m", "idvl", "estimate-id", "./no-such-model", "--dataset", "shapes"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("no-such-model does not exist") == 1
    assert not list(tmp_path.iterdir())


def test_processes_that_do_not_know_of_each_other_are_refused(blip, tmp_path):
    command = ["-m", "idvl", "estimate-id", blip, "--dataset", "shapes", "--output", tmp_path / "x"]
    done = processes.run(*command, env={**os.environ, "WORLD_SIZE": "2"})
    assert done.returncode == 2
    assert "accelerate launch" in done.stderr


def test_too_few_samples_are_refused_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(workflow, "open_model", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UsageError, match="50 samples are too few .*: ask for 100 or more, or set force .--force."):
        run(recipe("builtin/blip", data__samples=50), folder=tmp_path / "run", reporter=Silent())


def test_a_model_in_training_is_put_back(blip):
    loaded = load(blip)
    loaded.model.train()
    loaded.model.vision_model.eval()
    estimate_id(loaded.model, tiny.samples(N), processor=loaded.processor, layers="vision_model.*0.mlp.fc1")
    with pytest.raises(UsageError):
        estimate_id(loaded.model, tiny.samples(N), processor=loaded.processor, memory=1)
    assert loaded.model.training and loaded.model.text_decoder.training and not loaded.model.vision_model.training
    with pytest.raises(UsageError, match="processor="):
        estimate_id(loaded.model, tiny.samples(N))


def test_no_layer_with_a_number_is_a_failed_run(blip, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RunError, match="only"):
        run(recipe(blip, data__samples=10, data__force=True), folder=folder, reporter=Silent())
    assert (folder / "profile.json").exists()


def test_unreliable_layers_are_reported_and_written(blip, tmp_path):
    reporter, folder = Silent(), tmp_path / "run"
    asked = recipe(blip, data__samples=30, data__force=True)
    for resume in (False, True):
        profile = run(asked, folder=folder, resume=resume, reporter=reporter).profile
    why = {layer.estimate.diagnostics["unsound"] for layer in profile.layers.values()}
    assert {"estimated from 30 distinct points, fewer than 100"} < why
    assert Profile.load(folder / "profile.json").layers == profile.layers
    assert len(reporter.warnings) == 2
    assert all("layers have no reliable ID, the first is" in warning for warning in reporter.warnings)


def test_foreign_lines_in_the_metrics_are_refused(blip, copied):
    folder, _ = copied
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"a": 1}\n')
    with pytest.raises(RunError, match="metrics.jsonl"):
        run(recipe(blip), folder=folder, resume=True, reporter=Silent())


def test_compared_profiles_are_labelled_by_their_folders(blip, copied, tmp_path, monkeypatch):
    folder, profile = copied
    drawn = []
    monkeypatch.setattr("idvl.measurement.estimation.plot", lambda profiles, path: drawn.append(profiles))
    profile.save(tmp_path / "one.json")
    run(recipe(blip), folder=folder, resume=True, compare=tmp_path / "one.json", reporter=Silent())
    assert [label for label, _ in drawn[0]] == [str(folder), str(tmp_path / "one.json")]


def test_layers_of_another_width_are_not_compared(blip, copied, tmp_path):
    folder, profile = copied
    first = next(iter(profile.layers))
    wide = {name: replace(layer, width=777) for name, layer in profile.layers.items()}
    reporter = Silent()
    replace(profile, layers={**profile.layers, first: wide[first]}).save(tmp_path / "one.json")
    run(recipe(blip), folder=folder, resume=True, compare=tmp_path / "one.json", reporter=reporter)
    said, _ = reporter.warnings  # and that some of random layers are unreliable
    width = profile.layers[first].width
    assert said.endswith(f"one.json are not drawn: {first} has 777 features there, {width} here")
    assert said.startswith(f"1 of {len(profile.layers)} layers")
    replace(profile, layers=wide).save(tmp_path / "all.json")
    with pytest.raises(UsageError, match="all.json is of another model: .* has 777 features there"):
        run(recipe(blip), folder=tmp_path / "none", compare=tmp_path / "all.json", reporter=Silent())
    other = replace(profile, layers={f"other.{name}": layer for name, layer in profile.layers.items()})
    other.save(tmp_path / "other.json")
    with pytest.raises(
        UsageError, match=f"of another model: no layer of it is in .*; the first is other.{first} there"
    ):
        run(recipe(blip), folder=tmp_path / "none", compare=tmp_path / "other.json", reporter=Silent())
    assert not (tmp_path / "none").exists()


def of_architecture(name, **settings):
    """Profiles of an architecture of `make coverage` on a few samples."""
    torch.manual_seed(0)
    made = wrap(*architectures()[name].make())
    return made, measured(made, tiny.samples(24), **settings)


def test_a_layer_that_holds_no_samples_has_the_reason_and_the_others_are_measured():
    """SwinV2 computes its position bias from a table of positions, once for all images."""
    _, layers = of_architecture("swinv2")
    without = {name: layer.estimate.reason for name, layer in layers.items() if layer.estimate.dimension is None}
    assert without and all("position_bias_mlp" in name for name in without)
    assert set(without.values()) == {
        f"its tensor (1, 7, 7, {width}) cannot be split between the 16 samples" for width in (2, 512)
    }
    assert len(layers) - len(without) == 25


def test_a_router_that_returns_a_tuple_has_no_estimate_and_its_input_has(monkeypatch):
    """Llama 4's router is an nn.Linear whose forward returns scores and logits."""
    monkeypatch.setattr(transformers.Llama4ForCausalLM, "input_modalities", ("text",))
    tokenizer = parts.fast("<|eot_id|>", bos="<|begin_of_text|>", eos="<|eot_id|>")
    sizes = {"intermediate_size_mlp": 64, "head_dim": 16, "num_local_experts": 4, "attention_chunk_size": 512}
    torch.manual_seed(0)
    model = transformers.Llama4ForCausalLM(transformers.Llama4TextConfig(**parts.language(tokenizer), **sizes))
    made = wrap(model, tokenizer)
    name = "model.layers.0.feed_forward.router"
    estimate = measured(made, tiny.samples(24))[name].estimate
    assert estimate.dimension is None and estimate.reason == "it passes on a tuple, not a tensor"
    assert measured(made, tiny.samples(24), capture="input")[name].estimate.dimension > 0


def test_a_tensor_that_the_model_changes_in_place_is_measured_as_the_layer_left_it():
    """GroupViT adds the group tokens to the output of a projection."""
    made, layers = of_architecture("groupvit", tokens="mean")
    name = "vision_model.encoder.stages.0.downsample.assign.proj"
    module, outputs = made.model.get_submodule(name), []
    handle = module.register_forward_hook(lambda module, args, output: outputs.append(output.detach().clone()))
    batch = encode(made, tiny.samples(24), batch_size=24)[0]
    with torch.no_grad():
        made.family.call(made.model, batch)
    handle.remove()
    plain = idvl.intrinsic_dimension(outputs[0].mean(1)).dimension
    assert layers[name].estimate.dimension == pytest.approx(plain, rel=1e-3)
