"""Offloaded weights: the same numbers as with all weights in memory, and one block's weights in memory at a time."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AlbertConfig, AlbertForMaskedLM, GPT2Config, GPT2LMHeadModel

from idvl.errors import UsageError
from idvl.measurement.api import estimate_id
from idvl.measurement.measurement import Measurement, Settings
from idvl.models.inputs import encode
from idvl.models.layers import find_layers
from idvl.models.loading import load
from idvl.models.plan import OffloadedBytes
from idvl.recipe import load as load_recipe
from idvl.workflows.estimate_id import run
from tests.support import processes, tiny
from tests.support.reporter import Silent
from tests.support.stored import stored as one_by_one

SAMPLES = 24


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A function that saves a kind of model as bfloat16 in a file for each tensor, and gives its folder."""
    return partial(one_by_one, tmp_path_factory.getbasetemp())


def on_meta(loaded):
    """The blocks of a model whose weights are in files."""
    return [name for name, block in loaded.offload.blocks.items() if next(block.parameters()).is_meta]


# mixtral's experts are put together from several stored tensors; blip ties weights; names of llava and vit change
@pytest.mark.parametrize(
    "kind",
    [
        "llava",
        "blip",
        "vit",
        "t5",
        "mixtral",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("siglip", "groupvit")),
    ],
)
def test_weights_and_outputs_are_those_of_a_model_in_memory(stored, kind):
    folder = str(stored(kind))
    whole, offloaded = load(folder, device="cpu"), load(folder, device="cpu", offload=True)
    assert len(on_meta(offloaded)) >= len(offloaded.offload.blocks) - 1
    assert offloaded.description == whole.description
    expected = dict(whole.model.named_parameters())
    for name, weight in offloaded.offload.named_parameters():
        assert torch.equal(weight, expected.pop(name)), name
    assert not expected
    for (name, value), (_, buffer) in zip(offloaded.model.named_buffers(), whole.model.named_buffers(), strict=True):
        assert torch.equal(value, buffer), name
    batch = encode(whole, tiny.samples(2), batch_size=2)[0]
    with torch.no_grad():
        here, there = (loaded.family.call(loaded.model, batch) for loaded in (whole, offloaded))
    for key, value in here.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(there[key], value), key
    assert len(on_meta(offloaded)) == len(offloaded.offload.blocks) - 1


def prepared(loaded, pattern=None, spill=None, memory=2**30):
    layers = find_layers(loaded.model, loaded.family, pattern=pattern)
    return Measurement(loaded, tiny.samples(SAMPLES), layers, Settings(batch_size=8), memory=memory, spill=spill)


def dimensions(work):
    return {name: layer.estimate.dimension for name, layer in work.estimates()}


@pytest.mark.parametrize("pattern", [None, "*layers.1.mlp*"])
def test_dimensions_are_equal_and_each_block_is_read_once(stored, tmp_path, pattern):
    folder = str(stored("llava"))
    expected = dimensions(prepared(load(folder, device="cpu"), pattern))
    loaded = load(folder, device="cpu", offload=True)
    work = prepared(loaded, pattern, spill=None if pattern else tmp_path)
    read, original = [], loaded.offload._read
    loaded.offload._read = lambda name: read.append(name) or original(name)
    assert dimensions(work) == expected
    # those of layers in blocks before the last one that is measured, too
    assert len(read) == len(set(read)) <= len(loaded.offload.blocks)
    assert not list(tmp_path.iterdir())


def test_outputs_of_blocks_wait_in_files_with_spill(stored, tmp_path):
    loaded = load(str(stored("gpt2")), device="cpu", offload=True)
    loaded.offload.spill = tmp_path
    batch = encode(loaded, tiny.samples(2), batch_size=2)[0]
    waiting = []
    block = next(iter(loaded.offload.blocks.values()))
    block.register_forward_hook(lambda module, args, out: waiting.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        loaded.family.call(loaded.model, batch)
    assert waiting[0].untyped_storage().filename.startswith(str(tmp_path)) and not list(tmp_path.iterdir())


def test_the_next_block_is_read_ahead(stored):
    """As on a GPU: from the second pass on, the order is known."""
    loaded = load(str(stored("gpt2")), device="cpu", offload=True)
    batch = encode(loaded, tiny.samples(2), batch_size=2)[0]
    with torch.no_grad(), ThreadPoolExecutor(1) as loaded.offload._reader:
        expected = loaded.family.call(loaded.model, batch).logits
        first = next(iter(loaded.offload.blocks))
        loaded.offload.hold(first)
        assert list(loaded.offload._ahead) == [list(loaded.offload.blocks)[1]]
        assert torch.equal(loaded.family.call(loaded.model, batch).logits, expected)


MEMORY = """
import ctypes, sys
from pathlib import Path
import torch
from idvl.models.inputs import encode
from idvl.models.loading import load
from tests.support import processes, tiny

def anonymous():
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) * 1024

small, large = sys.argv[1:]
# the small one imports what loading and running import
for folder, offload in ((small, True), (large, True), (large, False)):
    before, most = anonymous(), [0]
    loaded = load(folder, device="cpu", offload=offload)
    weights = sum(parameter.nbytes for parameter in loaded.model.parameters())
    for block in loaded.model.transformer.h:
        block.register_forward_hook(lambda *_, most=most: most.append(anonymous()))
    batch = encode(loaded, tiny.samples(2), batch_size=2)[0]
    with torch.no_grad():
        loaded.family.call(loaded.model, batch)
    print((max(most) - before) / weights)
    del loaded
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts anonymous memory as Linux does")
def test_anonymous_memory_holds_one_block(stored, tmp_path):
    """In a process of its own: other tests leave memory that is taken again without growth."""
    config = GPT2Config(vocab_size=len(tiny.VOCAB), n_embd=256, n_layer=12, n_head=4, n_positions=40)
    GPT2LMHeadModel(config).bfloat16().save_pretrained(tmp_path)
    tiny.words_tokenizer().save_pretrained(tmp_path)
    done = processes.run("-c", MEMORY, stored("gpt2"), tmp_path)
    assert done.returncode == 0, done.stderr
    _, offloaded, whole = map(float, done.stdout.split())
    assert offloaded < 0.25 and whole > 0.9


def test_the_plan_says_what_is_held_where_and_needs_room_between_blocks(stored):
    loaded = load(str(stored("llava")), device="cpu", offload=True)
    plan = prepared(loaded).plan
    parameters = {name: weight.nbytes for name, weight in loaded.model.named_parameters()}
    blocks = [sum(weight.nbytes for weight in block.parameters()) for block in loaded.offload.blocks.values()]
    expected = OffloadedBytes(
        stored=sum(path.stat().st_size for path in stored("llava").glob("*.safetensors")),
        outside=sum(parameters.values()) - sum(blocks),
        blocks=max(blocks),
        elsewhere=False,
    )
    assert plan.weights == expected and plan.to_json()["weights"]["stored"] == expected.stored
    assert [line.split()[0] for line in plan.lines()[3:7]] == ["memory", "weights", "host", "time"]
    assert [line.split()[0] for line in OffloadedBytes(**{**vars(expected), "elsewhere": True}).lines(0, 0)] == [
        *("weights", "host", "device")
    ]
    # weights that are read are no part of what a block makes
    assert plan.flow_bytes == prepared(load(str(stored("llava")), device="cpu")).plan.flow_bytes
    with pytest.raises(UsageError, match="use a larger --memory, fewer samples, or a smaller batch_size"):
        prepared(loaded, memory=plan.flow_bytes)


def test_api_and_recipe_offload(stored, tmp_path):
    folder, samples = str(stored("gpt2")), tiny.samples(SAMPLES)
    expected, profile = (estimate_id(folder, samples, device="cpu", offload=offload) for offload in (False, True))
    assert profile.layers == expected.layers and profile.model == expected.model
    data = tiny.save_samples(tmp_path / "data", samples, lambda number, sample: [{"text": sample.texts[0]}])
    values = {"model.name": folder, "model.device": "cpu", "data.dataset": str(data), "data.force": True}
    recipe = load_recipe(None, {**values, "data.samples": SAMPLES, "estimate.offload": True})
    assert run(recipe, folder=None, reporter=Silent(), plan_only=True).plan.weights.stored


@pytest.mark.slow
def test_blocks_that_are_never_called_are_refused(stored):
    with pytest.raises(UsageError, match=r"layer \S+ runs outside of its block model.vision_tower.blocks.0: omit it"):
        prepared(load(str(stored("florence2")), device="cpu", offload=True))


def test_what_cannot_be_offloaded_is_refused(stored, tmp_path):
    with pytest.raises(UsageError, match="this model is in memory"):
        estimate_id(torch.nn.Linear(2, 2), tiny.samples(2), offload=True)
    with pytest.raises(UsageError, match="T5ForConditionalGeneration keeps some in float32 beside float16"):
        load(str(stored("t5")), device="cpu", dtype="float16", offload=True)
    sizes = {"embedding_size": 16, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    AlbertForMaskedLM(AlbertConfig(vocab_size=len(tiny.VOCAB), **sizes)).save_pretrained(tmp_path)
    tiny.bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"--offload needs every block to run once, and block .* runs 12 times"):
        prepared(load(str(tmp_path), device="cpu", offload=True))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"reads weights from safetensors, and .* has pytorch_model.bin"):
        load(str(tmp_path), device="cpu", offload=True)
