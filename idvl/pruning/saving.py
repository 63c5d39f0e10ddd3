"""What a pruning run leaves behind: model/ and what belongs to it, verified. It prunes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from idvl import json_file, runs
from idvl.checkpoints.card import base_facts, page
from idvl.checkpoints.report import REPORT, counted
from idvl.checkpoints.report import report as finished_report
from idvl.checkpoints.save import save_pruned
from idvl.errors import RunError, quoted
from idvl.files import write_json, write_text
from idvl.profile import Profile
from idvl.pruning import profiles
from idvl.recipe.sections import AUTO
from idvl.schemas import ReportFile
from idvl.sparsity.masks import MASKS, Masks
from idvl.sparsity.weighting import Multipliers

if TYPE_CHECKING:
    from idvl.pruning.calibration import Calibration
    from idvl.pruning.job import Job


def save(
    job: Job | Calibration,
    masks: Masks,
    planned: Mapping[str, Any],
    opened: runs.Run,
    facts: Mapping[str, Any],
    *,
    biases: Masks | None = None,
    profile: Profile | None = None,
    weighted: Multipliers | None = None,
) -> None:
    """Write the pruned model, in whose weights the masks hold, its masks, profile and card; report.json comes last.

    `planned`: the report before pruning; `facts`: how the model came about.
    """
    report = finished_report(
        planned,
        masks,
        biases=biases,
        profile=profile,
        factors=weighted.factors if weighted else None,
        substituted=weighted.substituted if weighted else None,
    )
    loaded = job.loaded
    report = counted(report, loaded.model, loaded.family, unreached=job.unreached, offload=loaded.offload)
    report["made"] = dict(facts)
    if job.profile and job.recipe.prune.profile != AUTO:
        model = {key: job.profile.model.get(key) for key in ("name", "fingerprint")}
        foreign = profiles.is_foreign(job.profile, job.model_description)
        report["profile"] = {"source": job.recipe.prune.profile, "model": model, "other_weights": foreign}
    write(job, masks, report, opened, profile=profile)


def write(
    job: Any, masks: Masks, report: Mapping[str, Any], opened: runs.Run, *, profile: Profile | None = None
) -> None:
    """Write the model of a job, in whose weights the masks hold, and what belongs to it; report.json comes last."""
    for name in ("model", MASKS, "profile.json", "README.md", REPORT):
        opened.path(name)
    stored = job.model_description.get("stored_dtype")
    save_pruned(
        opened.folder / "model",
        job.loaded.model,
        job.loaded.processor,
        masks=masks,
        profile=profile,
        report=report,
        card=_card(job, report),
        structure=job.recipe.prune.structure,
        dtype=getattr(torch, stored) if stored else None,
        trust_remote_code=job.recipe.model.trust_remote_code,
        offload=job.loaded.offload,
    )


def add_evaluation(job: Any, folder: Path, results: Mapping[str, Any]) -> None:
    """Tell the report and the card of a saved run how well its model does."""
    report = read_report(folder)
    about = ("task", "headline", "metrics", "samples", "limit", "bootstrap", "scoring")
    dataset = {key: results["dataset"].get(key) for key in ("dataset", "dataset_id", "split", "join", "learnt")}
    report["evaluation"] = {**{key: results[key] for key in about}, "dataset": dataset}
    card = _card(job, report)
    for path in (folder / "model", folder):
        write_text(path / "README.md", card)
    write_json(folder / REPORT, report)


def skip_evaluation(folder: Path, reason: str) -> None:
    """Tell the report of a saved run why its model is not evaluated, unless it holds an evaluation."""
    report = read_report(folder)
    if not is_evaluated(report):
        write_json(folder / REPORT, report | {"evaluation": {"skipped": reason}})


def is_evaluated(report: Mapping[str, Any]) -> bool:
    """Whether a report tells how well the model does."""
    evaluation = report.get("evaluation")
    return bool(evaluation) and "skipped" not in evaluation


def read_report(folder: Path) -> dict[str, Any]:
    """The report.json of a run that has saved its model. RunError for a file that is damaged."""
    try:
        return json_file.read(folder / REPORT, ReportFile)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{quoted(folder / REPORT)} is damaged ({json_file.reason(error)}): start again with --overwrite"
        ) from error


def check_saved(folder: Path) -> None:
    """RunError where files of a model that was saved in a run folder are missing, or of another size than they were."""
    from safetensors import SafetensorError, safe_open

    model, verified = folder / "model", read_report(folder).get("verified") or {}
    try:
        for name, size in verified.get("files", {}).items():
            if (now := (model / name).stat().st_size) != size:
                raise ValueError(f"{name} has {now:,} bytes, and had {size:,}")
        json_file.load(model / "config.json")
        for path in (*(sorted(model.glob("*.safetensors")) or [model / "model.safetensors"]), folder / MASKS):
            with safe_open(path, "pt"):
                pass
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{quoted(model)} or its masks are not whole any more ({reason}): use --overwrite") from error


def _card(job: Any, report: Mapping[str, Any]) -> str:
    section = job.recipe.model
    return page(
        report,
        model=job.model_description,
        command=report["made"]["command"],
        recipe=job.recipe.to_dict(),
        versions=report["made"]["versions"],
        base=base_facts(job.model_description, cache_dir=section.cache_dir, local_files_only=section.local_files_only),
        evaluation=report["evaluation"] if is_evaluated(report) else None,
    )
