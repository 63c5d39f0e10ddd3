"""The contract of a family: what the rest of idvl may ask of an architecture.

It does not know which families there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from idvl.models.forward import call
from idvl.models.own import own_class
from idvl.profile import Modality

if TYPE_CHECKING:
    from idvl.data.samples import Sample
    from idvl.models.generation import Generation
    from idvl.models.loading import Loaded
    from idvl.models.losses import Objective


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """How a model is trained on samples: its inputs with labels, and their loss."""

    # (model, inputs, gather) -> Objective; `gather` is None where there is but one process
    loss: Callable[..., Objective]
    # (processor, samples, text_length, config) -> model inputs on the CPU, and "labels": one for each term that the
    # loss counts, IGNORED where there is nothing to learn; to a family with the skill classify, a sample's label is the
    # number of a class of the head
    inputs: Callable[..., dict[str, Tensor]]
    # (sample, config) -> why the sample cannot be learnt from, None if it can
    unusable_reason: Callable[[Sample, Any], str | None] = lambda sample, config: None
    # (sample, config) -> why the loss leaves the sample out, None where it counts; leaving out all is refused
    left_out_reason: Callable[[Sample, Any], str | None] = lambda sample, config: None
    # whether a sample's loss depends on the others of its batch, over all processes
    contrastive: bool = False
    least_batch: int = 1
    # whether the loss leaves out parts of the model, which then get no gradient
    partial: bool = False
    # whether `loss` takes a label_smoothing, None for the checkpoint's own
    smooths: bool = False
    # searched in the names of dropout modules, it finds those of the text stack; None where idvl knows none
    text_dropout: str | None = None
    # of models that compare two images: a sample -> the same with its images in the other order, for augmentation
    swapped: Callable[[Sample], Sample] | None = None
    # whether a block may run a second time in the backward pass
    checkpointing: bool = True


@dataclass(frozen=True, kw_only=True)
class Skill:
    """What a model can do with items: samples; strings (embed_texts); one (sample, texts) (match)."""

    # (loaded, items, settings) -> model inputs on the CPU, each leading with the items; any thread may call it
    prepare: Callable[[Loaded, Sequence[Any], Generation], dict[str, Tensor]]
    # (loaded, inputs, settings) -> a text for each item, or float32 rows on the CPU: (n, d) embeddings of length one,
    # (n, q, d) of images that have several, the most similar of which counts, (n, classes) logits, (n, 2) logits of
    # False and True (verify_statement), (k,) scores of an image's texts (match)
    perform: Callable[[Loaded, dict[str, Tensor], Generation], list[str] | Tensor]
    # what the settings' prompt is where they have none and the tokenizer knows its words
    prompt: str = ""
    # of embed_texts: the sentences that stand for a class, {} its name, where the settings have none
    templates: tuple[str, ...] = ("a photo of a {}.",)
    # fewest and most tokens where the settings have none
    lengths: tuple[int, int] = (5, 20)
    # settings of how text is written that a caption or an answer of this model does not depend on
    unread: frozenset[str] = frozenset()
    # () -> None, UsageError where this version of transformers cannot divide a beam's score by its length with the
    # prompt; None where idvl does not know how
    whole_beams: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that the rest of idvl may ask of an architecture.

    `blocks`: a regular expression that matches the qualified names of transformer blocks in full. `modalities`: pairs
    of a regular expression and a modality, searched in a layer's qualified name, the first match wins; a linear map
    that none matches (embeddings, heads) is not prunable. `reads_image`: searched in the names of cross-attention
    layers, it finds those whose input is image tokens.
    """

    model_types: tuple[str, ...]
    # the name of its file, which family_of fills in
    key: str = ""
    # names of the classes, of transformers or idvl's own, that this family describes, the default first; empty: any
    classes: tuple[str, ...]
    # config of one of the model types that names no class -> whether the family describes it
    describes_unnamed: Callable[[Any], bool] = lambda config: True
    needs: tuple[Literal["image", "text"], ...]
    # whether images are features of regions (idvl.data.regions), which no image processor prepares
    reads_regions: bool = False
    blocks: str
    modalities: tuple[tuple[str, Modality], ...]
    reads_image: str | None
    # searched in the names of layers: those whose outputs the model runs but does not use, which count as unreached
    unread: str | None = None
    # (processor, samples, text_length) -> model inputs on the CPU; text padded to text_length, the same for a whole run
    inputs: Callable[..., dict[str, Tensor]]
    # width and height that pictures are resized to where all samples need inputs of one shape; `inputs` then takes it
    # as `shape`, or None for each picture's own. None where the processor gives all pictures one shape
    shape: tuple[int, int] | None = None
    # (processor, samples) -> tokens of the longest text, at most what the model takes; 0 for a model without text
    text_length: Callable[..., int]
    # (layer name, number of tokens, model inputs) -> (batch, tokens) bool, False at padding; None when all count
    token_mask: Callable[[str, int, dict[str, Tensor]], Tensor | None]
    # (layer name, number of tokens, model inputs) -> (batch, tokens) bool, True where a token stands for the image,
    # padding aside; None when all tokens of the layer are of one class, which its modality then says
    image_tokens: Callable[[str, int, dict[str, Tensor]], Tensor | None] = lambda layer, tokens, inputs: None
    # (model, model inputs) -> whatever the model returns
    call: Callable[[nn.Module, dict[str, Tensor]], Any] = call
    # None where idvl knows no loss for what the checkpoint's class returns
    training_task: TrainingTask | None = None
    # what the checkpoint's class can do: caption, answer, embed_images, embed_texts, match, classify, verify_statement
    skills: Mapping[str, Skill] = field(default_factory=dict)
    # whether texts are put into the checkpoint's chat template, where the family knows of one
    chat_template: bool = False
    # whether texts are cleaned as in the model's own training, None where the family knows of no cleaning
    clean_texts: bool | None = None
    guessed: bool = False
    # what was guessed, and what the numbers do not cover: one sentence each
    notes: tuple[str, ...] = ()
    # config -> this family for that checkpoint, where checkpoints of one model type differ
    for_config: Callable[[Any], Family] | None = None
    # (family, model, processor) -> the family completed by what a loaded model shows
    fit: Callable[[Family, nn.Module, Any], Family] | None = None

    def describes(self, config: Any) -> bool:
        """Whether this family is that of a transformers config: by its model type, and its class if it names one."""
        if config.model_type not in self.model_types:
            return False
        named = getattr(config, "architectures", None)
        return named[0] in self.classes if named else self.describes_unnamed(config)

    def model_class(self, config: Any) -> type:
        """The class of idvl or transformers that loads the checkpoint of `config`: its first architecture, if named."""
        import transformers

        named = (getattr(config, "architectures", None) or self.classes or ("",))[0]
        if own := own_class(named):
            return own
        automatic = getattr(config, "auto_map", None) or {}
        for auto in automatic if not hasattr(transformers, named) else ():
            if auto.startswith("AutoModel") and automatic[auto].endswith(named):
                return getattr(transformers, auto)
        return getattr(transformers, named, None) or transformers.AutoModel
