"""SigLIP and SigLIP 2: two towers trained with the sigmoid loss. The text of a sample is its first one.

As in their training, texts are lower-cased and padded to the model's whole length, and the model reads its padding: all
tokens count. SigLIP 2 of variable resolution (NaFlex) reads the patches of an image in its own shape; to be measured,
images are resized to squares of as many patches as it reads at most, so that all points have equally many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from idvl.data.samples import Sample
from idvl.models.contrastive import embed_images, embed_texts, numbered
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.forward import call, unlabelled
from idvl.models.generation import Generation
from idvl.models.inputs import process
from idvl.models.losses import Gather, Objective, sigmoid_pairs
from idvl.models.processors import image_processor_of, tokenizer_of
from idvl.models.skills import pictures

# of zero-shot classification in the authors' documentation
TEMPLATES = ("This is a photo of {}.",)


def text_length(processor: Any, samples: Sequence[Sample] = ()) -> int:
    """Tokens of every text, the padding that the model reads included."""
    return tokenizer_of(processor).model_max_length


def texts(processor: Any, words: Sequence[str], length: int) -> dict[str, Tensor]:
    """input_ids (n, length) of lower-cased texts, without a mask."""
    how = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
    return {"input_ids": tokenizer_of(processor)([text.lower() for text in words], **how)["input_ids"]}


def inputs(processor: Any, samples: Sequence[Sample], length: int) -> dict[str, Tensor]:
    """`texts` and, as squares where their shape varies, images."""
    patches = getattr(image_processor := image_processor_of(processor), "max_num_patches", None)
    square = math.isqrt(patches) * image_processor.patch_size if patches else None
    return both(processor, samples, length, square=square)


def both(processor: Any, samples: Sequence[Sample], length: int, square: int | None = None) -> dict[str, Tensor]:
    """`texts` and images, of variable resolution with the mask of their patches and their shapes."""
    shown = process(processor, samples, 0, needs=("image",), square=square)
    return {**texts(processor, [sample.texts[0] for sample in samples], length), **shown}


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Patches that an image of variable resolution has; all tokens of texts and of other images count."""
    mask = inputs.get("pixel_attention_mask")
    return mask.bool() if mask is not None and layer_name.startswith("vision_model.") else None


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """Inputs of n pairs, numbered."""
    return numbered(both(processor, samples, text_length), len(samples))


def loss(model: nn.Module, inputs: dict[str, Tensor], gather: Gather | None = None) -> Objective:
    """The sigmoid loss, its temperature and bias learnt, over the pairs of all processes."""
    output = call(model, unlabelled(inputs))
    return sigmoid_pairs(output.image_embeds, output.text_embeds, model.logit_scale.exp(), model.logit_bias, gather)


def sentences(loaded: Any, words: Sequence[str], settings: Generation) -> dict[str, Tensor]:
    """The `texts` of a skill."""
    return texts(loaded.processor, words, text_length(loaded.processor))


FAMILY = Family(
    model_types=("siglip", "siglip2"),
    classes=("SiglipModel", "Siglip2Model"),
    needs=("image", "text"),
    blocks=r"(text_model|vision_model)\.encoder\.layers\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"^text_model\.encoder\.layers\.", "language"),
    ),
    reads_image=None,
    inputs=inputs,
    text_length=text_length,
    token_mask=token_mask,
    training_task=TrainingTask(loss=loss, inputs=training_inputs, contrastive=True, least_batch=2),
    skills={
        "embed_images": Skill(prepare=pictures, perform=embed_images),
        "embed_texts": Skill(prepare=sentences, perform=embed_texts, templates=TEMPLATES),
    },
)
