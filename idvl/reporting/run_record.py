"""One run as reports see it: its documents as plain values, what is wrong with them, and the names of its parts.

Nothing is computed here: a number stays what its file says, and the file is named beside it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from idvl import json_file, predictions
from idvl.json_schema import Schema
from idvl.profile import Profile
from idvl.reporting.entry import TableEntry

Kind = Literal["estimate-id", "prune", "eval", "sensitivity", "allocations"]
# the file that a finished run of a kind ends with; a run of prune has profile.json too, so it comes first
ENDS: dict[Kind, str] = {
    "prune": "report.json",
    "eval": "results.json",
    "sensitivity": "sensitivity.json",
    "allocations": "allocations.json",
    "estimate-id": "profile.json",
}
# a share of zeros that a dense model may hold by accident
FEW = 0.01


class PredictedSample(Schema):
    """A line of predictions.jsonl."""

    id: str


@dataclass(frozen=True, kw_only=True, eq=False)
class RunRecord:
    """One run folder. `record` is run.json, `recipe` recipe.yaml; `troubles` say what could not be read, and why.

    `broken`: run.json cannot be read, which leaves open what the run was to end with. `dense`: the profile of the model
    before it was pruned, where the run holds one beside a newer `profile`.
    """

    folder: Path
    label: str
    kind: Kind
    finished: bool
    record: dict[str, Any]
    recipe: dict[str, Any]
    profile: Profile | None = None
    dense: Profile | None = None
    report: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    sensitivity: dict[str, Any] = field(default_factory=dict)
    allocations: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    troubles: tuple[str, ...] = ()
    broken: bool = False

    @property
    def signature(self) -> dict[str, Any]:
        return self.record.get("signature", {})

    @property
    def began(self) -> tuple[str, str]:
        """Sorts runs by when they were started, whatever the order of their folders."""
        return self.record.get("started") or "", self.label

    @property
    def damaged(self) -> bool:
        """Whether the run ended, but not with a file that can be read."""
        return not self.finished and (self.broken or os.path.lexists(self.folder / ENDS[self.kind]))

    @property
    def model(self) -> str:
        """The name of the model that the run began with."""
        name = (self.recipe.get("model") or {}).get("name")
        return name or self.measured_model.get("name") or "unknown model"

    @property
    def measured_model(self) -> dict[str, Any]:
        """The model that the run measured, else the one that it evaluated, as its documents describe it."""
        return (self.profile.model if self.profile else None) or self.results.get("model", {})

    @property
    def dataset(self) -> str:
        data = self.recipe.get("data") or {}
        described = self.results.get("dataset") or (self.profile.dataset if self.profile else {})
        return data.get("dataset") or data.get("data_dir") or described.get("dataset") or "unknown data"

    @property
    def history(self) -> list[dict[str, Any]]:
        """The settings of the runs that came before the pruning of this run, or before the one that it recovers."""
        return self._steps()[0]

    @property
    def pruning(self) -> dict[str, Any]:
        """The settings of the run that pruned the model that this one recovers; {} for a run of prune."""
        return self._steps()[1]

    @property
    def recoveries(self) -> list[dict[str, Any]]:
        """The settings of the recoveries since the pruning, this run's own too."""
        return self._steps()[2]

    def _steps(self) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
        steps = self.signature.get("history", [])
        if "recover.method" not in self.signature:
            return steps, {}, []
        pruned = [number for number, step in enumerate(steps) if "prune.criterion" in step]
        own = {key: word for key, word in self.signature.items() if key.startswith(("recover.", "train."))}
        if not pruned:
            return [], {}, [*steps, own]
        return steps[: pruned[-1]], steps[pruned[-1]], [*steps[pruned[-1] + 1 :], own]

    @property
    def zeros_before(self) -> int:
        """How many zeros of an earlier pruning the model held that a run of prune began with; 0 where they are few."""
        zeros = (self.report.get("before") or {}).get("zeros", 0)
        return zeros if zeros and zeros >= FEW * self.report["total"]["prunable_weights"] else 0

    @property
    def dense_fingerprint(self) -> str | None:
        """The fingerprint of the dense model of a run of prune; of one that got a new head, once that was learnt."""
        return self.report.get("made", {}).get("dense_fingerprint") or self.signature.get("fingerprint")

    @property
    def saved_fingerprint(self) -> str | None:
        """The fingerprint of the model that a run of prune saved, where it is known."""
        models = (self.report.get("verified"), self.results.get("model"))
        return next(filter(None, (model.get("fingerprint") for model in models if model)), None)

    @property
    def evaluated(self) -> str:
        """The name of the results file inside the folder."""
        return "eval/results.json" if self.kind == "prune" else "results.json"

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """What the task was for each sample of the run's evaluation, by id, in its order; {} where no file tells."""
        path = (self.folder / self.evaluated).with_name("predictions.jsonl")
        try:
            return {record["id"]: predictions.inputs(record) for record in json_file.lines(path, PredictedSample)}
        except (OSError, ValueError):
            return {}

    def source(self, name: str) -> str:
        """How a table names a file of this run."""
        return f"{self.label}/{name}"

    def metrics(self) -> dict[str, TableEntry]:
        """Every metric of the run's evaluation, those without a value included."""
        sources = (self.source(self.evaluated),)
        return {
            name: TableEntry(
                value=metric["value"],
                low=metric.get("low"),
                high=metric.get("high"),
                n=int(metric["value"] is not None),
                sources=sources,
            )
            for name, metric in self.results.get("metrics", {}).items()
        }
