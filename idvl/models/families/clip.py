"""CLIP: two towers that meet only in a similarity. The text of a sample is its first one."""

from __future__ import annotations

from torch import Tensor

from idvl.models.contrastive import embed_images, embed_texts, loss, pair_inputs
from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.inputs import longest_text, process
from idvl.models.skills import pictures, sentences


def token_mask(layer_name: str, n_tokens: int, inputs: dict[str, Tensor]) -> Tensor | None:
    """Real tokens of the text tower; all tokens of the vision tower count."""
    return inputs["attention_mask"].bool() if layer_name.startswith("text_model.") else None


FAMILY = Family(
    model_types=("clip",),
    classes=("CLIPModel",),
    needs=("image", "text"),
    blocks=r"(text_model|vision_model)\.encoder\.layers\.\d+",
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"^text_model\.encoder\.layers\.", "language"),
    ),
    reads_image=None,
    inputs=process,
    text_length=longest_text,
    token_mask=token_mask,
    training_task=TrainingTask(loss=loss, inputs=pair_inputs, contrastive=True, least_batch=2),
    skills={
        "embed_images": Skill(prepare=pictures, perform=embed_images),
        "embed_texts": Skill(prepare=sentences, perform=embed_texts),
    },
)
