"""The pruner: exact counts, masks that hold through real optimizers, resume, and what is put back after evaluating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from idvl.errors import RunError, UsageError
from idvl.sparsity import criteria
from idvl.sparsity.masks import Masks
from idvl.sparsity.pruner import WeightPruner
from idvl.sparsity.schedule import Schedule
from tests.support.layers import SHAPES, layers, renew, train, zeros

TOTAL = 12 * 8 + 8 * 16 + 24 * 8


def pruner(weights: dict[str, nn.Parameter], criterion: str = "magnitude", **more: Any) -> WeightPruner:
    schedule = {key: more.pop(key) for key in ("kind", "initial", "final", "mask_every") if key in more}
    schedule = {"target": 0.8, "total_steps": 40, "initial": 0.1, "final": 0.25, "mask_every": 5} | schedule
    schedule |= {key: more.pop(key) for key in ("target", "total_steps") if key in more}
    settings = {"window": 4} if criterion == "platon" else {}
    return WeightPruner(weights, criterion=criteria.load(criterion, **settings), schedule=Schedule(**schedule), **more)


def adamw(weights: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights.values(), lr=0.05, weight_decay=0.5)


@pytest.mark.parametrize("criterion", criteria.observed())
@pytest.mark.parametrize("ties", [False, True])
def test_every_update_has_the_number_of_zeros_asked_for(criterion: str, ties: bool) -> None:
    weights = layers(ties=ties)
    # gradients and steps of zero keep the ties
    pruned = pruner(weights, criterion, factors={"a.fc1": 3.0, "a.fc2": 0.5, "b.qkv": 11.0})
    updates = [u for u in train(weights, pruned, range(1, 41), torch.optim.SGD(weights.values(), lr=0.0)) if u]
    assert [update.step for update in updates] == [5, 10, 15, 20, 25, 30, 31]
    for update in updates:
        assert (
            update.zeros == round(update.sparsity * TOTAL) == sum(update.per_layer.values()) and update.total == TOTAL
        )
    assert zeros(weights) == round(0.8 * TOTAL) == sum(pruned.masks.zeros.values())
    assert pruned.sparsity() == round(0.8 * TOTAL) / TOTAL
    pruned.masks.verify(weights)


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
@pytest.mark.parametrize("criterion", criteria.observed())
def test_one_shot_keeps_the_values_of_all_that_stays(criterion: str, structure: str) -> None:
    """Zeros are written at every level, and nothing is trained: what came back would stay zero."""
    weights = layers()
    dense = {name: weight.detach().clone() for name, weight in weights.items()}
    more = {"target": 0.5} if structure == "2:4" else {"min_keep": 3}
    allocation = "uniform" if structure == "2:4" else "global"
    pruned = pruner(
        weights, criterion, kind="one-shot", initial=0, final=0, mask_every=1, total_steps=20, structure=structure,
        allocation=allocation, **more,
    )  # fmt: skip
    train(weights, pruned, range(1, 21), torch.optim.SGD(weights.values(), lr=0.0))
    assert zeros(weights) == sum(pruned.masks.zeros.values()) == round(pruned.schedule.target * TOTAL)
    for name, weight in weights.items():
        kept = pruned.masks.kept(name)
        assert torch.equal(weight[kept], dense[name][kept])


def test_factors_move_zeros_between_layers() -> None:
    plain, weighted = layers(), layers()
    train(plain, pruner(plain), range(1, 41), adamw(plain))
    train(
        weighted, pruner(weighted, factors={"a.fc1": 100.0, "a.fc2": 1.0, "b.qkv": 1.0}), range(1, 41), adamw(weighted)
    )
    assert zeros(plain) == zeros(weighted)
    assert int((weighted["a.fc1"] == 0).sum()) < int((plain["a.fc1"] == 0).sum())


def test_scores_of_zero_and_infinity_count_exactly() -> None:
    weights = layers()
    weights["a.fc1"].data[:, :7] = 0
    weights["b.qkv"].data[:20] = float("inf")
    pruned = pruner(weights, total_steps=1, initial=0, final=0, target=0.75)
    pruned.step(1)
    assert sum(pruned.masks.zeros.values()) == round(0.75 * TOTAL)


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("criterion", ["magnitude", "platon"])
@pytest.mark.parametrize("make", [adamw, lambda w: torch.optim.SGD(w.values(), lr=0.1, momentum=0.9)])
def test_no_optimizer_revives_what_the_final_phase_pruned(make: Any, criterion: str, monotone: bool) -> None:
    weights = layers()
    pruned, optimizer = pruner(weights, criterion, monotone=monotone), make(weights)
    train(weights, pruned, range(1, 32), optimizer)
    digest = pruned.masks.hash()
    for step in range(32, 41):
        train(weights, pruned, range(step, step + 1), optimizer)
        assert pruned.masks.hash() == digest and zeros(weights) == round(0.8 * TOTAL)
        pruned.masks.verify(weights)


def test_before_the_final_phase_weights_move_and_return() -> None:
    weights = layers()
    pruned, optimizer = pruner(weights, "gradient"), adamw(weights)
    train(weights, pruned, range(1, 21), optimizer)
    before = {name: pruned.masks.kept(name) for name in weights}
    pruned.masks.verify(weights)
    train(weights, pruned, range(21, 23), optimizer)
    assert zeros(weights) == 0
    train(weights, pruned, range(23, 26), optimizer)
    assert any((pruned.masks.kept(name) & ~before[name]).any() for name in weights)


@pytest.mark.parametrize("settings", [{}, {"monotone": True}, {"kind": "one-shot"}])
def test_scores_that_are_all_0_are_reported(settings: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    weights = layers()
    for weight in weights.values():
        weight.grad.zero_()
    pruned = pruner(weights, "gradient", **settings)
    for step in range(1, 41):
        pruned.step(step)
    assert "every score is 0" in caplog.text


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"allocation": "uniform"},
        {"floor": 0.6, "ceiling": 0.9},
        {"structure": "2:4", "allocation": "uniform", "target": 0.5},
        {"kind": "linear", "min_keep": 15},
    ],
)
def test_monotone_never_gives_back(more: dict[str, Any]) -> None:
    weights = layers(ties=True)
    pruned, optimizer = pruner(weights, "gradient", monotone=True, **more), adamw(weights)
    pruned_before = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    for step in range(1, 41):
        (update,) = train(weights, pruned, range(step, step + 1), optimizer)
        if update and "structure" not in more:
            assert update.zeros == round(update.sparsity * TOTAL)
        for name in weights:
            now = ~pruned.masks.kept(name)
            assert (now | ~pruned_before[name]).all() and not weights[name][now].any()
            pruned_before[name] = now
    assert zeros(weights) == round(pruned.schedule.target * TOTAL)
    pruned.masks.verify(weights, more.get("structure", "unstructured"))


def test_floor_ceiling_and_minimum_hold_with_the_exact_budget() -> None:
    factors = {"a.fc1": 1e6, "a.fc2": 1e-6, "b.qkv": 1.0}
    weights = layers()
    train(weights, pruner(weights, factors=factors, ceiling=0.9, floor=0.5), range(1, 41), adamw(weights))
    shares = {name: float((weight == 0).float().mean()) for name, weight in weights.items()}
    assert zeros(weights) == round(0.8 * TOTAL)
    assert shares["a.fc1"] == 0.5 and shares["a.fc2"] == pytest.approx(0.9, abs=1 / 128) and shares["b.qkv"] > 0.8
    weights = layers()
    train(weights, pruner(weights, factors=factors, min_keep=20), range(1, 41), adamw(weights))
    assert zeros(weights) == round(0.8 * TOTAL)
    assert int((weights["a.fc2"] != 0).sum()) == 20


def test_no_layer_is_emptied() -> None:
    weights = layers()
    train(weights, pruner(weights, factors={"a.fc1": 1.0, "a.fc2": 1e-9, "b.qkv": 1.0}), range(1, 41), adamw(weights))
    assert int((weights["a.fc2"] != 0).sum()) == 1 and zeros(weights) == round(0.8 * TOTAL)


def test_uniform_gives_every_layer_its_share() -> None:
    weights = layers()
    train(weights, pruner(weights, allocation="uniform"), range(1, 41), adamw(weights))
    assert zeros(weights) == round(0.8 * TOTAL)
    for weight in weights.values():
        assert abs(int((weight == 0).sum()) - 0.8 * weight.numel()) <= 1


@pytest.mark.parametrize(("structure", "target"), [("2:4", 0.5), ("4:8", 0.5), ("1:4", 0.75)])
def test_nm_grows_group_by_group_and_ends_complete(structure: str, target: float) -> None:
    weights = layers()
    pruned = pruner(weights, structure=structure, allocation="uniform", target=target)
    keep, group = map(int, structure.split(":"))
    updates = [u for u in train(weights, pruned, range(1, 41), adamw(weights)) if u]
    for update in updates:
        assert abs(update.zeros - update.sparsity * TOTAL) <= (group - keep) / 2
        assert all(count % (group - keep) == 0 for count in update.per_layer.values())
    assert zeros(weights) == target * TOTAL
    pruned.masks.verify(weights, structure)


def test_masked_shows_zeros_and_puts_every_bit_back() -> None:
    weights = layers()
    pruned, optimizer = pruner(weights), adamw(weights)
    train(weights, pruned, range(1, 24), optimizer)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with pruned.masked():
        pruned.masks.verify(weights)
        assert zeros(weights) == sum(pruned.masks.zeros.values()) > 0
    assert all(torch.equal(weight.detach(), before[name]) for name, weight in weights.items())


@pytest.mark.parametrize("stop", [3, 11, 20, 30, 31, 36])
@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("criterion", criteria.observed())
def test_resume_is_bit_identical(criterion: str, monotone: bool, stop: int) -> None:
    def halves(resumed: bool) -> tuple[dict[str, nn.Parameter], WeightPruner, list]:
        weights = layers()
        pruned, optimizer = pruner(weights, criterion, monotone=monotone), adamw(weights)
        pruned.scores.set_factors({"a.fc1": 3.0, "a.fc2": 0.7, "b.qkv": 1.1})
        updates = train(weights, pruned, range(1, stop + 1), optimizer)
        if resumed:
            state = safetensors.torch.load(safetensors.torch.save(pruned.state_dict()))
            pruned = pruner(weights, criterion, monotone=monotone)
            pruned.load_state_dict(state)
        return weights, pruned, updates + train(weights, pruned, range(stop + 1, 41), optimizer)

    whole, first, updates = halves(False)
    again, second, resumed_updates = halves(True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert first.digest() == second.digest() and updates == resumed_updates


def test_state_of_other_layers_is_refused() -> None:
    weights = layers()
    state = pruner(weights).state_dict()
    with pytest.raises(ValueError, match="other layers"):
        pruner({"c": weights["a.fc1"]}).load_state_dict(state)


ODD = {
    "half": lambda w: w.half(),
    "bfloat16": lambda w: w.bfloat16(),
    "double": lambda w: w.double(),
    "zero": torch.zeros_like,
    "equal": lambda w: torch.full_like(w, -0.5),
    "huge": lambda w: w * 1e30,
    "denormal": lambda w: w * 1e-42,
    "one by one": lambda w: w[:1, :1].clone(),
}


@pytest.mark.parametrize("kind", ["cubic", "one-shot"])
@pytest.mark.parametrize("criterion", criteria.observed())
def test_counts_are_exact_whatever_the_weights_are(criterion: str, kind: str, tmp_path: Path) -> None:
    plain = layers()
    weights = {name: nn.Parameter(change(plain["a.fc1"].detach())) for name, change in ODD.items()}
    weights["b.qkv"] = plain["b.qkv"]
    settings = {"window": 4} if criterion == "platon" else {}
    schedule = Schedule(kind=kind, target=0.7, total_steps=20, mask_every=1)
    pruned = WeightPruner(weights, criterion=criteria.load(criterion, **settings), schedule=schedule)
    for step in range(1, 21):
        for weight in weights.values():
            weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)).to(weight.dtype)
        pruned.step(step)
    pruned.masks.save(tmp_path / "masks.safetensors")
    masks = Masks.load(tmp_path / "masks.safetensors")
    masks.verify(weights)
    assert sum(masks.zeros.values()) == round(0.7 * sum(weight.numel() for weight in weights.values()))


def test_factors_come_back_by_name() -> None:
    weights = layers()
    pruned = pruner(weights)
    pruned.scores.set_factors({"a.fc1": 3.0, "a.fc2": 0.7, "b.qkv": 1.1})
    turned = dict(reversed(weights.items()))
    again = pruner(turned)
    again.load_state_dict(pruned.state_dict())
    for each, own in ((pruned, weights), (again, turned)):
        renew(own, 1)
        each.step(40)
    assert {name: again.masks.zeros[name] for name in weights} == pruned.masks.zeros


def test_gradient_scores_are_those_of_the_last_step() -> None:
    weights = layers()
    pruned = pruner(weights, "gradient", kind="one-shot", total_steps=5, initial=0, final=0)
    train(weights, pruned, range(1, 5), torch.optim.SGD(weights.values(), lr=0.0))
    renew(weights, 99)
    everything = torch.cat([(w * w.grad).abs().detach().view(-1) for w in weights.values()])
    pruned.step(5)
    cut = everything.sort().values[round(0.8 * TOTAL)]
    kept = torch.cat([pruned.masks.kept(name).view(-1) for name in weights])
    assert torch.equal(kept, everything >= cut)


def test_nan_and_missing_gradients_name_the_layer() -> None:
    weights = layers()
    pruned = pruner(weights, total_steps=1, initial=0, final=0)
    weights["a.fc2"].data[0, 0] = float("nan")
    with pytest.raises(RunError, match="scores of a.fc2 hold NaN"):
        pruned.step(1)
    assert not pruned.masks.zeros["a.fc1"]
    weights["b.qkv"].grad = None
    with pytest.raises(RunError, match="b.qkv has no gradient"):
        pruner(weights, "gradient").step(1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ceiling": 0.7}, "sparsity 0.8 cannot be reached.*allow 0 to 0.7"),
        ({"floor": 0.9}, "cannot be reached"),
        ({"structure": "2:4", "allocation": "uniform"}, "2:4 has sparsity 0.5, not 0.8"),
        ({"structure": "3:5", "allocation": "uniform", "target": 0.4}, "divide by 5, not a.fc1"),
        ({"factors": {"a.fc1": 1.0, "a.fc2": 2.0, "b.qkv": 1.0}, "allocation": "uniform"}, "changes nothing"),
        ({"factors": {"a.fc1": 1.0}}, "2 layers have no factor, a.fc2 first"),
        ({"factors": dict.fromkeys(SHAPES, 0.0)}, "factor of a.fc1 must be above 0"),
    ],
)
def test_refused_at_construction(more: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pruner(layers(), **more)


def test_an_empty_scope_is_refused() -> None:
    with pytest.raises(UsageError, match="no layer to prune"):
        pruner({})
