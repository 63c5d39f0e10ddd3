"""Measure the loss when one layer alone, or one modality alone, is pruned; leaves a run folder behind.

recipe -> model, held-out samples, profile -> plan -> a loss a line in metrics.jsonl -> sensitivity.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.data.samples import Selection
from idvl.data.splits import EVALUATION
from idvl.distributed import Team
from idvl.downloads import Download
from idvl.errors import UsageError
from idvl.evaluation.learnt import mark_learnt
from idvl.models.loading import Loaded
from idvl.pruning.sensitivity import SensitivityPlan, SensitivityRun
from idvl.recipe import Recipe
from idvl.reporter import Reporter, resumable
from idvl.session import begin, choose_samples, image_store, open_model, open_run, planned_downloads, with_dataset

RATIOS = (0.2, 0.4, 0.6, 0.8, 0.9)
# held-out samples, where the recipe sets no eval.limit
SAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class SensitivityResult:
    """What a run ends with: sensitivity.json as a value, and its folder; after a plan, or beside the first process,
    neither. `downloads`: what a plan found lacking."""

    plan: SensitivityPlan
    document: dict[str, Any] | None = None
    folder: Path | None = None
    downloads: tuple[Download, ...] = ()


def run(
    recipe: Recipe,
    *,
    folder: Path | None,
    reporter: Reporter,
    ratios: Sequence[float] = RATIOS,
    resume: bool = False,
    overwrite: bool = False,
    plan_only: bool = False,
    reads: Sequence[Path] = (),
) -> SensitivityResult:
    """Measure the layers in the recipe's scope, and each modality among them. `folder` None: a new one under runs/.

    The recipe's `prune` gives scope and profile (auto: estimated first), its `eval` split, limit and batch size.
    `reads`: runs that are read afterwards, which `overwrite` must not replace.
    Raises UsageError, before anything is written, for what cannot be carried out.
    """
    if wrong := [ratio for ratio in ratios if not 0 < ratio < 1]:
        raise UsageError(f"a ratio must lie between 0 and 1, not {wrong[0]}")
    recipe = with_dataset(recipe)
    name = runs.FolderName("sensitivity", recipe.model.name, recipe.data.dataset)
    options = {"resume": resume, "overwrite": overwrite, "plan": plan_only, "ratios": list(ratios)}
    path, device, team = begin(recipe, name, folder, reads=reads, **options)
    lacking = planned_downloads(recipe, team, reporter, recipe.eval.split or EVALUATION) if plan_only else ()
    loaded = open_model(recipe.model, device, team)
    with ExitStack() as stack:
        store = stack.enter_context(image_store(path, team, "probing"))
        work = SensitivityRun(
            recipe, loaded, _held_out(recipe, loaded, team, reporter, store), team, reporter, sorted(set(ratios))
        )
        plan = work.plan(path if resume else None)
        if plan_only:
            return SensitivityResult(plan=plan, downloads=lacking)
        options = {"recipe": recipe.to_dict(), "signature": work.signature(), "resume": resume, "overwrite": overwrite}
        opened, path = open_run(stack, team, folder, name, **options)
        for line in plan.lines():
            reporter.note(line)
        with resumable(path, reporter):
            document = work.execute(path, opened)
    return SensitivityResult(plan=plan, document=document, folder=path if opened else None)


def _held_out(recipe: Recipe, loaded: Loaded, team: Team, reporter: Reporter, store: Path) -> Selection:
    """The samples that losses are measured on, described as learnt from where a run behind the model used them."""
    settings = recipe.eval
    selection = choose_samples(
        recipe,
        team,
        reporter=reporter,
        purpose="evaluation",
        split=settings.split or EVALUATION,
        n=settings.limit or SAMPLES,
        loaded=loaded,
        force=True,
        distinct=False,
        store=store,
    )
    return mark_learnt(selection, recipe, team, reporter)
