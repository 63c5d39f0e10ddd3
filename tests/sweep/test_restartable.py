"""Runs start, resume, or start over where the model has changed."""

import pytest
import torch

from idvl.errors import UsageError
from idvl.models.loading import load
from idvl.profile import load_profile
from idvl.recipe import load as recipe_of
from idvl.sweep import restartable
from tests.support.reporter import Silent

LAYER = "vit.layers.0.mlp.fc1"


def test_what_was_measured_of_another_model_is_measured_again_and_nothing_else_is(tmp_path):
    place, path = tmp_path / "profile", tmp_path / "model"
    loaded = load("builtin/vit")

    def measured(samples=100):
        loaded.model.save_pretrained(path)
        loaded.processor.save_pretrained(path)
        given = {"model.name": str(path), "data.dataset": "digits", "data.samples": samples}
        recipe = recipe_of(None, given | {"estimate.layers": LAYER})
        restartable.measure_again(recipe, place, reporter=Silent())
        return (place / "profile.json").read_bytes()

    first = measured()
    assert measured() == first
    with pytest.raises(UsageError, match="cannot resume .*: samples was"):
        measured(samples=101)
    assert (place / "profile.json").read_bytes() == first
    with torch.no_grad():
        loaded.model.get_submodule(LAYER).weight.mul_(-0.5)
    assert measured() != first
    assert load_profile(place / "profile.json").model["fingerprint"] == load(str(path)).description["fingerprint"]
