"""The plot: what is drawn is what is in the profile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from idvl.profile import MODALITIES, Profile, published
from idvl.reporting.drawing import COLOURS
from idvl.reporting.plot import figure, plot


@pytest.fixture
def profile() -> Profile:
    """The published values, with an error of 5 % and the third layer not estimated."""
    made = published("blip-coco")
    layers = {}
    for name, layer in made.layers.items():
        found = layer.estimate.dimension
        values = {"dimension": found, "stderr": 0.05 * found}
        if layer.depth == 2:
            values = {"dimension": None, "stderr": None, "reason": "constant output"}
        layers[name] = dataclasses.replace(layer, estimate=dataclasses.replace(layer.estimate, **values))
    return dataclasses.replace(made, layers=layers)


def points(profiles: list[tuple[str, Profile]], marker: str) -> dict[float, float]:
    (axes,) = figure(profiles).axes
    drawn = [line.get_xydata() for line in axes.lines if line.get_marker() == marker]
    return {float(x): float(y) for xy in drawn for x, y in xy}


def curves(profiles: list[tuple[str, Profile]]) -> list[str]:
    (axes,) = figure(profiles).axes
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_every_layer_is_drawn_at_its_depth(profile: Profile) -> None:
    layers = profile.layers.values()
    plain = {layer.depth: layer.estimate.dimension for layer in layers if not layer.reads_image}
    missing = {layer.depth for layer in layers if layer.estimate.dimension is None}
    assert points([("a", profile)], "o") == {depth: value for depth, value in plain.items() if value is not None}
    assert points([("a", profile)], "D") == {x.depth: x.estimate.dimension for x in layers if x.reads_image}
    assert set(points([("a", profile)], "x")) == missing == {2}


def test_a_second_profile_is_dashed_above_its_namesakes(profile: Profile) -> None:
    name = "vision_model.encoder.layers.0.mlp.fc2"
    moved = dataclasses.replace(profile.layers[name], depth=400)
    second = dataclasses.replace(profile, layers={name: moved})
    (axes,) = figure([("first", profile), ("second", second)]).axes
    (line,) = [line for line in axes.lines if len(line.get_xdata()) == 1 and line.get_marker() == "o"]
    assert list(line.get_xdata()) == [3]
    assert line.get_linestyle() == "--"
    assert curves([("first", profile), ("second", second)]) == ["first", "second"]


def test_several_profiles_tell_what_they_do_not_share(profile: Profile) -> None:
    other = dataclasses.replace(profile, protocol=profile.protocol | {"estimator": "twonn"})
    (axes,) = figure([("a", profile), ("b", other)]).axes
    assert curves([("a", profile), ("b", other)]) == ["a: icml24", "b: twonn"]
    told = {text.get_text() for text in axes.texts}
    assert told == {"2,000 points  ·  tokens: flatten  ·  layer outputs"}
    assert axes.get_title(loc="left") == "Intrinsic dimension of BLIP-base, fine-tuned for captioning on COCO on coco"


def test_models_and_samples_are_told_apart_by_fingerprint(profile: Profile) -> None:
    model, data = {"fingerprint": "1", "name": "m"}, {"dataset": "d", "split": "train", "fingerprint": "1"}
    one = dataclasses.replace(profile, model=model, dataset=data)
    same = dataclasses.replace(one, model=model | {"name": "/m"}, dataset=data | {"dataset": "/d"})
    unlike = dataclasses.replace(one, model=model | {"fingerprint": "2"}, dataset=data | {"fingerprint": "2"})
    assert curves([("a", one), ("b", same)]) == ["a", "b"]
    words = ["a: m  ·  d train", "b: m (other weights or precision)  ·  d train (other samples)"]
    assert curves([("a", one), ("b", unlike)]) == words
    (axes,) = figure([("a", one), ("b", unlike)]).axes
    assert axes.get_title(loc="left") == "Intrinsic dimension"


def test_every_profile_has_its_errors_drawn(profile: Profile) -> None:
    (alone,), (both,) = figure([("a", profile)]).axes, figure([("a", profile), ("b", profile)]).axes
    assert len(both.collections) == 2 * len(alone.collections) > 0


def test_the_legend_says_what_is_there_and_no_more(profile: Profile) -> None:
    (legend,) = figure([("a", profile)]).legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "vision", "language", "cross", "cross: keys, values (image tokens)", "± 1.96 standard errors", "no estimate",
    ]  # fmt: skip
    (legend,) = figure([("a", published("blip-coco"))]).legends
    assert len(legend.get_texts()) == 4


def test_an_unreliable_estimate_is_marked(profile: Profile) -> None:
    name = "vision_model.encoder.layers.0.mlp.fc2"
    layer = profile.layers[name]
    few = dataclasses.replace(layer, estimate=dataclasses.replace(layer.estimate, n_points=99))
    marked = dataclasses.replace(profile, layers={**profile.layers, name: few})
    assert points([("a", profile)], "s") == {}
    assert points([("a", marked)], "s") == {layer.depth: layer.estimate.dimension}
    assert "unreliable estimate" in [text.get_text() for text in figure([("a", marked)]).legends[0].get_texts()]


def test_every_modality_has_a_colour() -> None:
    assert set(COLOURS) == set(MODALITIES) and len(set(COLOURS.values())) == len(MODALITIES)


def test_the_file_is_a_picture_and_the_same_again(profile: Profile, tmp_path: Path) -> None:
    plot([("a", profile)], tmp_path / "a.png")
    plot(profile, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size == (1760, 864)
    assert len(list(tmp_path.iterdir())) == 2


def test_odd_names_and_empty_profiles_are_no_error(profile: Profile, tmp_path: Path) -> None:
    odd = dataclasses.replace(profile, model={"name": "a_$b$ \\c{"}, dataset={"dataset": "$x"})
    empty = dataclasses.replace(profile, layers={})
    plot([("_hidden", odd), ("$", empty)], tmp_path / "odd.png")
    plot([("empty", empty)], tmp_path / "empty.png")
