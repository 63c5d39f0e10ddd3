"""Recall@1, 5 and 10 between images and captions, for evaluate.load."""

import datasets
import evaluate
import torch

from idvl.metrics import retrieval

DESCRIPTION = """\
How often one of an image's captions is among the K captions most similar to it, and a caption's image among the K
images most similar to it: Recall@1, 5 and 10 in both directions, in percent. Similarity is the inner product.
"""
INPUTS = """\
predictions: an embedding per image. references: per image, the embeddings of its captions, one or more.
"""


class RetrievalRecall(evaluate.Metric):
    """Images and their captions among all others."""

    def _info(self) -> evaluate.MetricInfo:
        vector = datasets.List(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": vector, "references": datasets.List(vector)}),
        )

    def _compute(self, predictions, references):
        owner = torch.tensor([image for image, texts in enumerate(references) for _ in texts])
        texts = torch.tensor([text for texts in references for text in texts])
        found = retrieval.recalls(*retrieval.ranks(torch.tensor(predictions), texts, owner), owner)
        return {name: measured.value for name, measured in found.items()}
