"""The settings in which some pruning runs differ from most, in words. Runs that differ in none are replicates."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from idvl.reporting import labels
from idvl.reporting.run_record import RunRecord

# settings that distinguish groups, and those that may differ between replicates
CELL = {"prune.sparsity", "prune.criterion", "prune.id_weight", "prune.scope"}
REPLICATE = {"fingerprint", "revision", "seed", "processes", "class", "layers", "pruned", "masks"}
# hashes of what a run reads
INPUTS = {"samples", "profile"}
# settings without effect on a run that is not weighted by ID
WEIGHTED = {"prune.profile", "prune.id_exponent", "prune.missing_id", "prune.refresh_profile"}
# settings of a schedule, in which one-shot runs are compared among themselves
SCHEDULED = {"prune.initial", "prune.final", "prune.mask_every"}
# criteria that prune while training and from calibration samples
BOTH = ("magnitude", "gradient")
# settings that are part of a method's name, with the values that need no word; for the allocation see `_named`
PLAIN = {
    "prune.schedule": "cubic",
    "prune.structure": "unstructured",
    "prune.allocation": "global",
    "prune.repair": None,
}
# dimensions this close, relatively, are the same estimate
TOLERANCE = 1e-5
Words = tuple[str, str]


def replicate(run: RunRecord) -> tuple[str, ...]:
    """What tells the runs of a group apart: the dense model, and the seeds of the runs before and of this one."""
    steps = [*run.signature.get("history", []), run.signature]
    return (repr(steps[0].get("fingerprint")), *(repr(step.get("seed")) for step in steps))


def is_one_shot(run: RunRecord) -> bool:
    return run.signature.get("prune.schedule") == "one-shot"


def is_weighted(run: RunRecord) -> bool:
    return run.signature.get("prune.id_weight", "none") != "none"


def is_calibrated(run: RunRecord) -> bool:
    """Whether a run pruned from calibration samples, without training."""
    return run.signature.get("prune.calibration") is not None


def is_recovery(run: RunRecord) -> bool:
    return run.signature.get("recover.method") is not None


def recovery(run: RunRecord) -> str:
    """How a pruned model was recovered, up to this run, in words; "" for a run that pruned a model."""
    return f"recovered by {', then '.join(map(_step, run.recoveries))}" if run.recoveries else ""


def began_pruned(run: RunRecord) -> bool:
    """Whether the model that a run pruned, or whose pruning it recovered, had been pruned before."""
    return bool(run.zeros_before) or any("prune.criterion" in step for step in run.history)


def start(run: RunRecord) -> str:
    """What was done to the model before, in words; "" for a dense one.

    Where no run says how it was pruned first, only the same weights are the same start.
    """
    first = next(iter(run.signature.get("history", [])), {"zeros": run.zeros_before, **run.signature})
    by_others, model = "recover.method" in first and "prune.criterion" not in first, ""
    if by_others or first.get("zeros"):
        known = str(first.get("pruned" if by_others else "fingerprint"))[:8]
        model = f"of a model ({known})"
        model += f" with {first['zeros']:,} zeros" if first.get("zeros") else ""
    steps = ", then ".join(map(_step, run.history))
    return " ".join(filter(None, (steps and f"after {steps}", model)))


def _step(settings: Mapping[str, Any]) -> str:
    """A run before, by its settings."""
    if method := settings.get("recover.method"):
        return f"{labels.RECOVERIES.get(method, method)}{' with distillation' if settings.get('train.distill') else ''}"
    criterion, weight, scope = (str(settings.get(f"prune.{key}")) for key in ("criterion", "id_weight", "scope"))
    share = settings.get("prune.sparsity")
    to = f" to {labels.percent(share)}" if isinstance(share, int | float) else ""
    how = ["from calibration samples"] if _in_calibration(settings) else []
    how += [_in_words(key.removeprefix("prune."), settings[key]) for key in _named(settings)]
    named = f" ({', '.join(how)})" if how else ""
    return f"{labels.method(criterion, weight)}{named}{to}{'' if scope == 'all' else f' in {scope}'}"


def dataset_names(runs: Iterable[RunRecord]) -> dict[str, str]:
    """One name for all those of a dataset, as of a relative and an absolute path: they share a fingerprint of samples.

    The samples are those that a run evaluated, and those that it measured; else the path from where it started says.
    """
    names: dict[str, str] = {}
    by_source: dict[str, str] = {}
    for run in runs:
        profile = run.dense or run.profile
        measured = profile.dataset if profile else {}
        path = os.path.normpath(os.path.join(run.record.get("directory") or "", run.dataset))
        sources = [(run.dataset, run.results.get("dataset", {}).get("fingerprint")), (run.dataset, path)]
        for name, source in (*sources, (measured.get("dataset"), measured.get("fingerprint"))):
            if name and source:
                names.setdefault(name, by_source.setdefault(source, names.get(name, name)))
    return names


def differences(runs: Sequence[RunRecord]) -> dict[RunRecord, Words]:
    """How each of these runs, of one subject, differs from most: (in how it prunes, in what it is weighted by).

    Other samples or dimensions count as a difference where no setting explains them.
    """
    names = dataset_names(runs)
    prunes, weights = _odd({run: _settings(run) for run in runs}), _odd({run: _weighted_by(run, names) for run in runs})
    for run, words in prunes.items():
        calibrated = "from calibration samples" if _in_calibration(run.signature) else ""
        prunes[run] = ", ".join(filter(None, (recovery(run), calibrated, start(run), words)))
    for run in _others(runs, prunes, lambda one, other: one.signature.get("samples") == other.signature.get("samples")):
        prunes[run] = ", ".join(filter(None, (prunes[run], "other samples")))
    further = [run for run in runs if run.signature.get("history")]
    for run in _others(further, prunes, _same_before):
        prunes[run] = ", ".join(filter(None, (prunes[run], "other samples or IDs before")))
    weighted = [run for run in runs if is_weighted(run) and _dimensions(run)]
    for run in _others(weighted, weights, _same_dimensions):
        weights[run] = ", ".join(filter(None, (weights[run], "other IDs")))
    return {run: (prunes[run], weights[run]) for run in runs}


def _others(
    runs: Sequence[RunRecord], words: Mapping[RunRecord, str], same: Callable[[RunRecord, RunRecord], bool]
) -> list[RunRecord]:
    """The runs with other inputs than most of the same model, seeds, layers and settings."""
    groups: dict[Hashable, list[list[RunRecord]]] = {}
    for run in runs:
        key = replicate(run), repr(run.signature.get("layers")), words[run], is_calibrated(run)
        group = groups.setdefault(key, [])
        equal = next((part for part in group if same(part[0], run)), None)
        if equal is None:
            group.append(equal := [])
        equal.append(run)
    return [run for group in groups.values() for part in group if part is not max(group, key=len) for run in part]


def _same_dimensions(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs were weighted by the same dimensions, but for the last digits, which depend on the machine."""
    first, second = _dimensions(one), _dimensions(other)
    pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
    return all(a == b if a is None or b is None else math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs)


def _dimensions(run: RunRecord) -> dict[str, float | None]:
    """The dimensions that a run was first weighted by; none where only a refreshed profile is left."""
    renewed = run.signature.get("prune.refresh_profile")
    profile = run.dense or (None if renewed else run.profile)
    return {name: layer.estimate.dimension for name, layer in profile.layers.items()} if profile else {}


def _settings(run: RunRecord) -> dict[str, Any]:
    left_out = CELL | REPLICATE | WEIGHTED | INPUTS | {"history"}
    settings = {key: value for key, value in run.signature.items() if key not in left_out}
    # seeds draw other samples, but of one split
    made = run.report.get("made") or {}
    if split := (made.get("training") or made.get("calibration") or {}).get("split"):
        settings["split"] = split
    # of steps before, `start` says what distinguishes groups
    told = CELL | {*PLAIN} | {"recover.method", "prune.profile"}
    for number, step in enumerate([*run.history, *run.recoveries[:-1]], 1):
        named = {key.partition(".")[2]: value for key, value in step.items() if "." in key and key not in told}
        settings |= {f"step {number}'s {name}": value for name, value in named.items()}
    # a file of masks is one of its model, wherever it lies
    masks = {key for key in settings if key.endswith(("recover.masks", "'s masks"))}
    return settings | {key: "file" for key in masks if settings[key] not in (None, "zeros")}


def _same_before(one: RunRecord, other: RunRecord) -> bool:
    """Whether the steps before two runs read the same samples, and were weighted by the same IDs."""
    first, second = (
        [(step.get("samples"), step.get("profile")) for step in run.signature["history"]] for run in (one, other)
    )
    return first == second


def _weighted_by(run: RunRecord, names: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a weighting; a measured profile is identified by its protocol, not its path."""
    if not is_weighted(run):
        return {}
    settings = {key: value for key, value in run.signature.items() if key in WEIGHTED}
    profile = run.dense or run.profile
    if not str(settings.get("prune.profile")).startswith("published:"):
        settings |= {"prune.profile": "measured"}
        if profile:
            settings |= {f"ID {key}": profile.protocol.get(key) for key in ("estimator", "tokens", "n_samples")}
            name = profile.dataset.get("dataset")
            settings |= {"ID data": names.get(name, name), "ID split": profile.dataset.get("split")}
    return settings


def _odd(settings: Mapping[RunRecord, Mapping[str, Any]]) -> dict[RunRecord, str]:
    """For each run the settings whose value is not the plain one, or not the most common one, in words."""
    common = _most_common(
        (_peers(run, key), repr(value)) for run, values in settings.items() for key, value in values.items()
    )
    words = {}
    for run, values in settings.items():
        # the schedule first, which explains others
        odd = [key for key in _named(run.signature) if key in values]
        odd += [key for key, value in values.items() if key not in PLAIN and repr(value) != common[_peers(run, key)]]
        words[run] = ", ".join(_in_words(key.removeprefix("prune.").removeprefix("train."), values[key]) for key in odd)
    return words


def _named(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a pruning that its method is named by, where they are not plain.

    Layers are pruned alike where one threshold over all of them cannot be.
    """
    grouped = settings.get("prune.structure") not in (None, PLAIN["prune.structure"])
    alike = grouped or settings.get("prune.calibration") is not None
    plain = PLAIN | ({"prune.allocation": "uniform"} if alike else {})
    return [key for key, word in plain.items() if settings.get(key, word) != word]


def _in_calibration(settings: Mapping[str, Any]) -> bool:
    """Whether a criterion that can prune while training, too, pruned from calibration samples."""
    return settings.get("prune.calibration") is not None and settings.get("prune.criterion") in BOTH


def _peers(run: RunRecord, key: str) -> tuple[str, bool, bool, str]:
    """The runs that a run is compared with in a setting."""
    scheduled = key in SCHEDULED or key.startswith("train.")
    return key, scheduled and is_one_shot(run), is_calibrated(run), recovery(run)


def _in_words(name: str, value: Any) -> str:
    # a hash, which says nothing to a reader
    if name == "configuration":
        return "other configuration"
    return str(value) if name == "schedule" else f"no {name}" if value is None else f"{name} {value}"


def _most_common(pairs: Iterable[tuple[Hashable, Any]]) -> dict[Any, Any]:
    """The most common value of each group; of equally common ones the first."""
    counts: dict[Any, Counter[Any]] = {}
    for group, value in pairs:
        counts.setdefault(group, Counter())[value] += 1
    return {group: counter.most_common(1)[0][0] for group, counter in counts.items()}
