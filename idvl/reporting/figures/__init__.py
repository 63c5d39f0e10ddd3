"""The data behind every figure of a study, a file for each. Layers of several runs are put together by name alone."""

from __future__ import annotations

from idvl.reporting.after import measured_after
from idvl.reporting.collect import Study
from idvl.reporting.figures import change, depth, prunability, quality, scale, sparsity
from idvl.reporting.figures.panel import Figure
from idvl.reporting.groups import cells_of


def figures_of(study: Study) -> list[Figure]:
    """All figures that the runs have points for."""
    cells = cells_of(study)
    after = measured_after(study, cells)
    made = [depth.figure(study), sparsity.figure(cells), quality.figure(study, cells)]
    made += [change.by_method(after), change.by_scope(after)]
    made += [prunability.figure(study), prunability.alone(study), scale.figure(study)]
    return [figure for figure in made if figure.panels]
