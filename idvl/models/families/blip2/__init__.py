"""BLIP-2 and InstructBLIP: a Q-Former reads the image, and a language model its queries before the text.

The text of a sample is its first one: a decoder (OPT, Vicuna) reads it behind the queries. With T5 the encoder reads it
so, and the decoder the sample's first answer, or the text again where there is none. InstructBLIP's Q-Former reads it
too. BLIP-2's stage of image-text matching has no language model: its Q-Former reads image and text.

The Q-Former, its cross-attention included, and the projection behind it are the connector. Where it matches image and
text, its attention is a fusion, what the text alone passes through is language, and the rest the connector.
Queries are image tokens. Embeddings, queries, projections to embeddings and heads are not prunable.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from idvl.models.families.base import Family, Skill, TrainingTask
from idvl.models.families.blip2 import matching
from idvl.models.families.blip2.inputs import QUERIES_ALONE, image_tokens, inputs, text_length, token_mask
from idvl.models.forward import has_encoder
from idvl.models.generation import stop_tokens
from idvl.models.inputs import longest_text, process
from idvl.models.naming import BLOCK, CROSS, IN_BLOCK
from idvl.models.probes import trial_sample, wording_of
from idvl.models.processors import tokenizer_of
from idvl.models.reading import added_tokens
from idvl.models.skills import pictures
from idvl.models.wording import Wording
from idvl.models.writers import known_prompts, writing_skills, writing_task

# Li et al. 2023, sections 4.1 and 4.2; Dai et al. 2023, appendix C
PROMPTS = {
    "opt": {"caption": "a photo of", "answer": "Question: {} Answer:"},
    "t5": {"caption": "a photo of", "answer": "Question: {} Short answer:"},
    "instructblip": {"caption": "A short image description:", "answer": "Question: {} Short answer:"},
}
# of captions, in the configurations of LAVIS
LENGTHS = (8, 30)
# keys and values of the Q-Former's cross-attention
READS_IMAGE = r"^qformer\..*\.crossattention\.attention\.(key|value)$"


def fit(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family with what the processor puts around a text, and what ends one for the language model."""
    config, encodes = model.config, has_encoder(model.config)
    if reader := getattr(processor, "qformer_tokenizer", None):
        reader.model_max_length = min(reader.model_max_length, config.qformer_config.max_position_embeddings)
    wording = wording_of(processor, config, stop_tokens(model.language_model), chat=False)
    added = added_tokens(processor, wording, trial_sample(), None)
    kind = "instructblip" if config.model_type == "instructblip" else "t5" if encodes else "opt"
    prompts = known_prompts(processor, PROMPTS[kind])
    start = config.text_config.decoder_start_token_id if encodes else None
    return replace(
        family,
        inputs=partial(inputs, wording=wording, start=start),
        text_length=partial(text_length, wording=wording, encodes=encodes, **added),
        image_tokens=partial(image_tokens, image=wording.image),
        training_task=writing_task(wording, prompts, encodes=encodes),
        skills=writing_skills(wording, prompts, encodes=encodes, caption_lengths=LENGTHS),
    )


def for_config(config: Any) -> Family:
    """Matching reads image and text in the Q-Former alone, behind tokens that stand for the queries, if it has any."""
    if "Blip2ForImageTextRetrieval" not in (config.architectures or ()):
        return FAMILY
    token = config.image_token_index
    before = () if token is None else (token,) * config.num_query_tokens
    learn = partial(matching.training_inputs, before=before)
    return replace(
        FAMILY,
        modalities=(
            FAMILY.modalities[0],
            (rf"^qformer\..*({QUERIES_ALONE})", "connector"),
            (r"^qformer\.encoder\.layer\.\d+\.attention\.", "fusion"),
            (r"^qformer\.encoder\.layer\.", "language"),
        ),
        inputs=partial(matching.inputs, before=before),
        token_mask=partial(matching.token_mask, before=before),
        image_tokens=partial(matching.image_tokens, before=before),
        call=matching.joint_call,
        training_task=TrainingTask(loss=matching.loss, inputs=learn, least_batch=2, partial=True),
        skills={
            "embed_images": Skill(prepare=pictures, perform=matching.embed_images),
            "embed_texts": Skill(prepare=matching.captions, perform=matching.embed_texts),
            "match": Skill(prepare=matching.pairs, perform=matching.match),
        },
        fit=fit_matching,
    )


def fit_matching(family: Family, model: nn.Module, processor: Any) -> Family:
    """The family; texts are as long as the Q-Former has positions, not the language model that it was trained for."""
    tokenizer, most = tokenizer_of(processor), model.config.qformer_config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, most)
    return family


FAMILY = Family(
    model_types=("blip-2", "instructblip"),
    classes=(
        "Blip2ForConditionalGeneration",
        "InstructBlipForConditionalGeneration",
        "Blip2ForImageTextRetrieval",
    ),
    describes_unnamed=lambda config: config.model_type == "blip-2",
    needs=("image", "text"),
    blocks=BLOCK,
    modalities=(
        (r"^vision_model\.encoder\.layers\.", "vision"),
        (r"^(qformer\.encoder\.layer\.|language_projection$)", "connector"),
        (rf"(?=^language_model\.){IN_BLOCK}.*{CROSS}", "cross"),
        (rf"(?=^language_model\.){IN_BLOCK}", "language"),
    ),
    reads_image=READS_IMAGE,
    inputs=process,
    text_length=longest_text,
    token_mask=token_mask,
    training_task=writing_task(Wording(), PROMPTS["opt"], encodes=False),
    skills=writing_skills(Wording(), PROMPTS["opt"], encodes=False),
    for_config=for_config,
    fit=fit,
)
