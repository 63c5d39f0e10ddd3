"""The files in a cell's folder: whether its run can be resumed, and whether its settings are still the same."""

from __future__ import annotations

import shutil
from pathlib import Path

from idvl import json_file, runs, yaml_file
from idvl import recipe as recipes
from idvl.errors import RunError, quoted
from idvl.files import read_text, reading
from idvl.pruning.saving import read_report
from idvl.pruning.settings import schedule_of
from idvl.recipe import Recipe
from idvl.sweep.worker import Failed


def clear(folder: Path) -> None:
    """Remove a folder of this sweep whose run.json or recipe.yaml is missing or damaged: no run can be resumed in it.

    What it holds may be of other settings. Failed where a file cannot be read now: the next try may.
    """
    try:
        json_file.load(folder / "run.json")
        lost = _is_lost(folder / "recipe.yaml")
    except (FileNotFoundError, ValueError):
        lost = True
    except OSError as error:
        raise Failed(f"cannot read {quoted(error.filename)}: {json_file.reason(error)}") from error
    if lost:
        shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path) -> tuple[list[str], Recipe] | None:
    """The sections of a cell's recipe.yaml and their settings, None where the file is missing or damaged.

    UsageError for one that cannot be read now, or that another version of idvl wrote.
    """
    path = folder / "recipe.yaml"
    with reading(path, "recipe"):
        if _is_lost(path):
            return None
    return recipes.sections(path), recipes.load(path)


def _is_lost(path: Path) -> bool:
    """Whether a file of settings is missing, cut off or no YAML. OSError for one that cannot be read now."""
    try:
        text = read_text(path, yaml_file.LARGEST)
        yaml_file.parse(text)
    except (FileNotFoundError, ValueError):
        return True
    # a value that was cut off may still be one
    return not text.endswith("\n")


def refuse_others(folder: Path, sections: list[str], before: Recipe, now: Recipe) -> None:
    """UsageError where these sections of a finished cell's settings differ from what they are now."""
    steps = _steps(folder)
    pairs = []
    for each in (before, now):
        parts = each.to_dict(*sections)
        pairs.append({f"{section}.{key}": value for section in parts for key, value in parts[section].items()})
        if "prune" in parts:  # where it is not given, it depends on the steps
            pairs[-1]["prune.mask_every"] = schedule_of(each.prune, steps).mask_every if steps else None
    runs.refuse_difference(folder, *pairs)


def _steps(folder: Path) -> int | None:
    """The optimizer steps of a finished pruning run, None where its report does not tell."""
    try:
        return read_report(folder)["made"].get("steps") or None
    except RunError:
        return None
