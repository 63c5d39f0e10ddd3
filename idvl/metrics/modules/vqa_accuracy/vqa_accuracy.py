"""The accuracy of visual question answering, for evaluate.load."""

import datasets
import evaluate

from idvl.metrics import vqa

DESCRIPTION = """\
VQA accuracy, in percent: an answer is right when three of the ten people asked gave it, as the mean over the ten, each
left out once. Answers are compared after the official normalisation.
"""
INPUTS = """\
predictions: one answer per question. references: the answers that people gave, as often as given.
"""


class VQAAccuracy(evaluate.Metric):
    """Answers against those of ten people."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
        )

    def _compute(self, predictions, references):
        return {name: measured.value for name, measured in vqa.score(predictions, references).items()}
