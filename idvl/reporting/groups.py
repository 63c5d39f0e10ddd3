"""Groups: the pruning runs of one subject, method, scope and sparsity, which differ in seed or dense model alone.

A table has one number for a group: the mean over its runs, or the difference to another group, replicate by replicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from idvl.reporting import labels
from idvl.reporting.collect import Study
from idvl.reporting.entry import TableEntry, mean, mean_interval
from idvl.reporting.lineage import dense_models, evaluated_alike
from idvl.reporting.run_record import RunRecord
from idvl.reporting.settings import dataset_names, differences, is_recovery, replicate


@dataclass(frozen=True)
class Subject:
    """What is pruned: models of one class and size, on one dataset."""

    kind: str
    weights: int
    dataset: str


@dataclass(frozen=True)
class Method:
    """How weights are chosen: criterion and weighting by ID, each with what differs from most runs' in words."""

    criterion: str
    id_weight: str
    extra: str = ""
    weighting: str = ""

    def __str__(self) -> str:
        return labels.method(self.criterion, self.id_weight, self.extra, self.weighting)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The replicates of one setting. `repeated`: runs left out because an earlier one is the same replicate."""

    subject: Subject
    method: Method
    scope: str
    sparsity: float
    runs: tuple[RunRecord, ...]
    repeated: tuple[RunRecord, ...] = ()

    def entry(self, metric: str) -> TableEntry:
        """A metric's mean over the runs that have it."""
        return mean_of(self.runs, metric)


def mean_of(runs: Iterable[RunRecord], metric: str) -> TableEntry:
    """The mean of a metric over the runs that have it."""
    return mean(run.metrics()[metric] for run in runs if metric in run.metrics())


def _subjects(runs: Sequence[RunRecord]) -> dict[RunRecord, Subject]:
    """What finished pruning runs pruned."""
    names = dataset_names(runs)
    return {
        run: Subject(
            run.signature.get("class") or run.model,
            run.report["total"]["model_weights"],
            names.get(run.dataset, run.dataset),
        )
        for run in runs
    }


def runs_in(groups: Iterable[Group]) -> list[RunRecord]:
    return [run for group in groups for run in group.runs]


def model_of(groups: Sequence[Group]) -> str:
    """The name of the model that the runs of groups began with, or the number of models and their class."""
    names = dense_models(runs_in(groups))
    return names[0] if len(names) == 1 else f"{len(names)} models of {groups[0].subject.kind}"


def groups_of(study: Study) -> list[Group]:
    """All groups of the finished runs of prune: by subject, scope and method, then by sparsity."""
    # of equals the one that was started first comes first, whatever the order of the folders
    runs = sorted(study.of("prune"), key=lambda run: run.began)
    subjects: dict[Subject, list[RunRecord]] = {}
    for run, subject in _subjects(runs).items():
        subjects.setdefault(subject, []).append(run)
    runs_by_key: dict[tuple[Subject, Method, str, float], list[RunRecord]] = {}
    for subject, members in subjects.items():
        for run, words in differences(members).items():
            # without run.json its other settings are not known: a group of its own
            words = words if run.signature else (f"settings of {run.label} not known", "")
            settings = _settings(run)
            method = Method(str(settings.get("criterion", "unknown")), str(settings.get("id_weight", "none")), *words)
            key = subject, method, _scope(settings.get("scope")), _sparsity(settings, run)
            runs_by_key.setdefault(key, []).append(run)
    return sorted((_group(key, runs) for key, runs in runs_by_key.items()), key=_order)


def _settings(run: RunRecord) -> dict[str, Any]:
    """The settings of the section prune, by name; the signature has them as they were carried out.

    A recovery that has none recovered what idvl did not prune.
    """
    signed = {key.removeprefix("prune."): word for key, word in run.signature.items() if key.startswith("prune.")}
    if is_recovery(run) and not signed:
        return {"criterion": "pruned by others"}
    return (run.recipe.get("prune") or {}) | signed


def _sparsity(settings: dict[str, Any], run: RunRecord) -> float:
    """The sparsity that was set, else the one that the report says; 0 where neither is a number."""
    total = run.report.get("total", {})
    counted = [round(share, 3) for share in (total.get("asked"), total.get("sparsity")) if share]
    values = (settings.get("sparsity"), *counted)
    return round(next((float(value) for value in values if isinstance(value, int | float) and value), 0.0), 6)


def _group(key: tuple[Subject, Method, str, float], runs: list[RunRecord]) -> Group:
    """The group of these runs, one a replicate. Runs evaluated on the full split are preferred.

    Runs that saved the same weights are one replicate, whatever their seeds.
    """
    runs = sorted(runs, key=lambda run: (not run.results, run.results.get("limit") is not None))
    replicates: dict[tuple[Any, Any], RunRecord] = {}
    weights = set()
    for run in runs:
        seeds = replicate(run) if run.signature else (run.label, None)
        if seeds not in replicates and run.saved_fingerprint not in weights:
            replicates[seeds] = run
            weights |= {run.saved_fingerprint} - {None}
    subject, method, scope, sparsity = key
    return Group(
        subject=subject, method=method, scope=scope, sparsity=sparsity, runs=tuple(replicates.values()),
        repeated=tuple(run for run in runs if run not in replicates.values()),
    )  # fmt: skip


def _order(group: Group) -> tuple[Any, ...]:
    subject, method = group.subject, group.method
    orders = ((labels.CRITERIA, method.criterion), (labels.WEIGHTINGS, method.id_weight))
    criterion, weight = (list(words).index(word) if word in words else len(words) for words, word in orders)
    return (
        *(subject.kind, subject.dataset, subject.weights, method.extra, group.scope != "all", group.scope),
        *(criterion, method.criterion, weight, method.weighting, group.sparsity),
    )


def _scope(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "all")


def paired_changes(groups: Sequence[Group], metric: str) -> Iterator[tuple[Group, TableEntry]]:
    """(group weighted by ID, its metric minus that of the group without), over the replicates that both have.

    Only what was evaluated on the same samples is compared.
    """

    def setting(group: Group) -> tuple[Any, ...]:
        return group.subject, group.method.criterion, group.method.extra, group.scope, group.sparsity

    plain = {setting(group): group for group in groups if group.method.id_weight == "none"}
    for group in groups:
        base = plain.get(setting(group))
        if base is None or base is group:
            continue
        others = {replicate(run): run for run in (*base.repeated, *base.runs) if run.signature}
        changes, sources = [], []
        for run in group.runs:
            other = others.get(replicate(run)) if run.signature else None
            if other is None or not evaluated_alike(run, other):
                continue
            entry, base_entry = (one.metrics().get(metric, TableEntry()) for one in (run, other))
            if entry.value is not None and base_entry.value is not None:
                changes.append(entry.value - base_entry.value)
                sources += [*entry.sources, *base_entry.sources]
        if changes:
            change, low, high = mean_interval(changes)
            yield group, TableEntry(value=change, low=low, high=high, n=len(changes), sources=tuple(sources))
