"""The tables of a plan and of a result: every number of the report is in them, at any width."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from idvl.profile import published
from idvl.reporting.terminal import plan_table, result_table, results_table


def shown(renderable: RenderableType, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue().splitlines()


def row(lines: list[str], name: str) -> list[str]:
    (line,) = [line for line in lines if line.strip().startswith(name)]
    return line.replace(" %", "%").split()[len(name.split()) :]


@pytest.fixture
def report() -> dict[str, Any]:
    """As `idvl prune` reports on BLIP-base, 60 % of vision and 90 % of the rest pruned; one layer without an ID."""
    layers = {}
    for name, layer in published("blip-coco").layers.items():
        weights = layer.width * (3072 if name.endswith(("fc2", "6.output.dense")) else 768)
        zeros = round(weights * (0.6 if layer.modality == "vision" else 0.9))
        layers[name] = {
            **{"modality": layer.modality, "block": layer.block, "weights": weights, "asked": None, "zeros": zeros},
            **{"sparsity": zeros / weights, "dimension": layer.estimate.dimension, "stderr": None},
            **{"factor": layer.estimate.dimension, "substituted": None},
        }
    first = layers["vision_model.encoder.layers.0.self_attn.qkv"]
    first |= {"dimension": None, "factor": 70.2, "substituted": "median of vision: constant output"}

    def sums(rows: list[dict[str, Any]]) -> dict[str, Any]:
        weights, zeros = (sum(part[key] for part in rows) for key in ("weights", "zeros"))
        return {
            **{"layers": len(rows), "weights": weights, "asked": None, "zeros": zeros, "sparsity": zeros / weights},
        }

    modalities = {
        modality: sums([layer for layer in layers.values() if layer["modality"] == modality])
        for modality in ("vision", "language", "cross")
    }
    total = {**sums(list(layers.values())), "asked": 0.8, "prunable_weights": 200_000_000, "model_weights": 250_000_000}
    total |= {f"{key}_sparsity": total["zeros"] / total[f"{key}_weights"] for key in ("prunable", "model")}
    return {"schema": "idvl/report/1", "layers": layers, "modalities": modalities, "total": total}


def test_a_result_has_a_row_for_every_layer_and_modality(report: dict[str, Any]) -> None:
    lines = shown(result_table(report))
    headings = [line.strip() for line in lines if line.strip() in ("vision", "language", "cross")]
    assert headings == ["vision", "language", "cross"]
    assert sum(line.startswith("   ") for line in lines[2:]) >= 168
    vision = report["modalities"]["vision"]
    found = [line.split() for line in lines if line.startswith("vision ")]
    assert found == [["vision", "48", f"{vision['weights']:,}", f"{vision['zeros']:,}", "60.00", "%"]]


def test_a_row_holds_dimension_factor_sparsity_zeros_and_weights(report: dict[str, Any]) -> None:
    lines = shown(result_table(report))
    layer = report["layers"]["vision_model.encoder.layers.4.mlp.fc2"]
    fc2 = [line.split() for line in lines if line.strip().startswith("mlp.fc2")][4]
    assert fc2[1:] == ["142", "142", "60.00", "%", f"{layer['zeros']:,}", f"{layer['weights']:,}"]


def test_the_factor_is_explained_where_there_is_one(report: dict[str, Any]) -> None:
    note = "factor: what the scores of a layer's weights are multiplied by"
    assert shown(result_table(report))[-1] == note
    for layer in report["layers"].values():
        layer["factor"] = None
    assert note not in shown(result_table(report))


def test_a_layer_without_a_dimension_shows_what_stands_in_for_it(report: dict[str, Any]) -> None:
    lines = shown(result_table(report), 120)
    (line,) = [line for line in lines if "median of vision" in line]
    assert line.split()[:3] == ["self_attn.qkv", "-", "70.2"]


def test_every_denominator_is_stated(report: dict[str, Any]) -> None:
    lines = shown(result_table(report))
    total = report["total"]
    zeros = f"{total['zeros']:,}"
    assert row(lines, "in scope") == ["168", f"{total['weights']:,}", zeros, "80.00%", f"{total['sparsity']:.2%}"]
    assert row(lines, "all prunable") == ["200,000,000", zeros, f"{total['prunable_sparsity']:.2%}"]
    assert row(lines, "all weights") == ["250,000,000", zeros, f"{total['model_sparsity']:.2%}"]


def test_a_plan_shows_shares_and_what_was_asked(report: dict[str, Any]) -> None:
    for part in (*report["modalities"].values(), report["total"]):
        del part["zeros"], part["sparsity"]
    lines = shown(plan_table(report), 80)
    total, vision = report["total"], report["modalities"]["vision"]
    share = f"{vision['weights'] / total['weights']:.1%}"
    assert row(lines, "vision") == ["48", f"{vision['weights']:,}", share]
    assert row(lines, "in scope") == ["168", f"{total['weights']:,}", "100.0%", "80.00%"]
    assert row(lines, "all weights") == ["250,000,000", f"{0.8 * total['weights'] / 250_000_000:.2%}"]


@pytest.mark.parametrize("width", [72, 80, 120, 200])
def test_numbers_are_whole_at_any_usual_width(report: dict[str, Any], width: int) -> None:
    lines = shown(result_table(report), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert all(f"{layer['zeros']:,}" in text for layer in report["layers"].values())


def test_a_long_name_beside_numbers_folds_and_cuts_none_of_them() -> None:
    metric = {"value": 84.44, "low": 83.716, "high": 85.137, "interval": "Wilson score, samples"}
    change = {"value": -0.02, "low": -0.148, "high": 0.106, "interval": "Tango, pairs"}
    results = {
        "task": "classification",
        "bootstrap": {"level": 0.95},
        "metrics": {"top-1": metric},
        "compared": {"model": "runs/core/sparsity-0.95-platon-none-of-seed-1/model", "differences": {"top-1": change}},
    }
    for width in (80, 100, 120):
        assert row(shown(results_table(results), width), "top-1") == [
            *("84.44", "83.72", "to", "85.14", "-0.02", "-0.15", "to", "+0.11")
        ]
