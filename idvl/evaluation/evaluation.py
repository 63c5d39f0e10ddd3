"""Evaluation of a model on a task: usable samples, predictions in a folder, results.

It does not know which command evaluates, nor whose folder it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from idvl import predictions, runs, tasks
from idvl.data.catalog import CATALOG, evaluator_of
from idvl.data.samples import Selection
from idvl.data.splits import EVALUATION
from idvl.device import peak_memory
from idvl.distributed import Team
from idvl.errors import UsageError
from idvl.evaluation import prediction, scoring
from idvl.evaluation.learnt import mark_learnt
from idvl.evaluation.scoring import PREDICTIONS, REFINED, RESULTS
from idvl.files import write_json
from idvl.metrics import other
from idvl.models.generation import Generation, resolve
from idvl.models.loading import Loaded
from idvl.recipe import EvalSection, Recipe
from idvl.reporter import Reporter
from idvl.session import choose_samples
from idvl.tasks import Pass, Task, TaskSettings

# skills that write text, and the settings of how
WRITING = {"caption", "answer"}
WRITTEN = {field.name for field in fields(Generation)}
# samples that show what a dataset holds
FEW = 8
# files of an evaluation in its folder
FILES = (f"{PREDICTIONS}.jsonl", f"{REFINED}.jsonl", RESULTS)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A recipe's task with its samples, for one model. `left_out`: how many samples lack what.

    `other_metrics`: the metrics that the recipe names beside the task's own.
    """

    recipe: Recipe
    name: str
    loaded: Loaded
    selection: Selection
    left_out: Mapping[str, int]
    settings: TaskSettings
    team: Team
    other_metrics: Mapping[str, Any]

    @property
    def task(self) -> Task:
        return tasks.load(self.name)

    @property
    def device(self) -> torch.device:
        return self.loaded.model.device

    @property
    def limit(self) -> int | None:
        """The limit, where it left samples out, as far as is known."""
        limit, count = self.recipe.eval.limit, len(self.selection.samples) + sum(self.left_out.values())
        return limit if limit is not None and count >= limit and not self.selection.is_whole else None

    def checked_pass(self) -> Pass:
        """The pass over the samples; what model or settings do not allow shows at the first one, on all processes."""

        def make() -> Pass:
            task_pass = self.task.predict(self.loaded, self.selection.samples, self.settings)
            with prediction.fitting(1):
                task_pass.perform(task_pass.items[:1], task_pass.prepare(task_pass.items[:1]))
            return task_pass

        return self.team.each(make)

    def batch_size(self, task_pass: Pass, reporter: Reporter) -> int:
        """The size in the recipe, or the largest that fits."""
        if self.recipe.eval.batch_size:
            return self.recipe.eval.batch_size
        size = prediction.largest_batch(task_pass, self.device, self.team)
        reporter.note(f"batches of {size}")
        return size

    def signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues: all that its predictions depend on."""
        about = ("fingerprint", "configuration", "revision", "class", "dtype", "chat_template")
        return {
            "task": self.name,
            **{key: self.loaded.description[key] for key in about},
            "samples": self.selection.description["fingerprint"],
            "count": len(self.selection.samples),
            **self._recorded(),
        }

    def _recorded(self) -> dict[str, Any]:
        settings = self.settings
        own = {"evaluator": settings.evaluator} if settings.evaluator != "vqa" else {}
        if self.loaded.family.clean_texts is False:
            own["clean_texts"] = False
        generation = asdict(settings.generation)
        if not generation["beam_length"]:
            del generation["beam_length"]
        return {**generation, "templates": list(settings.templates), "rerank": settings.rerank, **own}

    def execute(
        self,
        task_pass: Pass,
        folder: Path,
        reporter: Reporter,
        *,
        batch_size: int,
        compared: Path | None = None,
    ) -> dict[str, Any]:
        """Predict what is missing in the folder, score it, write results.json; the results."""
        provenance = runs.provenance()
        totals = self._predicted(task_pass, folder, batch_size, reporter)
        reporter.note("scoring")

        def score() -> dict[str, Any]:
            numbers = scoring.numbers(
                self.name,
                folder / f"{PREDICTIONS}.jsonl",
                seed=self.recipe.data.seed,
                resamples=self.recipe.eval.resamples or scoring.RESAMPLES,
                fingerprint=self.selection.description["fingerprint"],
                compared=compared,
                settings=self._recorded(),
                other_metrics=self.other_metrics,
            )
            results = numbers | self._facts(totals, batch_size) | {"provenance": provenance}
            write_json(folder / RESULTS, results)
            return results

        return self.team.first(score)

    def _predicted(self, task_pass: Pass, folder: Path, batch_size: int, reporter: Reporter) -> prediction.Totals:
        options = {"folder": folder, "team": self.team, "device": self.device}
        with reporter.progress("predicting") as progress:
            totals = prediction.predict(
                task_pass, name=PREDICTIONS, batch_size=batch_size, progress=progress, **options
            )
        second_pass = self.team.each(lambda: self._refined(folder)) if self.task.refine else None
        if second_pass:
            with reporter.progress("matching") as progress:
                totals += prediction.predict(second_pass, name=REFINED, batch_size=1, progress=progress, **options)
        if totals.redone:
            why = "damaged, did not fit the dataset, or were of unfinished batches"
            reporter.warn(f"{totals.redone} lines were {why}: predicted again")
        return totals

    def _refined(self, folder: Path) -> Pass | None:
        records = predictions.read(folder / f"{PREDICTIONS}.jsonl")
        return self.task.refine(self.loaded, self.selection.samples, self.settings, records)

    def _facts(self, totals: prediction.Totals, batch_size: int) -> dict[str, Any]:
        """How the predictions came about."""
        long = ("ids", "skipped")
        cuda = self.device.type == "cuda"
        return {
            "model": self.loaded.description,
            "dataset": {key: value for key, value in self.selection.description.items() if key not in long},
            "samples": len(self.selection.samples),
            "left_out": dict(self.left_out),
            "limit": self.limit,
            "settings": {**self._recorded(), "batch_size": batch_size},
            **asdict(totals),
            "peak_memory": None if totals.found else peak_memory(self.device),
            "device": torch.cuda.get_device_name(self.device) if cuda else "cpu",
            "processes": self.team.size,
        }


def prepare(recipe: Recipe, loaded: Loaded, team: Team, reporter: Reporter, *, store: Path) -> Evaluation:
    """The recipe's task for a model, on the usable samples; `store` takes their images.

    Raises UsageError for a metric that cannot be loaded, a model that is partly random or cannot do the task, and if no
    sample is usable.
    """
    extra = other_metrics(recipe)
    if missing := loaded.description.get("missing"):
        raise UsageError(f"{loaded.name} lacks weights and would be partly random: {', '.join(missing[:3])}")
    options = {"split": recipe.eval.split or EVALUATION, "force": True, "distinct": False, "store": store}
    name = _task(recipe, loaded, lambda: choose_samples(recipe, team, n=FEW, probe=True, **options))
    task = tasks.load(name)
    recipe = _without_unread(recipe, loaded, name)
    if task.ready:
        team.each(task.ready)
    selection = choose_samples(
        recipe,
        team,
        reporter=reporter,
        purpose="evaluation",
        n=recipe.eval.limit,
        gathered=task.gathered,
        keep_order=True,
        **options,
    )
    if task.gathered and selection.doubtful_captions:
        raise UsageError(selection.doubtful_captions)
    selection = task.labelled(loaded, selection)
    usable, left_out = _usable(task, selection, recipe.data.dataset, reporter)
    usable = mark_learnt(usable, recipe, team, reporter)
    settings = _task_settings(recipe, loaded, task, usable)
    return Evaluation(
        recipe=recipe,
        name=name,
        loaded=loaded,
        selection=usable,
        left_out=left_out,
        settings=settings,
        team=team,
        other_metrics=extra,
    )


def other_metrics(recipe: Recipe) -> dict[str, Any]:
    """The metrics that a recipe names beside the task's own. UsageError for one that cannot be loaded."""
    trusted = recipe.model.trust_remote_code
    return {name: other.load(name, trust_remote_code=trusted) for name in recipe.eval.metrics}


def _task(recipe: Recipe, loaded: Loaded, few: Callable[[], Selection]) -> str:
    """The recipe's task, or the first that the model can do and the dataset is for, as known or a few samples show."""
    skills, entry = loaded.family.skills, CATALOG.get(recipe.data.dataset)
    offered = list(entry.tasks) if entry else None
    able = tasks.possible(skills)
    if offered is None and recipe.eval.task is None and len(able) > 1:
        shown = few()
        fitting = [
            name for name in able if any(tasks.load(name).unusable_reason(sample) is None for sample in shown.samples)
        ]
        sure = [name for name in fitting if not (shown.doubtful_captions and tasks.load(name).gathered)]
        offered = sure or fitting or None
    return tasks.choose(recipe.eval.task, skills, model=loaded.name, offered=offered)


def unread_settings(loaded: Loaded, name: str) -> set[str]:
    """The settings of tasks that the task of this name does not read with this model."""
    skills, task = loaded.family.skills, tasks.load(name)
    read = {key for key, enough in task.reads.items() if any(needed <= skills.keys() for needed in enough)}
    for skill in _writing(task):
        read |= WRITTEN - skills[skill].unread - ({"beam_length"} if skills[skill].whole_beams is None else set())
    return WRITTEN.union(*(tasks.load(each).reads for each in tasks.names())) - read


def _without_unread(recipe: Recipe, loaded: Loaded, name: str) -> Recipe:
    """The recipe with the defaults of settings that the task does not read with this model.

    UsageError where one of them is set to something else that is not empty.
    """
    defaults = {key: EvalSection.model_fields[key].default for key in sorted(unread_settings(loaded, name))}
    for key, default in defaults.items():
        value = getattr(recipe.eval, key)
        if value and value != default:
            raise UsageError(f"{key} {value} and task {name} of {loaded.name}: it has no effect; leave {key} out")
    return recipe.model_copy(update={"eval": recipe.eval.model_copy(update=defaults)})


def _writing(task: Task) -> set[str]:
    """The skills of a task that write text."""
    return WRITING & set().union(*task.skills)


def _usable(task: Task, selection: Selection, dataset: str, reporter: Reporter) -> tuple[Selection, dict[str, int]]:
    """The usable samples, and how many are unusable for which reason."""
    reasons = [task.unusable_reason(sample) for sample in selection.samples]
    left_out = dict(Counter(reason for reason in reasons if reason))
    usable = [sample for sample, reason in zip(selection.samples, reasons, strict=True) if reason is None]
    for reason, count in left_out.items():
        message = f"{count} of {len(reasons)} samples of {dataset} (split {selection.description['split']}): {reason}"
        if not usable:
            raise UsageError(f"{message}; choose a split or a dataset that has them, or name their columns")
        reporter.warn(f"{message}; they are left out")
    return Selection(samples=usable, description=selection.description), left_out


def _task_settings(recipe: Recipe, loaded: Loaded, task: Task, selection: Selection) -> TaskSettings:
    options, classes = recipe.eval, selection.description.get("classes")
    generation = Generation(**options.model_dump(include=WRITTEN))
    own = loaded.family.skills.get("embed_texts")
    for skill in _writing(task):
        generation = resolve(loaded, skill, generation)
    return TaskSettings(
        generation=generation,
        classes=tuple(classes) if classes else None,
        labels=selection.description.get("labels"),
        templates=tuple(options.templates or (own.templates if own else TaskSettings.templates)),
        rerank=options.rerank,
        evaluator=evaluator_of(recipe.data.dataset, recipe.data.dataset_id),
    )
