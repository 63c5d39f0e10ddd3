"""Recipes and matrix files with one damaged field each: they work, or are refused in one line. Nothing else happens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest

from idvl.errors import UsageError
from idvl.pruning.settings import resolve
from idvl.recipe import SECTIONS, Recipe, keys, load
from idvl.sweep import grid
from tests.support.damage import damaged, spots

DAMAGES: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, 1e308, math.inf, math.nan, 10**30, 10**400),
    *("", " ", "none", "null", "nan", "inf", "-1", "2:4", "\uff12:\uff14", "0:0", "*", "[", "../..", "~", "a/b", "\0"),
    *("a\nb", "\x1b]0;t\x07", "\ud800", "9" * 5000, "x" * 5000),
    *([], [[]], [None], ["a"], ["a"] * 5000, [math.nan], {}, {"a": 1}, {"a": {"b": [1]}}, {1: 2}, b"\xff"),
]
SWEEP: dict[str, Any] = {
    "run": ["prune"],
    "base": {"model": {"name": "builtin/vit"}, "prune": {"id_weight": "none"}},
    "matrix": {"prune.sparsity": [0.5, 0.8], "prune.criterion": ["platon", "magnitude"]},
    "cells": [{"prune.sparsity": 0.9, "prune.scope": "vision"}],
    "except": [{"prune.sparsity": 0.5, "prune.criterion": ["platon"]}],
    "first": [{"prune.criterion": "magnitude"}],
    "published": [{"prune.sparsity": 0.8, "top-1": 91.0}],
}


def told(call: Callable[[], Any]) -> Any:
    """What a call gives, None where it refuses. AssertionError for a bad message."""
    try:
        return call()
    except UsageError as error:
        line = str(error)
        assert line and "\n" not in line and len(line) < 1500 and line.encode(), line[:100]
        return None


def offenders(places: Iterable[Any], check: Callable[[Any, Any], None]) -> dict[Any, str]:
    """The places where `check(place, damage)` fails for a damage, with the last one."""
    found = {}
    for place, damage in product(places, DAMAGES):
        try:
            check(place, damage)
        except Exception as error:
            found[place] = f"{repr(damage)[:100]}: {repr(error)[:200]}"
    return found


def test_a_recipe() -> None:
    def check(key: str, damage: Any) -> None:
        recipe = told(lambda: load(None, {"model.name": "builtin/vit"} | {key: damage}))
        for one in filter(None, (recipe, recipe and told(lambda: resolve(recipe)))):
            text = json.dumps(one.to_dict(), allow_nan=False)
            assert text.encode() and Recipe.model_validate(json.loads(text)) == one

    assert offenders([*keys(), *SECTIONS, "", ".", "a.b"], check) == {}


def test_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(place: tuple[Any, ...], damage: Any) -> None:
        source = damaged(SWEEP, place, damage)
        monkeypatch.setattr("idvl.yaml_file.load", lambda path: source)
        matrix = told(lambda: grid.read("matrix.yaml"))
        for cell in matrix.cells if matrix else ():
            assert json.dumps(cell.recipe.to_dict(), allow_nan=False).encode()
            assert 0 < len(cell.name.encode()) <= 255 and "/" not in cell.name
            assert all(math.isfinite(value) for value in cell.published.values())

    assert offenders(spots(SWEEP), check) == {}
