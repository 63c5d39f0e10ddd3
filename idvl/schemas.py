"""report.json and results.json, as far as idvl relies on them; docs/report.md says what else is in them.

Fields with a default may be missing: not every run has them. Other documents are described where they are written or
read alone: run.json in runs/record.py, profile.json in profile.py, sensitivity.json in reporting/sensitivity.py.
"""

from __future__ import annotations

import shlex
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from idvl.errors import quoted
from idvl.json_file import MOST
from idvl.json_schema import Schema, check


def _command(text: str) -> str:
    shlex.split(text)  # ValueError where a quotation does not end
    return text


def _word(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"text or a whole number, not {quoted(value)}")
    return value


# a class by its name or number, or an answer; a union of types would stand in the path to a field
Word = Annotated[Any, AfterValidator(_word)]
NotNegative = Annotated[float, Field(ge=0)]


class NotCovered(Schema):
    """Weights of one kind that idvl neither measures nor prunes. `names`: their tensors, * for each number."""

    weights: int
    tensors: int
    names: list[str] = Field(min_length=1)


class ModelFacts(Schema):
    """The model of a run."""

    name: str | None = None
    path: str | None = None
    fingerprint: str | None = None
    dtype: str | None = None
    parameters: int | None = Field(None, ge=1)
    not_covered: dict[str, NotCovered] | None = None


class DatasetFacts(Schema):
    """The dataset of a run."""

    dataset: str | None = None
    split: str | None = None
    fingerprint: str | None = None
    classes: list[Word] | None = None
    looked_at: int | None = None


class Cost(Schema):
    """What a run took. `peak_memory` in bytes."""

    seconds: float | None = None
    peak_memory: float | None = None


class LayerReport(Schema):
    """A layer of report.json. `factor`: what its scores were multiplied by."""

    modality: str
    block: str | None
    weights: int
    zeros: int
    sparsity: float
    dimension: NotNegative | None
    factor: float | None
    substituted: str | None
    stderr: NotNegative | None = None


class PartReport(Schema):
    """The sum over layers. `asked` is None where no sparsity was set for these layers alone."""

    layers: int
    weights: int
    zeros: int
    sparsity: float
    asked: float | None


class TotalReport(PartReport):
    """The sum over all layers in scope, also relative to all prunable weights and to all of the model.

    `prunable_zeros` and `model_zeros` are zeros of layers, whether a mask has them or not; older reports lack them.
    """

    prunable_zeros: int = Field(0, ge=0)
    model_zeros: int = Field(0, ge=0)
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
        if self.value is not None and self.low > self.high:
            raise ValueError(f"an interval from {self.low:g} to {self.high:g}")
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

    class EvaluatedModel(ModelFacts):
        name: str

    class EvaluatedDataset(DatasetFacts):
        dataset: str
        split: str | None
        fingerprint: str | None

    task: str
    metrics: Metrics
    model: EvaluatedModel
    dataset: EvaluatedDataset
    samples: int
    headline: str | None = None
    bootstrap: Bootstrap | None = None
    settings: dict[str, Any] | None = None
    scoring: dict[str, Any] | None = None
    limit: int | None = None
    left_out: dict[str, int] | None = None


class ReportedEvaluation(Schema):
    """What report.json says of an evaluation."""

    class ReportedDataset(Schema):
        dataset: str | None
        split: str | None

    task: str
    headline: str | None
    metrics: Metrics
    dataset: ReportedDataset
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
    """report.json. `before`: the zeros of a model that was pruned before; `verified`: the model saved."""

    NAME: ClassVar[str] = "idvl/report/1"

    class Made(Cost):
        command: Annotated[str, AfterValidator(_command)]
        versions: dict[str, Any]
        steps: int | None = Field(None, ge=0)
        dense_fingerprint: str | None = None
        training: dict[str, Any] | None = None
        calibration: dict[str, Any] | None = None

    class Before(Schema):
        layers: int = Field(ge=0)
        zeros: int = Field(ge=0)

    class Verified(ModelFacts):
        # bytes of each file of model/ but its card; older reports lack them
        files: dict[str, int] = Field(default_factory=dict)

    layers: dict[str, LayerReport] = Field(max_length=MOST)
    modalities: dict[str, PartReport]
    total: TotalReport
    made: Made
    not_covered: dict[str, NotCovered] | None = None
    before: Before | None = None
    evaluation: Annotated[dict[str, Any], AfterValidator(_evaluation)] | None = None
    profile: dict[str, Any] | None = None
    verified: Verified | None = None
