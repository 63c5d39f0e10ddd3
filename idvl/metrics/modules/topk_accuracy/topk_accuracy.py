"""Top-1 and top-5 accuracy, for evaluate.load."""

import datasets
import evaluate

from idvl.metrics import accuracy

DESCRIPTION = """\
How often the true class is the likeliest one, and, where five or more are given, among the five likeliest, in percent.
With one class per prediction top-1 is the plain accuracy.
"""
INPUTS = """\
predictions: per sample, classes by number, the likeliest first, as many for all. references: the true classes.
"""


class TopKAccuracy(evaluate.Metric):
    """Ranked classes against the true ones."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("int64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.List(number), "references": number}),
        )

    def _compute(self, predictions, references):
        return {name: measured.value for name, measured in accuracy.topk(references, predictions).items()}
