"""What BLIP learns: each next token of a caption or an answer, or which texts are an image's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.families.blip.forward import answering_call, started_call
from idvl.models.families.blip.inputs import answering_inputs, captioning_inputs, matching_inputs, prompt_of
from idvl.models.forward import unlabelled
from idvl.models.labels import IGNORED, next_tokens
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.matching import matched_inputs


def captioning_labels(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, *, clean: bool = True
) -> dict[str, Tensor]:
    """`captioning_inputs`, and as labels (n, text_length) the tokens to be said next, after the prompt."""
    batch = captioning_inputs(processor, samples, text_length, clean=clean)
    begun = len(processor.tokenizer(prompt_of(processor), add_special_tokens=False)["input_ids"])
    labels = next_tokens(batch["input_ids"], batch["attention_mask"])
    labels[:, :begun] = IGNORED
    return {**batch, "labels": labels}


def captioning_loss(
    model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None, label_smoothing: float | None = None
) -> Objective:
    """Cross-entropy of the caption's tokens."""
    logits = started_call(model, unlabelled(inputs)).logits
    return over_labels(logits, inputs["labels"], label_smoothing=_smoothing(model, label_smoothing))


def answering_labels(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, *, clean: bool = True
) -> dict[str, Tensor]:
    """`answering_inputs` with the answer's tokens to be said next as labels (n, text_length)."""
    batch = answering_inputs(processor, samples, text_length, clean=clean)
    return {**batch, "labels": next_tokens(batch["decoder_input_ids"], batch["decoder_attention_mask"])}


def answering_loss(
    model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None, label_smoothing: float | None = None
) -> Objective:
    """Cross-entropy of the answer's tokens, whose logits the model computes but does not return."""
    outputs: list[Tensor] = []
    hook = model.text_decoder.register_forward_hook(lambda module, args, output: outputs.append(output.logits))
    try:
        answering_call(model, unlabelled(inputs))
    finally:
        hook.remove()
    return over_labels(outputs[0], inputs["labels"], label_smoothing=_smoothing(model, label_smoothing))


def matching_labels(
    processor: Any, samples: Sequence[Sample], text_length: int, config: Any, *, clean: bool = True
) -> dict[str, Tensor]:
    """2 n pairs: each image with its own text (label 1), then with the text before it in the batch (label 0)."""
    return matched_inputs(matching_inputs(processor, samples, text_length, clean=clean))


def matching_loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """Cross-entropy of the matching head."""
    return over_labels(started_call(model, unlabelled(inputs)).itm_score, inputs["labels"])


def unusable_reason(sample: Sample, config: Any) -> str | None:
    """An answer beside the question."""
    return None if sample.answers else "it has a question but no answer; choose a dataset that has both"


def _smoothing(model: nn.Module, requested: float | None) -> float:
    """The label smoothing: as requested, or the checkpoint's own. BLIP's code has 0.1 (models/med.py)."""
    return model.config.text_config.label_smoothing if requested is None else requested
