"""What is tried on an architecture: idvl's commands as a user types them, and what they leave behind.

CHECKS holds them by name in the order of the table. Each takes a Trial, raises Failed with the line that a user would
read, or Nothing where there is nothing to try.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.coverage.architectures import Architecture
from tests.support import processes

SECONDS = 300  # a command on a tiny model that takes longer is taken to hang
SPARSITY = 0.5
STEPS = ("--sparsity", SPARSITY, "--no-eval", "--batch-size", 8)
ONE_SHOT = ("--schedule", "one-shot", "--initial", 0, "--final", 0, "--max-steps", 1)
TABLES = {"classification": "classes", "reasoning": "pairs", "vqa": "questions"}


class Failed(Exception):
    """What went wrong, in one line."""


class Nothing(Exception):
    """Why there is nothing to try, in one line."""


@dataclass
class Trial:
    """An architecture's checkpoint in `folder`/model, the datasets in `data`, and the results so far."""

    about: Architecture
    folder: Path
    data: Path
    results: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def table(self) -> str:
        return TABLES.get(self.about.task or "", "captions")

    def idvl(self, command: str, output: str, *options: Any, table: str | None = None) -> Path:
        """Run a command on the checkpoint and a table of data, and return the run folder."""
        folder = self.folder / output
        arguments = (self.model, "--dataset", self.data / (table or self.table), "--output", folder, "--quiet")
        self._run("-m", "idvl", command, *arguments, *options)
        return folder

    def compare(self, what: str, *arguments: Any) -> Any:
        """What a function of tests.coverage.compare says, which runs in a process of its own."""
        given = [self.about.name, *map(str, arguments)]
        said = self._run("-c", f"from tests.coverage import compare; compare.main({what!r}, *{given!r})")
        return json.loads(said.splitlines()[-1])

    def needs(self, check: str) -> None:
        if self.results.get(check) != "+":
            raise Failed(f"not reached: {check} fails")

    def _run(self, *arguments: Any) -> str:
        # without Java, which METEOR would start for ten seconds
        environment = {**os.environ, **processes.environment(), "PATH": "/nowhere", "TQDM_DISABLE": "1"}
        process = processes.start(*arguments, env=environment)
        try:
            code = process.wait(SECONDS)
        except TimeoutError:
            raise Failed(f"still running after {SECONDS} s") from None
        if code:
            lines = [line.strip() for line in process.stderr.splitlines() if line.strip()]
            raise Failed(lines[-1] if lines else f"exit code {code}")
        return process.stdout


def plain(trial: Trial) -> None:
    """The checkpoint can be built, and what its own processor gives runs through its own class."""
    trial.compare("build", trial.model)
    trial.compare("runs", trial.model, trial.data)


def estimate(trial: Trial) -> None:
    """idvl estimate-id gives every layer a dimension, but for up to a quarter that it reports without one: no sample
    reaches them, or they are the same for all samples, as queries before they meet a picture and position biases are.
    """
    trial.needs("plain")
    folder = trial.idvl("estimate-id", "estimate", "--samples", 100)
    layers = read(folder / "profile.json")["layers"]
    reasons = without_dimension(layers)
    other = [name for name, reason in reasons.items() if not re.match(OPENLY, reason)]
    if other or len(reasons) > len(layers) / 4:
        name = (other or list(reasons))[0]
        raise Failed(f"{len(reasons)} of {len(layers)} layers have no dimension: {name}: {reasons[name]}")


# why a layer has no dimension where none can be expected; the last have no axis of samples
OPENLY = r"constant|no sample reaches it|its tensor \(1, .*\) cannot be split between"


def without_dimension(layers: Mapping[str, Any]) -> dict[str, str]:
    """The layers of a profile.json that have no dimension, each with the reason."""
    estimates = {name: layer["estimate"] for name, layer in layers.items()}
    return {name: estimate["reason"] for name, estimate in estimates.items() if estimate["dimension"] is None}


def magnitude(trial: Trial) -> None:
    """idvl prune while training, by magnitude."""
    _prune(trial, "magnitude", "--criterion", "magnitude", "--max-steps", 4)


def platon(trial: Trial) -> None:
    """idvl prune while training, by PLATON's importance."""
    _prune(trial, "platon", "--criterion", "platon", "--max-steps", 4)


def one_shot(trial: Trial) -> None:
    """idvl prune by magnitude without training."""
    _prune(trial, "one_shot", "--criterion", "magnitude", *ONE_SHOT)


def evaluate(trial: Trial) -> None:
    """idvl eval gives a number for the architecture's task."""
    if trial.about.task is None:
        raise Nothing("no task")
    trial.needs("plain")
    writes = trial.about.task in ("caption", "vqa") and trial.about.name != "vilt_vqa"
    options = WRITING if writes else ()
    folder = trial.idvl("eval", "eval", "--task", trial.about.task, "--limit", 8, "--batch-size", 4, *options)
    results = read(folder / "results.json")
    if not isinstance(results["metrics"][results["headline"]]["value"], int | float):
        raise Failed(f"{results['headline']} is {results['metrics'][results['headline']]['value']}")


WRITING = ("--beams", 1, "--min-length", 1, "--max-length", 6)


def reopened(trial: Trial) -> None:
    """The saved models open with the plain class: zeros as reported, nothing missing; one-shot changed nothing else."""
    trial.needs("one_shot")
    runs = [trial.folder / run for run in ("one_shot", "magnitude", "platon") if trial.results.get(run) == "+"]
    trial.compare("reopened", trial.model, trial.data, *runs)


def _prune(trial: Trial, name: str, *options: Any) -> None:
    trial.needs("estimate")
    folder = trial.idvl("prune", name, "--profile", trial.folder / "estimate", *STEPS, *options)
    total = read(folder / "report.json")["total"]
    if total["zeros"] != round(SPARSITY * total["weights"]):
        raise Failed(f"{total['zeros']:,} zeros of {total['weights']:,} weights, {SPARSITY:.0%} requested")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


CHECKS: dict[str, Callable[[Trial], None]] = {
    "plain": plain,
    "estimate": estimate,
    "magnitude": magnitude,
    "platon": platon,
    "one_shot": one_shot,
    "eval": evaluate,
    "reopened": reopened,
}
