"""The data behind every figure of a study, a file for each. Layers of several runs are put together by name alone."""

from __future__ import annotations

from idvl.reporting.change import changes_of
from idvl.reporting.collect import Study
from idvl.reporting.figure import Figure
from idvl.reporting.figures import allocations, change, dimensions, pruning, sensitivity
from idvl.reporting.groups import groups_of


def figures_of(study: Study) -> list[Figure]:
    """All figures that the runs have points for."""
    groups = groups_of(study)
    changes = changes_of(study, groups)
    every = [dimensions.by_depth(study), pruning.layer_sparsity(groups), pruning.quality(study, groups)]
    every += [change.by_method(changes), change.by_scope(changes)]
    every += [sensitivity.figure(study), sensitivity.alone(study), dimensions.by_scale(study)]
    every.append(allocations.figure(study))
    return [figure for figure in every if figure.panels]
