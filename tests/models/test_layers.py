"""Known counts and places of prunable layers, and the selections that are refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers
from torch import nn

from idvl.errors import UsageError
from idvl.models.families import family_of
from idvl.models.layers import block_of, find_layers, in_scope, uncovered_weights
from idvl.profile import MODALITIES
from tests.support import tiny


def on_meta(cls, config):
    with torch.device("meta"):
        return cls(config)


@pytest.fixture(scope="module")
def blip():
    model = tiny.KINDS["blip"]()[0]
    return model, family_of(model.config)


def test_blip_base_has_the_168_layers_of_the_paper():
    """Section 2.2 of the paper's code: 12 vision blocks of 4 and 12 text layers of 10, the head left out."""
    model = on_meta(transformers.BlipForConditionalGeneration, transformers.BlipConfig())
    layers = find_layers(model, family_of(model.config))
    assert Counter(layer.modality for layer in layers.values()) == {"vision": 48, "language": 72, "cross": 48}
    assert sum(layer.reads_image for layer in layers.values()) == 24
    assert len({layer.block for layer in layers.values()}) == 24
    names = list(layers)
    assert names[0] == "vision_model.encoder.layers.0.self_attn.qkv"
    assert names[-1] == "text_decoder.bert.encoder.layer.11.output.dense"
    assert (layers[names[0]].in_features, layers[names[0]].out_features) == (768, 2304)


def test_clip_base_leaves_its_projections_out():
    model = on_meta(transformers.CLIPModel, transformers.CLIPConfig())
    layers = find_layers(model, family_of(model.config))
    assert Counter(layer.modality for layer in layers.values()) == {"vision": 72, "language": 72}
    assert not any("projection" in name for name in layers)


def test_conv1d_has_its_features_the_right_way_round():
    model = tiny.KINDS["gpt2"]()[0]
    layers = find_layers(model, family_of(model.config))
    fused = layers["transformer.h.0.attn.c_attn"]
    assert (fused.in_features, fused.out_features) == (32, 96)
    assert len(layers) == 2 * 4 and "lm_head" not in layers


def test_layers_without_bias_count():
    model = tiny.KINDS["t5"]()[0]
    layers = find_layers(model, family_of(model.config))
    assert len(layers) == 2 * 6 + 2 * 10 and all(layer.module.bias is None for layer in layers.values())


def test_a_tied_weight_counts_once():
    model = tiny.KINDS["bert"]()[0]
    family = family_of(model.config)
    before = list(find_layers(model, family))
    blocks = model.bert.encoder.layer
    blocks[1].output.dense.weight = blocks[0].output.dense.weight
    after = list(find_layers(model, family))
    assert [name for name in before if name not in after] == ["bert.encoder.layer.1.output.dense"]
    blocks[1] = blocks[0]
    assert list(find_layers(model, family)) == before[:6]


def test_a_projection_that_never_runs_as_a_module_is_left_out():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16)])

    family = family_of(transformers.BertConfig(architectures=["BertModel"]))
    assert list(find_layers(Model(), family)) == ["layers.0.linear1", "layers.0.linear2"]


def test_a_block_is_the_outermost_that_matches():
    family = family_of(transformers.T5Config(architectures=["T5ForConditionalGeneration"]))
    assert block_of("decoder.block.1.layer.2.DenseReluDense.wo", family) == "decoder.block.1"
    assert block_of("lm_head", family) is None


def test_what_stands_between_the_layers_of_stages_is_a_block(get):
    """GroupViT groups its tokens between stages."""
    loaded = get("groupvit")
    layers = find_layers(loaded.model, loaded.family)
    maps = [name for name, module in loaded.model.vision_model.encoder.named_modules() if isinstance(module, nn.Linear)]
    assert {f"vision_model.encoder.{name}" for name in maps} <= layers.keys()
    assert layers["vision_model.encoder.stages.1.downsample.assign.proj"].block.endswith("stages.1.downsample")
    assert layers["vision_model.encoder.stages.1.layers.0.mlp.fc1"].block.endswith("stages.1.layers.0")


@pytest.mark.parametrize("name", ["git", "chameleon", "emu3"])
def test_the_decoder_of_a_model_that_writes_is_its_language_model(get, name):
    loaded = get(name)
    layers = find_layers(loaded.model, loaded.family)
    assert {"vision", "connector", "language"} >= {layer.modality for layer in layers.values()}
    assert in_scope(loaded.model, loaded.family, "language")


def test_patterns_and_modalities_select(blip):
    cross = find_layers(*blip, modality="cross")
    assert len(cross) == 8 and all("crossattention" in name for name in cross)
    assert len(find_layers(*blip, pattern="*.mlp.fc?")) == 4
    assert len(find_layers(*blip, pattern="text_decoder*", modality=["vision", "language"])) == 12
    everything = find_layers(*blip, modality=[m for m in MODALITIES if m in ("vision", "language", "cross")])
    assert list(everything) == list(find_layers(*blip))


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"pattern": "vision_model.encoder.layers.0.mlp.fc3"}, r"near it: vision_model\.encoder\.layers\.0\.mlp\.fc"),
        ({"modality": "visoin"}, "did you mean 'vision'"),
        ({"modality": "fusion"}, "no fusion layers; it has vision, language, cross"),
    ],
)
def test_a_selection_of_nothing_is_refused(blip, choice, said):
    with pytest.raises(UsageError, match=said) as refused:
        find_layers(*blip, **choice)
    assert "\n" not in str(refused.value)


def test_the_scope_language_has_the_cross_attention_that_the_modality_language_has_not(blip):
    cross, language = in_scope(*blip, "cross"), in_scope(*blip, "language-without-cross")
    assert cross == find_layers(*blip, modality="cross")
    assert language == find_layers(*blip, modality="language")
    assert in_scope(*blip, "language").keys() == cross.keys() | language.keys()


def test_a_pattern_that_resembles_a_scope_is_a_pattern_and_a_bare_word_a_slip(blip):
    vision = in_scope(*blip, "vision_model.*")
    assert vision.keys() == in_scope(*blip, "vision").keys()
    with pytest.raises(UsageError, match=r"no layer is named like 'language_model\.\*'"):
        in_scope(*blip, "language_model.*")
    with pytest.raises(UsageError, match="no scope 'visoin'; did you mean 'vision'"):
        in_scope(*blip, "visoin")


def kinds(loaded):
    return uncovered_weights(loaded.model, loaded.family)


def test_fused_experts_are_named_and_every_weight_is_in_one_kind(get):
    loaded = get("qwen3_vl_moe")
    uncovered, model = kinds(loaded), loaded.model
    experts = "model.language_model.layers.*.mlp.experts"
    assert uncovered["fused experts"]["names"] == [f"{experts}.gate_up_proj", f"{experts}.down_proj"]
    text = loaded.model.config.text_config
    # gate, up and down of each expert of each layer
    per_layer = text.num_experts * 3 * text.hidden_size * text.moe_intermediate_size
    assert uncovered["fused experts"]["weights"] == text.num_hidden_layers * per_layer
    assert uncovered["other"]["names"] == ["model.language_model.layers.*.mlp.gate.weight"]
    assert uncovered["heads and projections"]["names"] == ["lm_head.weight"]
    covered = sum(layer.module.weight.numel() for layer in find_layers(model, loaded.family).values())
    total = sum(parameter.numel() for parameter in model.parameters())
    assert covered + sum(part["weights"] for part in uncovered.values()) == total
    assert loaded.description["not_covered"] == uncovered


def test_a_convolutional_tower_and_an_lstm_are_named(get):
    loaded = get("align")
    tower = [module.weight for module in loaded.model.modules() if isinstance(module, nn.Conv2d)]
    found = kinds(loaded)["convolutions"]
    assert found["names"][0] == "vision_model.embeddings.convolution.weight"
    assert (found["tensors"], found["weights"]) == (len(tower), sum(weight.numel() for weight in tower))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.ModuleDict({"mix": nn.LSTM(8, 8), "out": nn.Linear(8, 8)})])
            self.scale = nn.Parameter(torch.ones(2, 1, 1))

    family = family_of(transformers.BertConfig(architectures=["BertModel"]))
    uncovered = uncovered_weights(Model(), family)
    assert uncovered["other"] == {
        "weights": 2 * 32 * 8,
        "tensors": 2,
        "names": ["layers.*.mix.weight_ih_l0", "layers.*.mix.weight_hh_l0"],
    }
    assert uncovered["norms and biases"]["weights"] == 2 * 32 + 8 + 2


def test_tied_weights_count_once_outside_of_layers_too(get):
    gpt2 = get("gpt2")
    assert gpt2.model.lm_head.weight is gpt2.model.transformer.wte.weight
    assert kinds(gpt2)["embeddings"]["names"] == ["transformer.wte.weight", "transformer.wpe.weight"]
    assert "heads and projections" not in kinds(gpt2)


def test_layers_that_the_loss_does_not_reach_are_a_kind(get):
    loaded = get("llava")
    name = next(iter(find_layers(loaded.model, loaded.family)))
    part = uncovered_weights(loaded.model, loaded.family, unreached=[name])["unreached layers"]
    assert part["tensors"] == 1 and part["weights"] == 32 * 32


def test_a_model_without_blocks_is_refused():
    family = family_of(transformers.BertConfig(architectures=["BertModel"]))
    with pytest.raises(UsageError, match="no linear layer inside a transformer block"):
        find_layers(nn.Sequential(nn.Linear(2, 2)), family)
