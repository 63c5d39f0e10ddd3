"""One model of each family measured and pruned, what checks see, and that docs/models.md shows the results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.coverage import __main__ as coverage
from tests.coverage import data, table
from tests.coverage.architectures import architectures, build
from tests.coverage.checks import Failed, Trial, estimate, one_shot, plain, read, reopened

# and vit, below
ONE_EACH = {"blip_caption": "blip", "clip": "clip", "vilt_nlvr2": "vilt", "aya_vision": "generic"}
# their losses, texts and layers are tried in tests/models/test_decoders.py
DECODERS = {
    "llava": "llava",
    "qwen2_vl": "qwen_vl",
    "idefics3": "smolvlm",
    "internvl": "internvl",
    "gemma3": "paligemma",
}
# tried in tests/models/test_blip2.py, test_contrastive.py and test_joint_losses.py
OTHERS = {"blip2_t5": "blip2", "blip2_itm": "blip2", "bridgetower": "bridgetower", "flava": "flava", "siglip": "siglip"}
KNOWN = {**DECODERS, **OTHERS}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coverage") / "data"
    data.write(folder)
    return folder


@pytest.mark.parametrize("name", [*ONE_EACH, *(pytest.param(name, marks=pytest.mark.slow) for name in KNOWN)])
def test_a_model_of_each_family_is_measured_and_pruned(name: str, tables: Path, tmp_path: Path) -> None:
    tried(name, tables, tmp_path, family={**ONE_EACH, **KNOWN}[name])


def tried(name: str, tables: Path, folder: Path, *, family: str) -> Trial:
    trial = Trial(about=architectures()[name], folder=folder, data=tables)
    for check in (plain, estimate, one_shot, reopened):
        check(trial)
        trial.results[check.__name__] = "+"
    assert read(folder / "estimate" / "profile.json")["model"]["family"] == family
    return trial


def test_a_check_says_what_the_command_says(tables: Path, tmp_path: Path) -> None:
    trial = Trial(about=architectures()["resnet"], folder=tmp_path, data=tables, results={"plain": "+"})
    plain(trial)
    with pytest.raises(Failed, match="no linear layer inside a transformer block"):
        estimate(trial)
    with pytest.raises(Failed, match="not reached: estimate fails"):
        one_shot(trial)


def test_a_changed_weight_is_seen_when_a_model_is_reopened(tables: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    trial = tried("vit", tables, tmp_path, family="vit")
    path = tmp_path / "one_shot" / "model" / "model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"][3] += 1
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(Failed, match=r"classifier\.bias has changed beside its zeros"):
        reopened(trial)


def test_the_page_is_that_of_the_results() -> None:
    results = read(coverage.RESULTS)
    assert list(results) == list(architectures())
    assert coverage.PAGE.read_text(encoding="utf-8") == table.page(results)


def test_a_checkpoint_that_cannot_be_built_is_a_failure_and_no_end(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = dataclasses.replace(architectures()["vit"], name="missing")
    monkeypatch.setattr(coverage, "architectures", lambda: {"missing": missing})
    record = coverage.trial("missing", tables.parent)
    assert set(record["results"].values()) <= {"-", "."}
    assert record["why"]["plain"] == "KeyError: 'missing'"
    assert record["why"]["estimate"] == "not reached: plain fails"


def test_what_has_a_result_is_not_tried_again_and_another_runs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vit = read(coverage.RESULTS)["vit"]
    monkeypatch.setattr(coverage, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(coverage, "PAGE", tmp_path / "models.md")
    monkeypatch.setattr("sys.argv", ["coverage", "resnet"])
    trial = coverage.trial

    def beside_another_run(*arguments: Any) -> dict[str, Any]:
        coverage.save("vit", vit)
        return trial(*arguments)

    monkeypatch.setattr(coverage, "trial", beside_another_run)
    coverage.main()
    assert "1/1 resnet " in capsys.readouterr().out
    assert list(read(coverage.RESULTS)) == ["vit", "resnet"]
    assert "| resnet |  |  | + | **-** |" in coverage.PAGE.read_text(encoding="utf-8")
    before = coverage.RESULTS.read_bytes()
    coverage.main()
    assert "1/1 resnet" not in capsys.readouterr().out and coverage.RESULTS.read_bytes() == before


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no architecture lava; there is blip_caption"):
        build("lava", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_every_checkpoint_is_built_the_same_twice(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    one, other = (build(name, tmp_path / word) for word in ("one", "other"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    weights, again = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(weights[key].equal(again[key]) for key in weights)
