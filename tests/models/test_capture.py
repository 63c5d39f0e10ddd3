"""A tap feeds any accumulator: here sums over what enters or leaves a layer, equal to those of plain forward passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from idvl.errors import RunError
from idvl.models.capture import Tap, tapped_walk
from idvl.models.inputs import encode
from idvl.models.joining import SHARES
from idvl.models.layers import Layer, find_layers
from idvl.models.loading import load
from idvl.models.plan import CaptureRun, make_plan
from idvl.models.trace import trace
from tests.support import tiny

CPU = torch.device("cpu")
SAMPLES, BATCH = 10, 4


class Moments:
    """Sums over the real tokens of each layer: how many, their values, and their values' squares."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def add(self, layer: str, batch: int, tensor: Tensor, real: Tensor | None) -> None:
        tokens = (tensor.flatten(0, 1) if real is None else tensor[real]).double()
        count, total, squares = self.sums.get(layer, (0, 0.0, 0.0))
        self.sums[layer] = count + len(tokens), total + tokens.sum(0), squares + (tokens**2).sum(0)

    def of(self, layer: str) -> tuple[Tensor, Tensor]:
        """The mean and the second moment of a layer, (width,) each."""
        count, total, squares = self.sums[layer]
        return total / count, squares / count


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    return load(str(tiny.save("blip", tmp_path_factory.mktemp("blip"))), device="cpu")


@pytest.fixture
def batches(blip):
    return encode(blip, tiny.samples(SAMPLES), batch_size=BATCH)


def walked(blip, layers, batches, capture):
    how = {"capture": capture, "token_mask": blip.family.token_mask, "device": CPU, "by_block": True}
    return tapped_walk(blip.model, batches, blip.family.call, layers, **how)


def by_hooks(blip, layers, batches, capture) -> dict[str, tuple[Tensor, Tensor]]:
    """The moments of every layer from whole forward passes."""
    tokens: dict[str, list[Tensor]] = {name: [] for name in layers}
    for batch in batches:

        def keep(module, args, output, *, name, batch=batch):
            tensor = args[0] if capture == "input" else output
            real = blip.family.token_mask(name, tensor.shape[1], batch)
            tokens[name].append((tensor.flatten(0, 1) if real is None else tensor[real]).double())

        handles = [
            layer.module.register_forward_hook(
                lambda module, args, output, name=name, keep=keep: keep(module, args, output, name=name)
            )
            for name, layer in layers.items()
        ]
        with torch.no_grad():
            blip.family.call(blip.model, batch)
        for handle in handles:
            handle.remove()
    rows = {name: torch.cat(parts) for name, parts in tokens.items()}
    return {name: (values.mean(0), (values**2).mean(0)) for name, values in rows.items()}


def equal(ours, theirs) -> bool:
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("capture", ["input", "output"])
@pytest.mark.parametrize("room", [2**20, 3000])
def test_moments_equal_those_of_plain_forwards(blip, batches, capture, room):
    """In one run of a block, or in several where the budget has no room for the sums of all of its layers."""
    layers = find_layers(blip.model, blip.family)
    expected = by_hooks(blip, layers, batches, capture)
    seen = trace(blip.model, batches[0], blip.family.call, layers, capture=capture, device=CPU)
    held = {name: 2 * 8 * shapes[0][-1] for name, shapes in seen.shapes.items()}
    flow = max(stop.alive for stop in seen.stops) / BATCH * SAMPLES + seen.working
    run = CaptureRun(
        advice="",
        layer_bytes=held,
        n=SAMPLES,
        n_local=SAMPLES,
        budget=int(flow) + 1 + room,
        input_bytes=sum(value.nbytes for batch in batches for value in batch.values()),
        workspace=0,
        smallest=max(held.values()),
        layer_seconds={},
    )
    plan = make_plan(seen, run)
    assert plan.walks and (plan.forwards == 1) == (room == 2**20)
    moments = {}
    with walked(blip, layers, batches, capture) as (walk, tap):
        for segment in walk:
            for group in plan.groups[segment.name]:
                assert group.slices == 1
                sums = Moments()
                with tap.feeding(sums, group.layers):
                    segment.run(last=group is plan.groups[segment.name][-1])
                assert sums.sums.keys() == set(group.layers)
                moments |= {name: sums.of(name) for name in group.layers}
    assert moments.keys() == expected.keys()
    for name, ours in moments.items():
        assert equal(ours, expected[name]), name


def test_padding_is_no_token(blip, batches):
    layers = find_layers(blip.model, blip.family)
    name = "text_decoder.bert.encoder.layer.0.attention.self.query"
    sums = Moments()
    with walked(blip, layers, batches, "input") as (walk, tap), tap.feeding(sums, layers):
        list(walk)
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert sums.sums[name][0] == real < sum(batch["attention_mask"].numel() for batch in batches)


def test_a_block_measured_changed_and_run_again_feeds_the_next(blip, batches):
    """What block by block pruning does: the sums of a later block are those behind the changed weights."""
    layers = find_layers(blip.model, blip.family)
    first, *_, last = dict.fromkeys(layer.block for layer in layers.values() if layer.modality == "vision")
    dense = {name: layer.module.weight.detach().clone() for name, layer in layers.items()}
    moments = Moments()
    try:
        with walked(blip, layers, batches, "input") as (walk, tap):
            for segment in walk:
                names = [name for name, layer in layers.items() if layer.block == segment.name]
                with tap.feeding(moments, names):
                    segment.run(last=False)
                if segment.name == first:
                    for name in names:
                        layers[name].module.weight.data.mul_(0.5)
                segment.run(last=True)
                if segment.name == last:
                    break
        changed = by_hooks(blip, layers, batches, "input")
    finally:
        for name, layer in layers.items():
            layer.module.weight.data.copy_(dense[name])
    before = by_hooks(blip, layers, batches, "input")
    of_last = [name for name, layer in layers.items() if layer.block == last]
    assert of_last and last != first
    for name in of_last:
        assert equal(moments.of(name), changed[name]) and not equal(moments.of(name), before[name]), name
    of_first = [name for name, layer in layers.items() if layer.block == first]
    # measured before the change
    assert all(equal(moments.of(name), before[name]) for name in of_first)


def test_a_tensor_without_samples_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            return self.linear(x[:1].repeat(3, 1))

    model, batches = Odd(), [{"x": torch.zeros(2, 3)}]
    layer = Layer(name="linear", module=model.linear, modality="vision", block=None, in_features=3, out_features=3)
    how = {"capture": "input", "token_mask": lambda *_: None, "device": CPU, "by_block": True}
    opened = tapped_walk(model, batches, lambda m, batch: m(**batch), {"linear": layer}, **how)
    with (
        opened as (walk, tap),
        tap.feeding(Moments(), ["linear"]),
        pytest.raises(RunError, match=r"layer linear: its tensor \(3, 3\) cannot be split between the 2 samples"),
    ):
        list(walk)


def test_padding_inside_of_samples_of_several_sizes_is_no_token():
    """Of two samples with one and two tiles of two tokens, the last tile's second token is padding."""
    batch = {"pixels": torch.zeros(3, 2), SHARES: torch.tensor([1, 2])}
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    tap, moments = Tap([batch], lambda *_: mask, {"linear": (0, True)}), Moments()
    with tap.feeding(moments, ["linear"]):
        tap.record("linear", torch.arange(6.0).view(3, 2, 1))
    assert moments.sums["linear"][:2] == (5, 0 + 1 + 2 + 3 + 4)
