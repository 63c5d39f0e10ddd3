"""Captioning: the model describes each image, and the description is compared with what people wrote."""

from __future__ import annotations

from collections.abc import Sequence

from idvl.data.samples import Sample
from idvl.metrics import caption
from idvl.models.loading import Loaded
from idvl.tasks import Asked, Pass, Record, Scores, Task, column, each


def lacks(sample: Sample) -> str | None:
    """An image and its references."""
    return "no image" if sample.source is None else None if sample.texts else "no reference captions"


def predict(loaded: Loaded, samples: Sequence[Sample], asked: Asked) -> Pass:
    """A caption for each image."""

    def record(sample: Sample, text: str) -> Record:
        return {"prediction": text, "references": list(sample.texts)}

    def fits(sample: Sample, found: Record) -> bool:
        return isinstance(found.get("prediction"), str) and found.get("references") == list(sample.texts)

    return each(loaded, samples, asked, skill="caption", record=record, fits=fits)


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> Scores:
    """BLEU@1-4, METEOR, ROUGE-L, CIDEr and SPICE."""
    found = caption.score(column(records, "prediction", str), column(records, "references", [str]))
    return Scores(measures=found.measures, skipped=found.skipped, details={"tokenizer": found.tokenizer})


TASK = Task(
    headline="CIDEr",
    skills=(frozenset({"caption"}),),
    lacks=lacks,
    predict=predict,
    score=score,
    ready=caption.ready,
    gathered=True,
)
