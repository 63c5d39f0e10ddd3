"""Files of an evaluation with one field damaged: they are scored, or refused in one line; no other exception."""

import json

import pytest

from idvl.errors import RunError, UsageError
from idvl.evaluation import scoring
from idvl.reporting.terminal import rests_on, results_table
from idvl.schemas import ResultsFile
from idvl.tasks.retrieval import _packed
from tests.support.damage import GONE, damaged, spots
from tests.support.tiny import samples

ODD = [
    *(None, True, -1, 0, 7, 10**400, 1e308, 0.5, "", "x", "\ud800", [], {}, [None], ["\ud800"], [[[]]], {"a": 1}),
    *("=" * 8, [10**400], [-1], ["AAAA"]),
]
RECORDS = {
    "caption": {"prediction": "a red dog", "references": ["a red dog", "a dog"]},
    "vqa": {"evaluator": "textvqa", "question": "who?", "prediction": "dog", "answers": ["dog"] * 10},
    "classification": {"label": 1, "top": [1, 0]},
    "reasoning": {"sentence": "a dog", "label": 1, "prediction": 0, "scores": [0.5, 0.25]},
}
RESULTS = {
    "schema": ResultsFile.NAME,
    "metrics": {"top-1": {"value": 1.0, "low": 0.0, "high": 2.0, "interval": "Wilson score, samples"}},
    "bootstrap": {"seed": 0, "resamples": 100, "level": 0.95},
    "scoring": {},
    "model": {"name": "m", "fingerprint": "f"},
    "dataset": {"dataset": "d", "split": "test", "fingerprint": "f"},
    "samples": 2,
    "limit": None,
    "left_out": {"no label": 1},
    "settings": {"beams": 3},
}


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)


def retrieval():
    """Records of both files of a retrieval, whose embeddings are those of two samples."""
    import torch

    vectors = torch.eye(4)
    found = [
        {"captions": [one.texts[0]], "image": _packed(vectors[k]), "texts": [_packed(vectors[k])]}
        for k, one in enumerate(samples(2))
    ]
    return found, [{"rerank": 2, "captions": [0, 1], "scores": [0.5, 0.25]}] * 2


def written(folder, records, name="predictions"):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"number": k, "id": f"s{k}", **record}) for k, record in enumerate(records)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


def every(value):
    """The value with each place in it replaced by each odd value, and without each key."""
    for spot in [(), *spots(value)]:
        for odd in ODD:
            yield damaged(value, spot, odd)
    for key in value:
        yield damaged(value, (key,), GONE)


def survives(attempt):
    """Whether it works; it may refuse in one line, and nothing else."""
    try:
        results = attempt()
        results_table(results)
        "\n".join(rests_on(results)).encode()
    except (UsageError, RunError) as error:
        assert error.args[0] and "\n" not in str(error) and len(str(error)) < 700, str(error)
        return False
    return True


@pytest.mark.parametrize("task", [*RECORDS, "retrieval", "matches"])
def test_a_damaged_prediction_is_scored_or_refused(tmp_path, task):
    records, matches = ([RECORDS[task]] * 2, []) if task in RECORDS else retrieval()
    name, lines = ("matches", matches) if task == "matches" else ("predictions", records)
    written(tmp_path, records)
    if task == "matches":
        written(tmp_path, matches, "matches")
    task = "retrieval" if task == "matches" else task
    worked = 0
    # scoring captions takes long
    step = 7 if task == "caption" else 1
    for record in list(every({"number": 0, "id": "s0", **lines[0]}))[::step]:
        if isinstance(record, dict):
            written(tmp_path, [record, *lines[1:]], name)
            worked += survives(lambda: scoring.score_again(tmp_path, task=task, resamples=1))
    # odd values that are as good as others, such as another id
    assert 0 < worked < 120


@pytest.mark.parametrize("compared", [False, True])
def test_damaged_results_are_read_or_refused(tmp_path, compared):
    whole = RESULTS | {"task": "classification"}
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        written(folder, [RECORDS["classification"]] * 2)
        (folder / "results.json").write_text(json.dumps(whole))
    path = tmp_path / ("theirs" if compared else "ours") / "results.json"
    options = {"compared": tmp_path / "theirs"} if compared else {}
    worked = 0
    for results in list(every(whole))[:: 5 if compared else 3]:
        path.write_text(json.dumps(results))
        worked += survives(lambda: scoring.score_again(tmp_path / "ours", resamples=1, **options))
    assert worked > 0


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[" * 100_000, b"null", b"[]", b"{"])
def test_files_that_are_no_json_are_refused(tmp_path, content):
    written(tmp_path, [RECORDS["classification"]] * 2)
    (tmp_path / "results.json").write_bytes(content)
    assert not survives(lambda: scoring.score_again(tmp_path))
    (tmp_path / "results.json").unlink()
    (tmp_path / "predictions.jsonl").write_bytes(content)
    assert not survives(lambda: scoring.score_again(tmp_path, task="classification"))
