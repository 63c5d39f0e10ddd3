"""A matrix of runs: a base recipe and the settings that vary, turned into cells with a recipe each. It runs none."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from idvl import recipe as recipes
from idvl import runs, yaml_file
from idvl.errors import UsageError, did_you_mean, quoted
from idvl.files import read_text
from idvl.json_file import LARGEST
from idvl.models.locating import locate
from idvl.pruning.settings import resolve
from idvl.recipe import Recipe
from idvl.recipes import find
from idvl.session import with_dataset

Work = Literal["prune", "estimate-id", "eval"]
KEYS = ("run", "base", "matrix", "cells", "except", "first", "published")
# values that say nothing without their key, as numbers do
MUTE = ("none", "auto", "all", "any", "first")
# characters of a cell's name, which is that of its folder
LONGEST = 200
# names in a matrix's folder that are not those of cells: of profiles, and of files
PROFILES = "profiles"
RESERVED = (PROFILES, runs.MATRIX, "run.json", "recipe.yaml")
# cells of a matrix, each a run, and combinations of its values, before `except` leaves some out
MOST, MOST_COMBINED = 10_000, 1_000_000
Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a matrix. `settings`: dotted key -> value of what varies; `published`: metric -> the paper's value."""

    name: str
    settings: Settings
    recipe: Recipe
    published: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The cells of a file in the order in which they run, and those that are refused, name -> reason.

    `run`: what each cell does; estimate-id after prune measures the pruned model. `source`: the file's content.
    """

    path: Path
    run: tuple[Work, ...]
    cells: tuple[Cell, ...]
    left_out: dict[str, str]
    source: dict[str, Any]


def read(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Grid:
    """The matrix in a YAML file, or the packaged one of that name, with `overrides` on top of its base.

    `overrides`: dotted key -> value. Raises UsageError, in one line, for unknown keys and values, and an empty matrix.
    """
    path = find(path, "matrix")
    source = _source(path)
    run = _run(source.get("run", ["prune"]), path)
    base = _flat(source.get("base", {}), path) | dict(overrides or {})
    every = list(_combinations(source, path))
    varied = {key for settings in every for key in settings}
    if clash := sorted(varied & set(overrides or {})):
        raise UsageError(f"{clash[0]} varies in the matrix {quoted(path)}: leave it out of the command")
    exceptions = _patterns(source, "except", varied, path)
    combinations = [settings for settings in every if not any(_matches(settings, some) for some in exceptions)]
    if not combinations:
        raise UsageError(f"the matrix {quoted(path)} has no cells")
    if len(combinations) > MOST:
        raise UsageError(
            f"the matrix {quoted(path)} has {len(combinations):,} cells, more than {MOST:,}: vary fewer values"
        )
    first = _patterns(source, "first", varied, path)
    combinations.sort(
        key=lambda settings: next((i for i, some in enumerate(first) if _matches(settings, some)), len(first))
    )
    numbers = _published(source, varied, combinations, path)
    cells, left_out = {}, {}
    names: dict[str, str] = {}
    for name, settings in _by_name(combinations, path).items():
        recipe = recipes.load(None, base | settings)
        try:
            if recipe.recover.method:
                raise UsageError("a matrix prunes or evaluates: recover its runs with idvl recover")
            recipe = resolve(recipe) if "prune" in run else with_dataset(recipe)
            if (twin := names.setdefault(recipe.model_dump_json(), name)) != name:
                raise UsageError(f"it is the same run as {twin}")
            cells[name] = Cell(name=name, settings=settings, recipe=recipe, published=numbers(settings))
        except UsageError as error:
            left_out[name] = str(error)
    if not cells:
        raise UsageError(f"every cell of the matrix {quoted(path)} is refused: {next(iter(left_out.values()))}")
    return Grid(path=path, run=run, cells=tuple(cells.values()), left_out=left_out, source=source)


def refuse_missing(cells: Iterable[Cell], path: Path) -> None:
    """UsageError where models that cells name by a path do not exist; it names the file's head, which may say more."""
    missing: dict[str, str] = {}
    for name in dict.fromkeys(cell.recipe.model.name for cell in cells):
        try:
            locate(name)
        except UsageError as error:
            missing[name] = str(error)
    if not missing:
        return
    others = f" (the first of {len(missing)} such models)" if len(missing) > 1 else ""
    remedy = f"; see the head of {quoted(path)}" if read_text(path).startswith("#") else ""
    raise UsageError(f"{next(iter(missing.values()))}{others}{remedy}; no cell was run")


def _by_name(combinations: list[Settings], path: Path) -> dict[str, Settings]:
    """The settings of each cell by its name, with a hash behind it where several have one name, or a file has it."""
    names = [name_of(settings) for settings in combinations]
    times, cells = Counter(names), {}
    for settings, name in zip(combinations, names, strict=True):
        if times[name] > 1 or name in RESERVED:  # as of models in folders of one name
            name += f"-{hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:6]}"
        if name in cells:
            raise UsageError(f"{quoted(path)} has a cell twice: {settings}")
        cells[name] = settings
    return cells


def name_of(settings: Mapping[str, Any]) -> str:
    """A folder's name that says the settings, as platon-sparsity-0.8; of a path its last part counts."""
    words = []
    for key, value in settings.items():
        text = Path(value).name if isinstance(value, str) else json.dumps(value, default=str)
        mute = not isinstance(value, str) or value in MUTE
        word = f"{key.rpartition('.')[2]}-{text}" if mute else text
        words.append(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-."))
    return "-".join(words)[:LONGEST] or "base"


def _source(path: Path) -> dict[str, Any]:
    source = yaml_file.read(path, "matrix")
    if not isinstance(source, dict):
        raise UsageError(f"the matrix {quoted(path)} holds nothing; it has {', '.join(KEYS)}")
    for key in source:
        if key not in KEYS:
            raise UsageError(f"unknown key {quoted(key)} in the matrix {quoted(path)}{_nearest(key, KEYS)}")
    return source


def _run(run: Any, path: Path) -> tuple[Work, ...]:
    """What a cell does, in order."""
    allowed = [["prune"], ["prune", "estimate-id"], ["estimate-id"], ["eval"]]
    if run not in allowed:
        raise UsageError(f"run of {quoted(path)} is one of {', '.join(map(str, allowed))}, not {quoted(run)}")
    return tuple(run)


def _flat(base: Any, path: Path) -> Settings:
    """A recipe's sections as dotted keys."""
    if not isinstance(base, dict):
        raise UsageError(f"base of {quoted(path)} is a recipe, not {quoted(base)}")
    flat = {}
    for section, values in base.items():
        if not isinstance(values, dict):
            raise UsageError(f"base.{section} of {quoted(path)} is a section with its settings, not {quoted(values)}")
        flat |= {f"{section}.{name}": value for name, value in values.items()}
    return flat


def _combinations(source: Mapping[str, Any], path: Path) -> Iterator[Settings]:
    """Every combination of the matrix, its first key changing last, then the cells written out."""
    varying = source.get("matrix") or {}
    if not isinstance(varying, dict):
        raise UsageError(f"matrix of {quoted(path)} is keys with lists of values, not {quoted(varying)}")
    for key, values in varying.items():
        if not isinstance(key, str):
            raise UsageError(f"matrix of {quoted(path)} has the key {quoted(key)}, which is not a setting")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{key} in the matrix of {quoted(path)} takes a list of values, not {quoted(values)}")
    count = math.prod(map(len, varying.values())) if varying else 0
    if count > MOST_COMBINED:
        raise UsageError(
            f"the matrix {quoted(path)} has {count:,} combinations, more than {MOST_COMBINED:,}: vary fewer values"
        )
    if varying:
        for values in itertools.product(*varying.values()):
            yield dict(zip(varying, values, strict=True))
    for settings in _mappings(source, "cells", path):
        yield dict(settings)


def _patterns(source: Mapping[str, Any], key: str, varied: Collection[str], path: Path) -> list[Settings]:
    """The entries of `except` or `first`: settings that a cell has, each a value or several."""
    entries = _mappings(source, key, path)
    for name in (name for settings in entries for name in settings):
        if name not in varied:
            raise UsageError(
                f"{quoted(name)} in {key} of {quoted(path)} does not vary in the matrix{_nearest(name, varied)}"
            )
    return entries


def _published(
    source: Mapping[str, Any], varied: Collection[str], cells: list[Settings], path: Path
) -> Callable[[Settings], dict[str, float]]:
    """Settings -> the metrics that the paper has for them: settings and metrics stand side by side in an entry."""
    rows = [
        ({key: row[key] for key in row if key in varied}, {key: row[key] for key in row if key not in varied})
        for row in _mappings(source, "published", path)
    ]
    for where, numbers in rows:
        if not any(_matches(cell, where) for cell in cells):
            raise UsageError(f"published of {quoted(path)} has numbers for no cell: {quoted(where)}")
        for metric, value in numbers.items():
            if "." in metric or not isinstance(value, int | float) or not abs(value) <= LARGEST:
                raise UsageError(
                    f"published of {quoted(path)}: {metric}: {quoted(value)} is neither a setting nor a number"
                )
    return lambda settings: {
        key: value for where, row in rows if _matches(settings, where) for key, value in row.items()
    }


def _mappings(source: Mapping[str, Any], key: str, path: Path) -> list[Settings]:
    entries = source.get(key) or []
    if not isinstance(entries, list) or not all(map(_is_settings, entries)):
        raise UsageError(f"{key} of {quoted(path)} is a list of settings, as in [{{prune.sparsity: 0.8}}]")
    return entries


def _is_settings(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(key, str) for key in value)


def _matches(settings: Settings, some: Settings) -> bool:
    """Whether a cell has the settings of a pattern, whose values may be lists."""
    return all(
        key in settings and (settings[key] in value if isinstance(value, list) else settings[key] == value)
        for key, value in some.items()
    )


def _nearest(word: str, known: Collection[str]) -> str:
    return did_you_mean(word, known) or f"; known are {', '.join(known)}"
