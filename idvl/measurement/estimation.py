"""A recipe's measurement: planned, then written down layer by layer into a run's folder.

recipe, model -> samples, layers -> measurement -> metrics.jsonl, profile.json, profile.png.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idvl import runs
from idvl.data.samples import Selection
from idvl.device import cost_since
from idvl.distributed import Team
from idvl.downloads import Download
from idvl.errors import RunError, UsageError, quoted
from idvl.measurement.measurement import Measurement
from idvl.measurement.settings import Settings, settings_of
from idvl.models.layers import Layer, find_layers, read_text
from idvl.models.loading import Loaded
from idvl.models.plan import CapturePlan
from idvl.profile import LayerProfile, Profile, load_profile
from idvl.recipe import ESTIMATING, Recipe
from idvl.reliability import unreliable_reason
from idvl.reporter import Reporter, resumable
from idvl.reporting.collect import label_of
from idvl.reporting.plot import plot
from idvl.session import choose_samples, open_run
from idvl.uncovered import in_words

# what of a model's description its dimensions depend on
SIGNED = ("fingerprint", "configuration", "revision", "class", "dtype", "chat_template", "clean_texts")


@dataclass(frozen=True, kw_only=True)
class ProfileResult:
    """What a run ends with: `profile` and `folder` after a measurement (beside the first process neither).

    `plan` is None where everything had been measured before. `model` is the description of the model. `downloads`: what
    a plan found lacking.
    """

    plan: CapturePlan | None
    model: dict[str, Any]
    profile: Profile | None = None
    folder: Path | None = None
    downloads: tuple[Download, ...] = ()


class Estimation:
    """A recipe's measurement of a model that is open. Until `execute` nothing is written.

    `resume_from`: the folder of a run to continue, whose layers need not be measured again. The recipe names its
    dataset.
    """

    def __init__(
        self, recipe: Recipe, loaded: Loaded, team: Team, reporter: Reporter, *, resume_from: Path | None = None
    ):
        self.recipe, self.loaded, self.team, self.resume_from = recipe, loaded, team, resume_from
        estimating, data = recipe.estimate, recipe.data
        self.layers = find_layers(loaded.model, loaded.family, pattern=estimating.layers, modality=estimating.modality)
        options = {"split": data.split, "n": data.samples, "force": data.force, "loaded": loaded}
        options["distinct"] = read_text(self.layers, loaded.family) or "images"
        self.selection = choose_samples(recipe, team, reporter=reporter, purpose="intrinsic dimensions", **options)
        self.signature = _signature(loaded, self.selection, self.layers, settings_of(recipe))
        # a line for each layer that is measured already
        self.lines = team.first(lambda: _lines(resume_from, self.signature, self.layers) if resume_from else [])
        self.done = _done(self.lines)
        self._work: Measurement | None = None

    @property
    def is_done(self) -> bool:
        """Whether every layer has been measured before."""
        return self.done.keys() == self.layers.keys()

    def plan(self, reporter: Reporter) -> CapturePlan:
        """What is going to happen. UsageError where memory or samples are too few."""
        return self._measurement(reporter).plan

    def execute(
        self,
        folder: Path | None,
        reporter: Reporter,
        *,
        resume: bool = False,
        overwrite: bool = False,
        others: Sequence[tuple[str, Profile]] = (),
        part: bool = False,
    ) -> ProfileResult:
        """Measure what is left, into a folder (None: a new one), and draw it beside `others`.

        As a `part` of another run it leaves it to that run to tell how to go on.
        """
        written, model = self.recipe.to_dict(*ESTIMATING), self.loaded.description
        options = {"recipe": written, "signature": self.signature, "resume": resume, "overwrite": overwrite}
        if self.is_done:
            finished = self.team.first(lambda: _finished(folder, options, self, others))
            if finished:
                reporter.note("everything is measured already")
                _warn_of_doubts(finished.layers, reporter, part=part)
                return ProfileResult(plan=None, model=model, profile=finished, folder=folder)
        # nothing of it is needed afterwards
        work, self._work = self._measurement(reporter), None
        for line in (*work.plan.lines(), in_words(model["not_covered"], model["parameters"])):
            reporter.note(line)
        with ExitStack() as held:
            opened, _ = open_run(held, self.team, folder, folder_name(self.recipe), **options)
            if opened is None:
                for _ in work.estimates():
                    pass
                return ProfileResult(plan=work.plan, model=model)
            if not part:
                held.enter_context(resumable(opened.folder, reporter))
            profile = self._recorded(work, opened, reporter)
            plot([(label_of(opened.folder), profile), *others], opened.path("profile.png"))
        _warn_of_doubts(profile.layers, reporter, part=part)
        return ProfileResult(plan=work.plan, model=model, profile=profile, folder=opened.folder)

    def _recorded(self, work: Measurement, opened: runs.Run, reporter: Reporter) -> Profile:
        """Measure what is left, and write the profile."""
        start = time.perf_counter()
        measured = self.done | _measured(work, opened, reporter)
        # a line holds what came between the one before and itself
        cost = runs.total_cost(cost_since(start, work.device), *self.lines)
        profile = work.profile(measured, self.selection, cost)
        backends = Counter(
            layer.estimate.diagnostics.get("neighbors", {}).get("backend") for layer in measured.values()
        )
        reporter.note(f"neighbour search: {', '.join(f'{name} ({n} layers)' for name, n in backends.items() if name)}")
        profile.save(opened.path("profile.json"))
        return profile

    def _measurement(self, reporter: Reporter) -> Measurement:
        if self._work is None:
            with reporter.progress("preparing") as progress:
                self._work = Measurement(
                    self.loaded,
                    self.selection.samples,
                    self.layers,
                    settings_of(self.recipe),
                    memory=self.recipe.estimate.memory_bytes,
                    spill=self.recipe.estimate.spill,
                    team=self.team,
                    done=self.done,
                    progress=progress,
                )
        return self._work


def folder_name(recipe: Recipe) -> runs.FolderName:
    return runs.FolderName("estimate-id", recipe.model.name, recipe.data.dataset)


def _signature(loaded: Loaded, selection: Selection, layers: Mapping[str, Layer], settings: Settings) -> dict[str, Any]:
    """What a resumed run must share with the one it continues: all that its numbers depend on."""
    return {
        **{key: loaded.description[key] for key in SIGNED},
        "samples": selection.description["fingerprint"],
        "layers": hashlib.sha256("\n".join(layers).encode()).hexdigest(),
        **{key: value for key, value in asdict(settings).items() if key not in ("batch_size", "knn")},
    }


def _lines(folder: Path, signature: dict[str, Any], layers: Mapping[str, Layer]) -> list[dict[str, Any]]:
    """A line for each layer that the run in `folder` has measured, none where there is no run yet."""
    record = runs.read_record(folder)
    if record:
        runs.refuse_difference(folder, record["signature"], signature)
    lines = runs.read_metrics(folder / "metrics.jsonl")
    if any(line.get("layer") not in layers for line in lines):
        raise RunError(f"metrics.jsonl of {quoted(folder)} holds a line that is not this run's: use --overwrite")
    return lines


def _done(lines: Sequence[Mapping[str, Any]]) -> dict[str, LayerProfile]:
    return {line["layer"]: LayerProfile.from_json(line.get("profile"), line["layer"]) for line in lines}


def _finished(
    folder: Path, options: Mapping[str, Any], work: Estimation, others: Sequence[tuple[str, Profile]]
) -> Profile | None:
    """The profile of a run that has measured everything, None if it was not written; plotted beside `others`."""
    try:
        profile = load_profile(folder / "profile.json")
    except UsageError:
        return None
    if profile.layers != work.done or profile.model.get("fingerprint") != work.signature["fingerprint"]:
        return None
    if others:
        with runs.Run.open(folder, **options) as opened:
            plot([(label_of(opened.folder), profile), *others], opened.path("profile.png"))
    return profile


def _measured(work: Measurement, opened: runs.Run, reporter: Reporter) -> dict[str, LayerProfile]:
    """Measure what is left, each layer written down as soon as it is known."""
    measured, start = {}, time.perf_counter()
    with reporter.progress("measuring layers") as progress:
        for name, layer in work.estimates(progress):
            cost = runs.total_cost(cost_since(start, work.device))
            opened.log_metric({"layer": name, "profile": asdict(layer), **cost})
            measured[name], start = layer, time.perf_counter()
    return measured


def _warn_of_doubts(profiles: Mapping[str, LayerProfile], reporter: Reporter, *, part: bool) -> None:
    """Warn of layers without a number, and of unreliable ones unless the run that this is a part of does so.

    Raises RunError where no layer has a number.
    """
    without = {name: layer.estimate.reason for name, layer in profiles.items() if layer.estimate.dimension is None}
    reasons = {
        name: unreliable_reason(layer.estimate, layer.n_features)
        for name, layer in profiles.items()
        if name not in without
    }
    doubtful = {} if part else {name: reason for name, reason in reasons.items() if reason}
    for what, layers in (("estimate", without), ("reliable ID", doubtful)):
        if layers:
            name, reason = next(iter(layers.items()))
            message = f"{len(layers)} of {len(profiles)} layers have no {what}, the first is {name}: {reason}"
            if len(without) == len(profiles):
                raise RunError(message)
            reporter.warn(message)
