"""What the tests of models share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from idvl.models.loading import Loaded, wrap
from tests.coverage.architectures import architectures


@pytest.fixture(scope="module")
def get() -> Callable[[str], Loaded]:
    """A function that gives an architecture of `make coverage` by name, built once for each file of tests."""

    @functools.cache
    def build(name: str) -> Loaded:
        torch.manual_seed(0)
        return wrap(*architectures()[name].make())

    return build
