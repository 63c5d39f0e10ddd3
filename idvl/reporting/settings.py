"""The settings in which some pruning runs differ from most, in words. Runs that differ in none are replicates."""

from __future__ import annotations

import hashlib
import math
import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from typing import Any

from idvl.reporting import labels
from idvl.reporting.run_record import RunRecord

# settings that distinguish groups, and those that may differ between replicates
CELL = {"prune.sparsity", "prune.criterion", "prune.id_weight", "prune.scope"}
REPLICATE = {"fingerprint", "revision", "seed", "class", "layers", "pruned", "masks"}
# hashes of what a run reads, and what is told of the runs before
INPUTS = {"samples", "profile", "history", "model", "zeros"}
# settings of a run that reads dimensions
OF_DIMENSIONS = {"prune.profile", "prune.id_exponent", "prune.missing_id", "prune.refresh_profile"}
# how dimensions were measured: of a profile's protocol
PROTOCOL = ("estimator", "tokens", "capture", "n_samples")
PUBLISHED = "published:"
# settings of PLATON alone, and those of an optimizer's steps, which one-shot pruning does not take
OF_PLATON = {"prune.beta1", "prune.beta2", "prune.window", "prune.smoothing_dtype"}
OF_OPTIMIZER = {"train.epochs", "train.learning_rate", "train.weight_decay", "train.lr_schedule", "train.warmup"}
# settings that say what is read of a dataset, which signatures do not hold
COLUMNS = {"image_column", "text_column", "label_column", "answers_column", "second_image_column", "dataset_id"}
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
# a setting by its name and by what it is compared with
Setting = tuple[str, Hashable]


def replicate(run: RunRecord) -> tuple[str, ...]:
    """What tells the runs of a group apart: the dense model, and the seeds of the runs before and of this one."""
    steps = [*run.signature.get("history", []), run.signature]
    return (repr(steps[0].get("fingerprint")), *(repr(step.get("seed")) for step in steps))


def is_one_shot(run: RunRecord) -> bool:
    return run.signature.get("prune.schedule") == "one-shot"


def is_weighted(run: RunRecord) -> bool:
    return run.signature.get("prune.id_weight", "none") != "none"


def _reads_dimensions(settings: Mapping[str, Any]) -> bool:
    """Whether a pruning weights scores by ID, or allocates by it."""
    return settings.get("prune.id_weight", "none") != "none" or settings.get("prune.allocation") == "id"


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
    how = [*["from calibration samples"] * _in_calibration(settings), *_named(settings)]
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


def differences(runs: Sequence[RunRecord]) -> dict[RunRecord, tuple[str, str]]:
    """How each of these runs, of one subject, differs from most: (in how it prunes, in what it is weighted by).

    Other samples or dimensions count as a difference where no setting explains them.
    """
    names = dataset_names(runs)
    prunes, weights = _odd({run: _settings(run) for run in runs}), _odd({run: _weighted_by(run, names) for run in runs})
    for run, words in prunes.items():
        calibrated = "from calibration samples" if _in_calibration(run.signature) else ""
        prunes[run] = _listed(recovery(run), calibrated, start(run), *_named(run.signature), words)
    _name_others(prunes, "other samples", {run: _samples(run.signature) for run in runs})
    _name_others(prunes, "other samples before", {run: _before(run, _samples) for run in runs})
    _name_others(weights, "other IDs before", {run: _before(run, lambda step: step.get("profile")) for run in runs})
    _name_others(weights, "other IDs", {run: _dimensions(run) for run in runs}, _same)
    # an allocation by ID is a method of its own, not a weighting that a run without it is compared with
    return {
        run: (prunes[run], weights[run]) if is_weighted(run) else (_listed(prunes[run], weights[run]), "")
        for run in runs
    }


def _listed(*words: str) -> str:
    return ", ".join(filter(None, words))


def _name_others(
    words: dict[RunRecord, str], name: str, read: Mapping[RunRecord, Any], same: Callable[..., bool] = operator.eq
) -> None:
    """Add a name to the words of runs with other inputs than most of the same model, seeds, layers and settings.

    `read`: what each run read; a run that read nothing has no other inputs. The runs of a method get one name unless
    two of them are of one replicate: runs of other methods decide only which name.
    """
    groups: dict[Hashable, list[list[RunRecord]]] = {}
    for run in filter(read.get, read):
        parts = groups.setdefault((repr(run.signature.get("layers")), words[run], is_calibrated(run)), [])
        equal = next((part for part in parts if same(read[part[0]], read[run])), None)
        if equal is None:
            parts.append(equal := [])
        equal.append(run)
    for parts in groups.values():
        # for each method, and then for each name, the input of each replicate, by its number
        methods: dict[str, list[dict[Hashable, int]]] = {}
        inputs: dict[RunRecord, dict[Hashable, int]] = {}
        taken: list[dict[Hashable, int]] = []
        for number, part in enumerate(sorted(parts, key=len, reverse=True)):
            cells = {run: repr([run.signature.get(key) for key in sorted(CELL)]) for run in part}
            for cell in dict.fromkeys(cells.values()):
                members, sets = [run for run in part if cells[run] == cell], methods.setdefault(cell, [])
                added = sets[_added(sets, {replicate(run): number for run in members})]
                inputs |= dict.fromkeys(members, added)
        for run in sorted(inputs, key=lambda run: min(inputs[run].values())):
            if number := _added(taken, inputs[run]):
                words[run] = _listed(words[run], name if number == 1 else f"{name} ({number})")


def _added(sets: list[dict[Hashable, int]], inputs: Mapping[Hashable, int]) -> int:
    """The number of the first set of inputs that these do not contradict, with them; of a new one where all do."""
    fits = (all(one.get(key, value) == value for key, value in inputs.items()) for one in sets)
    number = next((number for number, fit in enumerate(fits) if fit), len(sets))
    sets += [{}] * (number == len(sets))
    sets[number].update(inputs)
    return number


def _samples(settings: Mapping[str, Any]) -> str | None:
    """The samples that a run of these settings read; None where it needs none."""
    reads_none = _is_untrained(settings) and settings.get("prune.criterion") == "magnitude"
    return None if reads_none else settings.get("samples")


def _same(first: Mapping[str, float | None], second: Mapping[str, float | None]) -> bool:
    """Whether two runs read the same dimensions, but for the last digits, which depend on the machine."""
    pairs = ((dimension, second[name]) for name, dimension in first.items() if name in second)
    return all(a == b if a is None or b is None else math.isclose(a, b, rel_tol=TOLERANCE) for a, b in pairs)


def _dimensions(run: RunRecord) -> dict[str, float | None]:
    """The dimensions that a run first read; none where only a refreshed profile is left, or where it reads none."""
    renewed = run.signature.get("prune.refresh_profile")
    profile = run.dense or (None if renewed else run.profile)
    if profile is None or not _reads_dimensions(run.signature):
        return {}
    return {name: layer.estimate.dimension for name, layer in profile.layers.items()}


def _settings(run: RunRecord) -> dict[Setting, Any]:
    """The settings that tell how a run prunes and recovers, and how its model was pruned and recovered before."""
    recipe = run.recipe.get("data") or {}
    own = run.signature | {f"data.{key}": recipe[key] for key in COLUMNS if key in recipe}
    # seeds draw other samples, but of one split
    made = run.report.get("made") or {}
    if split := (made.get("training") or made.get("calibration") or {}).get("split"):
        own["data.split"] = split
    told, by = CELL | OF_DIMENSIONS, recovery(run)
    # a recovery has the section prune of the pruning, which is compared with that of runs of prune, and the profile
    pruning = {key: own.pop(key) for key in [*own] if by and key.startswith("prune.")}
    settings = _of_step(pruning, "", "", told) | _of_step(own, "", by, told)
    told = {key for key in run.pruning if key.startswith(("prune.", "estimate."))}
    settings |= _of_step(run.pruning, "pruning's", "", told)
    # of steps before, `start` says what distinguishes groups
    for number, step in enumerate([*run.history, *run.recoveries[:-1]], 1):
        among = f"step {number}" if "recover.method" in step else ""
        settings |= _of_step(step, f"step {number}'s", among, CELL | {"recover.method"})
    if "ForImageClassification" in str(run.signature.get("class")):
        # no text is read; `all` takes a sample once for each
        settings |= {key: "any" for key, word in settings.items() if word == "first" and key[0].endswith("texts")}
    return settings


def _of_step(step: Mapping[str, Any], whose: str, peers: str, told: Set[str]) -> dict[Setting, Any]:
    """The settings of a step that are not told elsewhere; a measured profile is identified by its protocol.

    Compared are steps of equal `peers`, and of these those that train, prune from calibration samples, or recover.
    """
    left_out = told | REPLICATE | INPUTS | {*PLAIN} | _idle(step)
    if not str(step.get("prune.profile")).startswith(PUBLISHED):
        left_out |= {"prune.profile"}
    one_shot = step.get("prune.schedule") == "one-shot"
    kind = peers, step.get("prune.calibration") is not None, "recover.method" in step
    settings: dict[Setting, Any] = {}
    for key, value in step.items():
        if key not in left_out:
            # a file of masks is one of its model, wherever it lies
            is_file = key == "recover.masks" and value not in (None, "zeros")
            last = key.replace("estimate.", "ID ").rpartition(".")[2]
            name = f"{whose} {last}" if whose else re.sub(r"^(prune|train|data)\.", "", key)
            scheduled = one_shot and (key in SCHEDULED or key.startswith("train."))
            settings[name, (kind, last, scheduled)] = "file" if is_file else value
    return settings


def _idle(settings: Mapping[str, Any]) -> set[str]:
    """The settings without effect on a pruning, or on a recovery."""
    idle = {"train.gradient_checkpointing"}
    criterion = str(settings.get("prune.criterion"))
    if not _reads_dimensions(settings):
        idle |= OF_DIMENSIONS | {key for key in settings if key.startswith("estimate.")}
    if criterion in labels.CRITERIA.keys() - {"platon"}:
        idle |= OF_PLATON
    if settings.get("prune.calibration") is not None and "recover.method" not in settings:
        # which share out the batches, and do not add to them
        idle |= {"processes"}
    if _is_untrained(settings):
        training = {key for key in settings if key.startswith("train.")} - {"train.new_head"}
        idle |= training | {"processes"} if criterion == "magnitude" else OF_OPTIMIZER
    return idle


def _is_untrained(settings: Mapping[str, Any]) -> bool:
    """Whether a run moves no weights: it is one-shot pruning, and no new head is learnt before."""
    own = settings.get("prune.schedule") == "one-shot" and "recover.method" not in settings
    return own and not settings.get("train.new_head")


def _before(run: RunRecord, read: Callable[[Mapping[str, Any]], Any]) -> list[Any]:
    """What the steps before a run read; [] where they read nothing."""
    return inputs if any(inputs := [read(step) for step in run.signature.get("history", [])]) else []


def _weighted_by(run: RunRecord, names: Mapping[str, str]) -> dict[Setting, Any]:
    """The settings of dimensions that a run reads; a measured profile is identified by its protocol, not its path."""
    if not _reads_dimensions(run.signature):
        return {}
    settings = {key: value for key, value in run.signature.items() if key in OF_DIMENSIONS}
    profile, renewed = run.dense or run.profile, bool(settings.get("prune.refresh_profile"))
    published = str(settings.get("prune.profile")).startswith(PUBLISHED)
    if not published:
        settings |= {"prune.profile": "measured"}
    if profile and (renewed or not published):
        settings |= {f"ID {key}": profile.protocol.get(key) for key in PROTOCOL}
        name = profile.dataset.get("dataset")
        settings |= {"ID data": names.get(name, name), "ID split": profile.dataset.get("split")}
    if renewed and not run.dense:
        # the profile left is of the model on its way, and the first one is known by its hash alone
        settings["ID profile"] = (run.signature.get("profile") or "")[:8]
    elif profile and not published and (measured := profile.model.get("fingerprint")):
        settings["ID model"] = "its own" if measured == run.dense_fingerprint else measured[:8]
    return {(key.removeprefix("prune."), (key, is_calibrated(run))): value for key, value in settings.items()}


def _odd(settings: Mapping[RunRecord, Mapping[Setting, Any]]) -> dict[RunRecord, str]:
    """For each run the settings whose value is not the most common one among its peers, in words."""
    counts: dict[Hashable, Counter[str]] = {}
    for (_, peers), value in (setting for values in settings.values() for setting in values.items()):
        counts.setdefault(peers, Counter())[repr(value)] += 1
    # of equally common ones the first
    common = {peers: counter.most_common(1)[0][0] for peers, counter in counts.items()}
    return {
        run: _listed(*(_in_words(name, word) for (name, peers), word in values.items() if repr(word) != common[peers]))
        for run, values in settings.items()
    }


def _named(settings: Mapping[str, Any]) -> list[str]:
    """The settings of a pruning that its method is named by, where they are not plain, in words.

    Layers are pruned alike where one threshold over all of them cannot be.
    """
    grouped = settings.get("prune.structure") not in (None, PLAIN["prune.structure"])
    alike = grouped or settings.get("prune.calibration") is not None
    plain = PLAIN | ({"prune.allocation": "uniform"} if alike else {})
    odd = [key for key, word in plain.items() if settings.get(key, word) != word]
    return [_in_words(key.removeprefix("prune."), settings[key]) for key in odd]


def _in_calibration(settings: Mapping[str, Any]) -> bool:
    """Whether a criterion that can prune while training, too, pruned from calibration samples."""
    return settings.get("prune.calibration") is not None and settings.get("prune.criterion") in BOTH


def _in_words(name: str, value: Any) -> str:
    if name == "configuration":
        return f"other configuration ({value[:8]})"
    if name.endswith("densities"):
        return f"{name} {hashlib.sha256(repr(value).encode()).hexdigest()[:8]}"
    if name == "allocation" and str(value).startswith("file:"):
        value = f"file:{os.path.basename(value.removeprefix('file:'))}"
    return str(value) if name == "schedule" else f"no {name}" if value is None else f"{name} {value}"
