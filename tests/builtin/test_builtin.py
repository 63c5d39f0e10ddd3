"""The models that ship: they do what their cards say, from weights as small as promised."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import BlipForConditionalGeneration, BlipProcessor, ViTForImageClassification, ViTImageProcessorPil

from idvl import builtin
from idvl.builtin import make
from idvl.data import digits, shapes
from idvl.errors import UsageError


@pytest.fixture(scope="module")
def blip():
    return make.stored(BlipForConditionalGeneration, builtin.path("builtin/blip"))


def card(name):
    return json.loads((builtin.path(name) / "card.json").read_text())


def share(name, split):
    result = card(name)["results"][split]
    return result["correct"] / result["samples"]


def test_blip_captions_unseen_scenes_exactly(blip):
    model, processor = blip
    assert isinstance(processor, BlipProcessor)
    samples = shapes.samples("test", 200, seed=11)
    captions = make.caption(model, processor, samples)
    exact = sum(text == sample.texts[0] for text, sample in zip(captions, samples, strict=True)) / len(samples)
    assert exact >= 0.9
    assert abs(exact - share("blip", "test")) < 0.03
    assert card("blip")["results"]["test"]["samples"] >= 1_000


def test_blip_knows_every_word_of_the_dataset(blip):
    model, processor = blip
    texts = [text for split in shapes.SPLITS for scene in shapes.scenes(split) for text in scene.captions]
    tokens = processor.tokenizer(texts[::17])["input_ids"]
    assert not any(processor.tokenizer.unk_token_id in row for row in tokens)
    assert processor.tokenizer.batch_decode(tokens, skip_special_tokens=True) == texts[::17]
    assert max(map(len, tokens)) <= model.config.text_config.max_position_embeddings


def test_blips_vision_tower_tells_pictures_apart(blip):
    model, processor = blip
    images = [sample.image for sample in shapes.samples("test", 8)]
    with torch.no_grad():
        features = model.vision_model(processor(images=images, return_tensors="pt")["pixel_values"]).last_hidden_state
    assert features.std(0).mean() > 0.1


def test_vit_recognises_held_out_digits():
    pytest.importorskip("sklearn")
    model, processor = make.stored(ViTForImageClassification, builtin.path("builtin/vit"))
    assert isinstance(processor, ViTImageProcessorPil)
    samples = digits.samples("test", digits.SIZES["test"])
    labels = make.classify(model, processor, samples)
    correct = sum(label == sample.label for label, sample in zip(labels, samples, strict=True)) / len(samples)
    assert correct >= 0.97
    assert abs(correct - share("vit", "test")) < 0.005
    assert [model.config.id2label[i] for i in range(10)] == list(digits.LABELS)


@pytest.mark.parametrize("name", builtin.NAMES)
def test_weights_are_bfloat16_safetensors(name):
    folder = builtin.path(name)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))


def test_all_of_it_is_small():
    folder = builtin.path("blip").parent
    assert sum(file.stat().st_size for file in folder.glob("*/*")) < 8e6


@pytest.mark.parametrize("name", builtin.NAMES)
def test_a_card_tells_how_the_model_was_made(name):
    facts, page = card(name), (builtin.path(name) / "README.md").read_text()
    assert facts["model"] == name and facts["dataset"] == builtin.dataset_of(name)
    assert {"steps", "seed", "batch", "learning_rate"} <= set(facts["recipe"])
    assert {"python", "torch", "transformers"} <= set(facts["versions"])
    assert f"{facts['results']['test']['correct']:,} (" in page and str(facts["minutes"]) in page
    recipe = getattr(make, name.removeprefix("builtin/").upper())
    assert facts["recipe"] == vars(recipe), "the recipe has changed since the weights were made: run `make builtins`"


def test_recipes_train_and_write_a_whole_folder(tmp_path, monkeypatch):
    short = make.FitRecipe(steps=2, warmup=1, weight_decay=0.0, batch=4, images=12)
    monkeypatch.setattr(shapes, "DEFAULT_SAMPLES", 3)
    make.make_blip(tmp_path / "blip", short)
    pytest.importorskip("sklearn")
    make.make_vit(tmp_path / "vit", short)
    for name in ("blip", "vit"):
        shipped = {file.name for file in builtin.path(name).iterdir()}
        assert {file.name for file in (tmp_path / name).iterdir()} == shipped


def test_the_makefile_names_settings_that_exist(monkeypatch, tmp_path):
    built = []
    for name, (_, recipe) in make.BUILDERS.items():

        def note(folder, recipe, data_dir=None, name=name):
            built.append((name, recipe.steps, recipe.images, data_dir))

        monkeypatch.setitem(make.BUILDERS, name, (note, recipe))
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    for line in re.findall(r"-m idvl\.builtin\.make(.*)", makefile):
        line = line.replace("$(if $(FASHION),--data-dir $(FASHION))", "--data-dir fashion").replace("$*", "1")
        monkeypatch.setattr(sys, "argv", ["make", *line.replace("$(@D)", str(tmp_path)).split()])
        make.main()
    assert built == [
        ("blip", 3_000, 32_000, None),
        ("vit", 1_500, make.VIT.images, None),
        ("fashion", make.FASHION.steps, 60_000, Path("fashion")),
        ("blip", make.BLIP.steps, make.BLIP.images, None),
        ("vit", make.VIT.steps, make.VIT.images, None),
    ]


def test_names_and_paths():
    assert builtin.NAMES == ("builtin/blip", "builtin/vit")
    assert builtin.path("vit") == builtin.path("builtin/vit")
    assert (builtin.dataset_of("builtin/blip"), builtin.dataset_of("builtin/vit")) == ("shapes", "digits")
    with pytest.raises(UsageError, match=r"no built-in model 'builtin/blib'.*did you mean 'builtin/blip'"):
        builtin.path("builtin/blib")
    with pytest.raises(UsageError, match=r"no dataset for './mine': set dataset .--dataset."):
        builtin.dataset_of("./mine")


def test_looking_models_up_imports_nothing_heavy():
    code = "import sys, idvl.builtin; print([m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
