"""idvl.prune, idvl.evaluate, and what they leave behind, read: runs from Python, each a function of its settings."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from idvl import arguments, runs
from idvl import recipe as recipes
from idvl.errors import UsageError, did_you_mean, quoted
from idvl.evaluation.scoring import RESULTS, read_results
from idvl.pruning.settings import refuse_idle
from idvl.recipes import find
from idvl.reporter import Progress
from idvl.sparsity.masks import Masks
from idvl.workflows import evaluate as evaluating
from idvl.workflows import prune as pruning
from idvl.workflows import prune_recover
from idvl.workflows import recover as recovering

# the sections whose settings each function takes; of a name that several have, the first section's is meant
PRUNING = ("prune", "train", "data", "eval", "estimate", "model", "recover")
RECOVERING = ("recover", "train", "data", "eval", "prune", "model")
EVALUATING = ("eval", "data", "model")
# seconds between two lines of progress
LINE_EVERY = 30.0
# options that the recipe names otherwise
OTHER_OPTIONS = {"eval_limit": "eval.limit", "recover": "recover.method"}
# between section and name of a setting
DOT = "__"

logger = logging.getLogger(__name__)


class LogReporter:
    """Tells the log how a run is going."""

    def note(self, text: str) -> None:
        logger.info(text)

    def warn(self, text: str) -> None:
        logger.warning(text)

    @contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """A line every LINE_EVERY seconds."""
        logged = time.monotonic()

        def advance(done: int, total: int, detail: str = "") -> None:
            nonlocal logged
            if time.monotonic() - logged >= LINE_EVERY:
                logged = time.monotonic()
                logger.info("%s: %d %%%s", label, 100 * done // max(total, 1), detail and f", {detail}")

        yield advance


def prune(
    model: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Prune a model while it trains, as `idvl prune` does; the object of report.json, and its `folder`.

    `model`: a Hub id, a folder or a built-in name. `recipe`: a YAML file with settings, or the name of a packaged one.
    `output`: the run folder (None: a new one under runs/), which `resume` continues and `overwrite` replaces.
    `settings` are those of a recipe, by the names of the command's options: dataset, sparsity, criterion, max_steps,
    batch_size, ...; section__name names the one of a section: train__samples. Raises UsageError for what cannot be
    carried out, RunError for a run that failed.
    """
    run = _arguments("prune", model, recipe, PRUNING, settings, output=output, resume=resume, overwrite=overwrite)
    refuse_idle(run["recipe"].prune, {_key(name, PRUNING): value for name, value in settings.items()})
    result = (prune_recover if run["recipe"].recover.method else pruning).run(**run)
    return {**result.report, "folder": result.folder and str(result.folder)}


def recover(
    model: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Train a pruned model back under its masks, as `idvl recover` does; the object of report.json, and its `folder`.

    `model`: the folder of a pruning run, or a model that has zeros. The other arguments are as for `prune`, `settings`
    those of `idvl recover`: method, rank, masks, distill, dataset, epochs, batch_size, ...
    """
    run = _arguments("recover", model, recipe, RECOVERING, settings, output=output, resume=resume, overwrite=overwrite)
    result = recovering.run(**run)
    return {**result.report, "folder": result.folder and str(result.folder)}


def evaluate(
    model: str | Path | None = None,
    *,
    recipe: str | Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    compare: str | Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate a model on a task, as `idvl eval` does; the object of results.json, and its `folder`.

    `compare`: the folder of an evaluation on the same samples, or its results.json, to show the difference to. The
    other arguments are as for `prune`, `settings` those of `idvl eval`: dataset, task, limit, batch_size, ...
    """
    run = _arguments("eval", model, recipe, EVALUATING, settings, output=output, resume=resume, overwrite=overwrite)
    result = evaluating.run(**run, compared=None if compare is None else arguments.path("compare", compare))
    return {**result.results, "folder": str(result.folder)}


def load_results(path: str | Path) -> dict[str, Any]:
    """The results of an evaluation: its folder, that of a pruning run, or its results.json. UsageError for none."""
    path = arguments.path("results", path)
    files = [path / RESULTS, path / "eval" / RESULTS] if os.path.isdir(path) else [path]
    return read_results(next((file for file in files if os.path.exists(file)), files[0]))


def load_masks(path: str | Path) -> Masks:
    """The masks of a pruning run: its folder, or its masks.safetensors. UsageError if there are none."""
    return Masks.load(path)


def _arguments(
    command: str,
    model: str | Path | None,
    file: str | Path | None,
    sections: tuple[str, ...],
    settings: Mapping[str, Any],
    *,
    output: str | Path | None,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """The arguments of the workflow; its recipe is a file with settings on top. UsageError for what contradicts."""
    folder = None if output is None else arguments.path("output", output)
    file = None if file is None else arguments.path("recipe", file)
    if model is not None:
        arguments.path("model", model, hint="; for a model in memory see idvl.Pruner and idvl.estimate_id")
    flags = {"resume": resume, "overwrite": overwrite}
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise UsageError(f"{name} is True or False, not {quoted(flag)}")
        if flag and output is None:
            raise UsageError(f"{name}=True needs the folder of the run: output=")
    if overwrite and file:
        runs.keep(output, [find(file, "recipe")])
    overrides = {} if model is None else {"model.name": str(model)}
    for name, value in settings.items():
        if (key := _key(name, sections)) in overrides:
            raise UsageError(f"{key} is set twice, the second time by {name}=: leave one out")
        if _negates(name, key):
            if not isinstance(value, bool):
                raise UsageError(f"{name} is True or False, not {quoted(value)}")
            value = not value
        overrides[key] = str(value) if isinstance(value, Path) else value
    parsed = recipes.load(file, overrides)
    recipes.refuse_unread(command, overrides)
    return {"recipe": parsed, "folder": folder, "reporter": LogReporter(), **flags}


def _key(name: str, sections: tuple[str, ...]) -> str:
    """The dotted key that an argument names: that of the command's option, or of a setting without one."""
    if DOT in name:
        return name.replace(DOT, ".", 1)
    keys = _keys(sections)
    if name not in keys:
        hint = did_you_mean(name, keys) or "; settings have the names of the command's options, or section__name"
        raise UsageError(f"unknown setting {quoted(name)}{hint}")
    return keys[name]


@functools.cache
def _keys(sections: tuple[str, ...]) -> dict[str, str]:
    """Every argument for settings of these sections, with its key; settings that have an option come first."""
    flags = {key: schema["flag"] for key, schema in recipes.described().items()}
    own = [key for section in sections for key in flags if key.startswith(f"{section}.")]
    keys: dict[str, str] = {}
    for key in sorted(own, key=lambda key: flags[key] == ""):
        options = [option.removeprefix("--").replace("-", "_") for option in (flags[key] or "").split("/") if option]
        for name in (key.partition(".")[2], *options):
            keys.setdefault(name, key)
    return keys | OTHER_OPTIONS


def _negates(name: str, key: str) -> bool:
    """Whether an argument is the second of two options, as in --eval/--no-eval."""
    flag = recipes.described().get(key, {}).get("flag") or ""
    return flag.endswith(f"/--{name.replace('_', '-')}")
