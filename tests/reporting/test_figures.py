"""Every figure: the data behind it, never its pixels, and that a picture can be drawn of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from idvl.reporting.collect import collect
from idvl.reporting.drawing import colour_of, drawn
from idvl.reporting.figure import MOST, Figure, Panel, Series, make
from idvl.reporting.figures import figures_of
from tests.support import folders

DIMENSIONS = {name: dimension for name, (*_, dimension) in folders.LAYERS.items()}


def figure(folder: Path, key: str) -> Figure:
    return next(one for one in figures_of(collect([folder])) if one.key == key)


def series(made: Figure, panel: int = 0) -> dict[str, Series]:
    return {one.name: one for one in made.panels[panel].series}


def test_dimension_against_depth_has_a_curve_for_each_modality(tmp_path: Path) -> None:
    folders.measured(tmp_path / "a")
    folders.pruned(tmp_path / "b", id_weight="multiply", dense="other")
    made = figure(tmp_path, "depth")
    found = series(made)
    assert made.paper == "Figure 2" and len(made.panels) == 2
    assert list(found) == ["vision", "language", "cross: keys, values (image tokens)"]
    vision = found["vision"]
    assert (vision.x, vision.y, vision.names) == ((0.0, 1.0), (12.0, 14.0), ("vision.0.qkv", "vision.0.fc1"))
    assert vision.high[0] == pytest.approx(12 + 1.96 * 0.5) and vision.facts["weights"] == ("100", "300")
    assert "sparsity" not in vision.facts and series(made, 1)["vision"].facts["sparsity"] == ("80.0 %", "80.0 %")
    assert made.panels[0].shaded == ((1.5, 4.5),)


def test_profiles_of_one_model_tell_how_they_differ_on_one_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, estimator in (("a", "twonn"), ("b", "gride")):
        run = folders.measured(Path(name), scale=1 + (name == "b"))
        made = json.loads((run / "profile.json").read_text())
        made["protocol"]["estimator"] = estimator
        made["dataset"]["split"] = "train"
        folders.write(run / "profile.json", made)
    made = figure(Path(), "depth")
    assert [panel.name for panel in made.panels] == ["m, on shapes train: a (twonn)", "m, on shapes train: b (gride)"]
    assert [panel.name for panel in figure(Path(), "scale").panels] == [panel.name for panel in made.panels]
    assert made.same_y
    folders.measured(Path("c"), model="other", fingerprint="other")
    other = json.loads(Path("c/profile.json").read_text())
    other["model"]["class"] = "Other"
    folders.write(Path("c/profile.json"), other)
    assert not figure(Path(), "depth").same_y


def test_one_scale_holds_the_values_of_every_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure as Canvas

    saved = []
    monkeypatch.setattr(Canvas, "savefig", lambda self, *_, **__: saved.append([a.get_ylim() for a in self.axes]))
    panels = [
        Panel(name="", series=(Series(name="", tone="ink", x=(0.0, 1.0, 2.0), y=(1.0, 2.0, top)),))
        for top in (3.0, 9.0)
    ]
    for same_y in (False, True):
        drawn(make(panels, key="", title="", paper=None, x_label="", y_label="", same_y=same_y), "png")
    (first, second), (one, other) = saved
    assert first[1] < 4 and one == other == second and second[0] == 0 and second[1] > 9


def test_a_profile_that_several_runs_share_is_drawn_once(tmp_path: Path) -> None:
    for seed in range(3):
        folders.pruned(tmp_path / f"{seed}", id_weight="multiply", seed=seed)
    assert len(figure(tmp_path, "depth").panels) == 1


def test_layers_without_an_estimate_are_counted_and_leave_a_gap(tmp_path: Path) -> None:
    run = folders.measured(tmp_path / "a")
    made = folders.profile()
    made["layers"]["vision.0.fc1"]["estimate"] |= {"dimension": None, "stderr": None, "reason": "constant"}
    folders.write(run / "profile.json", made)
    panel = figure(tmp_path, "depth").panels[0]
    assert panel.series[0].names == ("vision.0.qkv",) and "1 without an estimate" in panel.caption


def test_unreliable_dimensions_are_marked_with_the_reason(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    after = folders.measured(tmp_path / "after", model="x", fingerprint=f"pruned {run.name}", scale=0.5)
    made = json.loads((after / "profile.json").read_text())
    folders.write(after / "profile.json", folders.few_points(made, "vision.0.qkv"))
    reason = "estimated from 36 distinct points, fewer than 100"
    depth, change = figure(tmp_path, "depth"), figure(tmp_path, "after")
    panel = next(one for one in depth.panels if "unreliable" in one.caption)
    assert panel.caption.startswith("5 layers, 1 unreliable; 36-200 points, twonn")
    assert panel.series[0].unsound == (reason, None)
    assert series(change)["PLATON × ID"].unsound == (reason, None, None, None, None)
    assert not any(series(change)["dense model"].unsound)
    assert series(figure(tmp_path, "scale"), depth.panels.index(panel))["vision.0.qkv"].about["unreliable"] == reason
    assert drawn(depth, "svg").count(b"unreliable estimate") == 1
    run = folders.sensitivity(tmp_path / "s")
    found = json.loads((run / "sensitivity.json").read_text())
    found["layers"]["vision.0.fc1"]["unsound"] = reason
    folders.write(run / "sensitivity.json", found)
    made = figure(tmp_path, "sensitivity")
    assert series(made)["vision"].unsound == (None, reason)
    assert made.panels[0].caption.endswith("4 layers; left out, as they have no reliable ID: 1 of 5 layers")


def test_sparsity_of_layers_has_a_curve_for_each_weighting_and_modality(tmp_path: Path) -> None:
    for seed, sparsity in enumerate((0.5, 0.7)):
        run = folders.pruned(tmp_path / f"m{seed}", id_weight="multiply", seed=seed)
        report = (
            (run / "report.json").read_text().replace('"sparsity": 0.8, "factor"', f'"sparsity": {sparsity}, "factor"')
        )
        (run / "report.json").write_text(report)
    folders.pruned(tmp_path / "n", id_weight="none")
    made = figure(tmp_path, "sparsity")
    found = series(made)
    assert made.title == "Sparsity of each layer, with and without weighting by ID"
    modalities = ("vision", "language", "cross")
    names = [f"PLATON × ID, {modality} (2 runs)" for modality in modalities]
    names += [f"PLATON, {modality}" for modality in modalities]
    assert sorted(found) == sorted(names)
    assert [found[f"PLATON, {modality}"].tone for modality in modalities] == list(modalities)
    assert [found[f"PLATON, {modality}"].joined for modality in modalities] == [True, True, False]
    weighted, plain = found["PLATON × ID, vision (2 runs)"], found["PLATON, vision"]
    assert weighted.y == pytest.approx((60.0,) * 2)
    assert (weighted.low, weighted.high) == ((50.0,) * 2, (70.0,) * 2)
    assert plain.y == (80.0,) * 2 and plain.low is None
    # what was measured for the weighted runs is told of the same layers of the other
    assert plain.facts["ID"][0] == "12.0 ± 0.5" and plain.names == ("vision.0.qkv", "vision.0.fc1")


def test_sparsity_of_layers_speaks_of_weighting_only_where_runs_differ_in_it(tmp_path: Path) -> None:
    folders.pruned(tmp_path / "run", id_weight="multiply")
    assert figure(tmp_path, "sparsity").title == "Sparsity of each layer"


def test_quality_against_sparsity_has_a_curve_for_each_scope_and_the_dense_model(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "dense", 90.0)
    for scope, values in {"vision": (70.0, 40.0), "language": (88.0, 85.0)}.items():
        for sparsity, value in zip((0.4, 0.8), values, strict=True):
            folders.pruned(tmp_path / f"{scope}-{sparsity}", value, sparsity=sparsity, scope=scope)
    made = figure(tmp_path, "quality")
    found = series(made)
    assert made.paper == "Figures 1 and 4" and made.panels[0].y_label == "CIDEr" and made.marks
    assert (found["vision, without ID"].x, found["vision, without ID"].y) == ((40.0, 80.0), (70.0, 40.0))
    assert found["language, without ID"].low == (87.0, 84.0)
    assert (found["dense model"].x, found["dense model"].y) == ((0.0,), (90.0,))
    assert found["vision, without ID"].facts["of all weights"] == ("20.0 %", "40.0 %")


def test_dimensions_after_pruning_stand_beside_those_before(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    folders.measured(tmp_path / "after", model=str(run / "model"), fingerprint=f"pruned {run.name}", scale=0.5)
    vision = folders.pruned(tmp_path / "vision", id_weight="multiply", scope="vision")
    only = folders.profile()
    only["layers"] = {name: layer for name, layer in only["layers"].items() if layer["modality"] == "vision"}
    folders.write(vision / "profile.json", only)
    folders.measured(tmp_path / "after-v", model="moved", fingerprint=f"pruned {vision.name}", scale=0.25)
    both, one = figure(tmp_path, "after"), figure(tmp_path, "other")
    assert (both.paper, one.paper) == ("Figure 5", "Figure 6")
    assert series(both)["dense model"].y == tuple(DIMENSIONS.values())
    assert series(both)["PLATON × ID"].y == pytest.approx([0.5 * value for value in DIMENSIONS.values()])
    # a run of one modality has measured that alone: what was measured of all layers is what they are compared with
    assert series(one)["dense model"].y == tuple(DIMENSIONS.values())
    assert series(one)["vision pruned, 80 %"].y == pytest.approx([0.25 * value for value in DIMENSIONS.values()])


def test_layers_are_put_together_by_name_and_the_others_said(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run", id_weight="multiply")
    after = folders.measured(tmp_path / "after", model=str(run / "model"), fingerprint=f"pruned {run.name}")
    made = folders.profile(model=str(run / "model"), fingerprint=f"pruned {run.name}")
    made["layers"]["elsewhere"] = made["layers"].pop("vision.0.qkv")
    folders.write(after / "profile.json", made)
    panel = figure(tmp_path, "after").panels[0]
    assert "layers of pruned models only, left out: 1; layers of the dense model only: 1" in panel.caption
    assert "elsewhere" not in panel.series[1].names and "vision.0.qkv" not in panel.series[1].names


def test_sensitivity_is_drawn_against_dimension_with_its_correlation(tmp_path: Path) -> None:
    folders.sensitivity(tmp_path / "s")
    made = figure(tmp_path, "sensitivity")
    assert [panel.name.split(" of ")[0] for panel in made.panels] == ["80 %", "40 %"]
    found = series(made)
    assert found["vision"].x == (12.0, 14.0) and found["vision"].y == pytest.approx((10.6, 12.2))
    assert "Spearman's rho 1.00" in made.panels[0].caption and "5 layers" in made.panels[0].caption
    alone = series(figure(tmp_path, "alone"))["vision (2 layers)"]
    assert alone.x == (0.0, 40.0, 80.0) and alone.y == pytest.approx((1.0, 2.2, 3.4))


def test_a_loss_of_0_or_none_is_not_on_the_logarithmic_axis(tmp_path: Path) -> None:
    run = folders.sensitivity(tmp_path / "s")
    found = json.loads((run / "sensitivity.json").read_text())
    first, second = list(found["layers"].values())[:2]
    first["losses"][1]["loss"], second["losses"][1]["loss"] = 0.0, None
    found["dense"]["loss"] = None
    folders.write(run / "sensitivity.json", found)
    drawn = [name for one in figure(tmp_path, "sensitivity").panels[0].series for name in one.names]
    assert len(drawn) == len(found["layers"]) - 2
    assert series(figure(tmp_path, "alone"))["vision (2 layers)"].x == (40.0, 80.0)


def test_scale_curves_come_with_diagnostics(tmp_path: Path) -> None:
    folders.measured(tmp_path / "a")
    made = figure(tmp_path, "scale")
    found = series(made)["vision.0.qkv"]
    assert made.picked and (found.x, found.y) == ((2.0, 4.0, 8.0), (12.0,) * 3)
    assert found.about["duplicates removed"] == "1" and found.about["R² of the linear fit"] == "0.99"
    assert found.about["points with certified neighbours"] == "200"


def test_a_figure_without_points_is_none(tmp_path: Path) -> None:
    folders.evaluated(tmp_path / "dense")
    assert figures_of(collect([tmp_path])) == []


def test_more_panels_than_a_page_holds_are_counted(tmp_path: Path) -> None:
    for number in range(MOST + 2):
        folders.measured(tmp_path / f"{number:02d}", fingerprint=str(number))
    assert (len(figure(tmp_path, "depth").panels), figure(tmp_path, "depth").left_out) == (MOST, 2)


def test_every_figure_can_be_drawn_and_comes_out_the_same_again(tmp_path: Path) -> None:
    run = folders.pruned(tmp_path / "run $x_{", id_weight="multiply")
    folders.evaluated(tmp_path / "dense")
    folders.measured(tmp_path / "after", model=str(run / "model"), fingerprint=f"pruned {run.name}", scale=0.5)
    folders.sensitivity(tmp_path / "s")
    made = figures_of(collect([tmp_path]))
    assert [one.key for one in made] == ["depth", "sparsity", "quality", "after", "sensitivity", "alone", "scale"]
    assert [one.key for one in made if one.few] == ["quality"]
    pictures = [drawn(one, "svg") for one in made if not one.few]
    assert all(b"<svg" in picture for picture in pictures) and drawn(made[0], "svg") == pictures[0]
    assert Image.open(io.BytesIO(drawn(made[-1], "png"))).width > 1000
    assert len({colour_of(tone) for tone in ("vision", "0", "ink")}) == 3
