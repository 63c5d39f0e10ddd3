"""Step -> sparsity: known values, ends reached, nothing that depends on more than fractions."""

from __future__ import annotations

from itertools import product

import pytest

from idvl.errors import UsageError
from idvl.sparsity.schedule import Schedule


def test_cubic_values() -> None:
    schedule = Schedule(target=0.8, total_steps=100, initial=0.2, final=0.2, mask_every=10)
    assert [schedule.sparsity(step) for step in (1, 20, 80, 81, 100)] == [0, 0, 0.8, 0.8, 0.8]
    assert schedule.sparsity(50) == pytest.approx(0.8 * (1 - 0.5**3))
    assert [step for step in range(1, 101) if schedule.due(step)] == [30, 40, 50, 60, 70, 80, 81]
    assert [step for step in range(1, 101) if schedule.is_final(step)] == list(range(81, 101))


def test_linear_values() -> None:
    schedule = Schedule(kind="linear", target=0.5, total_steps=40, initial=0.25, final=0.25, mask_every=5)
    assert [schedule.sparsity(step) for step in (10, 15, 20, 25, 30, 31)] == [0, 0.125, 0.25, 0.375, 0.5, 0.5]


def test_one_shot_rises_evenly_in_its_steps() -> None:
    schedule = Schedule(kind="one-shot", target=0.98, total_steps=50, mask_every=1)
    assert all(schedule.due(step) for step in range(1, 51))
    assert [schedule.sparsity(step) for step in (1, 25, 49, 50)] == pytest.approx([0.0196, 0.49, 0.9604, 0.98])
    assert len({schedule.sparsity(step) for step in range(1, 51)}) == 50


@pytest.mark.parametrize(
    ("steps", "every", "updates"), [(14, 1, 8), (40, 2, 12), (100, 6, 10), (170, 10, 10), (2, 1, 1)]
)
def test_a_short_run_sets_masks_more_often(steps: int, every: int, updates: int) -> None:
    schedule = Schedule(target=0.5, total_steps=steps, initial=0.2, final=0.2).adapted()
    assert (schedule.mask_every, schedule.updates) == (every, updates)
    assert sum(schedule.due(step) and not schedule.is_final(step) for step in range(1, steps + 1)) == updates


def test_every_run_rises_and_ends_at_its_target() -> None:
    fractions = [(0, 0), (0.2, 0.2), (0.9, 0.05), (0, 0.999), (0.5, 0.4)]
    offenders = []
    for kind, total, (initial, final) in product(("cubic", "linear"), (1, 2, 3, 7, 10, 64, 1001), fractions):
        schedule = Schedule(kind=kind, target=0.7, total_steps=total, initial=initial, final=final, mask_every=3)
        values = [schedule.sparsity(step) for step in range(1, total + 1)]
        last = [step for step in range(1, total + 1) if schedule.due(step) and schedule.is_final(step)]
        if values != sorted(values) or values[-1] != 0.7 or not schedule.is_final(total) or len(last) != 1:
            offenders.append(schedule)
    assert offenders == []


def test_fractions_alone_decide() -> None:
    short, long = (Schedule(target=0.8, total_steps=n, initial=0.1, final=0.3) for n in (100, 1000))
    assert short.sparsity(40) == pytest.approx(long.sparsity(400))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, "between 0 and 1, not 0.0"),
        ({"target": 1.0}, "between 0 and 1, not 1.0"),
        ({"target": float("nan")}, "not nan"),
        ({"kind": "square"}, "cubic, linear, one-shot, not 'square'"),
        ({"initial": 0.5, "final": 0.5}, "fractions"),
        ({"initial": -0.1}, "fractions"),
        ({"mask_every": 0}, "mask_every"),
        ({"total_steps": 0}, "at least 1 step"),
    ],
)
def test_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(**{"target": 0.5, "total_steps": 10, **settings})
