"""Models that were measured after they were pruned, beside the dense models that they began as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from idvl.profile import LayerProfile, Profile
from idvl.reliability import unsound_reason
from idvl.reporting.collect import Study
from idvl.reporting.groups import Group
from idvl.reporting.lineage import MeasuredProfile, measured_alike, profiles_of
from idvl.reporting.run_record import RunRecord

UNLIKE = "before and after were measured with different samples, split, cleaning of texts, tokens or estimator"


@dataclass(frozen=True, eq=False)
class Change:
    """What was measured of a model after it was pruned, and the group of that run.

    `before`: what was measured of the dense model, with as many layers as there are, and alike if possible.
    """

    group: Group
    after: MeasuredProfile
    before: MeasuredProfile | None

    @property
    def profile(self) -> Profile:
        return self.after.profile

    @property
    def alike(self) -> bool:
        return self.before is not None and measured_alike(self.before.profile, self.profile)

    def of(self, modality: str) -> float | None:
        """The mean change of the dimensions of a modality's layers; None where no layer has two reliable ones."""
        changes = [
            after.estimate.dimension - before.estimate.dimension
            for before, after in self.pairs(modality)
            if not any(map(unsound_reason, (before, after)))
        ]
        return math.fsum(changes) / len(changes) if changes else None

    def pairs(self, modality: str) -> list[tuple[LayerProfile, LayerProfile]]:
        """Each layer of a modality before and after, where it has a dimension both times, a reliable one or not."""
        before = self.before.profile.layers if self.before else {}
        layers = [(before[name], layer) for name, layer in self.profile.layers.items() if name in before]
        return [
            pair
            for pair in layers
            if pair[1].modality == modality and all(layer.estimate.dimension is not None for layer in pair)
        ]


def changes_of(study: Study, groups: Sequence[Group]) -> list[Change]:
    """What was measured of the models that runs of prune saved, once of each."""
    home = {run: group for group in groups for run in group.runs}
    # of runs that saved the same weights one is in a group, and another may have been measured
    kept = {run.saved_fingerprint: run for run in home if run.saved_fingerprint}
    same = {run: kept.get(run.saved_fingerprint) for group in groups for run in group.repeated}
    every = profiles_of(study)
    changes: dict[RunRecord, Change] = {}
    for one in every:
        saver = one.pruned if one.pruned in home else same.get(one.pruned)
        if one.run.kind == "estimate-id" and saver:
            dense = [
                other
                for other in every
                if not other.renewed and other.profile.model.get("fingerprint") == one.pruned.dense_fingerprint
            ]
            before = max(dense, key=lambda other: _fit(other.profile, one.profile), default=None)
            change = Change(home[saver], one, before)
            # of several of one model the one that was measured as the dense model was
            if saver not in changes or change.alike > changes[saver].alike:
                changes[saver] = change
    return list(changes.values())


def _fit(profile: Profile, other: Profile) -> tuple[int, bool]:
    """How well a dense profile goes with one after: first the layers that both have, then samples and protocol."""
    return len(profile.layers.keys() & other.layers.keys()), measured_alike(profile, other)
