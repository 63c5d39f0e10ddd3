"""Score intervals of proportions and paired differences: published values, coverage, and ends that are not points."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from idvl.metrics.accuracy import topk
from idvl.metrics.bootstrap import interval, paired
from idvl.metrics.measured import Measured, proportion
from idvl.metrics.proportions import tango, wilson


def hits(values: np.ndarray, trials: int | np.ndarray = 1) -> Measured:
    return proportion("share", values, trials, interval="")


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857, Table I
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_published_intervals(count: int, n: int, low: float, high: float) -> None:
    assert wilson(count, n, 0.95) == pytest.approx((low, high), abs=5e-5)
    by_scipy = binomtest(count, n).proportion_ci(0.9, "wilson")
    assert wilson(count, n, 0.9) == pytest.approx((by_scipy.low, by_scipy.high), abs=1e-12)


@pytest.mark.parametrize(
    ("more", "less", "n", "level", "low", "high"),
    [
        # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850, airway hyper-responsiveness
        (1, 7, 21, 0.95, -0.517, -0.026),
        # PropCIs 0.3-0 for R, scoreci.mp(25, 28, 618, 0.9)
        (28, 25, 618, 0.9, -0.0148, 0.0247),
    ],
)
def test_tango_gives_published_intervals(more, less, n, level, low, high) -> None:
    assert tango(more, less, n, level) == pytest.approx((low, high), abs=5e-4 if n == 21 else 5e-5)
    mirrored = tango(less, more, n, level)
    assert mirrored == pytest.approx((-high, -low), abs=5e-4 if n == 21 else 5e-5)


def test_pairs_that_never_differ_leave_room() -> None:
    """Without discordant pairs the bounds are those of Tango's formula, z^2 / (n + z^2)."""
    same = hits(np.random.default_rng(0).random(100) < 0.6)
    found = paired(same, same)
    assert (found.value, found.low, found.high) == pytest.approx((0, -3.6993, 3.6993), abs=1e-4)
    assert tango(5, 0, 5, 0.95)[1] == 1.0
    assert tango(0, 5, 5, 0.95)[0] == -1.0


def test_all_right_is_no_certainty() -> None:
    found = topk([1] * 2000, [[1, 0]] * 2000)["top-1"]
    assert found.value == 100
    assert interval(found) == pytest.approx((99.80829527, 100))
    assert interval(hits(np.zeros(10))) == pytest.approx((0, 27.7532800), abs=1e-6)
    assert interval(hits(np.ones(1))) == pytest.approx((20.6543, 100), abs=1e-3)


def test_captions_that_are_all_alike_count_as_their_image() -> None:
    assert interval(hits(np.full(40, 5), 5)) == pytest.approx(interval(hits(np.ones(40))))
    # of each image all or none are found: as many independent trials as images, of which 100 show the variance
    found = np.arange(100) % 4 > 0
    size = 100 * (1.959964 / 1.984217) ** 2
    assert interval(hits(5 * found, 5)) == pytest.approx([100 * b for b in wilson(0.75 * size, size, 0.95)])
    difference = paired(hits(5 * found, 5), hits(np.zeros(100), 5))
    assert difference.low == pytest.approx(100 * tango(0.75 * size, 0, size, 0.95)[0])


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_intervals_of_clustered_captions_cover_the_truth(share: float) -> None:
    generator, covered, none, n = np.random.default_rng(1), 0, 0, 300
    for _ in range(n):
        chance = generator.beta(2 * share, 2 * (1 - share), 100)
        a, b = (hits(generator.binomial(5, chance), 5) for _ in range(2))
        low, high = interval(a)
        covered += low <= 100 * share <= high
        difference = paired(a, b)
        none += difference.low <= 0 <= difference.high
    assert covered / n > 0.91
    assert none / n > 0.91


def test_intervals_of_few_clusters_cover_the_truth() -> None:
    generator, covered, n = np.random.default_rng(2), 0, 1000
    for _ in range(n):
        # captions of one image correlate with 0.4
        low, high = interval(hits(generator.binomial(5, generator.beta(0.75, 0.75, 10)), 5))
        covered += low <= 50 <= high
    assert covered / n > 0.94


def test_intervals_of_answers_right_in_part_cover_the_truth_and_are_no_wider_than_they_must_be() -> None:
    """Half of 500 answers are worth 0.3 more or less in the second system, and its accuracy is the same."""
    generator, covered, none, n = np.random.default_rng(3), 0, 0, 400
    for _ in range(n):
        a = generator.choice([0, 0.3, 0.6, 0.9, 1], 500)
        up = np.where(a == 0, 1, np.where(a == 0.9, -1, np.where(a == 1, 0, generator.choice([-1, 1], 500))))
        b = a + 0.3 * up * (generator.random(500) < 0.5)
        (low, high), difference = interval(hits(a)), paired(hits(a), hits(b))
        covered += low <= 56 <= high
        none += difference.low <= 0 <= difference.high
        normal = 2 * 1.96 * 100 / np.sqrt(500)
        assert high - low == pytest.approx(normal * a.std(), rel=0.03)
        assert difference.high - difference.low == pytest.approx(normal * (a - b).std(), rel=0.03)
    assert 0.93 < covered / n < 0.97
    assert 0.93 < none / n < 0.97


def test_answers_that_are_all_right_in_part_are_no_certainty() -> None:
    """Sums of fractions are rounded: what they leave over is no variance."""
    same, less = hits(np.full(100, 0.9)), hits(np.full(100, 0.6))
    assert interval(same) == pytest.approx([100 * bound for bound in wilson(90, 100, 0.95)])
    assert paired(same, less).low == pytest.approx(100 * tango(30, 0, 100, 0.95)[0])


def test_systems_that_counted_other_captions_are_compared_by_bootstrap() -> None:
    assert paired(hits(np.ones(4), 2), hits(np.ones(4), 1), resamples=100).interval == "bootstrap"
    assert paired(hits(np.ones(4)), hits(np.ones(4))).interval == "Tango score"
