"""Walking a model: every layer's points equal those of a plain forward pass, whatever the budget."""

import re
import threading
from functools import partial

import pytest
import torch
from torch import nn
from transformers import BlipConfig, BlipForConditionalGeneration

from idvl.distributed import Team
from idvl.errors import RunError
from idvl.measurement.points import Points, point_features, points
from idvl.measurement.rows import rows_of_layers
from idvl.models.capture import Watch, tapped_walk
from idvl.models.layers import Layer
from idvl.models.plan import CaptureRun, make_plan
from idvl.models.suspended import WORKER
from idvl.models.trace import trace
from idvl.models.walk import Walk

CPU = torch.device("cpu")
SIZE, BATCHES = 4, 5
BLOCKS = r"vision_model\.encoder\.layers\.\d+|text_decoder\.bert\.encoder\.layer\.\d+"


def waiting():
    return [thread for thread in threading.enumerate() if thread.name == WORKER]


def call(model, batch):
    return model(**batch, use_cache=False)


@pytest.fixture(scope="module")
def blip():
    torch.manual_seed(0)
    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": 99, "encoder_hidden_size": 64, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    vision = {**small, "image_size": 32, "patch_size": 8, "initializer_range": 0.02}
    config = BlipConfig(vision_config=vision, text_config={**small, **text, "pad_token_id": 0})
    return BlipForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def layers(blip):
    found = {}
    for name, module in blip.named_modules():
        block = re.match(BLOCKS, name)
        # one layer outside of any block, too: the walk stops at it alone
        if isinstance(module, nn.Linear) and (block or "transform" in name):
            found[name] = Layer(
                name=name,
                module=module,
                modality="vision" if name.startswith("vision") else "language",
                block=block.group() if block else None,
                in_features=module.in_features,
                out_features=module.out_features,
            )
    return found


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(BATCHES):
        mask = torch.ones(SIZE, 9, dtype=torch.long)
        mask[1:, 6:] = 0
        made.append(
            {
                "pixel_values": torch.randn(SIZE, 3, 32, 32, generator=generator),
                "input_ids": torch.randint(3, 99, (SIZE, 9), generator=generator),
                "attention_mask": mask,
            }
        )
    return made


def token_mask(name, tokens, inputs):
    reads_image = name.endswith(("crossattention.self.key", "crossattention.self.value"))
    return None if name.startswith("vision") or reads_image else inputs["attention_mask"].bool()


def plain(model, layers, batches, tokens, draws, capture="output"):
    """Layer -> points (n, f), by one watched forward pass per batch."""
    found = {name: [] for name in layers}

    def record(name, tensor):
        k = len(found[name])
        x = tensor.reshape(SIZE, -1, tensor.shape[-1])
        found[name].append(points(x, token_mask(name, x.shape[1], batches[k]), tokens, draws[k]).clone())

    with torch.no_grad(), Watch(layers, capture, record):
        for batch in batches:
            call(model, batch)
    return {name: torch.cat(pieces) for name, pieces in found.items()}


@pytest.mark.parametrize(
    ("tokens", "capture", "spill", "share"),
    [
        *(("flatten", capture, False, share) for capture in ("output", "input") for share in (10.0, 0.7, 0.2)),
        *((tokens, "output", False, 10.0) for tokens in ("mean", "first", "last", "each")),
        ("flatten", "output", True, 0.2),
        ("mean", "input", True, 10.0),
    ],
)
def test_points_equal_plain_forwards(blip, layers, batches, tokens, capture, spill, share, tmp_path, monkeypatch):
    monkeypatch.setattr("idvl.measurement.rows.FEATURE_CHUNK", 300)
    seen = trace(blip, batches[0], call, layers, capture=capture, device=CPU)
    features = {name: point_features(seen.shapes[name], SIZE, tokens) for name in seen.shapes}
    n = SIZE * BATCHES
    alive = max(stop.alive for stop in seen.stops) / SIZE * n
    largest = max(sum(features[name] for name in stop.layers) for stop in seen.stops) * n * 4
    run = CaptureRun(
        advice="",
        layer_bytes={name: 0 if spill else width * n * 4 for name, width in features.items()},
        n=n,
        n_local=n,
        budget=int(alive + seen.working + 2 * n * 300 * 4 + max(share * largest, n * 300 * 4)),
        input_bytes=0,
        workspace=2 * n * 300 * 4,
        smallest=n * 300 * 4,
        layer_seconds={},
    )
    plan = make_plan(seen, run)
    assert plan.walks
    draws = [torch.rand(SIZE, generator=torch.Generator().manual_seed(k)) for k in range(BATCHES)]
    expected = plain(blip, layers, batches, tokens, draws, capture)
    new_points = partial(Points, tokens=tokens, draws=draws, spill=tmp_path if spill else None)
    captured = {}
    how = {"by_block": True, "capture": capture, "token_mask": token_mask, "device": CPU}
    with tapped_walk(blip, batches, call, layers, **how) as (walk, tap):
        sharing = {"n": n, "team": Team(), "counts": [n]}
        for name, rows in rows_of_layers(walk, tap, plan, features, new_points, **sharing):
            assert rows.width == expected[name].shape[1]
            first = torch.cat([chunk.clone() for chunk in rows.chunks()], dim=1)
            again = torch.cat([chunk.clone() for chunk in rows.chunks()], dim=1)
            assert torch.equal(first, again)
            captured[name] = first
    assert captured.keys() == expected.keys()
    for name, rows in captured.items():
        assert torch.equal(rows, expected[name]), name
    assert not waiting()
    assert not any("forward" in vars(module) for module in blip.modules())
    assert list(tmp_path.iterdir()) == []


def test_a_walk_runs_each_block_once_and_in_order(blip, layers, batches):
    blocks = {layer.block: blip.get_submodule(layer.block) for layer in layers.values() if layer.block}
    counts = dict.fromkeys(blocks, 0)
    handles = [
        block.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
        for name, block in blocks.items()
    ]
    with Walk(blip, batches, call, blocks, device=CPU) as walk:
        order = [segment.name for segment in walk]
    for handle in handles:
        handle.remove()
    assert order == sorted(order, key=lambda name: (name.startswith("text"), name))
    assert set(counts.values()) == {BATCHES}


def test_leaving_a_walk_early_ends_its_threads(blip, layers, batches):
    threads = torch.get_num_threads()
    blocks = {layer.block: blip.get_submodule(layer.block) for layer in layers.values() if layer.block}
    with Walk(blip, batches, call, blocks, device=CPU) as walk:
        for segment in walk:
            segment.run(last=False)
            break
    assert not waiting()
    assert torch.get_num_threads() == threads


class _Forked(nn.Module):
    """Takes one of two blocks, by the data."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x) if x.sum() > 0 else self.b(x)


def test_batches_on_different_paths_are_noticed():
    model = _Forked()
    batches = [{"x": torch.ones(2, 3)}, {"x": -torch.ones(2, 3)}]
    blocks = {"a": model.a, "b": model.b}
    with (
        pytest.raises(RunError, match="different paths"),
        Walk(model, batches, lambda m, batch: m(**batch), blocks, device=CPU) as walk,
    ):
        list(walk)
    assert not waiting()


def test_an_error_in_the_model_reaches_the_caller(blip, layers, batches):
    blocks = {layer.block: blip.get_submodule(layer.block) for layer in layers.values() if layer.block}
    bad = [*batches, {**batches[0], "input_ids": batches[0]["input_ids"] + 1000}]
    with pytest.raises(IndexError), Walk(blip, bad, call, blocks, device=CPU) as walk:
        for segment in walk:
            segment.run(last=True)
    assert not waiting()


class _Repeated(nn.Module):
    """Runs its block twice, so that it cannot be walked."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(3, 3))

    def forward(self, x):
        return self.block(self.block(x))


def test_a_block_that_runs_twice_falls_back_to_whole_passes():
    model = _Repeated()
    layer = Layer(
        name="block.0", module=model.block[0], modality="vision", block="block", in_features=3, out_features=3
    )
    batch = {"x": torch.randn(4, 3)}
    seen = trace(model, batch, lambda m, b: m(**b), {"block.0": layer}, capture="output", device=CPU)
    assert "runs 2 times" in seen.unwalkable
    features = {"block.0": point_features(seen.shapes["block.0"], 4, "flatten")}
    assert features == {"block.0": 6}
    run = CaptureRun(
        advice="",
        layer_bytes={"block.0": 96},
        n=4,
        n_local=4,
        budget=2**30,
        input_bytes=batch["x"].nbytes,
        workspace=0,
        smallest=96,
        layer_seconds={},
    )
    plan = make_plan(seen, run)
    assert not plan.walks
    new_points = partial(Points, tokens="flatten", draws=[torch.zeros(4)])
    with torch.no_grad():
        once = model.block(batch["x"])
        expected = torch.cat([once, model.block(once)], dim=1)
    how = {"by_block": False, "capture": "output", "token_mask": lambda *_: None, "device": CPU}
    with tapped_walk(model, [batch], lambda m, b: m(**b), {"block.0": layer}, **how) as (walk, tap):
        source = rows_of_layers(walk, tap, plan, features, new_points, n=4, team=Team(), counts=[4])
        ((name, matrix),) = ((name, torch.cat(list(rows.chunks()), dim=1)) for name, rows in source)
    assert name == "block.0" and torch.equal(matrix, expected)


class _InPlace(nn.Module):
    """A block that adds to its input in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        x += self.linear(x)
        return x


class _Stacked(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.block = block
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.block(x.clone()))


def test_a_block_that_changes_its_input_does_not_run_twice():
    model = _Stacked(_InPlace())
    batches = [{"x": torch.randn(2, 3)}]
    with (
        pytest.raises(RunError, match="in place"),
        Walk(model, batches, lambda m, batch: m(**batch), {"block": model.block}, device=CPU) as walk,
    ):
        for segment in walk:
            segment.run(last=False)


class _Unwinding(nn.Module):
    """Runs another block while it unwinds."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        try:
            return self.a(x)
        finally:
            self.b(x)


def test_leaving_does_not_wait_for_a_model_that_runs_on():
    model = _Unwinding()
    blocks = {"a": model.a, "b": model.b}
    with Walk(model, [{"x": torch.randn(2, 3)}], lambda m, batch: m(**batch), blocks, device=CPU) as walk:
        for _ in walk:
            break
    assert not waiting()


class _TokensFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x.transpose(0, 1))


def test_samples_are_found_behind_tokens():
    model = _TokensFirst()
    layer = Layer(name="linear", module=model.linear, modality="vision", block=None, in_features=3, out_features=3)
    seen = trace(
        model, {"x": torch.randn(4, 8, 3)}, lambda m, b: m(**b), {"linear": layer}, capture="output", device=CPU
    )
    assert seen.shapes["linear"] == [torch.Size([8, 4, 3])] and seen.axes == {"linear": (1, False)}


def test_the_memory_of_a_running_block_counts_what_it_makes_and_not_its_weights():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 16, bias=False)

        def forward(self, x):
            x = self.linear(x)
            return (x @ x.transpose(1, 2)).softmax(2) @ x

    model = nn.Sequential()
    model.blocks = nn.ModuleList([Attention(), Attention()])
    layers = {
        name: Layer(name=name, module=module, modality="vision", block=name.removesuffix(".linear"), in_features=16,
                    out_features=16)
        for name, module in model.named_modules() if name.endswith("linear")
    }  # fmt: skip

    def call(model, batch):
        model.blocks[1](model.blocks[0](batch["x"]))

    seen = trace(model, {"x": torch.randn(3, 64, 16)}, layers=layers, call=call, capture="input", device=CPU)
    assert [stop.name for stop in seen.stops] == ["blocks.0", "blocks.1"]
    # the layer's output, 64 x 64 products and their softmax
    assert seen.working == 3 * 4 * (64 * 16 + 2 * 64 * 64)


def test_layers_without_a_tensor_of_samples_are_told_apart_with_the_reason():
    class Router(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class Mean(_TokensFirst):
        def __init__(self):
            super().__init__()
            self.router, self.mean = Router(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.router(self.linear(x))[0] + self.mean(x.mean(0))

    model = Mean()
    layers = {
        name: Layer(name=name, module=module, modality="vision", block=None, in_features=3, out_features=3)
        for name, module in model.named_children()
    }
    seen = trace(model, {"x": torch.randn(4, 8, 3)}, lambda m, b: m(**b), layers, capture="output", device=CPU)
    assert seen.faults == {
        "mean": "its tensor (8, 3) cannot be split between the 4 samples",
        "router": "it passes on a tuple, not a tensor",
    }
    assert list(seen.shapes) == list(seen.axes) == ["linear"] and seen.working == 4 * 8 * 3 * 4
