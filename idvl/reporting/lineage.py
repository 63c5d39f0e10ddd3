"""Links between runs: the baseline evaluation, and the evaluations and profiles of a pruned model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl.profile import Profile
from idvl.reporting.collect import Study
from idvl.reporting.run_record import RunRecord
from idvl.reporting.settings import began_pruned, is_recovery


@dataclass(frozen=True, eq=False)
class MeasuredProfile:
    """A profile, the run that has it and its file. `pruned`: the run of prune that saved the model measured."""

    profile: Profile
    run: RunRecord
    source: str
    pruned: RunRecord | None

    @property
    def model(self) -> str:
        """The model measured, by its name, and what was done to it."""
        name = self.profile.model.get("name") or self.run.model
        if self.pruned:
            return f"{name}, pruned{' and recovered' if is_recovery(self.pruned) else ''}"
        measured = self.profile.model.get("fingerprint")
        # of a file of dimensions only the weights tell whether they are those that the run began with
        steps = self.run.signature, self.run.pruning
        began = [self.run.dense_fingerprint, *(step.get("fingerprint") for step in steps)]
        foreign = measured and measured not in began
        if self.run.kind != "prune" or (foreign and not self.renewed):
            return name
        if began_pruned(self.run) and not self.renewed:
            return f"{name}, before it was pruned further"
        return f"{name}, {'on its way' if self.renewed else 'dense'}"

    @property
    def data(self) -> str:
        """The dataset and split that it was measured on."""
        dataset = self.profile.dataset
        return f"{dataset.get('dataset') or self.run.dataset} {dataset.get('split') or ''}".strip()

    @property
    def renewed(self) -> bool:
        """Whether it is of a model that was being pruned."""
        refreshed = self.run.kind == "prune" and self.run.signature.get("prune.refresh_profile")
        return bool(refreshed) and self.profile is not self.run.dense

    @property
    def title(self) -> str:
        return f"{self.model}, on {self.data}: {self.run.label}"


def profiles_of(study: Study) -> list[MeasuredProfile]:
    """Every distinct profile with the first run that has it, those of pruned models last.

    Runs of one dense model share theirs; of equal ones that of a run of estimate-id stands for all.
    """
    profiles: dict[str, MeasuredProfile] = {}
    for run in sorted(study.runs, key=lambda run: run.kind != "estimate-id"):
        pruned = pruned_by(run, study)
        for profile, file in ((run.dense, "profile/profile.json"), (run.profile, "profile.json")):
            if profile is not None and profile.layers:
                estimates = [(name, layer.estimate.dimension) for name, layer in profile.layers.items()]
                key = repr((profile.model.get("fingerprint"), estimates))
                profiles.setdefault(key, MeasuredProfile(profile, run, run.source(file), pruned))
    return sorted(profiles.values(), key=lambda profile: profile.pruned is not None)


# what says which samples were read, where no fingerprint does
NAMES = ("dataset", "dataset_id", "revision", "split", "ids")


def measured_alike(one: Profile, other: Profile) -> bool:
    """Whether two profiles are of the same samples, read alike, by the same protocol."""
    cleaned = [profile.model.get("clean_texts") for profile in (one, other)]
    return one.protocol == other.protocol and cleaned[0] == cleaned[1] and _same_samples(one.dataset, other.dataset)


def evaluated_alike(one: RunRecord, other: RunRecord) -> bool:
    """Whether two evaluations are of the same samples, by the same settings.

    A whole split may come in another order, and so with another fingerprint: where a limit takes all of it, or, of a
    built-in dataset, by another seed.
    """
    return _settings(one) == _settings(other) and _of_same_samples(one, other)


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """In what evaluations differ: their settings by name, the numbers' type, their samples."""
    settings = [_settings(run) | {"dtype": run.measured_model.get("dtype")} for run in runs]
    keys = dict.fromkeys(key for one in settings for key in one)
    words = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    return words + ["samples"] * any(not _of_same_samples(runs[0], run) for run in runs)


def _of_same_samples(one: RunRecord, other: RunRecord) -> bool:
    """Whether two evaluations are of the same samples, in whatever order where it is a whole split."""
    first, second = (run.results.get("dataset", {}) for run in (one, other))
    if one.results.get("samples") != other.results.get("samples") or first.get("classes") != second.get("classes"):
        return False
    if (one.results.get("limit") is None) != (other.results.get("limit") is None) and _same_names(first, second):
        return True
    return _same_samples(first, second) or (_same_names(first, second) and _reordered(one.inputs, other.inputs))


def _reordered(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations have the same samples in different orders.

    In the same order, samples whose fingerprints differ are different ones.
    """
    return bool(one) and one == other and list(one) != list(other)


def _same_samples(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of a dataset are of the same samples: by fingerprint, or by name where one has none."""
    if one.get("fingerprint") and other.get("fingerprint"):
        return one["fingerprint"] == other["fingerprint"]
    return _same_names(one, other)


def _same_names(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one.get(key) == other.get(key) for key in NAMES)


def _settings(run: RunRecord) -> dict[str, Any]:
    """The settings of an evaluation that its numbers depend on."""
    settings = run.results.get("settings") or {}
    return {key: value for key, value in settings.items() if key != "batch_size"} | {"by": run.results.get("scoring")}


def dense_of(run: RunRecord, study: Study) -> RunRecord | None:
    """The first evaluation of the dense model that a run began with, on the samples that the run was evaluated on.

    None for a run that began with a pruned model.
    """
    if began_pruned(run):
        return None
    for other in sorted(study.of("eval"), key=lambda run: run.began):
        same = run.dense_fingerprint and other.results["model"].get("fingerprint") == run.dense_fingerprint
        if same and other.results.get("task") == run.results.get("task") and evaluated_alike(other, run):
            return other
    return None


def dense_runs(runs: Iterable[RunRecord], study: Study) -> list[RunRecord]:
    """The evaluations of the models that runs began with: one of each model, samples and settings of the runs'."""
    return list(dict.fromkeys(dense for run in runs if (dense := dense_of(run, study))))


def dense_models(runs: Iterable[RunRecord]) -> list[str]:
    """The names of the models that runs, and the runs before them, began with, each once.

    A recovery has the fingerprint of the dense model, whose name other runs know where its history does not.
    """
    names: dict[str, str] = {}
    for run in sorted(runs, key=is_recovery):
        first = next(iter(run.signature.get("history", [])), run.signature)
        names.setdefault(first.get("fingerprint") or run.model, first.get("model") or run.model)
    return list(dict.fromkeys(names.values()))


def pruned_by(run: RunRecord, study: Study) -> RunRecord | None:
    """The run of prune whose saved model `run` measured or evaluated; None for any other model.

    The folder of the model decides first, as two runs may have saved equal weights, unless it holds other weights by
    now; then the fingerprint.
    """
    model = run.measured_model
    fingerprint = model.get("fingerprint")
    for path in _paths(model.get("path"), model.get("name") or run.model, run.folder):
        saver = study.saved.get(path)
        if saver is run:
            return None
        if saver and not _differs(model, saver):
            return saver
    saver = study.saved.get(fingerprint) if fingerprint else None
    return None if saver is run else saver


def is_overwritten(run: RunRecord, study: Study) -> bool:
    """Whether the folder of the model that a run evaluated holds other weights by now, by the run that saved them."""
    path = run.measured_model.get("path")
    saver = study.saved.get(os.path.normpath(path)) if path else None
    return saver is not None and _differs(run.measured_model, saver)


def _differs(model: Mapping[str, Any], saver: RunRecord) -> bool:
    """Whether a model as a run describes it has other weights than a run of prune saved, where both are known."""
    # in half precision the same weights have another fingerprint
    known = model.get("dtype") in (None, "float32") and model.get("fingerprint") and saver.saved_fingerprint
    return bool(known) and model["fingerprint"] != saver.saved_fingerprint


def _paths(path: str | None, name: str, folder: Path) -> Iterator[str]:
    """Where a model may lie that a run in `folder` calls by `name`: at `path`, if it is known.

    A relative name starts at a folder that older runs did not record: any above theirs, never the current one.
    """
    for absolute in (path, os.path.expanduser(name)):
        if absolute and os.path.isabs(absolute) and "\0" not in absolute:
            yield from (os.path.normpath(absolute), os.path.realpath(absolute))
    if not os.path.isabs(name):
        for start in dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder))):
            yield from (os.path.normpath(os.path.join(above, name)) for above in Path(start).parents)
