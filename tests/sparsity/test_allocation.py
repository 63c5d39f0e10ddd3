"""Every allocation of the folder: budgets to the weight within the bounds, whatever stays pruned."""

from __future__ import annotations

import math
import random

import pytest
import torch

from idvl.sparsity import allocation as allocations
from idvl.sparsity.allocation.alpha import exponent
from idvl.sparsity.allocation.owl import outliers
from idvl.sparsity.budget import Budget

SIZES = {"a": 100, "b": 37, "c": 3, "d": 1000}
# any signal
VALUES = {"a": 0.25, "b": 0.5, "c": 1.0, "d": 0.75}


def test_the_folder_is_listed() -> None:
    assert {"global", "uniform"} <= set(allocations.names())


@pytest.mark.parametrize("name", allocations.names())
def test_an_allocation_gives_densities_of_all_layers_or_of_none(name: str) -> None:
    densities = allocations.densities(name, SIZES, density=0.5, values=VALUES)
    assert densities == {} or (list(densities) == list(SIZES) and all(density > 0 for density in densities.values()))


@pytest.mark.parametrize("limited", [{}, {"floor": 0.35, "ceiling": 0.65}, {"min_keep": 20}])
@pytest.mark.parametrize("name", allocations.names())
def test_bounds_allow_the_budget_and_what_is_pruned_already(name: str, limited: dict) -> None:
    budget = Budget(SIZES, sparsity=0.5, allocation=name, values=VALUES, **limited)
    pruned = dict.fromkeys(SIZES, 0)
    for k in range(0, budget.quota(0.5) + 1, 5):
        bounds = budget.bounds(k, pruned)
        assert sum(least for least, _ in bounds.values()) <= k <= sum(most for _, most in bounds.values())
        assert all(pruned[layer] <= least <= most for layer, (least, most) in bounds.items())
        pruned = _unlike(bounds, k)
    for layer, (least, most) in bounds.items():
        kept = SIZES[layer] - pruned[layer]
        assert least <= pruned[layer] <= most and kept >= min(limited.get("min_keep", 1), SIZES[layer])
        if "floor" in limited and layer != "c":
            assert 0.35 * SIZES[layer] - 1 < pruned[layer] < 0.65 * SIZES[layer] + 1


def _unlike(bounds: dict[str, tuple[int, int]], k: int) -> dict[str, int]:
    """Counts within the bounds, as unlike their shares as possible."""
    counts, left = {}, k - sum(least for least, _ in bounds.values())
    for layer, (least, most) in bounds.items():
        counts[layer] = least + min(left, most - least)
        left -= counts[layer] - least
    return counts


def test_uniform_is_as_even_as_whole_weights_allow() -> None:
    budget, total = Budget(SIZES, sparsity=0.99, allocation="uniform", min_keep=0), sum(SIZES.values())
    for k in range(0, round(0.99 * total) + 1, 7):
        bounds = budget.bounds(k, dict.fromkeys(SIZES, 0))
        assert sum(least for least, _ in bounds.values()) == k
        for layer, (least, most) in bounds.items():
            assert least == most and abs(least - k * SIZES[layer] / total) < 1.5


def test_uniform_keeps_what_is_pruned_and_what_must_stay() -> None:
    budget = Budget(SIZES, sparsity=0.9, allocation="uniform", min_keep=2)
    zeros = {layer: least for layer, (least, _) in budget.bounds(1026, {"a": 95, "b": 0, "c": 0, "d": 0}).items()}
    assert sum(zeros.values()) == 1026 and zeros["a"] == 95 and zeros["c"] == 1
    assert abs(zeros["b"] / 37 - zeros["d"] / 1000) < 1 / 37


def test_uniform_never_gives_back_along_a_schedule() -> None:
    draw = random.Random(0)
    for _ in range(4):
        sizes = {f"layer{number}": draw.randint(2, 400) for number in range(12)}
        budget = Budget(sizes, sparsity=0.9, allocation="uniform")
        before = dict.fromkeys(sizes, 0)
        for k in range(0, budget.quota(0.9) + 1, 3):
            zeros = {layer: least for layer, (least, _) in budget.bounds(k, dict.fromkeys(sizes, 0)).items()}
            assert all(before[layer] <= zeros[layer] for layer in sizes)
            before = zeros


def test_global_leaves_layers_free_between_their_limits() -> None:
    bounds = Budget(SIZES, sparsity=0.5).bounds(570, dict.fromkeys(SIZES, 0))
    assert bounds == {"a": (0, 99), "b": (0, 36), "c": (0, 2), "d": (0, 999)}


def kept(name: str, sizes: dict[str, int], values: dict[str, float], sparsity: float = 0.5, **limits) -> dict[str, int]:
    budget = Budget(sizes, sparsity=sparsity, allocation=name, values=values, **limits)
    bounds = budget.bounds(budget.quota(sparsity), dict.fromkeys(sizes, 0))
    assert all(least == most for least, most in bounds.values())
    assert sum(least for least, _ in bounds.values()) == round(sparsity * sum(sizes.values()))
    return {layer: sizes[layer] - least for layer, (least, _) in bounds.items()}


EQUAL = dict.fromkeys("abcde", 10_000)


def test_id_is_in_proportion_to_the_values_whatever_their_scale() -> None:
    """Statements 26 and 29: monotone, uniform for equal dimensions, and the same for all of them tenfold."""
    values = dict(zip("abcde", (5.0, 2.0, 9.0, 9.0, 1.0), strict=True))
    counts = kept("id", EQUAL, values, 0.7)
    assert counts == kept("id", EQUAL, {name: 10 * value for name, value in values.items()}, 0.7)
    share = 15_000 / 26
    assert all(abs(counts[name] - share * values[name]) <= 1 for name in "abe")
    assert counts["c"] == counts["d"] > counts["a"] > counts["b"] > counts["e"]
    assert set(kept("id", EQUAL, dict.fromkeys("abcde", 3.7), 0.7).values()) == {3000}


def test_id_stays_within_floor_and_ceiling_and_spends_the_rest_elsewhere() -> None:
    values = dict(zip("abcde", (100.0, 1.0, 1.0, 1.0, 1.0), strict=True))
    counts = kept("id", EQUAL, values, floor=0.2, ceiling=0.6)
    assert counts["a"] == 8000 and {counts[name] for name in "bcde"} == {4250}


def test_depth_falls_in_a_straight_line_from_first_to_last() -> None:
    counts = kept("depth", EQUAL, dict(zip("abcde", (0.0, 0.25, 0.5, 0.75, 1.0), strict=True)))
    assert list(counts.values()) == [6000, 5500, 5000, 4500, 4000]
    assert set(kept("depth", EQUAL, dict.fromkeys("abcde", 0.5)).values()) == {5000}


# uniform alone has ties
@pytest.mark.parametrize("name", sorted(set(allocations.names()) - {"global", "uniform"}))
def test_the_order_of_layers_does_not_matter(name: str) -> None:
    """Statement 30."""
    values, sizes = (
        dict(zip("abcde", (0.1, 0.9, 0.33, 0.47, 0.62), strict=True)),
        dict(zip("abcde", (901, 77, 5003, 12, 340), strict=True)),
    )
    again = dict(reversed(sizes.items()))
    assert kept(name, sizes, values) == kept(name, again, values)


def test_600_layers_are_exact() -> None:
    """Statement 4."""
    draw = random.Random(0)
    sizes = {f"layer{number}": draw.randint(1, 10**7) for number in range(600)}
    values = {layer: draw.random() for layer in sizes}
    for name in allocations.names():
        if name != "global":
            kept(name, sizes, values, 0.6, **({"floor": 0.1, "ceiling": 0.9} if name == "id" else {}))


def test_layers_of_a_group_share_its_density() -> None:
    sizes, groups = {"a": 1000, "b": 3000, "c": 4000}, {"a": "one", "b": "one", "c": "two"}
    densities = allocations.densities("id", sizes, density=0.5, values={"one": 2.0, "two": 1.0}, groups=groups)
    assert densities == {"a": 2.0, "b": 2.0, "c": 1.0}
    shares = allocations.densities("ecoflap", sizes, density=0.5, values={"one": 3.0, "two": 1.0}, groups=groups)
    # a floor of 0.4, and 800 more: 600 of 4000 and 200 of 4000
    assert shares == pytest.approx({"a": 0.55, "b": 0.55, "c": 0.45})


def band(sizes: dict[str, int], values: dict[str, float], density: float, spread: float) -> dict[str, float]:
    """The rank band of `id`, naively."""
    ordered, total = sorted(values.values()), sum(sizes.values())

    def rank(value: float) -> float:
        return (ordered.index(value) + (ordered.count(value) - 1) / 2) / (len(ordered) - 1)

    middle = sum(rank(values[name]) * size for name, size in sizes.items()) / total
    return {name: density + 2 * spread * (rank(values[name]) - middle) for name in sizes}


def test_id_by_rank_lies_in_a_band() -> None:
    """Statement 29: monotone, uniform for equal dimensions, and blind to monotone transforms of them."""
    sizes = dict(zip("abcde", (901, 77, 5003, 12, 340), strict=True))
    values = dict(zip("abcde", (5.0, 2.0, 9.0, 9.0, 1.0), strict=True))
    shares = allocations.densities("id", sizes, density=0.4, values=values, spread=0.15)
    assert shares == pytest.approx(band(sizes, values, 0.4, 0.15))
    cubes = {name: value**3 for name, value in values.items()}
    assert shares == allocations.densities("id", sizes, density=0.4, values=cubes, spread=0.15)
    assert shares["c"] == shares["d"] > shares["a"] > shares["b"] > shares["e"]
    same = allocations.densities("id", sizes, density=0.4, values=dict.fromkeys("abcde", 2.0), spread=0.15)
    assert set(same.values()) == {0.4}


def filled(sizes: dict[str, int], scores: dict[str, float], density: float, spread: float) -> dict[str, float]:
    """ECoFLaP's ideal by bisection: the scale at which min(floor + scale x score, size) adds up to the budget."""
    least = {name: max(density - spread, 0) * size for name, size in sizes.items()}
    low, high = 0.0, sum(sizes.values()) / min(score for score in scores.values() if score)
    for _ in range(200):
        scale = (low + high) / 2
        total = sum(min(least[name] + scale * scores[name], size) for name, size in sizes.items())
        low, high = (scale, high) if total < density * sum(sizes.values()) else (low, scale)
    return {name: min(least[name] + low * scores[name], size) / size for name, size in sizes.items()}


def published(sizes: list[int], scores: list[float], sparsity: float, highest: float) -> list[int]:
    """The loop of ECoFLaP's code in whole numbers of any size, without the repair that leaves its budget."""
    keep, scores = sum(sizes) * (1 - sparsity), list(scores)
    kept = [math.ceil(size * (1 - highest)) for size in sizes]
    while sum(kept) < keep and sum(scores):
        total, rest = sum(scores), keep - sum(kept)
        kept = [count + math.ceil(score / total * rest) for count, score in zip(kept, scores, strict=True)]
        scores = [0.0 if count >= size else score for count, size, score in zip(kept, sizes, scores, strict=True)]
        kept = [min(count, size) for count, size in zip(kept, sizes, strict=True)]
    return kept


def test_ecoflap_fills_blocks_by_their_share_of_the_scores() -> None:
    """Equal to a reference by bisection, and to the published loop but for the few weights that it misses."""
    draw = random.Random(0)
    for _ in range(50):
        n = draw.randint(2, 30)
        sizes = {f"block{i}": draw.choice((10**4, 10**6, 202 * 10**6)) + draw.randint(0, 999) for i in range(n)}
        scores = {name: draw.lognormvariate(0, 3) for name in sizes}
        density = draw.uniform(0.15, 0.85)
        shares = allocations.densities("ecoflap", sizes, density=density, values=scores)
        assert shares == pytest.approx(filled(sizes, scores, density, 0.1), rel=1e-9)
        counts = kept("ecoflap", sizes, scores, 1 - density)
        theirs = published(list(sizes.values()), list(scores.values()), 1 - density, 1 - density + 0.1)
        assert all(abs(one - other) <= 2 * n for one, other in zip(counts.values(), theirs, strict=True))


def test_ecoflap_deals_out_what_full_blocks_leave() -> None:
    """Statement 25."""
    only = dict.fromkeys("abcde", 0.0) | {"b": 2.0}
    counts = kept("ecoflap", EQUAL, only, 0.8)
    # 5,000 above the floor of 1,000 each: the block with all of the score takes them
    assert counts == {"a": 1000, "b": 6000, "c": 1000, "d": 1000, "e": 1000}
    counts = kept("ecoflap", EQUAL, only, 0.6, spread=0.3)
    # 15,000 above a floor of 1,000: it is dense, and the others share the rest
    assert counts == {"a": 2500, "b": 10000, "c": 2500, "d": 2500, "e": 2500}
    assert set(kept("ecoflap", EQUAL, dict.fromkeys("abcde", 0.0), 0.6).values()) == {4000}
    # the highest sparsity of a block is the mean: uniform
    counts = kept("ecoflap", EQUAL, dict(zip("abcde", range(5), strict=True)), 0.6, spread=1e-9)
    assert all(abs(count - 4000) <= 1 for count in counts.values())
    # a score says how many weights: a small block is dense first
    sizes = {"small": 1000, "large": 99_000}
    counts = kept("ecoflap", sizes, {"small": 1.0, "large": 1.0}, 0.5)
    assert counts == {"small": 1000, "large": 49_000}


def test_owl_and_alpha_follow_their_formulas_with_a_mean_by_size() -> None:
    """Statements 23 and 24, where no density leaves its bounds."""
    sizes = dict(zip("abcde", (901, 77, 5003, 120, 340), strict=True))
    values = dict(zip("abcde", (0.1, 0.9, 0.33, 0.47, 0.62), strict=True))
    total = sum(sizes.values())
    places = {name: (value - 0.1) / 0.8 * 2 * 0.08 for name, value in values.items()}
    middle = sum(places[name] * size for name, size in sizes.items()) / total
    owl = allocations.densities("owl", sizes, density=0.4, values=values)
    assert owl == pytest.approx({name: place - middle + 0.4 for name, place in places.items()})
    ratios = {name: 0.7 + (value - 0.1) / 0.8 * 0.6 for name, value in values.items()}
    scale = 0.6 * total / sum(ratios[name] * size for name, size in sizes.items())
    alpha = allocations.densities("alpha", sizes, density=0.4, values=values)
    assert alpha == pytest.approx({name: 1 - scale * ratio for name, ratio in ratios.items()})
    for name in ("owl", "alpha"):
        counts = kept(name, sizes, values, 0.6)
        shares = allocations.densities(name, sizes, density=0.4, values=values)
        assert all(abs(count - shares[layer] * sizes[layer]) < 1 for layer, count in counts.items())
        assert set(allocations.densities(name, sizes, density=0.4, values=dict.fromkeys(sizes, 3.0)).values()) == {0.4}


def test_no_layer_is_above_the_ceiling() -> None:
    """Statement 24: published sparsities reach 1.15 there."""
    values = dict(zip("abcde", (1.0, 2.0, 2.1, 2.2, 9.0), strict=True))
    assert min(allocations.densities("alpha", EQUAL, density=0.2, values=values).values()) == allocations.LEAST
    counts = kept("alpha", EQUAL, values, 0.8, ceiling=0.95)
    assert min(counts.values()) == counts["e"] == 500


def published_exponent(eigenvalues: list[float]) -> float:
    """AlphaPruning's xmin_peak, its slip included, in a loop over starts."""
    values = sorted(eigenvalues)
    decades = [math.log10(value) for value in values]
    width = (decades[-1] - decades[0]) / 100
    counts = [0] * 100
    for decade in decades:
        counts[min(int((decade - decades[0]) / width), 99)] += 1
    peak = 10 ** (decades[0] + width * counts.index(max(counts)))
    best = (math.inf, 0.0)
    for i, start in enumerate(values[:-1]):
        if math.log10(0.95 * peak) <= start <= 1.5 * peak:
            n = len(values) - i
            alpha = 1 + n / sum(math.log(value / start) for value in values[i:])
            gaps = [abs(1 - (value / start) ** (1 - alpha) - j / n) for j, value in enumerate(values[i:])]
            best = min(best, (max(gaps), alpha), key=lambda fit: fit[0])
    return best[1]


def test_the_exponent_of_a_spectrum_is_that_of_the_published_fit() -> None:
    for seed, (rows, columns) in enumerate(((40, 90), (64, 64), (150, 130))):
        weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # peaks below and above 1: the logarithm of the lower end cuts some off, or none
        for scale in (0.02, 1.0, 30.0):
            eigenvalues = torch.linalg.svdvals(scale * weight).square()
            assert exponent(eigenvalues) == pytest.approx(published_exponent(eigenvalues.tolist()), rel=1e-9)
    # a heavy tail has a low exponent
    tail = (1 - torch.arange(400, dtype=torch.float64) / 400) ** (-1 / 1.5)
    assert exponent(tail) == pytest.approx(2.5, abs=0.1)
    with pytest.raises(ValueError, match="fewer than two"):
        exponent(torch.ones(1, dtype=torch.float64))
    # of an orthogonal weight
    with pytest.raises(ValueError, match="equal eigenvalues"):
        exponent(torch.ones(10, dtype=torch.float64))


def test_outliers_are_above_five_times_the_mean_of_the_whole_block() -> None:
    few, many = torch.full((10, 10), 0.5), torch.ones(20, 20)
    few[0, :3], many[0, :2] = 9.0, 4.5
    scores = [*few.flatten().tolist(), *many.flatten().tolist()]
    mean = sum(scores) / len(scores)
    assert outliers([few, many]) == sum(score > 5 * mean for score in scores) / 500 == 3 / 500
