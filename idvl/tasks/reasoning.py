"""Visual reasoning (NLVR2): is the sentence true of the two images?"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from idvl.data.samples import Sample
from idvl.errors import quoted
from idvl.metrics import accuracy
from idvl.models.loading import Loaded
from idvl.models.statements import with_truths
from idvl.tasks import Pass, Record, Task, TaskScores, TaskSettings, column, each, numbers


def unusable_reason(sample: Sample) -> str | None:
    """Two images, a sentence and whether it is true."""
    if sample.source is None or sample.second is None:
        return "not two images"
    if not sample.texts:
        return "no sentence"
    return (
        "no label (empty or -1)"
        if sample.label is None
        else None
        if sample.label in (0, 1)
        else "a label other than 0 and 1"
    )


def predict(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """1 for true, 0 for false, with the scores of false and true."""

    def record(sample: Sample, scores: Tensor) -> Record:
        output = {"label": sample.label, "prediction": int(scores.argmax()), "scores": scores.tolist()}
        return {"sentence": sample.texts[0], **output}

    def fits(sample: Sample, line: Record) -> bool:
        about = line.get("sentence") == sample.texts[0] and line.get("label") == sample.label
        scores, prediction = line.get("scores"), line.get("prediction")
        return about and numbers(scores, 2) and prediction in (0, 1) and scores[prediction] == max(scores)

    return each(loaded, samples, settings, skill="verify_statement", record=record, fits=fits)


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> TaskScores:
    """The share of sentences classified correctly. ValueError for values other than 0 and 1."""
    labels, predicted = column(records, "label", int), column(records, "prediction", int)
    for name, values in (("label", labels), ("prediction", predicted)):
        if wrong := [(line, value) for line, value in enumerate(values, 1) if value not in (0, 1)]:
            raise ValueError(f"{name!r} of line {wrong[0][0]} is {quoted(wrong[0][1])}: 0 or 1")
    return TaskScores(measures=accuracy.accuracy(labels, predicted))


TASK = Task(
    headline="accuracy",
    skills=(frozenset({"verify_statement"}),),
    unusable_reason=unusable_reason,
    predict=predict,
    score=score,
    labelled=with_truths,
)
