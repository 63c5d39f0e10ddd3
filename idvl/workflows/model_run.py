"""A run that leaves a model behind: opened or resumed, planned, carried out, evaluated, uploaded.

It does not know how the model is made.
"""

from __future__ import annotations

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from idvl import runs, yaml_file
from idvl.checkpoints.hub import check as check_hub
from idvl.checkpoints.hub import push
from idvl.checkpoints.report import REPORT
from idvl.data.splits import EVALUATION, TRAINING
from idvl.downloads import Download
from idvl.errors import UsageError, quoted
from idvl.evaluation.evaluation import Evaluation
from idvl.evaluation.scoring import is_complete
from idvl.models.loading import load
from idvl.pruning.evaluation import FINAL, evaluate_pruned, prepare_evaluation
from idvl.pruning.saving import add_evaluation, check_saved, is_evaluated, read_report, skip_evaluation
from idvl.recipe import EvalSection, ModelSection, Recipe
from idvl.reporter import Reporter, resumable
from idvl.session import begin, image_store, open_run, planned_downloads

# settings that the dimensions of a finished run depend on, and those of an evaluation
MEASURED = ("data.samples", *(f"estimate.{name}" for name in ("tokens", "capture", "estimator", "layers", "modality")))
EVALUATED = tuple(f"eval.{name}" for name in EvalSection.model_fields if name not in ("batch_size", "after"))

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What a run ends with: the report and its folder, or after a plan (and beside the first process) neither.

    `downloads`: what a plan found lacking.
    """

    plan: Any
    report: dict[str, Any] | None = None
    folder: Path | None = None
    downloads: tuple[Download, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How far a run has come that is resumed."""

    begun: bool = False
    saved: bool = False
    evaluated: bool = False


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is left to do: the plan (None: the model is saved), the estimation of the profile, and the evaluation.

    `unevaluated` is the reason why no evaluation is possible.
    """

    plan: Any
    estimation: Any
    evaluation: Evaluation | None
    unevaluated: str | None


@dataclass(frozen=True)
class ModelRun(ABC):
    """A job, what is left of it to do, and its folder, which the first process alone has opened."""

    command: ClassVar[str]
    # what its model is called, and the folders of checkpoints that a finished run does not need
    done: ClassVar[str]
    leftovers: ClassVar[frozenset[str]]

    job: Any
    work: Preparation
    folder: Path
    opened: runs.Run | None
    reporter: Reporter
    resume: bool

    @staticmethod
    @abstractmethod
    def plan(job: Any, resumed: Path | None, reporter: Reporter) -> tuple[Any, Any]:
        """The plan of a job, and the estimation of its profile, if any. `resumed`: the folder that is continued."""

    @abstractmethod
    def execute(self) -> None:
        """Make the model and save it."""

    def announce(self) -> None:
        """Note what the run is going to do."""
        plan = self.work.plan
        for line in (*plan.scope(), *plan.lines()) if plan else (f"the model is {self.done} already",):
            self.reporter.note(line)

    def remove_leftovers(self) -> None:
        """Remove the checkpoints of a run whose model is saved already: a kill may have kept it from doing so."""
        for name in self.leftovers & set(self.opened.record["files"] if self.opened else []):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def evaluate(self) -> None:
        """Evaluate the saved model; report and card tell how well it does, or why it is not evaluated."""
        job, work = self.job, self.work
        if work.evaluation and job.recipe.eval.after:
            if self.opened:
                self.opened.path(FINAL)
            section = job.recipe.model
            options = section.model_dump(include={"trust_remote_code", "chat_template", "clean_texts"})
            device = job.loaded.model.device
            saved = job.team.each(lambda: load(str(self.folder / "model"), device=device, **options))
            results = evaluate_pruned(work.evaluation, saved, self.folder / FINAL, self.reporter)
            job.team.first(lambda: add_evaluation(job, self.folder, results))
        elif work.unevaluated:
            job.team.first(lambda: skip_evaluation(self.folder, work.unevaluated))


def carry_out(
    recipe: Recipe,
    kind: type[ModelRun],
    gather: Callable[..., Any],
    *,
    folder: Path | None,
    reporter: Reporter,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    push_to: str | None = None,
    private: bool = True,
    teacher: ModelSection | None = None,
    reads: Sequence[Path | None] = (),
) -> ModelResult:
    """Carry out a resolved recipe, whose job `gather` makes. `folder` None: a new one under runs/.

    `push_to`: the Hub repository to upload the model to; `teacher`: the dense model that is read beside it; `reads`:
    folders of earlier runs that are. Raises UsageError, before anything is written or removed, for what cannot be
    carried out.
    """
    if push_to:
        check_hub(push_to)
    name = runs.FolderName(kind.command, recipe.model.name, recipe.data.dataset)
    options = {"resume": resume, "overwrite": overwrite}
    beside = {"reads": reads, "teacher": teacher}
    path, device, team = begin(recipe, name, folder, plan=plan_only, push_to=push_to, **beside, **options)
    lacking = planned_downloads(recipe, team, reporter, *_splits(recipe), teacher=teacher) if plan_only else ()
    with ExitStack() as stack:
        stores = [stack.enter_context(image_store(path, team, use)) for use in ("training", "evaluation")]
        job = gather(recipe, device, team, reporter, store=stores[0])
        state = team.first(lambda: state_of(path)) if resume and not plan_only else RunState()
        work = _prepare(job, kind, state, path if resume else None, reporter, store=stores[1])
        if plan_only:
            return ModelResult(plan=work.plan, downloads=lacking)
        options |= {"recipe": team.first(lambda: _recipe_of(job.recipe, path, state)), "signature": job.signature()}
        opened, folder = open_run(stack, team, folder, name, **options)
        run = kind(job, work, folder, opened, reporter, resume)
        run.announce()
        with resumable(folder, reporter):
            if state.saved:
                run.remove_leftovers()
            else:
                run.execute()
            run.evaluate()
        report = team.first(lambda: read_report(folder))
        if opened and push_to:
            reporter.note(f"uploaded to {push(folder / 'model', push_to, private=private)}")
    return ModelResult(plan=work.plan, report=report, folder=folder if opened else None)


def _splits(recipe: Recipe) -> list[str]:
    """The splits that a run trains on, or calibrates with, and is evaluated on."""
    read = [recipe.data.split or TRAINING]
    return [*read, recipe.eval.split or EVALUATION] if recipe.eval.after else read


def state_of(folder: Path) -> RunState:
    """The state of the run in a folder. RunError where its saved model is damaged."""
    saved = (folder / REPORT).exists()
    if saved:
        check_saved(folder)
    evaluated = saved and is_evaluated(read_report(folder)) and is_complete(folder / FINAL)
    return RunState(begun=runs.read_record(folder) is not None, saved=saved, evaluated=evaluated)


def _recipe_of(recipe: Recipe, folder: Path, state: RunState) -> dict[str, Any]:
    """The recipe to write down; of a resumed run, with the settings of what it has done.

    UsageError for other ones, where a number depends on them and the run's signature does not hold them.
    """
    current = recipe.to_dict()
    if not state.begun:
        return current
    earlier = _sections(folder / "recipe.yaml")
    # which older runs do not have
    earlier = {"recover": current["recover"], **earlier}
    if earlier.keys() != current.keys():
        if state.saved:  # nothing else says by which settings it was measured and evaluated
            raise UsageError(
                f"cannot resume {quoted(folder)}, whose model is saved: its recipe.yaml is missing, damaged or of "
                "another version: restore it, evaluate the model with idvl eval, or use --overwrite"
            )
        logger.warning("recipe.yaml of %r was missing or damaged: this command's settings take its place", str(folder))
        return current
    on_the_way = recipe.eval.every or earlier["eval"].get("every")
    fixed = [*(MEASURED if state.saved else ()), *(EVALUATED if state.evaluated or on_the_way else ())]
    parts = [(key, *key.split(".")) for key in fixed]
    values = [
        {key: sections[part][name] for key, part, name in parts if name in earlier[part]}
        for sections in (earlier, current)
    ]
    runs.refuse_difference(folder, *values)
    return current if not state.saved else earlier if state.evaluated else earlier | {"eval": current["eval"]}


def _prepare(
    job: Any, kind: type[ModelRun], state: RunState, resumed: Path | None, reporter: Reporter, *, store: Path
) -> Preparation:
    """What is left of a run to do. `resumed`: its folder where it is continued; `store`: a file for images."""
    evaluation, reason = (None, None) if state.evaluated else prepare_evaluation(job, reporter, store=store)
    plan, estimation = (None, None) if state.saved else kind.plan(job, resumed, reporter)
    return Preparation(plan=plan, estimation=estimation, evaluation=evaluation, unevaluated=reason)


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a recipe as they are written, {} for a file that is missing or damaged."""
    try:
        sections = yaml_file.read(path, "recipe")
    except UsageError:
        return {}
    sound = isinstance(sections, dict) and all(isinstance(part, dict) for part in sections.values())
    return sections if sound else {}
