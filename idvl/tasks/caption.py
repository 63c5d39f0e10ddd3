"""Captioning: the model describes each image, and the description is compared with what people wrote."""

from __future__ import annotations

from collections.abc import Sequence

from idvl.data.samples import Sample
from idvl.metrics import caption
from idvl.models.loading import Loaded
from idvl.tasks import Pass, Record, Task, TaskScores, TaskSettings, column, each


def unusable_reason(sample: Sample) -> str | None:
    """An image and its references."""
    return "no image" if sample.source is None else None if sample.texts else "no reference captions"


def predict(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """A caption for each image."""

    def record(sample: Sample, text: str) -> Record:
        return {"prediction": text, "references": list(sample.texts)}

    def fits(sample: Sample, line: Record) -> bool:
        return isinstance(line.get("prediction"), str) and line.get("references") == list(sample.texts)

    return each(loaded, samples, settings, skill="caption", record=record, fits=fits)


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> TaskScores:
    """BLEU@1-4, METEOR, ROUGE-L, CIDEr and SPICE."""
    captions = caption.score(column(records, "prediction", str), column(records, "references", [str]))
    return TaskScores(measures=captions.measures, skipped=captions.skipped, details={"tokenizer": captions.tokenizer})


TASK = Task(
    headline="CIDEr",
    skills=(frozenset({"caption"}),),
    unusable_reason=unusable_reason,
    predict=predict,
    score=score,
    ready=caption.ready,
    gathered=True,
)
