"""Loading a checkpoint whole, describing it, feeding it; and everything that must be refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import normalizers

import idvl
from idvl.device import find_device
from idvl.errors import RunError, UsageError
from idvl.measurement.points import points
from idvl.models import stated
from idvl.models.fingerprints import fingerprint
from idvl.models.generation import Generation
from idvl.models.inputs import encode, process
from idvl.models.load_errors import one_line
from idvl.models.loading import load, wrap
from tests.coverage.architectures import build
from tests.support import processes, tiny
from tests.support.hub import Hub


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a few tiny checkpoints, named by their kinds."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for kind in ("blip", "vit", "bert", "clip", "git", "gpt2"):
        tiny.save(kind, folder / kind)
    return folder


@pytest.fixture
def copy(checkpoints, tmp_path):
    """kind -> a copy of its checkpoint that a test may spoil."""
    return lambda kind: shutil.copytree(checkpoints / kind, tmp_path / kind)


def refusal(name, **options) -> str:
    with pytest.raises(UsageError) as refused:
        load(str(name), device="cpu", **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def change_config(folder, **changes):
    """Set keys of config.json; a nested one is written with a double underscore."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        section, _, inner = key.rpartition("__")
        (config[section] if section else config)[inner] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_checkpoint_is_loaded_as_it_was_saved(checkpoints):
    loaded = load(str(checkpoints / "blip"), device="cpu")
    saved = load_file(checkpoints / "blip" / "model.safetensors")
    for name, parameter in loaded.model.named_parameters():
        if name in saved:
            assert torch.equal(parameter, saved[name])
    assert not loaded.model.training
    described = loaded.description
    assert (described["class"], described["source"]) == ("BlipForConditionalGeneration", "folder")
    assert described["path"] == str((checkpoints / "blip").resolve())
    assert described["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    assert (described["image_processor"], described["image_backend"]) == ("BlipImageProcessorPil", "pil")
    assert described["warnings"] == [] and described["revision"] is None and not described["guessed"]


def test_a_model_in_memory_is_wrapped_as_it_is(checkpoints):
    loaded = load(str(checkpoints / "blip"), device="cpu")
    wrapped = wrap(loaded.model.train(), loaded.processor)
    assert wrapped.model is loaded.model and not wrapped.model.training
    assert wrapped.description["fingerprint"] == loaded.description["fingerprint"]


def test_dtype(checkpoints, copy):
    folder = copy("vit")
    weights = load_file(folder / "model.safetensors")
    save_file({name: w.bfloat16() for name, w in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    change_config(folder, dtype="bfloat16")
    assert load(str(folder), device="cpu").model.dtype == torch.float32
    kept = load(str(folder), device="cpu", dtype="auto")
    assert kept.model.dtype == torch.bfloat16
    batch = encode(kept, tiny.samples(2), batch_size=2)[0]
    assert batch["pixel_values"].dtype == torch.float32
    assert kept.family.call(kept.model, batch).logits.dtype == torch.bfloat16


def test_fingerprint_follows_the_weights(checkpoints):
    model = load(str(checkpoints / "vit"), device="cpu").model
    before = fingerprint(model)
    with torch.no_grad():
        model.classifier.weight[0, 0] += 1
    assert fingerprint(model) != before
    assert fingerprint(load(str(checkpoints / "vit"), device="cpu").model) == before


def test_torch_weights_without_code_are_read(copy):
    folder = copy("bert")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load(str(folder), device="cpu").description["class"] == "BertForMaskedLM"


def test_pickled_code_is_never_run(copy, tmp_path):
    folder = copy("bert")

    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    (folder / "model.safetensors").unlink()
    torch.save({"weight": Harm()}, folder / "pytorch_model.bin")
    assert "never run; convert it to safetensors" in refusal(folder)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("blip", {"text_config__num_hidden_layers": 3}, "missing: text_decoder.bert.encoder.layer.2.attention"),
        ("blip", {"text_config__num_hidden_layers": 1}, "unexpected: text_decoder.bert.encoder.layer.1.attention"),
        ("blip", {"text_config__intermediate_size": 48}, "dense.weight (64, 32), not (48, 32)"),
        ("blip", {"vision_config__image_size": 64}, "mismatched: vision_model.embeddings.position_embedding"),
        # the names on disk are not those in memory
        ("vit", {"num_hidden_layers": 3}, "missing: vit.layers.2.attention.k_proj.bias"),
        ("vit", {"qkv_bias": False}, "unexpected: vit.layers.0.attention.k_proj.bias"),
    ],
)
def test_weights_that_do_not_fit_are_listed(copy, kind, changes, said):
    assert said in refusal(change_config(copy(kind), **changes))


def test_a_single_missing_weight_is_named(copy):
    folder = copy("clip")
    weights = load_file(folder / "model.safetensors")
    del weights["text_model.encoder.layers.1.mlp.fc2.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert "missing: text_model.encoder.layers.1.mlp.fc2.weight" in refusal(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_weights_of_whole_numbers_are_refused(copy, dtype, form):
    folder = copy("vit")
    weights = load_file(folder / "model.safetensors")
    key = next(key for key in weights if key.endswith("query.weight") or key.endswith("q_proj.weight"))
    weights[key] = weights[key].to(dtype)
    if form == "safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    said = refusal(folder)
    assert "integers, booleans or complex numbers" in said and key in said


def test_a_quantized_model_is_refused_before_its_weights_are_read(copy, monkeypatch):
    folder = change_config(copy("vit"), quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    (folder / "model.safetensors").write_bytes(b"never read")
    monkeypatch.setattr(stated, "stored_dtypes", None)
    assert refusal(folder) == (
        f"{folder} is quantized by 'bitsandbytes', and idvl measures and prunes floating-point weights: load the model "
        "that it was made from"
    )


def test_gguf_is_refused_as_a_file_and_as_a_folder_with_and_without_a_config(copy):
    folder = copy("vit")
    (folder / "model.safetensors").rename(folder / "model-q4.gguf")
    for place in (folder, folder / "model-q4.gguf"):
        assert refusal(place).startswith(f"{place} is quantized as GGUF, and idvl measures")
    (folder / "config.json").unlink()
    assert refusal(folder).startswith(f"{folder} is quantized as GGUF")


def test_a_missing_shard_is_named(copy):
    folder = copy("vit")
    model = load(str(folder), device="cpu").model
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert refusal(folder) == (
        f"{folder} lacks 1 of the 3 files that its model.safetensors.index.json names, "
        "model-00002-of-00003.safetensors first: copy or download it again"
    )


def test_a_processor_that_wants_num2words_names_the_extra(tmp_path, monkeypatch):
    from transformers.models.smolvlm import processing_smolvlm

    folder = build("smolvlm", tmp_path / "smolvlm")
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    assert refusal(folder) == f"{folder} needs num2words, which is not installed: pip install 'idvl[vlm]'"


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            "vit",
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            "is quantized by 'gptq', and idvl",
        ),
        (
            "vit",
            {"quantization_config": {"quant_method": "awq"}},
            "by 'awq', and idvl measures and prunes",
        ),
        ("vit", {"quantization_config": {"load_in_4bit": True}}, "by its config.json, and idvl measures"),
        ("blip", {"text_config__quantization_config": {"quant_method": "fp8"}}, "load the model that it was made from"),
        ("vit", {"num_attention_heads": -2}, "num_attention_heads -2: give the number"),
        ("blip", {"text_config__hidden_size": -32}, "hidden_size -32: give the number"),
        ("vit", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000, but its weights are only"),
        ("blip", {"text_config__num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ("vit", {"dtype": "int8"}, "dtype 'int8': give a floating-point one"),
        ("vit", {"dtype": "nope"}, "dtype 'nope': give a floating-point one"),
    ],
)
def test_a_config_that_its_weights_belie_is_refused_before_building(copy, kind, changes, said):
    assert said in refusal(change_config(copy(kind), **changes))


def test_a_head_of_another_task_is_a_warning(copy):
    folder = change_config(copy("vit"), id2label={str(i): str(i) for i in range(3)})
    (warning,) = load(str(folder), device="cpu").description["warnings"]
    assert "mismatched: classifier.bias (10,), not (3,)" in warning


@pytest.mark.parametrize("size", [0, 100, 20_000])
def test_truncated_weights(copy, size):
    folder = copy("blip")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:size])
    assert "damaged" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{nope", "not valid JSON"),
        ("{}", "names no model_type"),
        ("[1]", "names no model_type"),
        ('{"model_type": "blub"}', "model_type 'blub'"),
        ('{"model_type": "x", "auto_map": {"AutoConfig": "x.X", "AutoModel": "x.Y"}}', "--trust-remote-code"),
    ],
)
def test_configs_that_are_none(copy, text, said):
    folder = copy("bert")
    (folder / "config.json").write_text(text)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("kind", "files", "said"),
    [
        ("blip", ["processor_config.json"], "no processor that loads"),
        ("blip", ["tokenizer.json", "tokenizer_config.json"], "no vocabulary"),
        ("bert", ["tokenizer.json", "tokenizer_config.json"], "no vocabulary"),
        ("vit", ["preprocessor_config.json"], "no processor that loads"),
        ("vit", ["model.safetensors"], "no file named model.safetensors"),
    ],
)
def test_missing_files(copy, kind, files, said):
    folder = copy(kind)
    for file in files:
        (folder / file).unlink()
    assert said in refusal(folder)


def test_a_classifier_of_images_needs_no_tokenizer_though_others_of_its_type_do(tmp_path):
    loaded = load(str(build("siglip_classifier", tmp_path / "model")), device="cpu")
    skill = loaded.family.skills["classify"]
    logits = skill.perform(loaded, skill.prepare(loaded, tiny.samples(3), Generation()), Generation())
    assert logits.shape == (3, loaded.model.config.num_labels)


def test_paths_that_are_no_model(checkpoints, tmp_path):
    assert f"does not exist; models near it: {checkpoints / 'blip'}" in refusal(checkpoints / "blipp")
    assert "models inside it" in refusal(checkpoints)
    both = tmp_path / "run"  # of prune --recover
    for name in ("pruned", "recovered"):
        (both / name / "model").mkdir(parents=True)
        (both / name / "model" / "config.json").write_text("{}")
    assert f"models inside it: {both}/pruned/model, {both}/recovered/model" in refusal(both)
    assert "no config.json" in refusal(tmp_path)
    assert "is a file" in refusal(checkpoints / "blip" / "config.json")


@pytest.mark.parametrize("name", ["./nowhere", "nowhere/", "~/no/such/model", "a/b/c"])
def test_a_mistyped_path_is_not_taken_for_a_hub_id(name):
    assert "does not exist" in refusal(name)


@pytest.mark.parametrize("name", ["Salesforce/blip-image-captioning-base", "gpt2"])
def test_a_hub_id_without_network(name, tmp_path):
    said = refusal(name, local_files_only=True, cache_dir=str(tmp_path))
    assert f"hf download {name}" in said and "--local-files-only" in said


def test_a_folder_of_runs_that_is_missing_is_not_to_be_downloaded(tmp_path):
    said = refusal("runs/blip-80", local_files_only=True, cache_dir=str(tmp_path))
    assert said.startswith("there is no folder runs/blip-80; as a model of the Hub") and "hf download" not in said


def test_a_hub_id_at_a_revision_that_is_not_in_the_cache(tmp_path):
    kept = "1" * 40
    (tmp_path / "models--me--own" / "snapshots" / kept).mkdir(parents=True)
    said = refusal("me/own", local_files_only=True, cache_dir=str(tmp_path), revision="v2")
    assert f"not whole in the local cache at revision v2 (but at {kept}; --revision chooses)" in said
    assert "hf download me/own --revision v2" in said and "\n" not in said


def test_a_name_that_is_nothing():
    assert "neither a folder here nor a hub id" in refusal("no such!!")
    assert "no built-in model 'builtin/blap'" in refusal("builtin/blap")
    assert "no dtype 'int3'; choose float32" in refusal("./x", dtype="int3")


def test_what_the_hub_answers_is_told_apart():
    from huggingface_hub import errors

    def said(kind, status):
        error = kind.__new__(kind)
        error.response = SimpleNamespace(status_code=status)
        with pytest.raises(UsageError) as refused, one_line("a/b", None):
            raise OSError("a long story\nin two lines") from error
        return str(refused.value)

    assert "gated" in said(errors.GatedRepoError, 403)
    assert "check the id" in said(errors.RepositoryNotFoundError, 404)
    assert "set HF_TOKEN" in said(errors.RepositoryNotFoundError, 401)
    assert "no such revision" in said(errors.RevisionNotFoundError, 404)
    assert "refused to give a/b (401): run hf auth login, or set HF_TOKEN" in said(errors.HfHubHTTPError, 401)


WITHOUT = """
import json, sys
sys.modules.update(dict.fromkeys(("torchvision", "num2words", "sentencepiece")))  # importing them fails
import idvl
from idvl.models.loading import load
from tests.support import tiny

def refused(name):
    try:
        load(name, device="cpu")
    except idvl.UsageError as error:
        return str(error)

blip, *others = sys.argv[1:]
profile = idvl.estimate_id(blip, tiny.samples(110)).to_json()
print(json.dumps({**profile, "refused": [refused(name) for name in others]}))
"""


def test_torchvision_changes_no_number_and_what_needs_it_says_so(checkpoints, tmp_path):
    """The core in a process where the packages of the extra vlm cannot be imported, beside this one, where they can."""
    pytest.importorskip("torchvision")
    import transformers

    side = {"height": tiny.SIDE, "width": tiny.SIDE}
    transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**tiny.VISION)).save_pretrained(tmp_path / "dinov3")
    transformers.DINOv3ViTImageProcessor(size=side).save_pretrained(tmp_path / "dinov3")
    config = transformers.LlavaConfig(
        vision_config=transformers.PixtralVisionConfig(**tiny.VISION),
        text_config=transformers.LlamaConfig(**tiny.TEXT, num_key_value_heads=2),
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "pixtral")
    images = transformers.PixtralImageProcessor(size={"longest_edge": tiny.SIDE}, patch_size=8)
    words = tiny.words_tokenizer(extra_special_tokens={"image_token": "<image>"})
    transformers.PixtralProcessor(images, words, patch_size=8, image_token="<image>").save_pretrained(
        tmp_path / "pixtral"
    )

    command = [sys.executable, "-c", WITHOUT, checkpoints / "blip", tmp_path / "dinov3", tmp_path / "pixtral"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    without = json.loads(done.stdout)
    here = idvl.estimate_id(str(checkpoints / "blip"), tiny.samples(110)).to_json()
    assert without["model"] == here["model"] and here["model"]["image_backend"] == "pil"
    assert [layer["estimate"]["dimension"] for layer in without["layers"].values()] == pytest.approx(
        [layer["estimate"]["dimension"] for layer in here["layers"].values()], rel=1e-9
    )
    for said in without["refused"]:
        assert "torchvision" in said and "pip install 'idvl[vlm]'" in said
    assert load(str(tmp_path / "dinov3"), device="cpu").description["image_backend"] == "torchvision"


HUB_SESSION = """
import json, logging, os, time
from idvl.models.loading import load

warned = []
handler = logging.Handler()
handler.emit = lambda record: warned.append(record.getMessage())
logging.getLogger("idvl").addHandler(handler)

def tried(name, **options):
    start = time.time()
    try:
        loaded = load(name, device="cpu", **options)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["loaded", loaded.description["revision"], loaded.description["source"], time.time() - start]

print(json.dumps({
    "plain": tried("google/vit"),
    "cached": tried("google/vit", local_files_only=True),
    "revision": tried("google/vit", revision="nope"),
    "gated": tried("meta/bert"),
    "unknown": tried("google/vitt"),
    "incomplete": tried("google/bare"),
    "foreign": tried("google/foreign"),
    "empty": tried("google/empty"),
    "busy": tried("google/busy"),
    "token": [os.environ.update(HF_TOKEN="hf_x"), *tried("meta/bert")],
    "warnings": warned,
}))
"""


def test_models_come_from_the_hub(checkpoints, copy, tmp_path):
    """The real client against a hub on the loopback address, and the cache once the hub is gone."""
    bare = copy("blip")
    (bare / "processor_config.json").unlink()

    def session():
        done = processes.run("-c", HUB_SESSION, env=hub.env(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    foreign, empty = copy("vit"), tmp_path / "empty"
    (foreign / "config.json").write_text('{"model_type": "blub"}')
    empty.mkdir()
    (empty / "README.md").write_text("soon")
    models = {"google/vit": checkpoints / "vit", "meta/bert": checkpoints / "bert", "google/bare": bare}
    models |= {"google/foreign": foreign, "google/empty": empty, "google/busy": checkpoints / "vit"}

    def busy(method, path):
        # which the client does not try again, as it does 503
        return 507 if "busy" in path and path.endswith(".safetensors") else None

    with Hub(models=models, gated=["meta/bert"], fault=busy) as hub:
        said = session()
        assert said["plain"][:3] == ["loaded", hub.repos["models", "google/vit"].commit, "hub"]
        assert said["cached"][:3] == said["plain"][:3]
        assert said["revision"] == [
            "UsageError",
            "google/vit has no such revision; choose a branch, tag or commit of it",
        ]
        assert "gated" in said["gated"][1] and said["token"][1] == "loaded"
        assert "nor a model on the hub (404)" in said["unknown"][1]
        assert "no processor that loads" in said["incomplete"][1]
        assert said["foreign"][1].endswith("knows: model_type 'blub' in its config.json")
        assert said["empty"][1] == "google/empty is not a model: it has no config.json"
        assert said["busy"][1] == "the Hub answered 507 when asked for google/busy: run the same command again later"
    said = session()
    assert said["plain"][0] == "loaded" and said["plain"][3] < 20
    assert "the Hub was not reached" in said["unknown"][1]
    taken = [warning.split("taking ")[1] for warning in said["warnings"] if "cannot be reached" in warning]
    assert "google/vit from the local cache" in taken and "google/vitt from the local cache" not in taken


def test_an_unknown_device():
    with pytest.raises(UsageError, match="unknown device 'cup': use cpu, or cuda"):
        load("./x", device="cup")


def test_a_device_without_the_precision_asked_for(monkeypatch):
    def lacks(*size, dtype, device):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a tensor to float64: the framework does not support it.\nMore lines")

    monkeypatch.setattr(torch, "empty", lacks)
    assert find_device("cpu") == torch.device("cpu")
    with pytest.raises(
        UsageError, match="device 'cpu' is not there or does not compute in float64 on this machine: use cpu"
    ):
        find_device("cpu", torch.float64)


@pytest.mark.parametrize("name", ["meta", "cpu:7"])
def test_a_device_that_computes_nothing_is_refused(name):
    with pytest.raises(
        UsageError, match=f"device '{name}' is not there or does not compute in float32 on this machine: use cpu"
    ):
        find_device(name)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["Foo"]}, r"is a 'Foo' by its config.json, and transformers has no such class"),
        ({"hidden_act": "zzz"}, "cannot be loaded: its config.json, or .*, lacks 'zzz' or names it wrongly"),
    ],
)
def test_a_name_in_a_config_that_transformers_does_not_know_is_told(tmp_path, changes, told):
    path = tiny.save("vit", tmp_path / "vit") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UsageError, match=told):
        load(str(tmp_path / "vit"))


def test_out_of_memory_is_not_explained_away():
    with pytest.raises(MemoryError), one_line("a/b", None):
        raise MemoryError


def test_batches_keep_the_order_and_one_text_length(checkpoints):
    loaded = load(str(checkpoints / "blip"), device="cpu")
    samples = tiny.samples(7)
    seen = []
    batches = encode(loaded, samples, batch_size=3, progress=lambda *at: seen.append(at))
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 1] and seen == [(1, 3), (2, 3), (3, 3)]
    longest = max(len(sample.texts[0].split()) for sample in samples) + 2
    assert {batch["input_ids"].shape[1] for batch in batches} == {longest}
    alone = process(loaded.processor, samples[4:5], longest)
    for key, value in alone.items():
        assert torch.equal(batches[1][key][1:2], value)
    (last,) = encode(loaded, samples, batch_size=3, part=range(2, 3))
    assert all(torch.equal(batches[2][key], last[key]) for key in last)


def test_texts_longer_than_the_model_are_cut(checkpoints, caplog):
    loaded = load(str(checkpoints / "blip"), device="cpu", clean_texts=False)
    long = dataclasses.replace(tiny.samples(1)[0], texts=("a red star " * 30,))
    assert encode(loaded, [long], batch_size=1)[0]["input_ids"].shape[1] == 40
    assert "1 of 1 texts are longer than the model's 40 tokens" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source": None}, "tiny-1 has no image"),
        ({"texts": ()}, "tiny-1 has no text"),
        ({"texts": (" ",)}, "tiny-1 has no text"),
        ({"texts": (None,), "source": None}, "tiny-1 has no image and no text"),
        ({"source": b"no image"}, "image of sample tiny-1 cannot be decoded"),
    ],
)
def test_samples_that_lack_something_are_named(checkpoints, changes, said):
    loaded = load(str(checkpoints / "blip"), device="cpu")
    samples = tiny.samples(3)
    samples[1] = dataclasses.replace(samples[1], **changes)
    with pytest.raises(UsageError, match=said):
        encode(loaded, samples, batch_size=2)


def test_no_samples_are_refused(checkpoints):
    with pytest.raises(UsageError, match="no samples"):
        encode(load(str(checkpoints / "vit"), device="cpu"), [], batch_size=2)


def test_a_text_model_needs_no_image(checkpoints):
    loaded = load(str(checkpoints / "bert"), device="cpu")
    sample = dataclasses.replace(tiny.samples(1)[0], source=None)
    assert "pixel_values" not in encode(loaded, [sample], batch_size=1)[0]


@pytest.mark.parametrize(
    "change", [{"size": {"height": 0, "width": 0}}, {"size": {"height": -8, "width": -8}}, {"image_mean": [0.5, 0.5]}]
)
def test_a_processor_whose_settings_make_no_sense(change, checkpoints):
    for kind in ("vit", "git"):
        loaded = load(str(checkpoints / kind), device="cpu")
        image_processor = getattr(loaded.processor, "image_processor", loaded.processor)
        vars(image_processor).update(change)
        with pytest.raises(UsageError, match="processor cannot prepare the samples: .*check its preprocessor_config"):
            encode(loaded, tiny.samples(2), batch_size=2)


def test_a_processor_that_asks_for_images_beyond_any_memory(copy):
    path = next(copy("vit").glob("*processor_config.json"))
    text = json.loads(path.read_text())
    (text if "size" in text else text["image_processor"])["size"] = {"height": 100_000, "width": 100_000}
    path.write_text(json.dumps(text))
    with pytest.raises(UsageError, match="asks for 100000 x 100000 pixels an image, more than .*: correct its sizes"):
        load(str(path.parent), device="cpu")


def test_a_text_without_a_token_is_refused_by_name(checkpoints):
    loaded = load(str(checkpoints / "gpt2"), device="cpu")
    loaded.processor._tokenizer.post_processor = None
    loaded.processor._tokenizer.normalizer = normalizers.Replace("\u200b", "")
    samples = tiny.samples(3)
    samples[1] = dataclasses.replace(samples[1], texts=("\u200b",))
    with pytest.raises(UsageError, match=r"sample 'tiny-1' has no token: .* nothing of its text '\\u200b'; remove it"):
        encode(loaded, samples, batch_size=2)


@pytest.mark.parametrize("tokens", ["mean", "first", "last", "each"])
def test_padding_alone_is_no_point(tokens):
    real = torch.tensor([[True, False], [False, False]])
    with pytest.raises(RunError, match="sample 1 of the batch has no real token"):
        points(torch.ones(2, 2, 3), real, tokens, torch.zeros(2))
