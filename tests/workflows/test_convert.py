"""idvl convert: the authors' layout of BLIP becomes a folder with the same logits; anything else is refused."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from idvl.commands import main
from idvl.models.loading import load
from tests.support import tiny
from tests.support.original_blip import Blip

WORDS = len(tiny.VOCAB) + 2
MAP = "visual_encoder.blocks.0.mlp.fc1.weight"
DEC, ENC = WORDS - 2, WORDS - 1
PIXELS = torch.randn(3, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(1))
TOKENS = torch.tensor([[DEC, 7, 8, 9, 3, 0], [DEC, 10, 3, 0, 0, 0], [DEC, 11, 12, 13, 14, 3]])
MASK = (TOKENS != 0).long()
ANSWERS, ANSWERED = TOKENS.flip(0)[:, :4], MASK.flip(0)[:, :4]
CLASSES = {
    "caption": "BlipForConditionalGeneration",
    "answer": "BlipForQuestionAnswering",
    "retrieval": "BlipForImageTextRetrieval",
    "nlvr2": "BlipForImagesAndTextClassification",
}


def read(tokens: Tensor) -> Tensor:
    """Tokens that are read beside an image, which start with [ENC]."""
    return torch.cat([torch.full_like(tokens[:, :1], ENC), tokens[:, 1:]], 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the words of the tokenizer in words/, and a checkpoint of each kind."""
    folder = tmp_path_factory.mktemp("original")
    tiny.bert_tokenizer().save_pretrained(folder / "words")
    for kind in CLASSES:
        torch.manual_seed(0)
        torch.save({"model": Blip(kind, words=WORDS).state_dict(), "epoch": 4, "config": {}}, folder / f"{kind}.pth")
    return folder


@pytest.fixture(scope="module")
def convert(place) -> Callable[[str], dict]:
    """kind -> what idvl convert says, as JSON, of the folder place/out-kind that it wrote."""

    @functools.cache
    def run(kind: str) -> dict:
        args = [f"{place / kind}.pth", f"{place / 'out'}-{kind}", "--tokenizer", f"{place / 'words'}", "--json", "-q"]
        with redirect_stdout(StringIO()) as shown:
            assert main(["convert", *args]) == 0
        return json.loads(shown.getvalue())

    return run


def original(place: Path, kind: str) -> Blip:
    model = Blip(kind, words=WORDS)
    model.load_state_dict(torch.load(place / f"{kind}.pth")["model"])
    return model


@torch.no_grad()
def logits(model: Blip, kind: str) -> list[Tensor]:
    """What the authors' forward computes of the images and texts."""
    image = model.visual_encoder(PIXELS)
    if kind == "nlvr2":
        # the first of the two images of each sentence, then the second
        pair = torch.stack([image, model.visual_encoder(PIXELS.flip(0))])
        return [model.cls_head(model.text_encoder(read(TOKENS), MASK, pair)[:, 0])]
    if kind == "caption":
        return [model.text_decoder(TOKENS, MASK, image)]
    states = model.text_encoder(read(TOKENS), MASK, image)
    if kind == "answer":
        return [model.text_decoder(ANSWERS, ANSWERED, states, seen=MASK)]
    # embeddings of images, of texts read alone, and the scores of matching
    texts = model.text_encoder(TOKENS, MASK)
    return [model.vision_proj(image[:, 0]), model.text_proj(texts[:, 0]), model.itm_head(states[:, 0])]


@torch.no_grad()
def converted_logits(loaded, kind: str) -> list[Tensor]:
    model, batch = loaded.model, {"pixel_values": PIXELS, "input_ids": TOKENS, "attention_mask": MASK}
    if kind == "nlvr2":
        batch["pixel_values"] = torch.stack([PIXELS, PIXELS.flip(0)], 1)
    if kind in ("caption", "nlvr2"):
        return [loaded.family.call(model, batch).logits]
    if kind == "answer":
        outputs: list[Tensor] = []
        model.text_decoder.register_forward_hook(lambda module, args, output: outputs.append(output.logits))
        loaded.family.call(model, {**batch, "decoder_input_ids": ANSWERS, "decoder_attention_mask": ANSWERED})
        return outputs
    image = model.vision_model(PIXELS).last_hidden_state
    texts = model.text_encoder(TOKENS, attention_mask=MASK).last_hidden_state
    return [model.vision_proj(image[:, 0]), model.text_proj(texts[:, 0]), loaded.family.call(model, batch).itm_score]


def assert_same_logits(loaded, theirs: Blip, kind: str) -> None:
    """At the tokens that are no padding."""
    for ours, expected in zip(converted_logits(loaded, kind), logits(theirs, kind), strict=True):
        assert expected.std() > 0.1
        real = ANSWERED if kind == "answer" else MASK
        keep = real.bool() if expected.dim() == 3 else slice(None)
        torch.testing.assert_close(ours[keep], expected[keep], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_folder_computes_what_the_original_computes(kind, place, convert):
    result = convert(kind)
    loaded = load(result["folder"], device="cpu")
    assert type(loaded.model).__name__ == result["class_name"] == CLASSES[kind]
    assert_same_logits(loaded, original(place, kind), kind)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_original_computes_what_the_folder_computes_once_trained(kind, place, convert):
    """Back: each of the authors' tensors is one of the folder's, and keeps its meaning when the weights change."""
    result = convert(kind)
    loaded, theirs = load(result["folder"], device="cpu"), original(place, kind)
    state, ours = theirs.state_dict(), loaded.model.state_dict()
    names = {tensor.numpy().tobytes(): name for name, tensor in ours.items()}
    back = {key: names[value.numpy().tobytes()] for key, value in state.items() if key not in result["left_out"]}
    assert {ours[name].data_ptr() for name in back.values()} == {tensor.data_ptr() for tensor in ours.values()}
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight += 0.1 * weight.std(correction=0) * torch.randn(weight.shape, generator=generator)
    theirs.load_state_dict(state | {key: ours[name] for key, name in back.items()})
    assert_same_logits(loaded, theirs, kind)
    assert not torch.allclose(logits(theirs, kind)[0], logits(original(place, kind), kind)[0], atol=1e-2)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_key_is_converted_or_named(kind, place, convert):
    result, keys = convert(kind), original(place, kind).state_dict()
    assert result["mapped"] + len(result["left_out"]) == len(keys)
    assert set(result["left_out"]) < set(keys)
    card = (Path(result["folder"]) / "README.md").read_text()
    assert all(f"`{key}`" in card for key in result["left_out"]) and result["sha256"] in card


def test_the_folder_has_the_authors_settings_and_processor(convert):
    from transformers import BlipConfig, BlipProcessor

    folder = convert("caption")["folder"]
    config = BlipConfig.from_pretrained(folder)
    text, vision = config.text_config, config.vision_config
    assert (vision.image_size, vision.patch_size, vision.layer_norm_eps) == (tiny.SIDE, 8, 1e-6)
    assert (vision.num_attention_heads, text.num_attention_heads) == (1, 2)
    assert (text.bos_token_id, text.sep_token_id, text.pad_token_id) == (DEC, 3, 0)
    assert (text.hidden_dropout_prob, text.attention_probs_dropout_prob, text.label_smoothing) == (0.1, 0.1, 0.1)
    images = BlipProcessor.from_pretrained(folder).image_processor
    assert images.size == {"height": tiny.SIDE, "width": tiny.SIDE} and images.resample == 3
    assert list(images.image_mean) == [0.48145466, 0.4578275, 0.40821073]


class Dangerous:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def changed(place: Path, path: Path, change: Callable[[dict[str, Tensor]], object], kind: str = "caption") -> Path:
    """A copy of a checkpoint whose tensors `change` has altered."""
    state = torch.load(place / f"{kind}.pth")["model"]
    change(state)
    torch.save({"model": state}, path)
    return path


def spoilt(place: Path, path: Path, what: str) -> Path:
    """A file that is no checkpoint of BLIP's."""
    whole = place / "caption.pth"
    changes = {
        "lacks a layer": lambda state: [state.pop(key) for key in list(state) if ".blocks.0.mlp." in key],
        "one tensor lacks": lambda state: state.pop("text_decoder.bert.encoder.layer.1.output.dense.bias"),
        "unknown": lambda state: state.update({"text_decoder.adapter.weight": torch.zeros(2)}),
        "unknown part": lambda state: state.update({"adapter.weight": torch.zeros(2)}),
        "another shape": lambda state: state.update({"visual_encoder.norm.weight": torch.zeros(3)}),
        "untied": lambda state: state.update({"text_decoder.cls.predictions.decoder.weight": torch.zeros(WORDS, 128)}),
        "narrow": lambda state: state.update({"visual_encoder.pos_embed": torch.zeros(1, 17, 60)}),
        "no patches": lambda state: state.update({"visual_encoder.pos_embed": torch.zeros(1, 1, 64)}),
        "no positions": lambda state: state.update({"visual_encoder.pos_embed": torch.zeros(1, 0, 64)}),
        "positions": lambda state: state.update({"text_decoder.bert.embeddings.position_ids": torch.zeros(1, 40)}),
        "another model": lambda state: [state.pop(key) for key in list(state) if key.startswith("text_decoder")],
        "integers": lambda state: state.update({key: value.int() for key, value in state.items()}),
        "8 bits": lambda state: state.update(
            {key: value.to(torch.float8_e4m3fn) for key, value in state.items() if value.is_floating_point()}
        ),
        "sparse": lambda state: state.update({MAP: state[MAP].to_sparse()}),
        "no values": lambda state: state.update({MAP: state[MAP].to("meta")}),
        "two dtypes": lambda state: state.update({"visual_encoder.norm.weight": torch.zeros(64, dtype=torch.half)}),
        "nan": lambda state: state["visual_encoder.norm.weight"].fill_(torch.nan),
    }
    if what in changes:
        return changed(place, path, changes[what])
    if what == "no merges":
        return changed(place, path, lambda state: [state.pop(key) for key in list(state) if "merge" in key], "nlvr2")
    if what == "a flipped bit":
        data = bytearray(whole.read_bytes())
        data[len(data) // 2] ^= 64
        path.write_bytes(data)
    elif what == "truncated":
        path.write_bytes(whole.read_bytes()[:20000])
    elif what == "text":
        path.write_text("<html>Not found</html>")
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "safetensors":
        save_file({"weight": torch.zeros(2)}, path := path.with_suffix(".safetensors"))
    elif what == "code":
        torch.save({"model": Dangerous(path.with_name("touched"))}, path)
    elif what == "old pickle with code":
        path.write_bytes(pickle.dumps(Dangerous(path.with_name("touched")), 2))
    elif what == "a list":
        torch.save([torch.zeros(2)], path)
    return path


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "there is no checkpoint"),
        ("truncated", "is damaged or no torch file"),
        ("a flipped bit", "differs from its checksum): download it again"),
        ("text", "is damaged or no torch file (UnpicklingError): download it again"),
        ("empty", "is damaged or no torch file"),
        ("safetensors", "is a safetensors file: idvl convert reads the .pth files of BLIP's original repository"),
        ("code", "holds code beside tensors, which is never run"),
        ("old pickle with code", "holds code beside tensors, which is never run"),
        ("a list", "holds no tensors by name"),
        ("another model", "it holds visual_encoder, none of BLIP's models"),
        ("lacks a layer", "it has no tensor of 2 axes for vision_model.encoder.layers.0.mlp.fc1.weight"),
        ("one tensor lacks", "it lacks 1 of"),
        ("unknown", "it has 1 tensors that BLIP does not have, text_decoder.adapter.weight first"),
        ("unknown part", "it has 1 tensors that BLIP does not have, adapter.weight first"),
        ("another shape", "its vision_model.post_layernorm.weight is (3,), where BLIP has (64,)"),
        ("untied", "differ, and are one tensor in BLIP"),
        ("narrow", "it is 60 wide, no multiple of 64"),
        ("no patches", "its pos_embed has 1 rows: one is for the class token, the others for a square of patches"),
        ("no positions", "its pos_embed has 0 rows"),
        (
            "no merges",
            "it lacks 2 of 108 tensors, text_encoder.encoder.layer.1.crossattention.output.merge_layer.weight",
        ),
        ("positions", "do not count from 0"),
        ("integers", "not all of one floating-point dtype"),
        ("two dtypes", "not all of one floating-point dtype"),
        ("8 bits", "not all of one floating-point dtype, of 16 bits or more"),
        ("sparse", "is sparse or has no values"),
        ("no values", "is sparse or has no values"),
        ("nan", "holds NaN or infinite values"),
    ],
)
def test_anything_else_is_refused_and_nothing_is_written(what, said, place, tmp_path, capsys):
    file = spoilt(place, tmp_path / "file.pth", what)
    out = tmp_path / "new" / "out"
    code = main(["convert", str(file), str(out), "--tokenizer", str(place / "words"), "-q"])
    told = capsys.readouterr().err
    assert code in (1, 2) and said in told and told.count("\n") == 1, told
    assert not out.parent.exists() and not (tmp_path / "touched").exists()


def test_other_words_or_a_full_folder_are_refused(place, tmp_path, capsys):
    args = ["convert", str(place / "caption.pth"), str(tmp_path / "out"), "-q", "--tokenizer"]
    fewer = {word: i for i, word in enumerate([*tiny.SPECIAL, "a"])}
    type(tiny.bert_tokenizer())(vocab=fewer).save_pretrained(tmp_path / "fewer")
    assert main([*args, str(tmp_path / "fewer")]) == 2
    assert "has 7 words, and the checkpoint 25 beside [DEC] and [ENC]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    for tokenizer, said in (
        ("some/where", "some/where is not a local folder"),
        (str(tmp_path / "nowhere/at/all"), "nowhere/at/all"),
        (str(tmp_path / "empty"), "empty' has no vocabulary"),
    ):
        assert main([*args, tokenizer, "--local-files-only"]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1, told
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    assert main([*args, str(place / "words")]) == 2
    assert "exists: choose another OUT" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
