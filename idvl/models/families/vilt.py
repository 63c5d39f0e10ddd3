"""ViLT: answers to questions, image-text matching, and, of two images, whether a sentence is true (NLVR2).

Other classes of ViLT are the generic family's. Of two images the stack reads text and patches of one, then text and
patches of the other. To be measured, images are resized to squares, so that all points have as many patches; trained
and evaluated, they keep their shape, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.errors import listed, quoted
from idvl.models import statements
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call_in_order, on_device, unlabelled
from idvl.models.generation import QUESTION, Generation, prompted
from idvl.models.inputs import longest_text, process
from idvl.models.labels import IGNORED
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.matching import match, pairs, with_other_texts
from idvl.models.processors import image_processor_of, tokenizer_of
from idvl.models.skills import tokens


def inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length) with both images as squares."""
    text = process(tokenizer_of(processor), samples, text_length, needs=("text",))
    return {**text, **statements.both(processor, samples, square=_side(processor))}


def single_inputs(processor: Any, samples: Sequence[Sample], text_length: int) -> dict[str, Tensor]:
    """input_ids and attention_mask (n, text_length) with one image each, as squares."""
    return process(processor, samples, text_length, square=_side(processor))


def _side(processor: Any) -> int:
    return image_processor_of(processor).size["shortest_edge"]


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor:
    """Real tokens of the text, which comes first, and all patches."""
    text = inputs["attention_mask"].bool()
    return F.pad(text, (0, n_tokens - text.shape[1]), value=True)


def image_tokens(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor:
    """All tokens behind the text."""
    text = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    return F.pad(text, (0, n_tokens - text.shape[1]), value=True)


def answer_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """Questions, images in their own shapes, and labels (n,): the class of the answer, IGNORED where there is none."""
    labels = [config.label2id.get(sample.answers[0].lower(), IGNORED) for sample in samples]
    return {**process(processor, samples, text_length), "labels": torch.tensor(labels)}


def answer_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The binary cross-entropy of all answers, of which one is right (Kim et al. 2021, section 4.2), over questions."""
    learnt = inputs["labels"] != IGNORED
    logits = call_in_order(model, unlabelled(inputs)).logits[learnt].float()
    right = F.one_hot(inputs["labels"][learnt], logits.shape[1]).float()
    total = F.binary_cross_entropy_with_logits(logits, right, reduction="sum")
    return Objective(total, int(learnt.sum()), None)


def no_answer_reason(sample: Sample, config: Any) -> str | None:
    """An answer beside the question."""
    return None if sample.answers else "it has a question but no answer; choose a dataset that has both"


def unknown_answer_reason(sample: Sample, config: Any) -> str | None:
    """One of the answers has to be among the model's, which are all that it learns."""
    if any(answer.lower() in config.label2id for answer in sample.answers):
        return None
    known = f"the model's ({listed(list(config.label2id))}); choose a dataset with such answers"
    return f"no answer, as {quoted(sample.answers[0])}, is one of {known}"


def matching_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """2 n pairs: each image with its own text, then with the text before it in the batch.

    Labels (n,): 0, the first of an image's two texts, IGNORED where both are the same.
    """
    pairs, differ = with_other_texts(process(processor, samples, text_length))
    return {**pairs, "labels": torch.where(differ, 0, IGNORED)}


def matching_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of an image's own text beside another one (Kim et al. 2021, section 4.3, with one other text)."""
    scores = call_in_order(model, unlabelled(inputs)).logits
    return over_labels(scores.view(2, -1).T, inputs["labels"])


def question_inputs(loaded: Any, samples: Sequence[Sample], settings: Generation) -> dict[str, Tensor]:
    """Images in their own shapes, and the questions."""
    shown = process(loaded.processor, samples, 0, needs=("image",))
    return {**shown, **tokens(loaded, prompted(loaded, "answer", samples, settings))}


@torch.no_grad()
def answer(loaded: Any, inputs: dict[str, Tensor], settings: Generation) -> list[str]:
    """The most likely of the answers that the model knows."""
    best = loaded.family.call(loaded.model, on_device(loaded.model, inputs)).logits.argmax(-1)
    return [loaded.model.config.id2label[number] for number in best.tolist()]


MATCHING = Skill(prepare=pairs, perform=match)


def for_config(config: Any) -> Family:
    """Answers and matching read one image."""
    name = (config.architectures or ("",))[0]
    if name == "ViltForQuestionAnswering":
        task = TrainingTask(
            loss=answer_loss,
            inputs=answer_inputs,
            unusable_reason=no_answer_reason,
            left_out_reason=unknown_answer_reason,
            partial=True,
        )
        chosen = frozenset({"beams", "min_length", "max_length"})
        answering = Skill(prepare=question_inputs, perform=answer, prompt=QUESTION, lengths=(1, 10), unread=chosen)
        skills = {"answer": answering}
        return replace(FAMILY, inputs=single_inputs, training_task=task, skills=skills)
    if name == "ViltForImageAndTextRetrieval":
        task = TrainingTask(loss=matching_loss, inputs=matching_inputs, least_batch=2, partial=True)
        return replace(FAMILY, inputs=single_inputs, training_task=task, skills={"match": MATCHING})
    return FAMILY


FAMILY = Family(
    model_types=("vilt",),
    classes=("ViltForImagesAndTextClassification", "ViltForQuestionAnswering", "ViltForImageAndTextRetrieval"),
    # a config that names neither a class nor a number of images is not that of this one
    describes_unnamed=lambda config: config.num_images == 2,
    needs=("image", "text"),
    blocks=r"vilt\.encoder\.layer\.\d+",
    modalities=((r"^vilt\.encoder\.layer\.\d+\.", "fusion"),),
    reads_image=None,
    inputs=inputs,
    text_length=longest_text,
    token_mask=token_mask,
    image_tokens=image_tokens,
    # without the shuffling of patches
    call=call_in_order,
    training_task=TrainingTask(
        loss=partial(statements.loss, call_in_order),
        inputs=statements.training_inputs,
        unusable_reason=statements.unusable_reason,
    ),
    skills={"verify_statement": Skill(prepare=statements.statements, perform=statements.verify_statement)},
    for_config=for_config,
)
