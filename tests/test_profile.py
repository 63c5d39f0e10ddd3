"""Profiles: what is written is what is read, and nothing else is read."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

import idvl
from idvl.errors import UsageError
from idvl.profile import Estimate, LayerProfile, Profile, compare, load_profile, published, published_names


def estimate(dimension: float | None = 3.5, **changes: object) -> Estimate:
    values = {"dimension": dimension, "stderr": 0.1, "n_points": 90, "n_duplicates": 2, "estimator": "twonn"}
    return Estimate(**{**values, **changes})


def layer(dimension: float | None = 3.5, **changes: object) -> LayerProfile:
    reason = "constant output" if dimension is None else None
    values = {"modality": "vision", "block": "blocks.0", "depth": 0, "width": 8, "n_features": 32, "reads_image": False}
    return LayerProfile(**{**values, "estimate": estimate(dimension, reason=reason), **changes})


def profile(**dimensions: float | None) -> Profile:
    layers = {f"blocks.0.{name}": layer(value, depth=i) for i, (name, value) in enumerate(dimensions.items())}
    return Profile(
        layers=layers,
        model={"name": "tiny"},
        dataset={"dataset": "shapes", "seed": 0},
        protocol={"tokens": "flatten"},
        provenance={"started": "2026-01-01"},
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    made = profile(a=1.5, b=None)
    made.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == made == load_profile(tmp_path)
    assert (tmp_path / "profile.json").read_text() == made.dumps()
    assert list(tmp_path.iterdir()) == [tmp_path / "profile.json"]


def test_dumps_is_the_documented_object() -> None:
    made = profile(a=1.5, b=2.5)
    assert json.loads(made.dumps()) == made.to_json()
    assert list(made.to_json()) == ["schema", "model", "dataset", "protocol", "provenance", "layers"]
    assert json.loads(profile().dumps())["layers"] == {}


def test_the_schema_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "profile.md").read_text()
    for kind in (LayerProfile, Estimate):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text
    assert profile().to_json()["schema"] in text


def test_numbers_that_are_not_finite_never_reach_json() -> None:
    odd = layer(estimate=estimate(stderr=float("nan"), diagnostics={"curve": [1.0, float("inf")]}))
    made = dataclasses.replace(profile(), layers={"a": odd})
    read = json.loads(made.dumps(), parse_constant=lambda text: pytest.fail(text))["layers"]["a"]["estimate"]
    assert read["stderr"] is None
    assert read["diagnostics"]["curve"] == [1.0, None]


@pytest.mark.parametrize("dimension", [float("nan"), float("inf"), None])
def test_an_estimate_is_a_number_or_a_reason(dimension: float | None) -> None:
    with pytest.raises(ValueError, match="reason"):
        estimate(dimension)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"schema": ', "not valid JSON"),
        ("[]", "is not an idvl profile"),
        ('{"layers": {}}', "is not an idvl profile"),
        ('{"schema": "idvl/profile/2"}', "newer idvl .*update idvl"),
        ('{"schema": "idvl/profile/1", "layers": {}}', "it lacks 'model'"),
        ('{"schema": "idvl/profile/1", "model": NaN}', "NaN"),
        ('{"schema": "idvl/profile/' + "1" * 5000 + '"}', "is not an idvl profile"),
        ("[" * 100_000, "nested more than"),
        ('{"a": ' + "9" * 5000 + "}", "limit"),
        ('{"a": 1e999}', r"a is a number beyond 1e\+39"),
        ('{"a": "\\ud800"}', "not Unicode text"),
    ],
)
def test_what_is_no_profile_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as refusal:
        Profile.load(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "smell"}, r"modality should be 'vision', .* or 'connector', not 'smell'"),
        ({"weight": 1}, r" has the unknown key 'weight'"),
        ({"estimate": None}, r"estimate should be an object, not None"),
        ({"estimate": {"dimension": 1.0}}, r"estimate lacks 'stderr'"),
        ({"width": 0}, r"width should be greater than or equal to 1, not 0"),
        ({"depth": True}, r"depth should be a whole number, not True"),
        ({"block": 5}, r"block should be text, not 5"),
        ({"reads_image": 1}, r"reads_image should be true or false, not 1"),
        ({"estimate.stderr": -1.0}, r"stderr should be greater than or equal to 0, not -1.0"),
        ({"estimate.n_points": "200"}, r"n_points should be a whole number, not '200'"),
        ({"estimate.n_duplicates": -10}, r"n_duplicates should be .* not -10"),
        ({"estimate.estimator": None}, r"estimator should be text, not None"),
        ({"estimate.dimension": None}, r"an estimate without a dimension needs a reason"),
        ({"estimate.diagnostics": {"scales": [{}]}}, r"diagnostics.scales\[0\] lacks 'neighbors'"),
        ({"estimate.reason": "\ud800"}, r"reason is '\\ud800', which is not Unicode text"),
    ],
)
def test_a_broken_layer_is_named(change: dict[str, object], message: str) -> None:
    values = profile(a=1.0).to_json()
    layer = values["layers"]["blocks.0.a"]
    for key, value in change.items():
        inside, _, name = key.rpartition(".")
        (layer[inside] if inside else layer)[name] = value
    with pytest.raises(UsageError, match=rf"blocks\.0\.a.*{message}"):
        Profile.from_json(values)


def test_a_profile_that_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "profile.json")
    with pytest.raises(UsageError, match="cannot read the profile .*a FIFO"):
        load_profile(tmp_path)


def test_a_missing_profile_suggests_the_published_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'blip-coco'"):
        load_profile("blip-cocoo")
    with pytest.raises(UsageError, match="there is no profile"):
        load_profile(tmp_path / "none.json")


def test_profiles_without_a_common_layer_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert compare(profile(a=1.0), profile(b=2.5)).differences == {}
    assert "have no layer in common" in caplog.text


def test_compare_matches_layers_by_name() -> None:
    first, second = profile(a=1.0, b=2.0, c=None), profile(b=2.5, c=4.0, d=1.0)
    second = dataclasses.replace(second, protocol={"tokens": "mean"})
    found = compare(first, second)
    assert found.differences == {"blocks.0.b": 0.5, "blocks.0.c": None}
    assert found.only_first == ["blocks.0.a"]
    assert found.only_second == ["blocks.0.d"]
    assert found.settings == {"protocol.tokens": ("flatten", "mean")}
    same = compare(first, first)
    assert not same.settings and not same.only_first and set(same.differences.values()) == {0.0, None}


def test_the_published_names_are_those_of_a_real_blip() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.BlipForConditionalGeneration(transformers.BlipConfig())
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    layers = published("blip-coco").layers
    assert len(layers) == 168
    assert set(linear) - set(layers) == {
        "text_decoder.cls.predictions.transform.dense",
        "text_decoder.cls.predictions.decoder",
    }
    assert all(linear[name].out_features == layer.width for name, layer in layers.items())
    assert all(name.startswith(f"{layer.block}.") for name, layer in layers.items())


def test_the_published_values_are_the_papers() -> None:
    layers = idvl.load_profile("published:blip-coco").layers
    assert idvl.load_profile("blip-coco").layers == layers
    assert published_names() == ["blip-coco"]
    dimensions = {name: layer.estimate.dimension for name, layer in layers.items()}
    assert max(dimensions, key=dimensions.get) == "vision_model.encoder.layers.4.mlp.fc2"
    assert dimensions["vision_model.encoder.layers.4.mlp.fc2"] == pytest.approx(141.5373, abs=1e-4)
    assert dimensions["text_decoder.bert.encoder.layer.11.output.dense"] == pytest.approx(3.8093, abs=1e-4)
    image = [dimensions[name] for name, layer in layers.items() if layer.reads_image]
    assert len(image) == 24 and min(image) > 65 and max(image) < 82
    assert {layer.modality for layer in layers.values()} == {"vision", "language", "cross"}


def test_an_unknown_published_name_lists_those_that_are() -> None:
    with pytest.raises(UsageError, match="blip-coco"):
        idvl.load_profile("published:clip")
