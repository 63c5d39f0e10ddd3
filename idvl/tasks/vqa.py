"""Visual question answering: the model's answer is compared with those that people gave."""

from __future__ import annotations

from collections.abc import Sequence

from idvl.data.samples import Sample
from idvl.metrics import vqa
from idvl.models.loading import Loaded
from idvl.tasks import Asked, Pass, Record, Scores, Task, each


def lacks(sample: Sample) -> str | None:
    """An image, a question and its answers."""
    if sample.source is None:
        return "no image"
    return "no question" if not sample.texts else None if sample.answers else "no answers"


def predict(loaded: Loaded, samples: Sequence[Sample], asked: Asked) -> Pass:
    """An answer to each question."""

    def record(sample: Sample, text: str) -> Record:
        return {"question": sample.texts[0], "prediction": text, "answers": list(sample.answers)}

    return each(loaded, samples, asked, skill="answer", record=record)


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> Scores:
    """The official accuracy: an answer that three of ten people gave is right."""
    return Scores(measures=vqa.score([r["prediction"] for r in records], [r["answers"] for r in records]))


TASK = Task(headline="accuracy", skills=(frozenset({"answer"}),), lacks=lacks, predict=predict, score=score)
