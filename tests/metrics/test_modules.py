"""The metrics through evaluate.load, with no network: the same numbers as from idvl.metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import idvl.metrics
from idvl.metrics.caption import score
from tests import processes
from tests.hub import Hub

MODULES = Path(idvl.metrics.__file__).parent / "modules"
CAPTIONS = ["a man rides a horse", "a cat"], [["a man riding a horse", "someone on a horse"], ["a cat on a mat"]]
CALLS = {
    "topk_accuracy": ([[1, 2, 3, 4, 5], [0, 2, 1, 4, 5]], [1, 1]),
    "vqa_accuracy": (["Two dogs."], [["2 dogs"] * 3 + ["dogs"] * 7]),
    "retrieval_recall": ([[1.0, 0.0], [0.0, 1.0]], [[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0]]]),
    "caption": CAPTIONS,
}
PROGRAM = """\
import json, sys
import evaluate
folder, calls = sys.argv[1], json.loads(sys.argv[2])
found = {}
for name, (predictions, references) in calls.items():
    metric = evaluate.load(f"{folder}/{name}")
    found[name] = metric.compute(predictions=predictions, references=references)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, dict]:
    """All modules in a process of their own, which has a hub with nothing in it, no Java, and an empty cache."""
    folder = tmp_path_factory.mktemp("home")
    with Hub() as nothing:
        environment = nothing.env(folder / "cache", PATH=str(folder))
        done = processes.run("-c", PROGRAM, MODULES, json.dumps(CALLS), env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_module_is_called_here() -> None:
    assert {path.name for path in MODULES.iterdir() if (path / f"{path.name}.py").exists()} == set(CALLS)


def test_accuracy(found: dict[str, dict]) -> None:
    assert found["topk_accuracy"] == {"top-1": 50.0, "top-5": 100.0}


def test_vqa(found: dict[str, dict]) -> None:
    assert found["vqa_accuracy"] == {"accuracy": pytest.approx(90.0)}


def test_retrieval(found: dict[str, dict]) -> None:
    assert found["retrieval_recall"]["image-to-text R@1"] == 100.0
    assert found["retrieval_recall"]["text-to-image R@1"] == pytest.approx(200 / 3)


def test_captions(found: dict[str, dict], monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    expected = {name: measured.value for name, measured in score(*CAPTIONS).measures.items()}
    assert {name: found["caption"][name] for name in expected} == pytest.approx(expected)
    assert found["caption"]["METEOR"] is None and found["caption"]["SPICE"] is None
    assert found["caption"]["skipped"] == {"METEOR": "there is no Java", "SPICE": "there is no Java"}
    assert found["caption"]["tokenizer"] == "plain"
