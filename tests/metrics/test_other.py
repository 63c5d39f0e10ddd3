"""Metrics that idvl does not bring: local folders, and the Hub's only where that is allowed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from idvl.errors import UsageError
from idvl.metrics import other

SOURCE = """\
import datasets
import evaluate
import numpy


class Lengths(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({"predictions": text, "references": text})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        longer = [len(a) > len(b) for a, b in zip(predictions, references)]
        return {"longer": numpy.mean(longer), "each": numpy.array(longer), "none": float("nan"), "n": numpy.int64(2)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, metric_modules) -> Path:
    path = tmp_path_factory.mktemp("metrics") / "lengths"
    path.mkdir()
    (path / "lengths.py").write_text(SOURCE)
    return path


@pytest.mark.parametrize("script", [False, True])
def test_a_local_metric_gives_values_ready_for_json(folder: Path, script: bool) -> None:
    name = str(folder / "lengths.py" if script else folder)
    assert other.compute(other.load(name), ["abc", "a"], ["ab", "ab"]) == {
        "longer": 0.5,
        "each": [True, False],
        "none": None,
        "n": 2,
    }


def test_a_local_metric_is_found_from_where_one_is(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert other.compute(other.load("lengths"), ["abc"], ["ab"])["longer"] == 1.0
    monkeypatch.chdir(folder)
    assert other.compute(other.load("."), ["abc"], ["ab"])["longer"] == 1.0


def test_what_a_metric_does_not_take_is_one_line(folder: Path) -> None:
    metric = other.load(str(folder))
    with pytest.raises(UsageError, match="'lengths' does not take these predictions") as refused:
        other.compute(metric, [[0.5]], [["a", "b"]])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [{"x": 1e50}, {"x": 10**5000}, {"\udcff": 1}, {"x": "\udcff"}, {"deep": []}],
    ids=["large", "larger", "key", "text", "deep"],
)
def test_what_no_file_can_hold_is_one_line(given: dict) -> None:
    if "deep" in given:
        given["deep"].append(given)
    metric = SimpleNamespace(name="odd", compute=lambda **_: given)
    with pytest.raises(UsageError, match="the metric 'odd' gives what no file can hold") as refusal:
        other.compute(metric, ["a"], ["b"])
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_keys_that_are_no_text_become_text() -> None:
    metric = SimpleNamespace(name="odd", compute=lambda **_: {(1, 2): 3.0})
    assert other.compute(metric, ["a"], ["b"]) == {"(1, 2)": 3.0}


def test_a_metric_of_the_hub_needs_to_be_allowed() -> None:
    with pytest.raises(UsageError, match="--trust-remote-code"):
        other.load("rouge")


def test_a_metric_that_cannot_be_loaded_is_one_line(monkeypatch) -> None:
    import evaluate

    def load(path: str, **_: object) -> None:
        raise FileNotFoundError(f"Couldn't find {path}.\nModule doesn't exist.")

    monkeypatch.setattr(evaluate, "load", load)
    with pytest.raises(UsageError, match="'nobody/nothing' cannot be loaded: Couldn't find nobody/nothing.$"):
        other.load("nobody/nothing", trust_remote_code=True)


@pytest.mark.parametrize("name", ["./nothing", "~/nothing-here", "/no/where", "a/b/c"])
def test_a_folder_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(UsageError, match="there is no metric folder"):
        other.load(name, trust_remote_code=True)


def test_a_folder_without_its_script_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no empty.py in it"):
        (tmp_path / "empty").mkdir()
        other.load(str(tmp_path / "empty"))
