"""Sizes as --memory takes them."""

import pytest

from idvl.recipe.values import parse_bytes
from idvl.units import size


@pytest.mark.parametrize("count", [1, 8, 1023, 1024, 10**6, 3 * 2**30, 10**12])
def test_a_size_reads_as_at_least_what_it_is(count: int) -> None:
    assert count <= parse_bytes(size(count)) <= max(count * 1.1, count + 1024)
    assert size(8) == "8B"
