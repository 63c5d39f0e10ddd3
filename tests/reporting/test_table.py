"""The table: every layer is in it, whole, at any width."""

from __future__ import annotations

import dataclasses
import io
from statistics import median

import pytest
from rich.console import Console

from idvl.profile import Profile, published
from idvl.reporting.table import WordTable, note, summary, table


def shown(profile: Profile, width: int, other: Profile | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table(profile, other, "other"))
    return console.file.getvalue().splitlines()


def changed(profile: Profile, name: str, **changes: object) -> Profile:
    layer = profile.layers[name]
    estimate = dataclasses.replace(layer.estimate, **changes)
    return dataclasses.replace(profile, layers={**profile.layers, name: dataclasses.replace(layer, estimate=estimate)})


FC2 = "vision_model.encoder.layers.4.mlp.fc2"


def test_a_row_holds_dimension_error_and_width() -> None:
    profile = changed(published("blip-coco"), FC2, dimension=96.0, stderr=2.04)
    rows = [line.split() for line in shown(profile, 80)]
    assert ["mlp.fc2", "96.0", "±", "2.0", "768"] in rows


@pytest.mark.parametrize("width", [72, 80, 120, 200])
@pytest.mark.parametrize("compared", [False, True])
def test_names_and_numbers_are_whole_at_any_usual_width(width: int, compared: bool) -> None:
    profile = published("blip-coco")
    lines = shown(profile, width, profile if compared else None)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert text.count("crossattention.self.value") == text.count("crossattention.self.key") == 12 or width < 80
    assert "…" not in text
    assert all(layer.block in text for layer in profile.layers.values())


@pytest.mark.parametrize("width", [60, 100])
def test_numbers_stay_on_one_line_where_words_can_fold(width: int) -> None:
    rows = [["PLATON × ID, recovered by masked LoRA", "language-without-cross", f"{n}.1 [9.5, 11.4]"] for n in (8, 9)]
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(WordTable(["method", "scope", "95 %"], rows, labels=2))
    text = console.file.getvalue()
    assert "8.1 [9.5, 11.4]" in text and "9.1 [9.5, 11.4]" in text
    assert max(map(len, text.splitlines())) <= width


def test_narrow_terminals_fold_names_at_their_dots() -> None:
    lines = [line.split() for line in shown(published("blip-coco"), 50)]
    words = {line[0] for line in lines if line}
    assert {".self.value", "intermediate", "crossattention"} <= words


def test_rows_are_grouped_by_modality_in_order() -> None:
    lines = shown(published("blip-coco"), 100)
    headings = [line.strip() for line in lines if line.strip() in ("vision", "language", "cross")]
    assert headings == ["vision", "language", "cross"]
    assert sum(line.startswith("   ") for line in lines) == 168


def test_a_layer_without_an_estimate_shows_the_reason() -> None:
    profile = changed(published("blip-coco"), FC2, dimension=None, reason="constant output")
    (row,) = [line for line in shown(profile, 100) if "constant output" in line]
    assert row.split()[:3] == ["mlp.fc2", "-", "768"]
    assert "48 layers  ID median" in summary(profile)[0]
    assert summary(profile)[0].endswith("1 without an estimate")


def test_what_is_remarkable_is_noted() -> None:
    profile = published("blip-coco")
    key = "text_decoder.bert.encoder.layer.0.crossattention.self.key"
    assert note(profile.layers[key]) == "reads image"
    assert note(changed(profile, FC2, n_duplicates=100).layers[FC2]) == "100 duplicates"
    assert note(changed(profile, FC2, n_duplicates=1).layers[FC2]) == ""
    doubtful = changed(profile, FC2, dimension=0.5, n_points=500)
    assert note(doubtful.layers[FC2]) == "unreliable: an ID of 0.5, below 0.9"
    assert summary(doubtful)[0].endswith(", 1 unreliable (left out)") and "(range 0.5" not in summary(doubtful)[0]


def test_the_difference_to_another_profile() -> None:
    profile = published("blip-coco")
    second = changed(profile, FC2, dimension=profile.layers[FC2].estimate.dimension - 1.5)
    assert sum("+1.5" in line for line in shown(profile, 100, second)) == 1
    assert sum("+0.0" in line for line in shown(profile, 100, second)) == 167


def test_summary_is_a_line_per_modality() -> None:
    profile = published("blip-coco")
    vision = [layer.estimate.dimension for layer in profile.layers.values() if layer.modality == "vision"]
    lines = summary(profile)
    assert [line.split()[0] for line in lines] == ["vision", "language", "cross"]
    assert " ".join(lines[0].split()) == f"vision 48 layers ID median {median(vision):.1f} (range 19.4-141.5)"


def test_an_empty_profile_is_no_error() -> None:
    empty = Profile(layers={}, model={}, dataset={}, protocol={}, provenance={})
    assert summary(empty) == []
    assert len(shown(empty, 80)) == 2


def test_the_summary_ends_with_the_weights_that_are_not_covered() -> None:
    profile = published("blip-coco")
    part = {"weights": 30, "tensors": 2, "names": ["a.*.experts", "b.*.experts"]}
    model = {"parameters": 40, "not_covered": {"fused experts": part}}
    said = "not covered: 30 of all 40 weights (75.0 %): fused experts 30 (a.*.experts and 1 more)"
    assert summary(dataclasses.replace(profile, model=model)) == [*summary(profile), said]
