"""What every family promises, tried on every kind of tiny model: nothing here asks which one it is."""

from __future__ import annotations

import dataclasses
import functools
import json
from types import SimpleNamespace

import pytest
import torch

from idvl.errors import RunError, UsageError
from idvl.models import families, inputs, text_positions
from idvl.models.families import family_of
from idvl.models.inputs import encode
from idvl.models.layers import find_layers
from idvl.models.loading import Loaded, load
from idvl.models.processors import image_processor_of
from idvl.profile import MODALITIES
from tests.support import tiny

FAMILY_OF = dict.fromkeys(tiny.KINDS, "generic") | {
    "blip": "blip",
    "blip-vqa": "blip",
    "blip-itm": "blip",
    "blip-nlvr2": "blip",
    "clip": "clip",
    "siglip": "siglip",
    "blip2": "blip2",
    "flava": "flava",
    "llava": "llava",
    "vit": "vit",
    "vilt": "vilt",
    "vilt-nlvr2": "vilt",
}
MODALITIES_OF = {
    "blip": {"vision", "language", "cross"},
    "blip-vqa": {"vision", "language", "cross"},
    "blip-itm": {"vision", "language", "cross"},
    "blip-nlvr2": {"vision", "language", "cross"},
    "clip": {"vision", "language"},
    "vit": {"vision"},
    "siglip": {"vision", "language"},
    "vilt": {"fusion"},
    "vilt-nlvr2": {"fusion"},
    "git": {"vision", "language", "connector"},
    "dinov2": {"vision"},
    "bert": {"language"},
    "gpt2": {"language"},
    "t5": {"language", "cross"},
    "llava": {"vision", "language", "connector"},
    "blip2": {"vision", "language", "connector"},
    "flava": {"vision", "language", "fusion", "connector"},
}
SAMPLES = tiny.samples(6)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """kind -> the model of that kind, loaded from a checkpoint."""

    @functools.cache
    def get(kind: str) -> Loaded:
        return load(str(tiny.save(kind, tmp_path_factory.mktemp(kind))), device="cpu")

    return get


def outputs(loaded: Loaded, batch) -> dict[str, torch.Tensor]:
    """Every layer's output (batch, tokens, width), padding set to zero."""
    seen = {}

    def keep(name):
        def hook(module, args, output):
            seen[name] = output.reshape(len(next(iter(batch.values()))), -1, output.shape[-1]).clone()

        return hook

    handles = [
        layer.module.register_forward_hook(keep(name))
        for name, layer in find_layers(loaded.model, loaded.family).items()
    ]
    with torch.no_grad():
        loaded.family.call(loaded.model, batch)
    for handle in handles:
        handle.remove()
    for name, output in seen.items():
        mask = loaded.family.token_mask(name, output.shape[1], batch)
        if mask is not None:
            seen[name] = output * mask[:, :, None]
    return seen


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_layers_have_places(loaded, kind):
    model, family = loaded(kind).model, loaded(kind).family
    layers = find_layers(model, family)
    assert family.key == FAMILY_OF[kind]
    assert {layer.modality for layer in layers.values()} == MODALITIES_OF[kind] <= set(MODALITIES)
    for name, layer in layers.items():
        assert model.get_submodule(name) is layer.module
        assert layer.block is None or name.startswith(layer.block + ".")
        assert layer.block or layer.modality == "connector"
        assert layer.reads_image <= (layer.modality in ("cross", "connector"))
        assert layer.module.weight.numel() == layer.in_features * layer.out_features
    assert all(model.get_submodule(layer.block) for layer in layers.values() if layer.block)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_layer_runs_and_knows_its_real_tokens(loaded, kind):
    batch = encode(loaded(kind), SAMPLES, batch_size=len(SAMPLES))[0]
    layers = find_layers(loaded(kind).model, loaded(kind).family)
    seen = outputs(loaded(kind), batch)
    assert set(seen) == set(layers)
    for name, output in seen.items():
        mask = loaded(kind).family.token_mask(name, output.shape[1], batch)
        assert mask is None or (mask.shape == output.shape[:2] and mask.dtype == torch.bool)
        if layers[name].modality == "vision" or layers[name].reads_image:
            assert mask is None
        elif layers[name].modality in ("language", "fusion") and "attention_mask" in batch:
            absent = (batch["attention_mask"] == 0).sum(1)
            by_answer = kind == "blip-vqa" and name.startswith("text_decoder")
            assert by_answer or ((~mask).sum(1) == absent).all()
        assert output.isfinite().all() and output.std() > 0


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_sample_does_not_depend_on_its_neighbours(loaded, kind):
    """Together or alone, in this order or another: the same representation."""
    together = outputs(loaded(kind), encode(loaded(kind), SAMPLES, batch_size=6)[0])
    order = [3, 0, 5, 1, 4, 2]
    for size in (1, 4):
        batches = encode(loaded(kind), [SAMPLES[i] for i in order], batch_size=size)
        parts = [outputs(loaded(kind), batch) for batch in batches]
        for name, whole in together.items():
            shuffled = torch.cat([part[name] for part in parts])
            torch.testing.assert_close(shuffled, whole[order], atol=1e-5, rtol=1e-5, msg=f"{name}, batches of {size}")


@pytest.mark.parametrize("kind", [kind for kind in tiny.KINDS if kind not in ("vit", "dinov2", "siglip")])
def test_longer_padding_changes_no_real_token(loaded, kind):
    got = loaded(kind)
    length = got.family.text_length(got.processor, SAMPLES)
    short = outputs(got, got.family.inputs(got.processor, SAMPLES, length))
    long = outputs(got, got.family.inputs(got.processor, SAMPLES, length + 4))
    for name, output in short.items():
        # [image, text] and [text, image] alike: without the zeros at padding, the same vectors in the same order
        for a, b in zip(output, long[name], strict=True):
            a, b = a[a.abs().sum(-1) > 0], b[b.abs().sum(-1) > 0]
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_calls_keep_no_cache(loaded, kind):
    with torch.no_grad():
        result = loaded(kind).family.call(loaded(kind).model, encode(loaded(kind), SAMPLES, batch_size=6)[0])
    assert getattr(result, "past_key_values", None) is None


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_guesses_are_said(loaded, kind):
    description = loaded(kind).description
    assert json.loads(json.dumps(description)) == description
    assert description["guessed"] == (FAMILY_OF[kind] == "generic")
    assert description["guessed"] == any("guessed" in note for note in description["warnings"])


def test_families_are_the_files_of_the_folder():
    assert families.names() == [
        *(
            "blip",
            "blip2",
            "bridgetower",
            "butd",
            "clip",
            "flava",
            "internvl",
            "lfm2_vl",
            "llava",
            "paligemma",
            "pix2struct",
        ),
        *("qwen_vl", "siglip", "smolvlm", "vilt", "vision_encoder_decoder", "vit", "generic"),
    ]
    assert family_of(tiny.KINDS["clip"]()[0].config).key == "clip"


@pytest.fixture
def second_clip(monkeypatch):
    """A function that adds a family of CLIP, which describes the classes that it is given."""
    clip = families.import_module("idvl.models.families.clip").FAMILY
    real = families.import_module

    def add(*classes: str) -> None:
        second = SimpleNamespace(FAMILY=dataclasses.replace(clip, classes=classes))
        monkeypatch.setattr(families, "names", lambda: ["clip", "second", "generic"])
        monkeypatch.setattr(families, "import_module", lambda name: second if name.endswith(".second") else real(name))

    return add


def test_two_families_may_share_a_model_type(second_clip):
    import transformers

    second_clip("CLIPForImageClassification")
    config = transformers.CLIPConfig(architectures=["CLIPForImageClassification"])
    assert family_of(config).key == "second"
    assert family_of(transformers.CLIPConfig(architectures=["CLIPModel"])).key == "clip"
    assert family_of(transformers.CLIPConfig(architectures=["CLIPTextModel"])).key == "generic"


@pytest.mark.parametrize(
    ("named", "end"),
    [
        (["CLIPModel"], "CLIPModel: remove it from the classes of one"),
        (None, "clip models: name its class in architectures of config.json"),
    ],
)
def test_two_families_of_one_class_are_both_named(second_clip, named, end):
    import transformers

    second_clip("CLIPModel")
    with pytest.raises(RunError, match=f"^the families clip and second both describe {end}$"):
        family_of(transformers.CLIPConfig(architectures=named))


def test_a_vilt_without_a_class_is_known_by_its_number_of_images():
    import transformers

    assert family_of(transformers.ViltConfig(num_images=2)).key == "vilt"
    assert family_of(transformers.ViltConfig()).key == "generic"


def test_an_unknown_class_of_a_known_type_is_generic():
    import transformers

    config = transformers.CLIPConfig(architectures=["CLIPForImageClassification"])
    assert family_of(config).guessed
    assert family_of(config).model_class(config) is transformers.CLIPForImageClassification


def test_a_model_without_image_and_text_is_refused():
    import transformers

    with pytest.raises(UsageError, match="wav2vec2 model reads audio"):
        family_of(transformers.Wav2Vec2Config(architectures=["Wav2Vec2Model"]))


def test_answering_reads_the_first_answer(loaded):
    got = loaded("blip-vqa")
    sample = dataclasses.replace(SAMPLES[0], texts=("a red star",), answers=("two blue", "three"))
    batch = encode(got, [sample], batch_size=1)[0]
    plain = got.processor.tokenizer(["a red star", "two blue"])["input_ids"]
    assert batch["input_ids"][0].tolist() == plain[0]
    assert batch["decoder_input_ids"][0, :4].tolist() == plain[1]
    kv = "text_decoder.bert.encoder.layer.0.crossattention.self.key"
    assert got.family.token_mask(kv, 5, batch).sum() == 5
    assert got.family.token_mask("text_decoder.bert.encoder.layer.0.attention.self.key", 5, batch).sum() == 4
    assert not find_layers(got.model, got.family)[kv].reads_image


def test_the_text_is_found_where_it_stands(loaded):
    """GIT puts it behind 17 image tokens."""

    def starts(kind):
        return {name: start for name, (_, start) in loaded(kind).family.token_mask.args[0].items()}

    assert set(starts("git").values()) == {17}


def test_image_tokens_are_where_the_image_stands(loaded):
    """In LLaVA's text, before GIT's, behind ViLT's, nowhere in towers and Q-Former, which read one class alone."""

    def image(kind, name, n_tokens):
        batch = encode(loaded(kind), SAMPLES, batch_size=6)[0]
        mask = loaded(kind).family.image_tokens(name, n_tokens + batch["input_ids"].shape[1], batch)
        return batch, mask

    batch, mask = image("llava", "model.language_model.layers.1.mlp.up_proj", 0)
    assert torch.equal(mask, batch["input_ids"] == loaded("llava").model.config.image_token_id) and mask.any(1).all()
    assert image("llava", "model.vision_tower.encoder.layers.0.mlp.fc1", 0)[1] is None
    batch, mask = image("git", "git.encoder.layer.0.output.dense", 17)
    assert mask.all(0).nonzero().flatten().tolist() == list(range(17)) and mask.sum() == 6 * 17
    batch, mask = image("vilt", "vilt.encoder.layer.0.output.dense", 17)
    assert mask.all(0).sum() == 17 and not mask[:, : batch["input_ids"].shape[1]].any()
    assert image("blip2", "qformer.encoder.layer.0.attention.attention.query", 0)[1] is None
    batch, mask = image("flava", "multimodal_model.encoder.layer.0.output.dense", 18)
    assert mask[:, :18].all() and not mask[:, 18:].any()
    assert not image("flava", "text_to_mm_projection", 0)[1].any()
    assert image("gpt2", "transformer.h.0.mlp.c_fc", 0)[1] is None


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("kosmos2", "text_model.model.layers.0.self_attn.q_proj"),
        *(
            pytest.param(name, layer, marks=pytest.mark.slow)
            for name, layer in {
                "git": "git.encoder.layer.0.attention.self.query",
                "florence2": "model.language_model.encoder.layers.0.self_attn.q_proj",
                **dict.fromkeys(
                    ("janus", "aya_vision", "aria", "ovis2", "glm4v", "mistral3"),
                    "model.language_model.layers.0.self_attn.q_proj",
                ),
            }.items()
        ),
    ],
)
def test_another_image_moves_the_image_tokens_alone_before_attention(get, name, layer):
    loaded, seen = get(name), []
    others = [dataclasses.replace(sample, source=sample.second) for sample in SAMPLES]
    batch, other = (encode(loaded, samples, batch_size=6)[0] for samples in (SAMPLES, others))
    handle = loaded.model.get_submodule(layer).register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        loaded.family.call(loaded.model, batch)
        loaded.family.call(loaded.model, other)
    handle.remove()
    moved = (seen[0] - seen[1]).abs().amax(-1) > 0
    real = loaded.family.token_mask(layer, moved.shape[1], batch)
    assert moved.any(1).all() and torch.equal(moved & real, loaded.family.image_tokens(layer, moved.shape[1], batch))


def test_image_tokens_count_as_words_where_the_image_is_read_by_cross_attention(get):
    family = get("mllama").family
    assert not family.image_tokens.args[1]
    marked = get("florence2").family.image_tokens.args[1]
    assert {name.split(".")[2] for name in marked} == {"encoder", "decoder"}
    assert all(name.endswith(("k_proj", "v_proj")) for name in marked if ".decoder." in name)


def test_padding_that_the_model_does_not_mask_is_noticed():
    tokens = torch.randn(7, 4)
    padded = torch.tensor([5, 6])
    clean = tokens.clone()
    clean[5:] += 1
    assert text_positions._start(tokens, clean, padded, 7) == (0, False)
    assert text_positions._start(tokens, tokens + 1, padded, 7) == (0, True)
    longer = torch.cat([torch.randn(3, 4), tokens])
    changed = longer.clone()
    changed[8:] += 1
    assert text_positions._start(longer, changed, padded, 7) == (3, False)
    assert text_positions._start(longer, longer + 1, padded, 7) == (None, True)
    assert text_positions._start(tokens, tokens, padded, 7) == (None, False)


@pytest.mark.parametrize("kind", ["blip", "clip", "vilt"])
def test_large_images_are_prepared_one_by_one(loaded, kind, monkeypatch):
    """No number changes."""
    model = loaded(kind)
    (together,) = encode(model, SAMPLES, batch_size=len(SAMPLES))
    seen = []
    processor = type(image_processor_of(model.processor))
    monkeypatch.setattr(inputs, "AT_ONCE", 100)
    monkeypatch.setattr(
        processor,
        "__call__",
        lambda self, images, *args, _call=processor.__call__, **named: (
            seen.append(len(images)) or _call(self, images, *args, **named)
        ),
    )
    (apart,) = encode(model, SAMPLES, batch_size=len(SAMPLES))
    assert together.keys() == apart.keys() and all(torch.equal(together[key], apart[key]) for key in together)
    assert set(seen) == {1} and len(seen) >= len(SAMPLES)
