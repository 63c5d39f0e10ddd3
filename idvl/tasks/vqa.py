"""Visual question answering: the model's answer is compared with those that people gave."""

from __future__ import annotations

from collections.abc import Sequence

from idvl.data.samples import Sample
from idvl.metrics import vqa
from idvl.models.loading import Loaded
from idvl.tasks import Pass, Record, Task, TaskScores, TaskSettings, column, each


def unusable_reason(sample: Sample) -> str | None:
    """An image, a question and its answers."""
    if sample.source is None:
        return "no image"
    return "no question" if not sample.texts else None if sample.answers else "no answers"


def predict(loaded: Loaded, samples: Sequence[Sample], settings: TaskSettings) -> Pass:
    """An answer to each question."""

    def record(sample: Sample, text: str) -> Record:
        return {**about(sample), "prediction": text, "answers": list(sample.answers)}

    def about(sample: Sample) -> Record:
        return {"evaluator": settings.evaluator, "question": sample.texts[0]}

    def fits(sample: Sample, line: Record) -> bool:
        facts = {**about(sample), "answers": list(sample.answers)}
        return isinstance(line.get("prediction"), str) and facts.items() <= ({"evaluator": "vqa"} | line).items()

    return each(loaded, samples, settings, skill="answer", record=record, fits=fits)


def score(records: Sequence[Record], refined: Sequence[Record] = ()) -> TaskScores:
    """The official accuracy: an answer that three of ten people gave is right."""
    # VQA v2's was the only one before records named it
    evaluator, *more = {record.get("evaluator", "vqa"): None for record in records}
    if more:
        raise ValueError(f"'evaluator' is {evaluator!r} and {more[0]!r}")
    measures = vqa.score(column(records, "prediction", str), column(records, "answers", [str]), evaluator)
    return TaskScores(measures=measures, details={"evaluator": evaluator})


TASK = Task(
    headline="accuracy", skills=(frozenset({"answer"}),), unusable_reason=unusable_reason, predict=predict, score=score
)
