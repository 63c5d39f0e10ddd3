"""Predictions are made once, by any number of processes and after any break; what cannot be evaluated is refused."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from idvl import builtin, predictions, tasks
from idvl.data.samples import Selection
from idvl.device import peak_memory
from idvl.distributed import Team
from idvl.errors import UsageError
from idvl.evaluation import evaluation, prediction, scoring
from idvl.recipe import load as load_recipe
from idvl.tasks import Pass
from idvl.workflows.evaluate import run
from tests.support import processes, tiny
from tests.support.reporter import Silent

N = 20
BLIP = {"model.name": "builtin/blip", "data.dataset": "shapes", "eval.limit": N, "eval.batch_size": 3}
VIT = {"model.name": "builtin/vit", "data.dataset": "digits", "eval.limit": 100, "eval.batch_size": 8}


def evaluated(folder, settings, *, resume=False, compared=None, **changes):
    wanted = settings | {key.replace("__", "."): value for key, value in changes.items()}
    reporter = Silent()
    result = run(load_recipe(None, wanted), folder=folder, reporter=reporter, resume=resume, compared=compared)
    return result.results, reporter


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """The built-in captioner's run on a few shapes: its folder and results."""
    folder = tmp_path_factory.mktemp("captions") / "run"
    return folder, evaluated(folder, BLIP)[0]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "run"
    return folder, evaluated(folder, VIT)[0]


def test_the_built_in_models_do_what_they_were_trained_for(captions, digits):
    assert captions[1]["metrics"]["CIDEr"]["value"] > 100
    assert digits[1]["metrics"]["top-1"]["value"] > 90


def test_results_say_what_the_numbers_rest_on(captions):
    folder, results = captions
    assert results == json.loads((folder / "results.json").read_text())
    assert (results["task"], results["samples"], results["limit"]) == ("caption", N, N)
    assert results["scoring"]["tokenizer"] in ("ptb", "plain")
    assert results["settings"] | {"beams": 3, "min_length": 5, "max_length": 20, "prompt": ""} == results["settings"]
    assert results["predicted"] == N and results["seconds_per_sample"] > 0 and results["peak_memory"] > 0
    cider = results["metrics"]["CIDEr"]
    assert cider["low"] <= cider["value"] <= cider["high"]
    assert results["metrics"]["SPICE"]["value"] is None and "Java" in results["metrics"]["SPICE"]["hint"]


def test_predictions_hold_one_line_for_each_sample_in_order(captions):
    lines = predictions.read(captions[0] / "predictions.jsonl")
    assert [line["number"] for line in lines] == list(range(N))
    assert all(line["prediction"] and len(line["references"]) == 4 for line in lines)


def test_scoring_again_gives_the_same_numbers_without_a_model(captions):
    folder, results = captions
    again = scoring.score_again(folder / "predictions.jsonl", seed=0, resamples=1_000)
    assert again == results


def test_batches_change_no_prediction(captions, tmp_path):
    evaluated(tmp_path / "run", BLIP, eval__batch_size=7)
    one, other = (predictions.read(folder / "predictions.jsonl") for folder in (captions[0], tmp_path / "run"))
    assert one == other


def test_auto_finds_a_batch_and_a_run_goes_on_with_another(tmp_path):
    results, _ = evaluated(tmp_path / "run", VIT, eval__batch_size="auto", eval__limit=20)
    assert results["settings"]["batch_size"] in (1, 2, 4, 8, 16)
    path = tmp_path / "run" / "predictions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:9]))
    again, _ = evaluated(tmp_path / "run", VIT, eval__batch_size=4, eval__limit=20, resume=True)
    assert (again["found"], again["predicted"]) == (8, 12)
    assert again["seconds"] is again["peak_memory"] is None and again["seconds_per_sample"] > 0
    assert path.read_bytes() == whole


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_auto_measures_each_trial_whatever_memory_an_earlier_peak_took(monkeypatch):
    device, mib = torch.device("cpu"), 2**20
    monkeypatch.setattr(prediction, "free_memory", lambda *_: 750 * mib)
    np.ones(1000 * mib, np.uint8)
    peak = peak_memory(device)
    assert peak > 1000 * mib
    tried = []

    def perform(items, inputs):
        tried.append(len(items))
        np.ones(100 * mib * len(items), np.uint8)
        return [{}] * len(items)

    asked = Pass(items=range(16), ids=["x"] * 16, prepare=lambda items: None, perform=perform)
    # 4 samples take 400 of the 600 MiB that a batch may take: 8 would not fit
    assert prediction.largest_batch(asked, device, Team()) == 4
    assert tried == [1, 2, 4]
    assert peak_memory(device) >= peak


@pytest.mark.parametrize("damage", ["cut", "lost", "twice", "foreign", "empty"])
def test_a_damaged_file_is_repaired_by_predicting_what_is_missing(tmp_path, damage):
    folder = tmp_path / "run"
    evaluated(folder, VIT)
    path = folder / "predictions.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    other = json.dumps({"number": 4, "id": "another", "prediction": "x"}).encode() + b"\n"
    path.write_bytes({
        "cut": whole[: len(whole) // 2],
        "lost": b"".join(lines[:7] + lines[9:]),
        "twice": whole + lines[3],
        "foreign": b"".join(lines[:4]) + other + b"".join(lines[5:]),
        "empty": b"",
    }[damage])  # fmt: skip
    results, reporter = evaluated(folder, VIT, resume=True)
    assert path.read_bytes() == whole
    assert results["predicted"] + results["found"] == VIT["eval.limit"]
    assert (results["redone"] > 0) == (damage in ("cut", "lost", "foreign"))
    assert bool(reporter.warnings) == (results["redone"] > 0)


@pytest.mark.parametrize(
    "change",
    [
        {"label": 5},
        {"label": True},
        {"top": [99, 1, 2, 3, 4]},
        {"top": [1, 1, 2, 3, 4]},
        {"top": [1, 2]},
        {"top": {}},
        {"top": None, "prediction": "a dog", "references": ["a dog"]},
        {"top": [-1, 1, 2, 3, 4]},
        {"note": float("nan")},
        {"note": "\ud800"},
    ],
)
def test_a_line_that_does_not_fit_the_dataset_is_predicted_again(digits, tmp_path, change):
    folder = tmp_path / "run"
    shutil.copytree(digits[0], folder)
    path = folder / "predictions.jsonl"
    whole = path.read_bytes()
    first, *others = whole.splitlines(keepends=True)
    assert json.loads(first)["label"] not in (5, True)
    path.write_bytes(json.dumps(json.loads(first) | change).encode() + b"\n" + b"".join(others))
    results, reporter = evaluated(folder, VIT, resume=True)
    assert path.read_bytes() == whole
    assert (results["found"], results["predicted"], results["redone"]) == (92, 8, 8)
    assert "8 lines were damaged" in reporter.warnings[0]


def arguments(settings, folder):
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["-m", "idvl", "eval", *given, "--output", str(folder)]


def test_a_killed_run_goes_on_and_gives_the_same_file(captions, tmp_path):
    folder = tmp_path / "run"
    without_java = {**os.environ, "PATH": "without Java"}
    killed = processes.start(*arguments(BLIP, folder), env=without_java)
    path = folder / "predictions.jsonl"
    deadline = time.monotonic() + 120
    while killed.poll() is None and time.monotonic() < deadline:
        if path.exists() and path.read_bytes().count(b"\n") >= 3:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.01)
    assert killed.wait() == -signal.SIGKILL, killed.stderr
    done = processes.run(*arguments(BLIP, folder), "--resume", env=without_java)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == (captions[0] / "predictions.jsonl").read_bytes()
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"] == captions[1]["metrics"]


def test_two_processes_predict_every_sample_once(digits, tmp_path):
    folder = tmp_path / "run"
    ended = processes.team(*arguments(VIT, folder))
    assert [process.wait() for process in ended] == [0, 0], ended[0].stderr
    assert (folder / "predictions.jsonl").read_bytes() == (digits[0] / "predictions.jsonl").read_bytes()
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"] == digits[1]["metrics"]
    assert results["processes"] == 2


def test_a_run_compared_with_itself_differs_by_nothing(digits, tmp_path):
    folder, _ = digits
    unread = {"eval__prompt": "", "eval__min_length": 0, "eval__rerank": 0}
    results, _ = evaluated(tmp_path / "run", VIT, compared=folder / "results.json", **unread)
    difference = results["compared"]["differences"]["top-1"]
    assert difference["value"] == 0 and -5 < difference["low"] < 0 < difference["high"] < 5
    assert difference["interval"] == "Tango score" and results["compared"]["settings"] == {}
    other = json.loads((folder / "results.json").read_text())
    other["settings"] |= {"beam_length": "whole", "max_length": 7}
    (tmp_path / "results.json").write_text(json.dumps(other))
    shutil.copy(folder / "predictions.jsonl", tmp_path)
    results, _ = evaluated(tmp_path / "run", VIT, compared=tmp_path / "results.json", resume=True)
    assert results["compared"]["settings"].keys() == {"beam_length", "max_length"}


def test_what_cannot_be_compared_is_refused(captions, digits, tmp_path):
    with pytest.raises(UsageError, match="task caption, not of classification"):
        evaluated(tmp_path / "run", VIT, compared=captions[0] / "results.json")
    with pytest.raises(UsageError, match="other samples"):
        evaluated(tmp_path / "less", VIT, compared=digits[0] / "results.json", eval__limit=50)
    with pytest.raises(UsageError, match="is not the results of idvl eval: it has the schema"):
        evaluated(tmp_path / "none", VIT, compared=captions[0] / "run.json")


def test_the_same_samples_in_another_order_are_compared_by_their_ids(digits, tmp_path):
    """As whole splits of built-in data that were drawn by other seeds; their fingerprints differ."""
    folders = [tmp_path / name for name in ("own", "same", "reversed")]
    for folder in folders:
        shutil.copytree(digits[0], folder)
    lines = predictions.read(folders[1] / "predictions.jsonl")
    for line in lines[:7]:
        line["top"] = line["top"][::-1]

    def write(folder, records):
        text = "".join(json.dumps(line | {"number": number}) + "\n" for number, line in enumerate(records))
        (folder / "predictions.jsonl").write_text(text)

    write(folders[1], lines)
    write(folders[2], lines[::-1])
    theirs = json.loads((folders[2] / "results.json").read_text())
    theirs["dataset"]["fingerprint"] = "of another order"
    (folders[2] / "results.json").write_text(json.dumps(theirs))
    same, reordered = (scoring.score_again(folders[0], compared=folder)["compared"] for folder in folders[1:])
    assert same["differences"] == reordered["differences"] and same["differences"]["top-1"]["value"] > 0
    lines[3]["label"] = (lines[3]["label"] + 1) % 10
    write(folders[2], lines[::-1])
    with pytest.raises(UsageError, match="has another 'label'"):
        scoring.score_again(folders[0], compared=folders[2])


@pytest.mark.parametrize("seed", [0, 2])
def test_labels_that_count_from_1_are_refused_whichever_samples_are_drawn(tmp_path, seed):
    for label in range(1, 11):
        Image.new("L", (8, 8), 20 * label).save(tmp_path / f"{label}.png")
    rows = "".join(f"{label}.png,{label}\n" for label in range(1, 11))
    (tmp_path / "data.csv").write_text(f"image,label\n{rows}")
    changes = {"data__dataset": str(tmp_path / "data.csv"), "eval__limit": 2, "data__seed": seed}
    with pytest.raises(UsageError, match="the largest label is 10: number the classes from 0"):
        evaluated(tmp_path / "run", VIT, **changes)


@pytest.mark.parametrize(
    ("settings", "changes", "told"),
    [
        (BLIP, {"eval__task": "vqa"}, "builtin/blip cannot do vqa: it can do caption"),
        (BLIP, {"eval__task": "captioning"}, "did you mean 'caption'"),
        (BLIP, {"data__dataset": "digits"}, "can do caption; the dataset is for classification"),
        (BLIP, {"data__dataset": "digits", "eval__task": "caption"}, r"digits \(split test\): no reference captions"),
        (VIT, {"data__dataset": "shapes", "eval__task": "classification"}, r"shapes \(split test\): no label"),
        (VIT, {"eval__split": "tset"}, "did you mean 'test'"),
        (VIT, {"eval__beam_length": "whole"}, "beam_length whole and task .*: it has no effect; leave beam_length out"),
        (VIT, {"eval__beams": 5}, "beams 5 and task classification of builtin/vit: it has no effect; leave beams out"),
        (VIT, {"eval__prompt": "a"}, "prompt a and task classification of builtin/vit: .*; leave prompt out"),
        (VIT, {"eval__max_length": 7}, "max_length 7 and task classification of builtin/vit: .*; leave max_length"),
        (BLIP, {"eval__templates": ["a {}."]}, "task caption of builtin/blip: it has no effect; leave templates out"),
        (VIT, {"eval__templates": ["a {}."]}, "and task classification of builtin/vit: .*; leave templates out"),
        (BLIP, {"eval__rerank": 64}, "rerank 64 and task caption of builtin/blip: it has no effect; leave rerank"),
        (VIT, {"model__revision": "v1"}, "revision 'v1' is for a model of the Hub, not for 'builtin/vit': leave"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_is_written(tmp_path, settings, changes, told):
    with pytest.raises(UsageError, match=told):
        evaluated(tmp_path / "run", settings, **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("config.json", "hidden_act", "relu"), ("preprocessor_config.json", "image_mean", [0.1, 0.2, 0.3])],
)
def test_a_model_of_the_same_weights_that_computes_otherwise_is_not_resumed(tmp_path, file, key, value):
    model = Path(shutil.copytree(builtin.path("builtin/vit"), tmp_path / "model"))
    settings = VIT | {"model.name": str(model), "eval.limit": 10}
    evaluated(tmp_path / "run", settings)
    evaluated(tmp_path / "run", settings, resume=True)
    written = json.loads((model / file).read_text())
    assert written[key] != value
    (model / file).write_text(json.dumps(written | {key: value}))
    with pytest.raises(UsageError, match="configuration was"):
        evaluated(tmp_path / "run", settings, resume=True)


def test_a_run_of_other_settings_is_not_resumed(captions):
    with pytest.raises(UsageError, match="beams was 3, is 1"):
        evaluated(captions[0], BLIP, resume=True, eval__beams=1)
    with pytest.raises(UsageError, match='beam_length was null, is "whole"'):
        evaluated(captions[0], BLIP, resume=True, eval__beam_length="whole")
    with pytest.raises(UsageError, match="clean_texts was null, is false"):
        evaluated(captions[0], BLIP, resume=True, model__clean_texts=False)


def test_predictions_of_another_task_are_not_scored(captions, tmp_path):
    text = (captions[0] / "predictions.jsonl").read_text()
    (tmp_path / "predictions.jsonl").write_text(text)
    with pytest.raises(UsageError, match="set task .--task"):
        scoring.score_again(tmp_path / "predictions.jsonl", seed=0, resamples=100)
    with pytest.raises(UsageError, match="no predictions of the task classification"):
        scoring.score_again(tmp_path / "predictions.jsonl", task="classification", seed=0, resamples=100)
    assert scoring.score_again(tmp_path / "predictions.jsonl", task="caption", seed=0, resamples=100)["samples"] == N


def test_a_model_that_does_not_take_its_processors_pixels_is_told(tmp_path):
    model = Path(shutil.copytree(builtin.path("builtin/vit"), tmp_path / "model"))
    settings = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps(settings | {"size": {"height": 6, "width": 6}}))
    with pytest.raises(UsageError, match=r"does not take what its processor prepares: .*preprocessor_config\.json"):
        evaluated(tmp_path / "run", VIT | {"model.name": str(model), "eval.limit": 10})
    assert not (tmp_path / "run").exists()


def test_what_is_not_whole_is_not_scored(digits, tmp_path):
    folder, results = digits
    run_folder = tmp_path / "run"
    shutil.copytree(folder, run_folder)
    path = run_folder / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for broken, told in (
        (lines[:50], "finish the run with --resume"),
        (lines * 2, "remove the lines that are repeated"),
        (lines[::-1], "in another order than it was written in: sort its lines by number"),
        (lines[:-1] + lines[:1], "repeats predictions, of number 0 first: remove them"),
    ):
        path.write_bytes(b"".join(broken))
        with pytest.raises(UsageError, match=told):
            scoring.score_again(path)
    path.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"results.json holds scores, not predictions: name .*/predictions.jsonl"):
        scoring.score_again(run_folder / "results.json")
    with pytest.raises(UsageError, match="is of the task classification, not of caption"):
        scoring.score_again(path, task="caption")
    assert json.loads((run_folder / "results.json").read_text()) == results


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"top": [1, 1, 1, 1, 1]}, "'top' of line 2 is .1, 1, 1, 1, 1.: classes from 0, each once"),
        ({"top": [-1, 1, 2, 3, 4]}, "'top' of line 2 is .-1, 1"),
        ({"label": -1}, "'label' of line 2 is -1: a class from 0"),
        ({"label": 10**30}, "'label' of line 2 is 10{30}: a class from 0"),
        ({"number": None}, r"line 2 has no number \(None\): each needs number, from 0 on, and an id of its own"),
        ({"number": True}, r"line 2 has no number \(True\)"),
        ({"number": 2}, "lacks predictions, of number 1 first: finish the run with --resume first"),
        ({"id": "a"}, r"line 2 has the id of another line \('a'\): each needs number, from 0 on, and an id of its own"),
        ({"id": None}, "line 2 has no id"),
    ],
)
def test_lines_that_no_run_writes_are_not_scored(tmp_path, changed, told):
    lines = [{"number": n, "id": name, "label": 1, "top": [1, 0, 2, 3, 4]} for n, name in enumerate("ab")]
    path = tmp_path / "predictions.jsonl"
    for extra in ({}, changed):
        lines[1] |= extra
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if not extra:
            assert scoring.score_again(path, task="classification", resamples=1)["samples"] == 2
    with pytest.raises(UsageError, match=told):
        scoring.score_again(path, task="classification")


def test_scoring_again_draws_as_before(tmp_path):
    results, _ = evaluated(tmp_path / "run", VIT, data__seed=3, eval__resamples=200)
    assert scoring.score_again(tmp_path / "run") == results


def test_predictions_for_other_images_of_the_same_names_are_not_compared(digits, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(digits[0], folder)
    theirs = json.loads((folder / "results.json").read_text())
    theirs["dataset"]["fingerprint"] = "another"
    (folder / "results.json").write_text(json.dumps(theirs))
    with pytest.raises(UsageError, match="other samples"):
        evaluated(tmp_path / "run", VIT, compared=folder / "results.json")


def test_a_limit_that_leaves_nothing_out_is_none(tmp_path):
    results, _ = evaluated(tmp_path / "run", VIT, eval__limit=899)
    assert (results["samples"], results["limit"]) == (899, None)


@pytest.mark.parametrize("field", [{"prediction": None}, {"prediction": 5}, {"references": 7}])
def test_damaged_fields_end_in_one_line(tmp_path, field):
    line = {"number": 0, "id": "a", "prediction": "x", "references": ["y"], **field}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(line))
    with pytest.raises(UsageError, match="predictions of the task caption"):
        scoring.score_again(tmp_path / "predictions.jsonl", task="caption")


def test_captions_that_come_one_a_line_belong_to_one_image(tmp_path):
    def rows(_, sample):
        return [{"text": f"{sample.texts[0]} {colour}"} for colour in ("red", "blue")]

    drawn = tiny.samples(6)
    pictures = tiny.save_samples(tmp_path / "pictures", drawn, rows)
    tiny.save("clip", tmp_path / "clip")
    settings = {"model.name": str(tmp_path / "clip"), "data.dataset": str(pictures)}
    results, _ = evaluated(tmp_path / "run", settings)
    assert (results["task"], results["samples"], results["scoring"]["captions"]) == ("retrieval", 6, 12)
    records = predictions.read(tmp_path / "run" / "predictions.jsonl")
    assert all(len(record["captions"]) == 2 for record in records)
    # a metric that compares texts does not end the run
    scored = scoring.numbers(
        "retrieval", tmp_path / "run" / "predictions.jsonl", seed=0, resamples=100, other_metrics={"words": None}
    )
    assert "retrieval predicts neither" in scored["other_metrics"]["words"]["skipped"]
    limited, _ = evaluated(tmp_path / "few", settings, eval__limit=3)
    assert (limited["samples"], limited["limit"], limited["scoring"]["captions"]) == (3, 3, 6)
    # as many as there are images, of twice as many rows
    every, _ = evaluated(tmp_path / "every", settings, eval__limit=6, compared=tmp_path / "run" / "results.json")
    assert (every["samples"], every["limit"]) == (6, None)


def test_the_task_is_chosen_by_usable_rows_and_rows_without_images_are_counted(tmp_path):
    tiny.save("clip", tmp_path / "clip")
    drawn = tiny.samples(40)
    first = int(np.random.default_rng(0).permutation(len(drawn))[0])  # the row that is looked at first
    texts = {sample.id: sample.texts[0] for sample in drawn} | {drawn[first].id: ""}
    pictures = tiny.save_samples(tmp_path / "pictures", drawn, lambda _, sample: [{"text": texts[sample.id]}])
    settings = {"model.name": str(tmp_path / "clip"), "data.dataset": str(pictures)}
    results, _ = evaluated(tmp_path / "run", settings)
    assert (results["task"], results["samples"], results["dataset"]["looked_at"]) == ("retrieval", 39, 40)
    (skipped,) = results["dataset"]["warnings"]
    assert skipped.startswith("skipped 1 unusable of 40 samples")
    table = tmp_path / "texts.jsonl"
    table.write_text("".join(json.dumps({"text": f"a dog {number}"}) + "\n" for number in range(6)))
    with pytest.raises(UsageError, match=r"^6 of 6 samples of .*texts.jsonl \(split all\): no image"):
        evaluated(tmp_path / "none", settings, data__dataset=str(table), eval__task="retrieval")
    table.write_text('{"text": ""}\n' * 6)
    with pytest.raises(UsageError, match=r"^6 of the 6 samples of .*texts.jsonl looked at cannot be used"):
        evaluated(tmp_path / "none", settings, data__dataset=str(table))


def test_textvqa_has_its_own_evaluator_by_its_hub_id_too():
    textvqa = [("textvqa", None), ("lmms-lab/textvqa", None), ("x", "lmms-lab/textvqa")]
    for name, hub_id in (*textvqa, ("lmms-lab/VQAv2", None), ("x", None)):
        recipe = load_recipe(None, BLIP | {"data.dataset": name, "data.dataset_id": hub_id})
        task, selection = tasks.load("classification"), Selection(samples=[], description={})
        loaded = SimpleNamespace(family=SimpleNamespace(skills={}))
        settings = evaluation._task_settings(recipe, loaded, task, selection)
        assert settings.evaluator == ("textvqa" if (name, hub_id) in textvqa else "vqa")
