"""What the names of modules say about a model of unknown architecture: blocks, modalities, cross-attention."""

from __future__ import annotations

from collections.abc import Sequence

from idvl.profile import Modality

# a stage's layers, and what it has beside them
BLOCK = r"(.*\.)?((\w*layers?|\w*blocks?|h)\.\d+|stages\.\d+\.(?!\w*(layers?|blocks?)\b)\w+)"
CROSS = r"(cross_?attention|cross_?attn|encoder_attn|EncDecAttention|xattn)(\.|$)"
KEY_OR_VALUE = r"(\w*key\w*|\w*value\w*|k|v|[kv]_proj|kv|kv_proj|k_v_proj|to_k|to_v)$"
CROSS_KEY_OR_VALUE = rf"{CROSS}(.*\.)?{KEY_OR_VALUE}"
CONNECTOR = (
    r"(multi_?modal_projector|mm_projector|_to_mm_projection|visual_projection\.\w*projection|language_projection"
    r"|connector|merger|aligner|resampler|modality_projection|image_newline|(^|[._])q_?former)"
)
# searched in the name of the stack that a block lies in
STACKS: tuple[tuple[str, Modality], ...] = (
    (r"(multi_?modal|cross_?modal|fusion|joint|x_layers)", "fusion"),
    (r"(^|[._])(vision|visual|image|img|pixel|r_layers)", "vision"),
    (r"(^|[._])(text|language|lang|llm|decoder)", "language"),
)
IN_BLOCK = rf"^{BLOCK}\."


def modalities_of(needs: Sequence[str], *, writes: bool = False) -> tuple[tuple[str, Modality], ...]:
    """The `modalities` of a family (see base.Family) for a model that reads images, text or both.

    The stack without a telling name is the language model of one that `writes`, else it fuses image and text.
    """
    cross = rf"{IN_BLOCK}.*{CROSS}"
    if tuple(needs) == ("image",):
        return ((IN_BLOCK, "vision"),)
    if tuple(needs) == ("text",):
        return ((cross, "cross"), (IN_BLOCK, "language"))
    stacks = ((rf"(?=^{BLOCK}\.).*{stack}", modality) for stack, modality in STACKS)
    return ((cross, "cross"), (CONNECTOR, "connector"), *stacks, (IN_BLOCK, "language" if writes else "fusion"))
