"""Dimension against sensitivity: the loss when one layer alone, or one modality alone, is pruned.

Every part is pruned in one shot by magnitude, at several ratios, and restored; the loss that the family trains with is
measured on a held-out split. No weight is trained. It leaves metrics.jsonl, a line a loss, and sensitivity.json.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.data.samples import Selection
from idvl.device import cost_since, free_memory
from idvl.distributed import Team
from idvl.errors import quoted
from idvl.files import write_json
from idvl.json_schema import Schema
from idvl.measurement.estimation import Estimation
from idvl.models.classes import with_labels_of_head
from idvl.models.layers import SCOPES, in_scope, modalities_of
from idvl.models.loading import Loaded
from idvl.profile import Profile
from idvl.pruning import dimensions, profiles
from idvl.pruning.held_out import Probe, pruned
from idvl.recipe import Recipe
from idvl.reliability import unsound_reason
from idvl.reporter import Reporter
from idvl.reporting.sensitivity import SensitivityFile
from idvl.sparsity.budget import Budget
from idvl.sparsity.weighting import multipliers
from idvl.training.accelerator import left_out
from idvl.training.ranks import objects
from idvl.units import duration, size

FILE = "sensitivity.json"
# samples of a batch, where eval.batch_size is auto
BATCH = 16
# one loss: of the dense model, a layer or a modality, its name ("" for the dense model), the ratio that is pruned
Trial = tuple[str, str, float]


class LossLine(Schema):
    """A line of metrics.jsonl: one loss, of a layer, a modality or the dense model."""

    part: str
    name: str
    ratio: float
    loss: float | None
    zeros: int


@dataclass(frozen=True, kw_only=True)
class SensitivityPlan:
    """What a run takes: losses still to measure, bytes for inputs and copies of weights, seconds of each process."""

    trials: int
    done: int
    memory: int
    seconds: float
    estimating: float

    def lines(self) -> list[str]:
        """The plan for people."""
        estimating = f", {duration(self.estimating)} of measuring dimensions before it" if self.estimating else ""
        earlier = f", {self.done} of them measured already" if self.done else ""
        return [
            f"{self.trials} losses{earlier}: about {duration(self.seconds)}{estimating}",
            f"{size(self.memory)} for prepared samples and a copy of the pruned weights, in addition to the model",
        ]

    def to_json(self) -> dict[str, Any]:
        """The plan for programs; memory in bytes."""
        return asdict(self)


class SensitivityRun:
    """A model, its layers, held-out samples and the ratios: what is to be measured. Nothing is written yet."""

    def __init__(
        self,
        recipe: Recipe,
        loaded: Loaded,
        selection: Selection,
        team: Team,
        reporter: Reporter,
        ratios: Sequence[float],
    ):
        self._provenance = runs.provenance()
        self.recipe, self.loaded, self.team, self.reporter = recipe, loaded, team, reporter
        self.selection = with_labels_of_head(loaded, selection)
        self.ratios, self.layers = list(ratios), in_scope(loaded.model, loaded.family, recipe.prune.scope)
        self.weights = {name: layer.module.weight for name, layer in self.layers.items()}
        for names in self.parts().values():
            for ratio in self.ratios:  # refuses one that prunes nothing of a part, or all of it
                Budget({name: self.weights[name].numel() for name in names}, sparsity=ratio)
        left_out(loaded, self.selection.samples)
        size, free = recipe.eval.batch_size or BATCH, free_memory(loaded.model.device, team.size)
        # a copy of the largest part, and the scores of its largest layer
        self.beside = max(self._bytes(part) for part in self.parts().values())
        self.probe = team.each(
            lambda: Probe(loaded, self.selection.samples, batch_size=size, budget=max(free - self.beside, 0))
        )
        self.profile = team.first(self._recipe_profile)
        self.estimation: Estimation | None = None

    def parts(self) -> dict[tuple[str, str], list[str]]:
        """What is pruned alone: the layers of each modality, all of the scope "language", then each layer."""
        modalities: dict[str, list[str]] = {}
        for name, layer in self.layers.items():
            modalities.setdefault(layer.modality, []).append(name)
        scope = SCOPES["language"]
        if all(modality in modalities for modality in scope):
            modalities[" and ".join(scope)] = [name for modality in scope for name in modalities[modality]]
        parts = {("modality", modality): names for modality, names in modalities.items()}
        return parts | {("layer", name): [name] for name in self.layers}

    def trials(self) -> list[Trial]:
        """Everything that is measured, the dense model first."""
        return [("dense", "", 0.0), *((*part, ratio) for part in self.parts() for ratio in self.ratios)]

    def plan(self, folder: Path | None) -> SensitivityPlan:
        """What is left of a run, all of it where `folder` is None."""
        self._prepare_profile(folder)
        trials, lines = self.trials(), self.team.first(lambda: _measured(folder) if folder else {})
        missing = sum(trial not in lines for trial in trials)
        estimates = self.estimation is not None and not self.estimation.is_done
        return SensitivityPlan(
            trials=len(trials),
            done=len(trials) - missing,
            memory=self.probe.bytes + self.beside,
            seconds=self.team.each(self.probe.seconds) * missing / self.team.size,
            estimating=self.estimation.plan(self.reporter).seconds if estimates else 0.0,
        )

    def signature(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues; other ratios may join."""
        description = self.loaded.description
        about = ("fingerprint", "configuration", "revision", "class", "chat_template", "clean_texts")
        return {
            **{key: description[key] for key in about},
            "samples": self.selection.description["fingerprint"],
            "layers": hashlib.sha256("\n".join(self.layers).encode()).hexdigest(),
            "batch_size": self.recipe.eval.batch_size or BATCH,
            "profile": self.recipe.prune.profile,
        }

    def execute(self, folder: Path, opened: runs.Run | None) -> dict[str, Any] | None:
        """Measure what is left, in turns: each process one loss, which the first one writes down."""
        profile = self._profile(folder, opened)
        self._warn_of_unreliable(profile)
        device = self.loaded.model.device
        measured = self.team.first(lambda: _measured(folder))
        trials = self.trials()
        missing = [trial for trial in trials if trial not in measured]
        with self.reporter.progress("measuring losses") as progress:
            for turn in range(0, len(missing), self.team.size):
                start = time.perf_counter()
                mine = missing[turn + self.team.rank : turn + self.team.rank + 1]
                losses = self.team.each(lambda mine=mine: [self._measure(trial) for trial in mine])
                lines = [line for lines in objects(losses) for line in lines]
                cost = runs.total_cost(cost_since(start, device))
                # of the processes, which measure at a time
                cost["seconds"] = round(cost["seconds"] / len(lines), 3)
                for line in lines:
                    measured[line["part"], line["name"], line["ratio"]] = line | cost
                    if opened:
                        opened.log_metric(line | cost)
                progress(len(trials) - len(missing) + turn, len(trials))
        if opened is None:
            return None
        document = self._document(measured, profile)
        write_json(opened.path(FILE), document)
        return document

    def _measure(self, trial: Trial) -> dict[str, Any]:
        part, name, ratio = trial
        about = {"part": part, "name": name, "ratio": ratio}
        if part == "dense":
            return {**about, "zeros": 0, "loss": self.probe.loss()}
        with pruned({layer: self.weights[layer] for layer in self.parts()[part, name]}, ratio) as zeros:
            return {**about, "zeros": zeros, "loss": self.probe.loss()}

    def _recipe_profile(self) -> Profile | None:
        """The profile that the recipe names, None where it is estimated first."""
        profile = profiles.recipe_profile(self.recipe.prune.model_copy(update={"id_weight": "multiply"}), self.layers)
        if profile:
            multipliers(profile, modalities_of(self.layers))  # refuses another model's
            if profiles.is_foreign(profile, self.loaded.description):
                name = quoted(self.recipe.prune.profile)
                self.reporter.warn(f"the profile {name} was measured on other weights than {self.loaded.name} has")
        return profile

    def _prepare_profile(self, run: Path | None) -> None:
        if self.profile is not None:
            return
        folder = run / dimensions.FOLDER if run else None
        exists = folder is not None and self.team.first(lambda: runs.read_record(folder) is not None)
        recipe = dimensions.dense_recipe(self.recipe)
        self.estimation = Estimation(
            recipe, self.loaded, self.team, self.reporter, resume_from=folder if exists else None
        )

    def _profile(self, folder: Path, opened: runs.Run | None) -> Profile:
        if self.estimation is None:
            return self.profile
        if opened:
            opened.path(dimensions.FOLDER)
        resume = self.estimation.resume_from is not None
        result = self.estimation.execute(folder / dimensions.FOLDER, self.reporter, resume=resume, part=True)
        return self.team.first(lambda: result.profile)

    def _warn_of_unreliable(self, profile: Profile) -> None:
        reasons = {name: unsound_reason(layer) for name, layer in profile.layers.items() if name in self.layers}
        if unsound := [f"{name}: {reason}" for name, reason in reasons.items() if reason]:
            left_out = f"{len(unsound)} of {len(self.layers)} layers have no reliable ID and no part in correlations"
            self.reporter.warn(f"{left_out}, the first is {unsound[0]}")

    def _document(self, measured: Mapping[Trial, dict[str, Any]], profile: Profile) -> dict[str, Any]:
        """sensitivity.json."""

        def losses(part: str, name: str) -> list[dict[str, Any]]:
            return [
                {key: measured[part, name, ratio][key] for key in ("ratio", "zeros", "loss")} for ratio in self.ratios
            ]

        layers, modalities = {}, {}
        for (part, name), names in self.parts().items():
            about = {"weights": sum(self.weights[layer].numel() for layer in names), "losses": losses(part, name)}
            if part == "modality":
                modalities[name] = {"layers": len(names), **about}
                continue
            estimated = profile.layers.get(name)
            layers[name] = {
                "modality": self.layers[name].modality,
                "block": self.layers[name].block,
                "depth": estimated.depth if estimated else None,
                "dimension": estimated.estimate.dimension if estimated else None,
                "stderr": estimated.estimate.stderr if estimated else None,
                "unsound": unsound_reason(estimated) if estimated else None,
                **about,
            }
        long = ("ids", "skipped")
        return {
            "schema": SensitivityFile.NAME,
            "model": self.loaded.description,
            "dataset": {key: value for key, value in self.selection.description.items() if key not in long},
            "protocol": {"criterion": "magnitude", "schedule": "one-shot", "ratios": self.ratios, **self.probe.about()},
            "profile": {"dataset": profile.dataset.get("dataset"), "protocol": profile.protocol},
            "dense": {"loss": measured["dense", "", 0.0]["loss"]},
            "modalities": modalities,
            "layers": layers,
            "provenance": {**self._provenance, **runs.total_cost(*measured.values()), "processes": self.team.size},
        }

    def _bytes(self, names: Sequence[str]) -> int:
        scores = max(self.weights[name].numel() for name in names) * 4
        return sum(self.weights[name].nbytes for name in names) + scores


def _measured(folder: Path) -> dict[Trial, dict[str, Any]]:
    """The losses that a run has written down."""
    lines = runs.read_metrics(folder / "metrics.jsonl", LossLine)
    return {(line["part"], line["name"], line["ratio"]): line for line in lines}
