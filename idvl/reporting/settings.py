"""The settings in which some runs of prune differ from most, in words. Runs that differ in nothing are replicates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from idvl.reporting.run_record import RunRecord

# settings that distinguish groups, and those that may differ between replicates
CELL = {"prune.sparsity", "prune.criterion", "prune.id_weight", "prune.scope"}
REPLICATE = {"fingerprint", "revision", "seed", "processes", "class", "layers"}
# hashes of what a run was given
GIVEN = {"samples", "profile"}
# what means nothing to a run that is not weighted by ID
WEIGHTED = {"prune.profile", "prune.id_exponent", "prune.missing_id", "prune.refresh_profile"}
# what a run owes to its schedule: one-shot runs are compared in it among themselves
SCHEDULED = {"prune.initial", "prune.final", "prune.mask_every"}
# dimensions this close, relatively, are the same estimate
TOLERANCE = 1e-5
Words = tuple[str, str]


def replicate(run: RunRecord) -> tuple[str, str]:
    """What tells the runs of a cell apart: the dense model and the seed."""
    return repr(run.signature.get("fingerprint")), repr(run.signature.get("seed"))


def is_one_shot(run: RunRecord) -> bool:
    return run.signature.get("prune.schedule") == "one-shot"


def is_weighted(run: RunRecord) -> bool:
    return run.signature.get("prune.id_weight", "none") != "none"


def differences(runs: Sequence[RunRecord]) -> dict[RunRecord, Words]:
    """What is special of each of these runs, which prune the same: (in how it prunes, in what it is weighted by).

    Samples and dimensions are told to be others where no setting says why they are.
    """
    prunes, weights = _odd({run: _settings(run) for run in runs}), _odd({run: _weighted_by(run) for run in runs})
    for run in _others(runs, prunes, lambda one, other: one.signature.get("samples") == other.signature.get("samples")):
        prunes[run] = ", ".join(filter(None, (prunes[run], "other samples")))
    weighted = [run for run in runs if is_weighted(run) and _dimensions(run)]
    for run in _others(weighted, weights, _same_dimensions):
        weights[run] = ", ".join(filter(None, (weights[run], "other IDs")))
    return {run: (prunes[run], weights[run]) for run in runs}


def _others(
    runs: Sequence[RunRecord], words: Mapping[RunRecord, str], same: Callable[[RunRecord, RunRecord], bool]
) -> list[RunRecord]:
    """The runs that were given something else than most of the same model, seed, layers and settings."""
    groups: dict[Hashable, list[list[RunRecord]]] = {}
    for run in runs:
        group = groups.setdefault((replicate(run), repr(run.signature.get("layers")), words[run]), [])
        home = next((kept for kept in group if same(kept[0], run)), None)
        if home is None:
            group.append(home := [])
        home.append(run)
    return [run for group in groups.values() for kept in group if kept is not max(group, key=len) for run in kept]


def _same_dimensions(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs were weighted by the same dimensions, but for the last digits, which depend on the machine."""
    first, second = _dimensions(one), _dimensions(other)
    pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
    return all(a == b if a is None or b is None else math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs)


def _dimensions(run: RunRecord) -> dict[str, float | None]:
    """What a run began to be weighted by; none where only a renewed profile is left of it."""
    renewed = run.signature.get("prune.refresh_profile")
    profile = run.dense or (None if renewed else run.profile)
    return {name: layer.estimate.dimension for name, layer in profile.layers.items()} if profile else {}


def _settings(run: RunRecord) -> dict[str, Any]:
    left_out = CELL | REPLICATE | WEIGHTED | GIVEN
    return {key: value for key, value in run.signature.items() if key not in left_out}


def _weighted_by(run: RunRecord) -> dict[str, Any]:
    """The settings of a weighting; a measured profile is identified by its protocol, not its path."""
    if not is_weighted(run):
        return {}
    found = {key: value for key, value in run.signature.items() if key in WEIGHTED}
    profile = run.dense or run.profile
    if not str(found.get("prune.profile")).startswith("published:"):
        found |= {"prune.profile": "measured"}
        if profile:
            found |= {f"ID {key}": profile.protocol.get(key) for key in ("estimator", "tokens", "n_samples")}
            found["ID data"] = profile.dataset.get("dataset")
    return found


def _odd(settings: Mapping[RunRecord, Mapping[str, Any]]) -> dict[RunRecord, str]:
    """For each run the settings whose value is not the most common one, in words."""
    common = _most_common(
        (_peers(run, key), repr(value)) for run, values in settings.items() for key, value in values.items()
    )
    found = {}
    for run, values in settings.items():
        odd = [key for key, value in values.items() if repr(value) != common[_peers(run, key)]]
        odd.sort(key=lambda key: key != "prune.schedule")  # which explains others
        found[run] = ", ".join(_said(key.removeprefix("prune.").removeprefix("train."), values[key]) for key in odd)
    return found


def _peers(run: RunRecord, key: str) -> tuple[str, bool]:
    """The runs that a run is compared with in a setting."""
    return key, (key in SCHEDULED or key.startswith("train.")) and is_one_shot(run)


def _said(name: str, value: Any) -> str:
    return str(value) if name == "schedule" else f"no {name}" if value is None else f"{name} {value}"


def _most_common(pairs: Iterable[tuple[Hashable, Any]]) -> dict[Any, Any]:
    """The most common value of each group; of equally common ones the first."""
    counts: dict[Any, Counter[Any]] = {}
    for group, value in pairs:
        counts.setdefault(group, Counter())[value] += 1
    return {group: counter.most_common(1)[0][0] for group, counter in counts.items()}
