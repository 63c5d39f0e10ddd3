"""BLEU, METEOR, ROUGE-L, CIDEr and SPICE of captions, for evaluate.load."""

import datasets
import evaluate

from idvl.metrics import caption

DESCRIPTION = """\
The metrics of image captioning as COCO computes them, through pycocoevalcap: BLEU@1 to 4, METEOR, ROUGE-L, CIDEr and
SPICE, times 100. METEOR and SPICE are None where they cannot be computed; "skipped" says why.
"""
INPUTS = """\
predictions: one caption per image. references: a list of captions per image. spice_dir: the folder of the CoreNLP 3.6.0
jars; the environment variable IDVL_SPICE_DIR by default.
"""


class Caption(evaluate.Metric):
    """Captions against any number of references each."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": datasets.List(text)}),
        )

    def _compute(self, predictions, references, spice_dir=None):
        found = caption.score(predictions, references, spice_dir=spice_dir)
        return {
            **{name: measured.value for name, measured in found.measures.items()},
            **dict.fromkeys(found.skipped),
            "skipped": {name: skipped.reason for name, skipped in found.skipped.items()},
            "tokenizer": found.tokenizer,
        }
