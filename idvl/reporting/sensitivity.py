"""What a sensitivity run found: the loss with a part pruned, and whether it goes with the dimension; its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import model_validator

from idvl.json_schema import Schema
from idvl.profile import MODALITIES
from idvl.reporting.entry import Table, TableEntry, mean
from idvl.reporting.labels import percent
from idvl.reporting.run_record import RunRecord
from idvl.schemas import Cost, NotNegative

# ratios of a run: each takes thousands of permutations
RATIOS = 100
PERMUTATIONS = 10_000
# what does not tell protocols of dimensions apart
CHANCE = {"seed", "knn", "batch_size"}
SENSITIVITY, HYPOTHESIS = "sensitivity.json", "the hypothesis behind Figures 2 and 3"


class Loss(Schema):
    """The loss with a part pruned; None where it was no number."""

    ratio: float
    loss: float | None


class SensitivityFile(Schema):
    """sensitivity.json."""

    NAME: ClassVar[str] = "idvl/sensitivity/1"

    class Dense(Schema):
        loss: float | None = None

    class Dataset(Schema):
        learnt: str | None = None
        split: str | None = None

    class DimensionsRead(Schema):
        dataset: str | None = None
        protocol: dict[str, Any] | None = None

    class LayerLosses(Schema):
        modality: str
        weights: int
        dimension: NotNegative | None
        stderr: NotNegative | None
        unsound: str | None = None
        losses: list[Loss]

    class Part(Schema):
        layers: int
        losses: list[Loss]
        weights: int | None = None

    dataset: Dataset = Dataset()
    dense: Dense
    protocol: dict[str, Any] | None = None
    profile: DimensionsRead = DimensionsRead()
    layers: dict[str, LayerLosses]
    modalities: dict[str, Part]
    provenance: Cost

    @model_validator(mode="after")
    def _few_ratios(self) -> Self:
        ratios = {loss.ratio for layer in self.layers.values() for loss in layer.losses}
        if len(ratios) > RATIOS:
            raise ValueError(f"it has {len(ratios):,} ratios, more than {RATIOS}")
        return self


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of n pairs, and the share of permutations that are at least as far from 0."""

    rho: float
    p: float
    n: int


def ratios(run: RunRecord) -> list[float]:
    """The sparsities that every part was pruned to, ascending."""
    return sorted({one["ratio"] for layer in run.sensitivity["layers"].values() for one in layer["losses"]})


def loss_of(part: Mapping[str, Any], ratio: float) -> float | None:
    """The loss with a layer or a modality pruned; None where there is none, or it is no number."""
    return next((one["loss"] for one in part["losses"] if one["ratio"] == ratio), None)


def correlation(run: RunRecord, ratio: float, modality: str | None = None) -> Correlation | None:
    """Dimension against the loss, over all layers or those of a modality, whose ID is reliable. None for too few."""
    pairs = [
        (layer["dimension"], loss)
        for layer in run.sensitivity["layers"].values()
        if modality in (None, layer["modality"])
        and layer["dimension"] is not None
        and not layer.get("unsound")
        and (loss := loss_of(layer, ratio)) is not None
    ]
    return spearman([x for x, _ in pairs], [y for _, y in pairs])


def left_out(runs: Sequence[RunRecord]) -> str:
    """How many layers have no part in the correlations of runs because they have no reliable ID; "" for none."""
    layers = [layer for run in runs for layer in run.sensitivity["layers"].values()]
    count = sum(layer["dimension"] is None or bool(layer.get("unsound")) for layer in layers)
    return f"left out, as they have no reliable ID: {count} of {len(layers)} layers" if count else ""


def spearman(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Spearman's rho with a two-sided permutation test of `PERMUTATIONS` draws.

    p = (1 + draws at least as extreme) / (1 + draws), so it is never 0. None for fewer than 4 pairs, or where all of x
    or all of y are the same.
    """
    from scipy.stats import rankdata

    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    centred = (rankdata(values) - (len(values) + 1) / 2 for values in (x, y))
    a, b = (ranks / np.linalg.norm(ranks) for ranks in centred)
    rho = float(a @ b)
    drawn = np.random.default_rng(0).permuted(np.tile(b, (PERMUTATIONS, 1)), axis=1) @ a
    extreme = int(np.count_nonzero(np.abs(drawn) >= abs(rho) - 1e-12))
    return Correlation(rho=rho, p=(1 + extreme) / (1 + PERMUTATIONS), n=len(a))


def subject(run: RunRecord) -> str:
    """What a run measured, and which run it is."""
    return f"{run.model} on {run.dataset}: {run.label}"


def distinct(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs without those that repeat the numbers of an earlier one, of the same model."""
    firsts: dict[str, RunRecord] = {}
    for run in sorted(runs, key=lambda run: run.began):
        found = run.sensitivity
        numbers = found["dense"], found["layers"], found["modalities"]
        firsts.setdefault(repr((run.signature.get("fingerprint"), run.model, run.dataset, numbers)), run)
    return [run for run in runs if run in firsts.values()]


def _replicated(run: RunRecord) -> str:
    """What runs share whose correlations have a mean: all but the weights of the model and the seeds."""
    measured = run.sensitivity.get("profile") or {}
    how = {key: word for key, word in (measured.get("protocol") or {}).items() if key not in CHANCE}
    split = (run.sensitivity.get("dataset") or {}).get("split")
    read = run.dataset, split, (run.sensitivity.get("protocol") or {}).get("samples"), measured.get("dataset")
    return repr((run.signature.get("class") or run.model, read, sorted(how.items()), sorted(run.sensitivity["layers"])))


def sensitivity_tables(runs: Sequence[RunRecord]) -> Iterator[Table]:
    """Whether layers of higher dimension lose more when they alone are pruned: of each run, then means of replicates.

    Replicates differ in the weights of the model or in seeds alone.
    """
    if not runs:
        return
    every, runs = runs, distinct(runs)
    replicates: dict[str, list[RunRecord]] = {}
    for number, run in enumerate(runs, 1):
        replicates.setdefault(_replicated(run), []).append(run)
        source, modalities = (run.source(SENSITIVITY),), _modalities([run])
        rows = []
        for ratio in ratios(run):
            entries: list[TableEntry] = []
            for group in (None, *modalities):
                rank_correlation = correlation(run, ratio, group)
                entries += [TableEntry(), TableEntry()] if rank_correlation is None else [
                    TableEntry(value=rank_correlation.rho, n=rank_correlation.n, sources=source, decimals=2),
                    TableEntry(value=rank_correlation.p, n=rank_correlation.n, sources=source, decimals=4),
                ]  # fmt: skip
            rows.append(((percent(ratio),), tuple(entries)))
        learnt = run.sensitivity.get("dataset", {}).get("learnt")
        unreliable = left_out([run])
        unknown = any("unsound" not in layer for layer in run.sensitivity["layers"].values())
        used = f"CAUTION: samples are not held out: the split was used for {learnt} of the model"
        yield Table(
            key=f"sensitivity-{number}", paper=HYPOTHESIS, counts="layers",
            title=f"Spearman's rho of dimension and loss: {subject(run)}", rows=tuple(rows),
            labels=("of each layer alone",),
            columns=tuple(f"{group or 'all layers'}, {word}" for group in (None, *modalities) for word in ("rho", "p")),
            notes=(
                _how(run),
                "two-sided p from 10,000 permutations; layers of one model are not independent, so it is a guide",
                *([f"CAUTION: {unreliable}"] if unreliable else []),
                *(["CAUTION: the file does not say which IDs are unreliable: all count"] if unknown else []),
                *([used] if learnt else []),
            ),
        )  # fmt: skip
    several = [members for members in replicates.values() if len(members) > 1]
    yield from (_mean_correlation(members, number) for number, members in enumerate(several, 1))
    yield _alone(runs, [run.label for run in every if run not in runs])


def _how(run: RunRecord) -> str:
    """Of how many layers the dimensions are, and how they and the losses were measured."""
    about, losses = run.sensitivity.get("profile") or {}, run.sensitivity.get("dataset") or {}
    how = about.get("protocol") or {}
    points = f" from {how['n_samples']} samples of {about.get('dataset')}" if how.get("n_samples") else ""
    samples = (run.sensitivity.get("protocol") or {}).get("samples")
    return (
        f"{len(run.sensitivity['layers'])} layers; IDs by {how.get('estimator', '?')}{points}; losses of "
        f"{samples or '?'} samples of {run.dataset} {losses.get('split') or ''}".strip()
    )


def _mean_correlation(runs: Sequence[RunRecord], number: int) -> Table:
    groups = (None, *_modalities(runs))
    rows = []
    for ratio in sorted({ratio for run in runs for ratio in ratios(run)}):
        entries = []
        for group in groups:
            correlations = [(run, correlation(run, ratio, group)) for run in runs]
            found = [TableEntry(value=one.rho, sources=(run.source(SENSITIVITY),)) for run, one in correlations if one]
            average = mean(found) if len(found) > 1 else TableEntry()
            bounds = [None if bound is None else max(-1.0, min(bound, 1.0)) for bound in (average.low, average.high)]
            entries.append(replace(average, low=bounds[0], high=bounds[1], decimals=2))
        rows.append(((percent(ratio),), tuple(entries)))
    most = max((entry.n for _, entries in rows for entry in entries), default=0)
    unreliable = left_out(runs)
    of = f"{', '.join(dict.fromkeys(run.model for run in runs))} on {runs[0].dataset}"
    return Table(
        key=f"sensitivity-mean-{number}", paper=HYPOTHESIS,
        title=f"Spearman's rho of dimension and loss, mean of {len(runs)} runs: {of}",
        labels=("of each layer alone",), columns=tuple(group or "all layers" for group in groups), rows=tuple(rows),
        notes=(f"of {', '.join(run.label for run in runs)}, which differ in the model's weights or seeds alone",
               f"intervals are 95 % t intervals over the {most} runs that have it, cut at -1 and 1",
               *([f"CAUTION: {unreliable}"] if unreliable else [])),
    )  # fmt: skip


def _alone(runs: Sequence[RunRecord], repeated: Sequence[str]) -> Table:
    """The loss with a modality alone pruned. `repeated`: the runs that are left out."""
    every = sorted({ratio for run in runs for ratio in ratios(run)})
    rows = []
    for run in runs:
        source = (run.source(SENSITIVITY),)
        dense = TableEntry(value=run.sensitivity["dense"].get("loss"), sources=source, n=1, decimals=4)
        for name, part in run.sensitivity["modalities"].items():
            losses = [TableEntry(value=loss_of(part, ratio), sources=source, n=1, decimals=4) for ratio in every]
            weights = part.get("weights")
            words = (run.label, run.model, name, "" if weights is None else f"{weights:,}")
            rows.append((words, (dense, *losses)))
    return Table(
        key="alone", title="Loss with one modality alone pruned, one-shot by magnitude", paper="Figures 1 and 4",
        labels=("run", "model", "modality", "weights"), columns=("0 %", *map(percent, every)), rows=tuple(rows),
        notes=tuple([f"left out, as repeats of the same model and numbers: {', '.join(repeated)}"] * bool(repeated)),
    )  # fmt: skip


def _modalities(runs: Sequence[RunRecord]) -> list[str]:
    """Modalities to break results down by: none if there is only one."""
    modalities = [word for word in MODALITIES if any(word in run.sensitivity["modalities"] for run in runs)]
    return modalities if len(modalities) > 1 else []
