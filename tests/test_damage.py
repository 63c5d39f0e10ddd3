"""One damaged field at a time, in every document that a run reads back: refused in a line, or it works."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from idvl.checkpoints.card import page
from idvl.commands.matrix import _table
from idvl.errors import RunError, UsageError
from idvl.measurement.estimation import _done, _lines
from idvl.profile import compare, load_profile
from idvl.pruning import saving, sensitivity
from idvl.reporting.table import summary, table
from idvl.reporting.terminal import rests_on, result_table, results_table
from idvl.runs import MATRIX, Run, total_cost
from idvl.sparsity.weighting import multipliers
from idvl.sweep import restartable, sweep
from tests.support.damage import GONE, damaged, spots
from tests.support.reporter import Silent

GOLDEN = Path(__file__).parent / "golden" / "pruned-vit"
# as they may stand in a file; None leaves the field out
ODD = ("null", "true", "-1", "1e999", "9" * 5000, '"x"', '"\\ud800"', "[5]", "{}", None)
PLACE = "\x00here\x00"


def variants(document: Any) -> Iterator[str]:
    """The document as JSON text, each time with another field that is not what it was."""
    for spot in spots(document):
        for odd in ODD:
            text = json.dumps(damaged(document, spot, GONE if odd is None else PLACE))
            yield text.replace(json.dumps(PLACE), odd or "")


def short(document: dict[str, Any]) -> dict[str, Any]:
    """The document with its first layer, and without long lists."""
    layers = dict(list(document["layers"].items())[:1])
    return {key: _cut(part) for key, part in {**document, "layers": layers}.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items() if key != "versions"} | (
            {"versions": {"python": "3.11"}} if "versions" in value else {}
        )
    return [_cut(item) for item in value[:1]] if isinstance(value, list) else value


def read(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text())


def shown(*made: Any) -> None:
    console = Console(file=io.StringIO(), width=100)
    for one in made:
        console.print(one)
    console.file.getvalue().encode()


def hold(path: Path, document: Any, use: Callable[[], object], least: int) -> None:
    """Every damage is refused in one line, or does not matter; at least so many are refused."""
    refused = 0
    for text in variants(document):
        path.write_text(text)
        try:
            use()
        except (UsageError, RunError) as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            refused += 1
    assert refused >= least


def test_profiles(tmp_path: Path) -> None:
    path, document = tmp_path / "profile.json", short(read("profile.json"))
    path.write_text(json.dumps(document))
    first = load_profile(path)
    modalities = {name: layer.modality for name, layer in first.layers.items()}

    def use() -> None:
        found = load_profile(path)
        compare(first, found)
        found.dumps().encode()
        shown(table(found, first), *summary(found))
        multipliers(found, modalities)

    hold(path, document, use, least=150)


def test_measured_layers(tmp_path: Path) -> None:
    line = json.loads((GOLDEN / "profile" / "metrics.jsonl").read_text().splitlines()[0])
    line |= {"seconds": 0.5, "peak_memory": 2**30}
    hold(tmp_path / "metrics.jsonl", line, lambda: _read_line(tmp_path, line), least=100)


def _read_line(folder: Path, line: dict[str, Any]) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n")
    lines = _lines(folder, {}, {line["layer"]: None})
    assert len(_done(lines)) == 1
    json.dumps(total_cost(*lines), allow_nan=False)


def test_lines_of_a_sensitivity_run(tmp_path: Path) -> None:
    line = {"part": "layer", "name": "a", "ratio": 0.4, "zeros": 4, "loss": 1.5}

    def use() -> None:
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write("\n")
        (loss,) = sensitivity._measured(tmp_path).values()
        assert loss["loss"] is None or loss["loss"] * 0 == 0

    hold(tmp_path / "metrics.jsonl", line, use, least=30)


def test_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idvl.runs.run.provenance", dict)  # asks git each time
    document = _cut(read("run.json")) | {"files": ["run.json", "recipe.yaml"], "resumed": [{"started": "x"}]}
    document["signature"] = dict(list(document["signature"].items())[:3])
    folder = tmp_path / "run"

    def use() -> None:
        text = (folder / "run.json").read_text()
        for how in ({"resume": True}, {"overwrite": True}):
            (folder / "run.json").write_text(text)
            Run.open(folder, recipe={}, signature=document["signature"], **how).close()

    folder.mkdir()
    hold(folder / "run.json", document, use, least=100)


def test_reports(tmp_path: Path) -> None:
    document = short(read("report.json"))
    document["evaluation"]["metrics"].pop("top-5")
    del document["evaluation"]["dataset"], document["verified"]
    document["evaluation"]["dataset"] = {"dataset": "digits", "split": "test"}
    model = {"name": "builtin/vit", "source": "builtin", "class": "ViTForImageClassification"}

    def use() -> None:
        report = saving.read_report(tmp_path)
        made = report["made"]
        page(report, model=model, command=made["command"], recipe={}, versions=made["versions"]).encode()
        shown(result_table(report))
        if saving.is_evaluated(report):
            restartable._headline(report["evaluation"])
            shown(results_table(report["evaluation"]), *rests_on(report["evaluation"]))

    hold(tmp_path / "report.json", document, use, least=100)


def test_lines_of_a_matrix(tmp_path: Path) -> None:
    line = {
        **{"name": "a", "state": "done", "settings": {"prune.sparsity": 0.5}, "published": {"top-1": 90.0}, "tries": 1},
        **{"seconds": 2.5, "headline": "top-1", "metrics": {"top-1": 91.0}, "reason": None, "trace": None},
    }
    done = []

    def use() -> None:
        with (tmp_path / MATRIX).open("a") as file:
            file.write("\n")
        for found in sweep._lines(tmp_path / MATRIX, Silent()):
            if sweep._is_done(found):
                made = sweep.Line(**{**found, "settings": {}, "published": {}})
                shown(_table([made]))
                json.dumps(made.to_json())
                done.append(found)

    hold(tmp_path / MATRIX, line, use, least=0)
    assert done and len(done) < 120
