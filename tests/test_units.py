"""Sizes as --memory takes them, and shares."""

import pytest

from idvl.recipe.values import parse_bytes
from idvl.units import percent, size


@pytest.mark.parametrize("count", [1, 8, 1023, 1024, 10**6, 3 * 2**30, 10**12])
def test_a_size_reads_as_at_least_what_it_is(count: int) -> None:
    assert count <= parse_bytes(size(count)) <= max(count * 1.1, count + 1024)
    assert size(8) == "8B"


def test_shares_have_a_space_before_the_sign() -> None:
    assert (percent(0.8), percent(0.125, 1), percent(0.05, 0)) == ("80.00 %", "12.5 %", "5 %")
