"""Marks: gpu, slow and network skip themselves without a CUDA device or -m; java lets a module find Java.

Tests that load a metric in their own process take `metric_modules`.
"""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    asked = config.option.markexpr
    for item in items:
        for mark in ("slow", "network"):
            if item.get_closest_marker(mark) and mark not in asked:
                item.add_marker(pytest.mark.skip(reason=f"{mark}: run with pytest -m {mark}"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Every training run calls gc.collect, which need not look through what was imported before."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def java(request: pytest.FixtureRequest) -> Iterator[None]:
    """METEOR takes ten seconds of CPU to start: only modules marked java find the real one."""
    which = shutil.which
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("java"):
            patch.setattr(
                shutil, "which", lambda name, *args, **named: None if name == "java" else which(name, *args, **named)
            )
        yield


@pytest.fixture(autouse=True)
def idvl_log() -> None:
    """What idvl logs reaches caplog, whatever a command that ran in this process before has set."""
    logging.getLogger("idvl").propagate = True


@pytest.fixture(scope="session")
def metric_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The folder that evaluate copies metrics into, one for the session: a process imports from the first it sees."""
    import evaluate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield
