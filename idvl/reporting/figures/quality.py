"""A metric against sparsity, a curve for each scope and weighting (the paper's Figures 1 and 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from idvl.reporting import labels
from idvl.reporting.collect import Study
from idvl.reporting.figures.panel import DASHES, SCOPES, WEIGHTINGS, Figure, Panel, Series, grouped, make, share
from idvl.reporting.groups import Replicates, entry, model_of, runs_in
from idvl.reporting.lineage import dense_runs
from idvl.reporting.tables import headline


def figure(study: Study, cells: Sequence[Replicates]) -> Figure:
    """Figures 1 and 4: the headline metric against the sparsity of what is pruned, a curve for each scope."""

    def panels() -> Iterator[Panel]:
        for subject, ours in grouped(cells, lambda cell: cell.subject):
            metric = headline(runs_in(ours))
            if metric is None:
                continue
            for (criterion, extra), group in grouped(ours, lambda cell: (cell.method.criterion, cell.method.extra)):
                name = ", ".join(filter(None, (labels.criterion(criterion), extra)))
                curves = grouped(group, lambda cell: (cell.scope, cell.method))
                series = [_curve(metric, found, group) for _, found in curves]
                yield Panel(
                    name=f"{name}: {model_of(ours)} on {subject.dataset}",
                    series=(*series, *_start(metric, ours, study)),
                    said="bars are 95 % intervals, over runs or of a single run over its samples",
                    y_label=metric,
                )

    return make(
        panels(), key="quality", title="Quality against sparsity, by what is pruned", paper="Figures 1 and 4",
        x_label="sparsity of the layers in scope, %", y_label="metric", zero=False, bars=True,
    )  # fmt: skip


def _curve(metric: str, cells: Sequence[Replicates], group: Sequence[Replicates]) -> Series:
    scope, method = cells[0].scope, cells[0].method
    scopes = list(dict.fromkeys(cell.scope for cell in group))
    methods = list(dict.fromkeys(cell.method for cell in group))
    found = [(cell, made) for cell in cells if (made := cell.entry(metric)).value is not None]
    title = ", ".join(filter(None, (labels.weighting(method.id_weight), method.weighting)))
    # the paper's colours are scopes, and weightings its strokes; with one scope, weightings have the colours
    tone = SCOPES.get(scope, str(scopes.index(scope))) if len(scopes) > 1 else WEIGHTINGS.get(method.id_weight, "3")
    return Series(
        name=title if len(scopes) == 1 else f"{scope}, {title}", tone=tone,
        dash=DASHES[methods.index(method) % 3], hollow=method.id_weight == "none",
        x=tuple(100 * cell.sparsity for cell, _ in found), y=tuple(made.value or 0.0 for _, made in found),
        low=tuple(made.low for _, made in found), high=tuple(made.high for _, made in found),
        names=tuple(f"{cell.method}, {cell.scope}, {labels.percent(cell.sparsity)}" for cell, _ in found),
        facts={
            "runs": tuple(f"{made.n}" for _, made in found),
            "of all weights": tuple(share(cell.runs[0].report["total"].get("model_sparsity")) for cell, _ in found),
        },
        sources=tuple(source for _, made in found for source in made.sources),
    )  # fmt: skip


def _start(metric: str, cells: Sequence[Replicates], study: Study) -> Iterator[Series]:
    """The dense model, at sparsity 0, where its evaluation is among the runs."""
    found = entry([run.metrics()[metric] for run in dense_runs(runs_in(cells), study) if metric in run.metrics()])
    if found.value is not None:
        yield Series(
            name="dense model", tone="ink", x=(0.0,), y=(found.value,), low=(found.low,), high=(found.high,),
            names=("dense model",), sources=found.sources, joined=False,
        )  # fmt: skip
