"""Links between runs: the baseline evaluation, and the evaluations and profiles of a pruned model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl.profile import Profile
from idvl.reporting.collect import Study
from idvl.reporting.run_record import RunRecord


@dataclass(frozen=True, eq=False)
class MeasuredProfile:
    """A profile, the run that has it and its file. `pruned`: the run of prune that saved the model measured."""

    profile: Profile
    run: RunRecord
    source: str
    pruned: RunRecord | None

    @property
    def model(self) -> str:
        """The model measured, in words."""
        if self.pruned:
            return f"{self.pruned.model}, pruned"
        name = self.profile.model.get("name") or self.run.model
        if self.run.kind != "prune":
            return name
        return f"{name}, {'on its way' if self.renewed else 'dense'}"

    @property
    def renewed(self) -> bool:
        """Whether it is of a model that was being pruned."""
        refreshed = self.run.kind == "prune" and self.run.signature.get("prune.refresh_profile")
        return bool(refreshed) and self.profile is not self.run.dense

    @property
    def title(self) -> str:
        return f"{self.model}, on {self.profile.dataset.get('dataset', self.run.dataset)}: {self.run.label}"


def profiles_of(study: Study) -> list[MeasuredProfile]:
    """Every distinct profile with the first run that has it, those of pruned models last.

    Runs of one dense model share theirs; of equal ones that of a run of estimate-id stands for all.
    """
    found: dict[str, MeasuredProfile] = {}
    for run in sorted(study.runs, key=lambda run: run.kind != "estimate-id"):
        pruned = pruned_by(run, study)
        for profile, file in ((run.dense, "profile/profile.json"), (run.profile, "profile.json")):
            if profile is not None and profile.layers:
                estimates = [(name, layer.estimate.dimension) for name, layer in profile.layers.items()]
                key = repr((profile.model.get("fingerprint"), estimates))
                found.setdefault(key, MeasuredProfile(profile, run, run.source(file), pruned))
    return sorted(found.values(), key=lambda one: one.pruned is not None)


def measured_alike(one: Profile, other: Profile) -> bool:
    """Whether two profiles are of the same samples, by the same protocol."""
    return one.protocol == other.protocol and one.dataset.get("fingerprint") == other.dataset.get("fingerprint")


def evaluated_alike(one: RunRecord, other: RunRecord) -> bool:
    """Whether two evaluations are of the same samples, by the same settings. One that draws all of a split may
    have another order than the split."""
    if _how(one) != _how(other):
        return False
    first, second = (run.results.get("dataset") or {} for run in (one, other))
    named = ("dataset", "dataset_id", "revision", "split")
    if [first.get(key) for key in named] != [second.get(key) for key in named]:
        return False
    if one.results.get("samples") != other.results.get("samples"):
        return False
    if first.get("dataset") and (one.results.get("limit") is None) != (other.results.get("limit") is None):
        return True
    return first.get("fingerprint") == second.get("fingerprint")


def _how(run: RunRecord) -> dict[str, Any]:
    """The settings of an evaluation that its numbers depend on."""
    settings = run.results.get("settings") or {}
    return {key: value for key, value in settings.items() if key != "batch_size"} | {"by": run.results.get("scoring")}


def dense_of(run: RunRecord, study: Study) -> RunRecord | None:
    """The evaluation of the model that a run began with, on the samples that the run was evaluated on."""
    wanted = run.signature.get("fingerprint")
    for other in study.of("eval"):
        same = wanted and (other.results.get("model") or {}).get("fingerprint") == wanted
        if same and other.results.get("task") == run.results.get("task") and evaluated_alike(other, run):
            return other
    return None


def dense_runs(runs: Iterable[RunRecord], study: Study) -> list[RunRecord]:
    """The evaluations of the models that runs began with, one of each model."""
    found: dict[str, RunRecord] = {}
    for run in runs:
        if dense := dense_of(run, study):
            found.setdefault(run.signature["fingerprint"], dense)
    return list(found.values())


def pruned_by(run: RunRecord, study: Study) -> RunRecord | None:
    """The run of prune whose saved model `run` measured or evaluated; None for any other model.

    Its folder tells, as two runs may have saved equal weights, unless the weights there are others by now; else the
    fingerprint.
    """
    described = (run.profile.model if run.profile else None) or run.results.get("model") or {}
    fingerprint = described.get("fingerprint")
    # in half precision the same weights have another one
    full = described.get("dtype") in (None, "float32")
    for place in _places(described.get("path"), described.get("name") or run.model, run.folder):
        found = study.saved.get(place)
        if found is run:
            return None
        known = found and full and fingerprint and found.saved_fingerprint
        if found and (not known or known == fingerprint):
            return found
    found = study.saved.get(fingerprint) if fingerprint else None
    return None if found is run else found


def _places(path: str | None, name: str, folder: Path) -> Iterator[str]:
    """Where a model may lie that a run in `folder` calls by `name`: `path` if it was written down.

    A relative name began at a folder that older runs do not tell: any above theirs, never the current one.
    """
    for given in (path, os.path.expanduser(name)):
        if given and os.path.isabs(given) and "\0" not in given:
            yield from (os.path.normpath(given), os.path.realpath(given))
    if not os.path.isabs(name):
        for start in dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))):
            yield from (os.path.normpath(os.path.join(above, name)) for above in Path(start).parents)
