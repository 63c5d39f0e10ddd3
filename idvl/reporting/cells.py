"""Which runs belong together: the same subject, method, scope and sparsity, from other seeds or other dense models.

A cell is what a table has a number for: its runs are replicates of each other. It computes means of what runs measured,
and differences between cells, replicate by replicate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idvl.reporting.collect import Number, Run, Study
from idvl.reporting.statistics import mean_interval

TITLES = {"platon": "PLATON", "magnitude": "Magnitude", "gradient": "Gradient"}
SIGNS = {"multiply": " × ID", "divide": " / ID", "none": ""}
WEIGHTS = tuple(SIGNS)
# what makes a cell, and what differs between its replicates: neither is a setting to be named beside the method
AXES = {"prune.sparsity", "prune.criterion", "prune.id_weight", "prune.scope"}
REPLICATE = {"fingerprint", "revision", "seed", "samples", "profile", "processes", "class", "layers"}
# one-shot pruning is a word for all of these
ONE_SHOT = {"prune.initial", "prune.final", "prune.mask_every", "train.epochs", "train.max_steps"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of a table. `sources`: the files behind it. `text` stands where there is no number.

    The interval is a t interval over `n` runs, or of a single run the one that its file gives (bootstrap).
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    sources: tuple[str, ...] = ()
    text: str = "–"
    decimals: int = 1


@dataclass(frozen=True)
class Subject:
    """What is pruned: models of one class and size, on one dataset."""

    kind: str
    weights: int
    dataset: str


@dataclass(frozen=True)
class Method:
    """How weights are chosen: criterion, weighting by ID, and the settings that differ from most runs'."""

    criterion: str
    id_weight: str
    extra: str = ""

    def __str__(self) -> str:
        name = TITLES.get(self.criterion, self.criterion) + SIGNS.get(self.id_weight, f" {self.id_weight}")
        return f"{name}, {self.extra}" if self.extra else name


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """The replicates of one setting. `repeated`: runs left out because an earlier one is the same replicate."""

    subject: Subject
    method: Method
    scope: str
    sparsity: float
    runs: tuple[Run, ...]
    repeated: tuple[Run, ...] = ()

    def entry(self, metric: str) -> Entry:
        """A metric's mean over the runs that have it."""
        return entry([run.metrics()[metric] for run in self.runs if metric in run.metrics()])


def entry(numbers: Sequence[Number]) -> Entry:
    """The mean of what several runs say; what a single one says with its own interval."""
    known = [number for number in numbers if number.value is not None]
    if not known:
        return Entry(sources=tuple(number.source for number in numbers))
    mean, low, high = mean_interval([number.value for number in known if number.value is not None])
    if len(known) == 1:
        low, high = known[0].low, known[0].high
    return Entry(value=mean, low=low, high=high, n=len(known), sources=tuple(number.source for number in known))


def replicate(run: Run) -> tuple[Any, Any]:
    """What tells the runs of a cell apart: the dense model and the seed."""
    return run.signature.get("fingerprint"), run.signature.get("seed")


def subject_of(run: Run) -> Subject:
    """Of a run of prune."""
    total = run.report.get("total") or {}
    return Subject(run.signature.get("class") or run.model, int(total.get("model_weights") or 0), run.dataset)


def model_of(cells: Sequence[Cell]) -> str:
    """The name of the model that the runs of cells began with, or the number of models and their class."""
    names = list(dict.fromkeys(run.model for cell in cells for run in cell.runs))
    return names[0] if len(names) == 1 else f"{len(names)} models of {cells[0].subject.kind}"


def judged_on(run: Run) -> tuple[Any, ...]:
    """What tells samples of an evaluation apart; a whole split is the same in any order."""
    dataset, limit = run.results.get("dataset") or {}, run.results.get("limit")
    named = tuple(dataset.get(key) for key in ("dataset", "dataset_id", "revision", "split"))
    return (*named, limit, run.results.get("samples"), dataset.get("fingerprint") if limit or not named[0] else None)


def cells_of(study: Study) -> list[Cell]:
    """All cells of the finished runs of prune: by subject, scope and method, then by sparsity."""
    pruned = study.of("prune")
    usual = _usual(pruned)
    groups: dict[tuple[Subject, Method, str, float], list[Run]] = {}
    for run in pruned:
        subject, signature = subject_of(run), run.signature
        asked = (run.recipe.get("prune") or {}) | {
            key.removeprefix("prune."): value for key, value in signature.items() if key.startswith("prune.")
        }
        method = Method(
            str(asked.get("criterion", "unknown")), str(asked.get("id_weight", "none")), _extra(run, usual[subject])
        )
        total = run.report.get("total") or {}
        sparsity = next((v for v in (asked.get("sparsity"), total.get("asked"), total.get("sparsity")) if v), 0.0)
        groups.setdefault((subject, method, _scope(asked.get("scope")), round(float(sparsity), 6)), []).append(run)
    made = [_cell(key, found) for key, found in groups.items()]
    return sorted(made, key=_order)


def _cell(key: tuple[Subject, Method, str, float], found: list[Run]) -> Cell:
    """A run cut short of its evaluation does not stand in for one that has it."""
    found = sorted(found, key=lambda run: not run.results)
    kept: dict[tuple[Any, Any], Run] = {}
    for run in found:
        kept.setdefault(replicate(run) if run.signature else (run.label, None), run)
    subject, method, scope, sparsity = key
    return Cell(
        subject=subject, method=method, scope=scope, sparsity=sparsity, runs=tuple(kept.values()),
        repeated=tuple(run for run in found if run not in kept.values()),
    )  # fmt: skip


def _order(cell: Cell) -> tuple[Any, ...]:
    criteria, weights = ["magnitude", "gradient", "platon"], ["none", "multiply", "divide"]
    place = [
        order.index(word) if word in order else len(order)
        for order, word in ((criteria, cell.method.criterion), (weights, cell.method.id_weight))
    ]
    subject = cell.subject
    return (
        *(subject.kind, subject.dataset, subject.weights, cell.method.extra),
        *(cell.scope != "all", cell.scope, place[0], cell.method.criterion, place[1], cell.sparsity),
    )


def _scope(asked: Any) -> str:
    return ", ".join(map(str, asked)) if isinstance(asked, list) else str(asked or "all")


def _settings(run: Run) -> dict[str, Any]:
    """The settings that a method's name may have to mention, scheduled ones of one-shot pruning left out."""
    shot = run.signature.get("prune.schedule") == "one-shot"
    found = {
        key: value
        for key, value in run.signature.items()
        if key not in AXES | REPLICATE and not (shot and (key in ONE_SHOT or key.startswith("train.")))
    }
    if "prune.profile" in found and not str(found["prune.profile"]).startswith("published:"):
        found["prune.profile"] = "measured"
    return found


def _usual(pruned: Sequence[Run]) -> dict[Subject, dict[str, Any]]:
    """The most common value of every setting, by subject; of equally common ones the first."""
    counts: dict[Subject, dict[str, Counter[str]]] = {}
    for run in pruned:
        for key, value in _settings(run).items():
            counts.setdefault(subject_of(run), {}).setdefault(key, Counter())[repr(value)] += 1
    found: dict[Subject, dict[str, Any]] = {subject_of(run): {} for run in pruned}
    for subject, keys in counts.items():
        found[subject] = {key: counter.most_common(1)[0][0] for key, counter in keys.items()}
    return found


def _extra(run: Run, usual: dict[str, Any]) -> str:
    """The settings in which a run differs from most, in words."""
    odd = {key: value for key, value in _settings(run).items() if repr(value) != usual[key]}
    words = [str(odd.pop("prune.schedule"))] if "prune.schedule" in odd else []
    for key, value in odd.items():
        name = key.partition(".")[2] or key
        words.append(f"no {name}" if value is None else f"{name} {value}")
    return ", ".join(words)


def dense_of(run: Run, study: Study) -> Run | None:
    """The evaluation of the model that a run began with, on the samples that the run was judged on."""
    wanted = run.signature.get("fingerprint")
    for other in study.of("eval"):
        same = wanted and (other.results.get("model") or {}).get("fingerprint") == wanted
        if same and other.results.get("task") == run.results.get("task") and judged_on(other) == judged_on(run):
            return other
    return None


def dense_runs(cells: Sequence[Cell], study: Study) -> list[Run]:
    """The evaluations of the dense models of cells, each once."""
    found: dict[str, Run] = {}
    for run in (run for cell in cells for run in cell.runs):
        if dense := dense_of(run, study):
            found.setdefault(dense.label, dense)
    return list(found.values())


def pruned_by(run: Run, study: Study) -> Run | None:
    """The run of prune whose saved model `run` measured or judged; None for any other model."""
    described = (run.profile.model if run.profile else None) or run.results.get("model") or {}
    name, fingerprint = described.get("name") or run.model, described.get("fingerprint")
    for other in study.of("prune"):
        saved = (other.results.get("model") or {}).get("fingerprint")
        if (fingerprint and saved == fingerprint) or Path(name).resolve() == (other.folder / "model").resolve():
            return other if other is not run else None
    return None


def gains(cells: Sequence[Cell], metric: str) -> Iterator[tuple[Cell, Entry]]:
    """(cell weighted by ID, its metric minus that of the cell without, over the replicates that both have)."""
    plain = {
        (cell.subject, cell.method.criterion, cell.method.extra, cell.scope, cell.sparsity): cell
        for cell in cells
        if cell.method.id_weight == "none"
    }
    for cell in cells:
        base = plain.get((cell.subject, cell.method.criterion, cell.method.extra, cell.scope, cell.sparsity))
        if base is None or base is cell:
            continue
        others = {replicate(run): run for run in base.runs}
        differences, sources = [], []
        for run in cell.runs:
            pair = [one.metrics().get(metric) for one in (run, others.get(replicate(run))) if one is not None]
            if len(pair) == 2 and all(number is not None and number.value is not None for number in pair):
                differences.append(pair[0].value - pair[1].value)
                sources += [number.source for number in pair]
        if differences:
            mean, low, high = mean_interval(differences)
            yield cell, Entry(value=mean, low=low, high=high, n=len(differences), sources=tuple(sources))
