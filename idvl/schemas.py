"""The documents of run folders, as far as idvl relies on them. docs/report.md and docs/profile.md say what else is in.

Fields with a default may be missing; older versions did not write them. How a document is read is in json_file.py.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from idvl.errors import quoted
from idvl.json_file import MOST, Schema, check

# ratios of a sensitivity run: each takes thousands of permutations
RATIOS = 100


def _command(text: str) -> str:
    shlex.split(text)  # ValueError where a quotation does not end
    return text


def _word(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"text or a whole number, not {quoted(value)}")
    return value


# a class by its name or number, or an answer; a union of types would stand in the path to a field
Word = Annotated[Any, AfterValidator(_word)]


class ModelFacts(Schema):
    """The model of a run."""

    name: str | None = None
    path: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None


class DatasetFacts(Schema):
    """The dataset of a run."""

    dataset: str | None = None
    split: str | None = None
    fingerprint: str | None = None
    classes: list[Word] | None = None


class Cost(Schema):
    """What a run took. `peak_memory` in bytes."""

    seconds: float | None = None
    peak_memory: float | None = None


class Diagnostics(Schema):
    """What speaks for an estimate, of a profile's layer."""

    class Scale(Schema):
        neighbors: list[int]
        dimension: float | None
        mean_distance: float | None = None

    class Neighbors(Schema):
        certified_rows: int | None = None

    flags: list[str] = Field(default_factory=list)
    scales: list[Scale] | None = None
    neighbors: Neighbors | None = None


class RecipeFile(Schema):
    """recipe.yaml: what reports show of it. Who carries it out checks all of it: see recipe.py."""

    class Model(Schema):
        name: str | None = None

    class Data(Schema):
        dataset: str | None = None
        data_dir: str | None = None

    model: Model | None = None
    data: Data | None = None
    prune: dict[str, Any] | None = None


class RunFile(Schema):
    """run.json. The signature is what a resumed run must share with the one before."""

    NAME: ClassVar[str] = "idvl/run/1"

    class Signature(Schema):
        model_class: str | None = Field(None, alias="class")

    signature: Signature
    files: list[str]
    resumed: list[Any]
    versions: dict[str, Any] | None = None
    started: str | None = None


class MetricLine(Schema):
    """A line of metrics.jsonl: how far a run is."""

    step: int = 0
    layer: str = ""


class MatrixLine(Schema):
    """A line of matrix.jsonl: a run of a sweep."""

    state: str | None = None


class LossLine(Schema):
    """A line of a sensitivity run's metrics.jsonl: one loss, of a layer, a modality or the dense model."""

    part: str
    name: str
    ratio: float
    loss: float | None
    zeros: int


class PredictionLine(Schema):
    """A line of predictions.jsonl: what a model said of a sample, and what it is compared with."""

    id: Word
    prediction: Word | None = None
    label: Word | None = None
    top: list[Word | None] | None = None
    references: list[str] | None = None
    answers: list[str] | None = None
    question: str | None = None


class LayerReport(Schema):
    """A layer of report.json. `factor`: what its scores were multiplied by."""

    modality: str
    block: str | None
    weights: int
    zeros: int
    sparsity: float
    dimension: float | None
    factor: float | None
    substituted: str | None
    stderr: float | None = None


class PartReport(Schema):
    """The sum over layers. `asked` is None where no sparsity was set for these layers alone."""

    layers: int
    weights: int
    zeros: int
    sparsity: float
    asked: float | None


class TotalReport(PartReport):
    """The sum over all layers in scope, also relative to all prunable weights and to all of the model."""

    prunable_weights: int
    prunable_sparsity: float
    model_weights: int
    model_sparsity: float


class MetricValue(Schema):
    """A metric with its interval, or why it has none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    skipped: str | None = None
    hint: str | None = None

    @model_validator(mode="after")
    def _has_interval(self) -> Self:
        if self.value is not None and (self.low is None or self.high is None):
            raise ValueError("a value without an interval")
        return self


Metrics = Annotated[dict[str, MetricValue], Field(max_length=500)]


class Bootstrap(Schema):
    """How intervals were drawn."""

    seed: int
    resamples: int
    level: float


class ResultsFile(Cost):
    """results.json."""

    NAME: ClassVar[str] = "idvl/results/1"

    class Model(ModelFacts):
        name: str

    class Dataset(DatasetFacts):
        dataset: str
        split: str | None
        fingerprint: str | None

    task: str
    metrics: Metrics
    model: Model
    dataset: Dataset
    samples: int
    headline: str | None = None
    bootstrap: Bootstrap | None = None
    settings: dict[str, Any] | None = None
    scoring: dict[str, Any] | None = None
    limit: int | None = None
    left_out: dict[str, int] | None = None


class ReportedEvaluation(Schema):
    """What report.json says of an evaluation."""

    class Dataset(Schema):
        dataset: str | None
        split: str | None

    task: str
    headline: str | None
    metrics: Metrics
    dataset: Dataset
    samples: int
    limit: int | None
    bootstrap: Bootstrap
    scoring: dict[str, Any] | None = None


class SkippedEvaluation(Schema):
    """Why there is no evaluation."""

    skipped: str


def _evaluation(values: dict[str, Any]) -> dict[str, Any]:
    return check(values, SkippedEvaluation if "skipped" in values else ReportedEvaluation)


class ReportFile(Schema):
    """report.json. `verified`: the model saved."""

    NAME: ClassVar[str] = "idvl/report/1"

    class Made(Cost):
        command: Annotated[str, AfterValidator(_command)]
        versions: dict[str, Any]

    layers: dict[str, LayerReport] = Field(max_length=MOST)
    modalities: dict[str, PartReport]
    total: TotalReport
    made: Made
    evaluation: Annotated[dict[str, Any], AfterValidator(_evaluation)] | None = None
    profile: dict[str, Any] | None = None
    verified: ModelFacts | None = None


class Loss(Schema):
    """The loss with a part pruned; None where it was no number."""

    ratio: float
    loss: float | None


class SensitivityFile(Schema):
    """sensitivity.json."""

    NAME: ClassVar[str] = "idvl/sensitivity/1"

    class Dense(Schema):
        loss: float | None = None

    class Layer(Schema):
        modality: str
        weights: int
        dimension: float | None
        stderr: float | None
        losses: list[Loss]

    class Part(Schema):
        layers: int
        losses: list[Loss]
        weights: int | None = None

    dense: Dense
    layers: dict[str, Layer]
    modalities: dict[str, Part]
    provenance: Cost

    @model_validator(mode="after")
    def _few_ratios(self) -> Self:
        ratios = {loss.ratio for layer in self.layers.values() for loss in layer.losses}
        if len(ratios) > RATIOS:
            raise ValueError(f"it has {len(ratios):,} ratios, more than {RATIOS}")
        return self
