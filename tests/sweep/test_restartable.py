"""Runs start, resume, or start over where the model has changed."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from idvl.errors import RunError, UsageError
from idvl.models.loading import load
from idvl.profile import load_profile
from idvl.recipe import load as recipe_of
from idvl.sweep import restartable
from tests.support.reporter import Silent

GOLDEN = Path(__file__).parents[1] / "golden" / "pruned-vit"
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


def test_a_pruned_model_that_cannot_be_read_now_is_not_pruned_again(tmp_path, monkeypatch):
    shutil.copytree(GOLDEN, tmp_path / "run")
    read = os.open

    def busy(path, *options, **named):
        if str(path).endswith("config.json"):
            raise OSError(24, "Too many open files")
        return read(path, *options, **named)

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(RunError, match="Too many open files"):
        restartable.prune(recipe_of(tmp_path / "run" / "recipe.yaml"), tmp_path / "run", reporter=Silent())
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
