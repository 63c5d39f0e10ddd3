"""Intervals by bootstrap: they cover what they should, and pairing takes out what two systems share."""

from __future__ import annotations

import numpy as np
import pytest

from idvl.errors import UsageError
from idvl.metrics.bootstrap import interval, paired
from idvl.metrics.measured import Measured, matched, mean


def measured(scores: np.ndarray, **options: float) -> Measured:
    return mean("score", scores, interval="samples drawn anew", **options)


def test_the_value_is_a_hundred_times_the_mean() -> None:
    assert measured(np.array([0, 1, 1, 1])).value == 75.0
    assert mean("recall", [1, 2], [2, 6], interval="").value == 37.5


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = interval(measured(generator.exponential(1.0, size=100)), seed=trial, resamples=200)
        covered += low <= 100 <= high
    assert 0.90 <= covered / 300 <= 0.97


def test_the_width_is_that_of_the_normal_approximation() -> None:
    hits = np.random.default_rng(1).random(2000) < 0.7
    low, high = interval(measured(hits))
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(0.7 * 0.3 / 2000), rel=0.1)


def test_a_narrower_level_gives_a_narrower_interval() -> None:
    scores = measured(np.random.default_rng(2).random(50))
    wide, narrow = interval(scores, level=0.95), interval(scores, level=0.5)
    assert wide[0] < narrow[0] < scores.value < narrow[1] < wide[1]


def test_a_published_value_is_what_the_interval_lies_around() -> None:
    scores = np.random.default_rng(3).random(100)
    own, moved = measured(scores), measured(scores, published=scores.mean() + 0.2)
    assert moved.value == pytest.approx(own.value + 20)
    assert interval(moved) == pytest.approx(tuple(bound + 20 for bound in interval(own)))


def test_seeds_decide_the_draws() -> None:
    scores = measured(np.random.default_rng(4).random(100))
    assert interval(scores, seed=1) == interval(scores, seed=1) != interval(scores, seed=2)


def test_one_sample_has_an_interval_without_width() -> None:
    assert interval(measured(np.array([0.25]))) == (25.0, 25.0)


def test_ratios_are_drawn_by_sample_with_their_counts() -> None:
    """Two images of one and three captions: what can be drawn is 0/2, 3/4 and 6/6."""
    drawn = interval(mean("recall", [0, 3], [1, 3], interval=""), level=1 - 1e-9)
    assert drawn == pytest.approx((0.0, 100.0))


def test_pairing_takes_out_what_two_systems_share() -> None:
    generator = np.random.default_rng(5)
    shared = generator.random(400)
    a, b = (measured(shared + 0.02 * generator.standard_normal(400) + gain) for gain in (0.02, 0.0))
    difference = paired(a, b)
    widths = [np.diff(interval(system))[0] for system in (a, b)]
    assert difference.value == pytest.approx(a.value - b.value)
    assert difference.high - difference.low < np.hypot(*widths) / 5
    assert difference.low > 0


def test_a_system_is_not_different_from_itself() -> None:
    scores = measured(np.random.default_rng(6).random(30))
    assert paired(scores, scores) == paired(scores, scores, seed=9)
    assert (paired(scores, scores).low, paired(scores, scores).high) == (0.0, 0.0)


def test_the_difference_is_antisymmetric() -> None:
    generator = np.random.default_rng(7)
    a, b = (measured(generator.random(50)) for _ in range(2))
    there, back = paired(a, b), paired(b, a)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_systems_of_different_sizes_are_refused() -> None:
    with pytest.raises(UsageError, match="score of 2 samples cannot be compared with that of 3"):
        paired(measured(np.ones(2)), measured(np.ones(3)))


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(UsageError, match="no predictions"):
        matched([], [])
    with pytest.raises(UsageError, match="2 predictions, but 1 references"):
        matched([1, 2], [1])
