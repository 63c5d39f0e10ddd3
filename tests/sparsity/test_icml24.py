"""The paper's code, step by step, against a naive reference written from its description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from idvl.models.layers import in_scope
from idvl.models.loading import wrap
from idvl.sparsity.icml24 import Icml24, load
from idvl.sparsity.schedule import Schedule
from idvl.training import Training, train
from idvl.training.batches import Collate, Order
from tests.support import tiny
from tests.support.layers import layers, renew

IDS = {"a.fc1": 20.0, "a.fc2": 2.5, "b.qkv": 70.0}
SETTINGS = {"beta1": 0.85, "beta2": 0.95, "window": 4}
EPOCHS, LENGTH, TARGET = 5, 9, 0.7


class Reference:
    """One pass of the training script: a new pruner every epoch, the step counted on from 1."""

    def __init__(
        self,
        named: dict[str, nn.Parameter],
        method: str,
        warm: tuple[int, int],
        *,
        factors: Sequence[float] = tuple(IDS.values()),
        epochs: int = EPOCHS,
        length: int = LENGTH,
    ) -> None:
        self.named, self.method, (self.initial, self.final) = named, method, warm
        self.factors, self.epochs, self.length = factors, epochs, length

    def new_epoch(self) -> None:
        self.mean, self.ema, self.unc = ({n: torch.zeros_like(p) for n, p in self.named.items()} for _ in range(3))

    def importance(self, step: int) -> None:
        position = step % SETTINGS["window"]
        for n, p in self.named.items():
            now = (p * p.grad).abs().detach()
            if position == 0:
                self.ema[n] = 0.85 * self.ema[n] + 0.15 * self.mean[n]
                self.unc[n] = 0.95 * self.unc[n] + 0.05 * (self.mean[n] - self.ema[n]).abs()
                self.mean[n] = now
            else:
                self.mean[n] = (self.mean[n] * position + now) / (position + 1)

    def score(self, n: str, p: nn.Parameter) -> Tensor:
        scores = {"magnitude": p.abs(), "gradient": (p * p.grad).abs(), "platon": self.ema[n] * self.unc[n]}
        return scores[self.method].detach()

    def step(self, step: int) -> None:
        self.importance(step)
        total, keep = self.epochs * self.length, 1 - TARGET
        if step <= self.initial:
            return
        if step > total - self.final:
            ratio, masks = keep, True
        else:
            left = 1 - (step - self.initial) / (total - self.initial - self.final)
            ratio, masks = keep + (1 - keep) * left**3, step % 4 == 0 or step % self.length == 0
        if not masks:
            return
        scores, index = {}, 0
        for n, p in self.named.items():
            scores[n] = self.score(n, p) * self.factors[index]
            index += "bias" in n
        everything = torch.cat([s.reshape(-1) for s in scores.values()])
        theta = everything.kthvalue(int(len(everything) * (1 - ratio))).values
        for n, p in self.named.items():
            third = scores[n].reshape(-1).topk(3, largest=False).values.max()
            p.data.masked_fill_(scores[n] < torch.maximum(third, theta), 0.0)


def model() -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    weights, generator = layers(), torch.Generator().manual_seed(5)
    biases = {n: nn.Parameter(torch.randn(w.shape[0], generator=generator)) for n, w in weights.items()}
    return weights, biases


def named(weights: dict[str, nn.Parameter], biases: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    return {f"{n}.{kind}": part[n] for n in weights for kind, part in (("weight", weights), ("bias", biases))}


def icml24(weights: dict[str, nn.Parameter], biases: dict[str, nn.Parameter], method: str, warm: Any) -> Icml24:
    total = EPOCHS * LENGTH
    schedule = Schedule(target=TARGET, total_steps=total, initial=warm[0] / total, final=warm[1] / total, mask_every=4)
    settings = SETTINGS if method == "platon" else {}
    criterion = load(method, **settings)
    return Icml24(weights, criterion=criterion, schedule=schedule, factors=IDS, biases=biases, steps_per_epoch=LENGTH)


@pytest.mark.parametrize("method", ["magnitude", "gradient", "platon"])
@pytest.mark.parametrize("warm", [(LENGTH, LENGTH), (0, 2 * LENGTH), (0, 0)])
def test_agrees_with_the_reference_at_every_step(method: str, warm: tuple[int, int]) -> None:
    ours, theirs = model(), model()
    pruner, reference = icml24(*ours, method, warm), Reference(named(*theirs), method, warm)
    optimizers = [torch.optim.AdamW(named(*both).values(), lr=0.02, weight_decay=0.05) for both in (ours, theirs)]
    seen = 0
    for step in range(1, EPOCHS * LENGTH + 1):
        for both, optimizer in zip((ours, theirs), optimizers, strict=True):
            renew(named(*both), step)
            optimizer.step()
        if (step - 1) % LENGTH == 0:
            reference.new_epoch()
        update = pruner.step(step)
        reference.step(step)
        for (name, mine), other in zip(named(*ours).items(), reference.named.values(), strict=True):
            assert torch.equal(mine, other), (step, name)
        if update:
            seen += 1
            assert update.zeros == sum(int((w == 0).sum()) for w in ours[0].values())
    assert seen >= 8 and any((bias == 0).any() for bias in ours[1].values())


def test_the_state_is_reset_every_epoch_and_prunes_nothing_until_a_window_closes() -> None:
    weights, biases = model()
    pruner = icml24(weights, biases, "platon", (0, 2 * LENGTH))
    optimizer = torch.optim.SGD(named(weights, biases).values(), lr=0.01)
    updates = []
    for step in range(1, EPOCHS * LENGTH + 1):
        renew(named(weights, biases), step)
        optimizer.step()
        updates.append(pruner.step(step))
    # step 28 opens an epoch of the final phase and closes an empty window; step 32 closes the first that was filled
    assert [updates[step - 1].zeros for step in (28, 29, 31)] == [0, 0, 0] and updates[31].zeros > 0


def test_biases_are_masked_and_put_back() -> None:
    weights, biases = model()
    pruner = icml24(weights, biases, "magnitude", (0, LENGTH))
    renew(named(weights, biases), 0)
    pruner.step(40)
    zeros = {name: int((bias == 0).sum()) for name, bias in biases.items()}
    assert sum(zeros.values())
    for bias in biases.values():
        bias.data.add_(1.0)
    before = {name: bias.detach().clone() for name, bias in biases.items()}
    with pruner.masked():
        assert {name: int((bias == 0).sum()) for name, bias in biases.items()} == zeros
    assert all(torch.equal(bias.detach(), before[name]) for name, bias in biases.items())


def test_resume_is_bit_identical() -> None:
    def run(resumed: bool) -> dict[str, nn.Parameter]:
        weights, biases = model()
        pruner = icml24(weights, biases, "platon", (LENGTH, LENGTH))
        optimizer = torch.optim.AdamW(named(weights, biases).values(), lr=0.02)
        for step in range(1, EPOCHS * LENGTH + 1):
            renew(named(weights, biases), step)
            optimizer.step()
            pruner.step(step)
            if resumed and step == 23:
                state = safetensors.torch.load(safetensors.torch.save(pruner.state_dict()))
                pruner = icml24(weights, biases, "platon", (LENGTH, LENGTH))
                pruner.load_state_dict(state)
        return named(weights, biases)

    whole, again = run(False), run(True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_whole_training_agrees_with_the_reference(accumulate: int) -> None:
    """2 epochs of 5 steps of 8 samples; 2 samples fill no step. The optimizer leaves out steps 5 and 10."""
    samples = [replace(sample, label=i % 10, texts=()) for i, sample in enumerate(tiny.samples(42))]
    size, total = 8 // accumulate, 10
    settings = Training(
        epochs=2, batch_size=size, accumulate=accumulate, learning_rate=1e-2, weight_decay=0.05, skip_last=True
    )
    torch.manual_seed(0)
    ours = wrap(*tiny.vit())
    theirs = wrap(*tiny.vit())
    theirs.model.load_state_dict(ours.model.state_dict())

    modules, other = (
        {name: layer.module for name, layer in in_scope(loaded.model, loaded.family, "all").items()}
        for loaded in (ours, theirs)
    )
    factors = [1.0 + index % 7 for index in range(len(modules))]
    schedule = Schedule(target=TARGET, total_steps=total, final=2 / total, mask_every=4)
    pruner = Icml24(
        {name: module.weight for name, module in modules.items()},
        criterion=load("platon", **SETTINGS),
        schedule=schedule,
        factors=dict(zip(modules, factors, strict=True)),
        biases={name: module.bias for name, module in modules.items()},
        steps_per_epoch=5,
    )
    rates: list[float] = []
    train(ours, samples, settings, on_step=pruner.step, progress=lambda step, of, numbers: rates.append(numbers["lr"]))

    pairs = {f"{n}.{kind}": getattr(m, kind) for n, m in other.items() for kind in ("weight", "bias")}
    reference = Reference(pairs, "platon", (0, 2), factors=factors, epochs=2, length=5)
    model = theirs.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, fused=True)
    collate = Collate(theirs.family, theirs.processor, model.config)
    order = Order(samples=42, batch_size=size, accumulate=accumulate, ranks=1, seed=0).parts(0, 0)
    for step in range(1, total + 1):
        optimizer.param_groups[0]["lr"] = rates[step - 1]
        for _ in range(accumulate):
            batch = collate([samples[index] for _, index in next(order)])
            loss = torch.nn.functional.cross_entropy(
                model(batch["pixel_values"]).logits, batch["labels"], reduction="sum"
            )
            (loss * (1 / 8)).backward()
        if step % 5:
            optimizer.step()
        if step % 5 == 1:
            reference.new_epoch()
        reference.step(step)
        optimizer.zero_grad()

    parameters = dict(ours.model.named_parameters())
    assert all(torch.equal(parameters[name], weight) for name, weight in theirs.model.named_parameters())
    for name, module in other.items():
        assert torch.equal(pruner.masks.kept(name), module.weight != 0)
        assert torch.equal(pruner.bias_masks.kept(f"{name}.bias"), module.bias != 0)
    assert pruner.sparsity() == pytest.approx(TARGET, abs=0.05)
