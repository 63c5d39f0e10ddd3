"""The command as a user types it: every task on local copies of the real layouts, and from a Hub on loopback."""

import errno
import io
import json
import os

import pytest
import torch
from PIL import Image
from transformers import BlipProcessor

from idvl import predictions
from idvl.commands import main
from idvl.metrics import vqa
from idvl.models.own.blip_pairs import BlipForImagesAndTextClassification
from tests.support import processes, tiny
from tests.support.hub import Hub, jpeg, write_dataset

CLIP = "openai/clip-vit-large-patch14"
N = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoints and datasets, made when they are first asked for."""
    root = tmp_path_factory.mktemp("eval")

    def at(kind, make):
        return str(root / kind) if (root / kind).exists() else str(make(kind, root / kind))

    class Place:
        def model(self, kind):
            return at(kind, tiny.save)

        def data(self, kind):
            return at(kind, lambda kind, folder: write_dataset(kind, folder, N))

    return Place()


def evaluate(capsys, *arguments):
    """(exit code, results, what was said on stderr)"""
    code = main(["eval", *map(str, arguments), "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out else None, told.err


@pytest.mark.parametrize(
    ("model", "dataset", "task", "metric"),
    [
        ("clip", "flickr30k", "retrieval", "text-to-image R@10"),
        ("blip-itm", "flickr30k", "retrieval", "image-to-text R@10"),
        ("clip", "cifar100", "classification", "top-5"),
        ("vilt-nlvr2", "nlvr2", "reasoning", "accuracy"),
        ("blip-vqa", "vqav2", "vqa", "accuracy"),
    ],
)
def test_every_task_runs_on_a_local_copy_and_comes_out_alike_in_other_batches(
    place, tmp_path, capsys, model, dataset, task, metric
):
    asked = [place.model(model), "--dataset", dataset, "--data-dir", place.data(dataset)]
    more = [*(["--rerank", 5] if model == "blip-itm" else []), "--set", "eval.resamples=100"]
    code, results, told = evaluate(capsys, *asked, *more, "--output", tmp_path / "run", "--batch-size", 5)
    assert code == 0, told
    assert (results["task"], results["samples"], results["left_out"]) == (task, N, {})
    found = results["metrics"][metric]
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 100
    all_ = ["--limit", N, "--compare", tmp_path / "run"]
    code, other, _ = evaluate(capsys, *asked, *more, *all_, "--output", tmp_path / "other", "--batch-size", 24)
    assert other["metrics"] == results["metrics"] and other["limit"] is None and other["compared"]["differences"]
    code, again, _ = evaluate(capsys, "--score", tmp_path / "run" / "predictions.jsonl", "--set", "eval.resamples=100")
    assert again == results


@pytest.mark.parametrize(
    ("options", "sentences"),
    [((), ["This is a photo of {}."]), (("--template", "a {}", "--template", "the {}"), ["a {}", "the {}"])],
)
def test_a_class_is_put_into_the_models_own_sentence_or_the_requested_ones(place, tmp_path, capsys, options, sentences):
    asked = [place.model("siglip"), "--dataset", "cifar100", "--data-dir", place.data("cifar100")]
    code, results, told = evaluate(capsys, *asked, *options, "--limit", 5, "--output", tmp_path / "run")
    assert code == 0, told
    assert (results["task"], results["settings"]["templates"]) == ("classification", sentences)


def test_scores_of_a_run_that_cannot_be_written_are_shown_with_a_warning(place, tmp_path, capsys, monkeypatch):
    asked = [place.model("clip"), "--dataset", "cifar100", "--data-dir", place.data("cifar100")]
    _, results, _ = evaluate(capsys, *asked, "--set", "eval.resamples=100", "--output", tmp_path / "run")
    before = (tmp_path / "run" / "results.json").read_bytes()

    def read_only(source, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))

    monkeypatch.setattr("idvl.files.os.replace", read_only)
    code, again, said = evaluate(
        capsys, "--score", tmp_path / "run" / "predictions.jsonl", "--set", "eval.resamples=200", "--set", "data.seed=3"
    )
    assert (
        code == 0
        and again["bootstrap"] == {**results["bootstrap"], "resamples": 200, "seed": 3}
        and again["metrics"].keys() == results["metrics"].keys()
    )
    assert "results.json keeps its earlier scores: " in said and "Read-only file system" in said
    assert (tmp_path / "run" / "results.json").read_bytes() == before


def test_the_matching_head_changes_what_retrieval_finds(place, tmp_path, capsys):
    asked = [place.model("blip-itm"), "--dataset", "flickr30k", "--data-dir", place.data("flickr30k")]
    _, with_head, _ = evaluate(capsys, *asked, "--rerank", 8, "--output", tmp_path / "with")
    lines = predictions.read(tmp_path / "with" / "matches.jsonl")
    assert len(lines) == N and all(len(line["captions"]) == len(line["scores"]) >= 8 for line in lines)
    _, without, _ = evaluate(capsys, *asked, "--rerank", 0, "--output", tmp_path / "without")
    assert not (tmp_path / "without" / "matches.jsonl").exists()
    assert (with_head["scoring"]["reranked"], without["scoring"]["reranked"]) == (8, 0)
    assert with_head["metrics"] != without["metrics"]
    assert with_head["seconds"] > 0 and with_head["predicted"] == N
    # a run that was killed while matching does not know what its embeddings took
    (tmp_path / "with" / "matches.jsonl").unlink()
    _, resumed, _ = evaluate(capsys, *asked, "--rerank", 8, "--output", tmp_path / "with", "--resume")
    assert resumed["metrics"] == with_head["metrics"] and (resumed["predicted"], resumed["found"]) == (0, N)
    assert resumed["seconds"] is resumed["seconds_per_sample"] is resumed["peak_memory"] is None


def test_samples_without_an_answer_are_left_out_and_counted(place, tmp_path, capsys):
    from datasets import Dataset
    from datasets import Image as ImageFeature

    rows = [
        {"image": {"bytes": jpeg(k), "path": None}, "question": f"a {k}", "answers": ["red"] * (k % 3)}
        for k in range(6)
    ]
    path = tmp_path / "mine.parquet"
    Dataset.from_list(rows).cast_column("image", ImageFeature()).to_parquet(path)
    asked = [place.model("blip-vqa"), "--dataset", path, "--answers-column", "answers", "--output", tmp_path / "run"]
    code, results, told = evaluate(capsys, *asked)
    assert code == 0, told
    assert (results["samples"], results["left_out"]) == (4, {"no answers": 2})
    assert "2 of 6 samples" in told


def test_questions_are_captions_only_where_they_are_named(place, tmp_path, capsys):
    from datasets import Dataset
    from datasets import Image as ImageFeature

    rows = [
        {"image": {"bytes": jpeg(k), "path": None}, "question": f"what {k}", "answer": [f"a {k}", "a"]}
        for k in range(4)
    ]
    path = tmp_path / "mine.parquet"
    Dataset.from_list(rows).cast_column("image", ImageFeature()).to_parquet(path)
    asked = [place.model("clip"), "--dataset", path, "--output", tmp_path / "run"]
    code, _, told = evaluate(capsys, *asked)
    assert code == 2 and "'question' is read as captions" in told and "(not read: answer)" in told
    assert "--text-column" in told and not (tmp_path / "run").exists()
    code, results, told = evaluate(capsys, *asked, "--text-column", "question")
    assert code == 0 and "is read as captions" not in told, told
    assert results["task"] == "retrieval"


def test_plain_folders_with_columns_of_their_own_work_as_names_do(place, tmp_path, capsys):
    from datasets import Dataset
    from datasets import Image as ImageFeature

    rows = [{"photo": {"bytes": jpeg(k), "path": None}, "asked": f"a {k}", "said": ["red", "red"]} for k in range(4)]
    path = tmp_path / "mine.parquet"
    Dataset.from_list(rows).cast_column("photo", ImageFeature()).to_parquet(path)
    columns = ["--image-column", "photo", "--text-column", "asked", "--answers-column", "said"]
    code, results, told = evaluate(
        capsys, place.model("blip-vqa"), "--dataset", path, *columns, "--output", tmp_path / "r"
    )
    assert code == 0, told
    assert (results["task"], results["samples"]) == ("vqa", 4)
    assert predictions.read(tmp_path / "r" / "predictions.jsonl")[0]["answers"] == ["red", "red"]


@pytest.mark.parametrize(
    ("model", "dataset", "more", "told"),
    [
        ("vit", "imagenet-1k", (), "lacks classes of the dataset, or several have one name (class"),
        ("clip", "flickr30k", ("--task", "caption"), "cannot do caption: it can do classification, retrieval"),
        ("clip", "flickr30k", ("--split", "tset"), "did you mean 'test'"),
        ("clip", "cifar100", ("--template", "a photo"), r"one {} for the class's name, not 'a photo'"),
        ("blip", "flickr30k", ("--max-length", "500"), "maximum length"),
        ("blip", "flickr30k", ("--prompt", "a zebra of"), "does not know 'zebra'"),
        ("clip", "flickr30k", ("--batch-size", "many"), "eval.batch_size"),
        ("clip", "flickr30k", ("--resume",), "--resume needs the folder"),
        ("clip", "flickr30k", ("--compare", "none"), "there is no results file 'none'; give the folder of"),
        ("blip", "flickr30k", ("--metric", "accuracy"), "--trust-remote-code"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(place, tmp_path, capsys, monkeypatch, model, dataset, more, told):
    monkeypatch.chdir(tmp_path)
    arguments = [place.model(model), "--dataset", dataset, "--data-dir", place.data(dataset), *more]
    code, results, said = evaluate(capsys, *arguments)
    assert (code, results) == (2, None)
    assert told in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()


def test_missing_predictions_are_refused_with_what_to_give(tmp_path, capsys):
    assert main(["eval", "--score", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert "No such file or directory; give the folder of an idvl eval run, or its predictions.jsonl" in said
    assert "Errno" not in said


def test_a_split_without_labels_is_refused(place, tmp_path, capsys):
    hidden = write_dataset("imagenet-1k", tmp_path / "hidden", 6, split="test", hidden=True)
    code, _, said = evaluate(capsys, place.model("vit"), "--dataset", "imagenet-1k", "--data-dir", hidden)
    assert code == 2 and "no label" in said


def test_the_catalogue_is_listed_without_a_model(capsys):
    assert main(["eval", "--list"]) == 0
    told = capsys.readouterr().out
    for name in ("coco", "flickr30k", "nlvr2", "cifar100", "imagenet-1k", "textvqa", "vqav2", "gated"):
        assert name in told
    assert main(["eval", "--list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["imagenet-1k"]["gated"] and rows["nlvr2"]["tasks"] == ["reasoning"]


def test_a_metric_of_ones_own_is_computed_beside_the_others(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.py").write_text(
        "import datasets\nimport evaluate\n\n\nclass Words(evaluate.Metric):\n    def _info(self):\n"
        "        features = datasets.Features({'predictions': datasets.Value('string'), 'references': "
        "datasets.Sequence(datasets.Value('string'))})\n"
        "        return evaluate.MetricInfo(description='', citation='', features=features)\n\n"
        "    def _compute(self, predictions, references):\n"
        "        print('noise')\n"
        "        return {'words': sum(len(text.split()) for text in predictions) / len(predictions)}\n"
    )
    asked = ["builtin/blip", "--dataset", "shapes", "--limit", "6", "--metric", str(folder), "--json"]
    # evaluate keeps the package that it copies metrics into for as long as a process lives
    environment = {**os.environ, "PATH": "without Java"}
    done = processes.run("-m", "idvl", "eval", *asked, "--output", tmp_path / "run", env=environment)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    lines = predictions.read(tmp_path / "run" / "predictions.jsonl")
    words = sum(len(line["prediction"].split()) for line in lines) / len(lines)
    assert results["other_metrics"][str(folder)]["words"] == pytest.approx(words)


def on_hub(hub, cache, *arguments):
    return processes.run("-m", "idvl", "eval", *arguments, "--json", env=hub.env(cache))


def test_a_hub_model_finds_flickr30k_images(place, tmp_path):
    models = {CLIP: place.model("clip")}
    with Hub(models=models, datasets={"umaru97/flickr30k_train_val_test": place.data("flickr30k")}) as hub:
        asked = [CLIP, "--task", "retrieval", "--dataset", "flickr30k"]
        done = on_hub(hub, tmp_path / "cache", *asked, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert (results["samples"], results["scoring"]["captions"]) == (N, 5 * N)
    assert results["dataset"]["split"] == "test" and results["model"]["name"] == CLIP
    assert not list(tmp_path.glob(".*images"))


def test_textvqa_of_the_hub_is_scored_as_by_its_own_evaluator(tmp_path):
    """All 13 columns of the Hub's copy; a model that answers `says`, whatever it is shown."""
    says = " ".join(["red"] * 9)  # ten tokens with the first, as many as BLIP writes
    torch.manual_seed(0)
    model, processor = tiny.blip("BlipForQuestionAnswering")
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[tiny.VOCAB["red"]] = 50
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    # what people answered, and the accuracy by TextVQA's rules, then by those of VQA v2
    cases = [
        ([says.replace(" ", ",")] * 9 + ["blue"], 0, 1),  # "redred...": commas go first, without a trace
        ([f"{says.title()}?"] * 10, 1, 0),  # compared as they are where all agree, by the rules of VQA v2
        ([f"{says},"] * 10, 1, 0),
        ([says] * 3 + ["stop"] * 7, 0.9, 0.9),
        ([says] * 2 + ["stop", "a stop", "Stop!"] * 2 + ["unanswerable", ""], 0.6, 0.6),
    ]
    dataset = write_dataset(
        "textvqa", tmp_path / "data", 20, shards=2, instead=lambda number: {"answers": cases[number % 5][0]}
    )
    name, dataset_id = "Salesforce/blip-vqa-base", "lmms-lab/textvqa"
    with Hub(models={name: tmp_path / "model"}, datasets={dataset_id: dataset}) as hub:
        asked = [name, "--dataset", "textvqa", "--batch-size", "8", "--set", "eval.resamples=100"]
        done = on_hub(hub, tmp_path / "cache", *asked, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    found = results["dataset"]
    assert (results["task"], results["samples"], results["left_out"]) == ("vqa", 20, {})
    assert (found["dataset_id"], found["split"]) == (dataset_id, "validation")
    assert found["columns"] == {"image": "image", "text": "question", "answers": "answers", "guessed": []}
    assert "20 rows in lmms-lab/textvqa, 5,000 as published" in done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [str(34_602 + number) for number in range(20)]
    assert [line["answers"] for line in lines] == [cases[number % 5][0] for number in range(20)]
    assert {line["prediction"] for line in lines} == {says} and {line["evaluator"] for line in lines} == {"textvqa"}
    assert results["metrics"]["accuracy"]["value"] == pytest.approx(100 * sum(case[1] for case in cases) / 5)
    assert vqa.score([says] * 5, [case[0] for case in cases], "vqa")["accuracy"].value == pytest.approx(
        100 * sum(case[2] for case in cases) / 5
    )


def test_nlvr2_of_the_hub_goes_through_blip_for_nlvr2(place, tmp_path):
    """The files of the Hub's copy: shards called as it calls them, its six tables of annotations, no card."""
    sentences = [sample.texts[0] for sample in tiny.samples(N)]
    dataset = write_dataset(
        "nlvr2",
        tmp_path / "data",
        N,
        shards=2,
        instead=lambda number: {"question": f"{sentences[number].capitalize()}."},
    )
    write_dataset("nlvr2", dataset, 4, split="balanced_test_public")
    for shard in (dataset / "data").iterdir():
        shard.rename(shard.with_name(f"{shard.stem}-600e6dcea588312e.parquet"))
    for name in ("balanced/balanced_dev", "unbalanced/unbalanced_dev", "unbalanced/unbalanced_test1"):
        (dataset / name).parent.mkdir(exist_ok=True)
        (dataset / f"{name}.json").write_text(json.dumps({"identifier": "dev-0-0-0", "label": "True"}))
    for name in ("README.md", "sizes.json"):
        (dataset / name).unlink()
    model, dataset_id = place.model("blip-nlvr2"), "lmms-lab/NLVR2"
    with Hub(models={"me/blip-nlvr2": model}, datasets={dataset_id: dataset}) as hub:
        asked = ["me/blip-nlvr2", "--dataset", "nlvr2", "--batch-size", "8", "--set", "eval.resamples=100"]
        done = on_hub(hub, tmp_path / "cache", *asked, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    found = results["dataset"]
    assert (results["task"], results["samples"], results["left_out"]) == ("reasoning", N, {})
    assert (found["dataset_id"], found["split"]) == (dataset_id, "unbalanced_test_public")
    columns = {"image": "left_image", "text": "question", "label": "answer", "second_image": "right_image"}
    assert found["columns"] == {**columns, "guessed": []}
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == [int(number % 3 == 0) for number in range(N)]
    right = sum(line["label"] == line["prediction"] for line in lines)
    assert results["metrics"]["accuracy"]["value"] == pytest.approx(100 * right / N)
    # the model itself on a pair, left before right
    model, processor = BlipForImagesAndTextClassification.from_pretrained(model), BlipProcessor.from_pretrained(model)
    for number in (0, 7):
        images = [Image.open(io.BytesIO(jpeg(number + side))) for side in (0, 5_000)]
        pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
        tokens = processor.tokenizer(sentences[number], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores, swapped = model(tokens.repeat(2, 1), torch.stack([pixels, pixels.flip(0)])).logits.tolist()
        assert lines[number]["scores"] == pytest.approx(scores, abs=1e-5) != pytest.approx(swapped, abs=1e-5)
