"""The settings of a run but those of training, declared once: type, bounds, default, help text and flag."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from idvl.choices import (
    DEFAULT_CRITERION,
    BeamLength,
    By,
    Calibration,
    Compat,
    EcoflapOrder,
    IdWeight,
    MissingId,
    Repair,
    ScheduleName,
    Smoothing,
    Task,
    TokensFrom,
    Within,
)
from idvl.profile import Capture, Dtype, EstimatorName, Knn, Modality, Tokens
from idvl.recipe.section import Section, setting
from idvl.recipe.values import (
    AllocationName,
    Amount,
    Count,
    CountOrAuto,
    CriterionName,
    ModalityShares,
    Ratio,
    Sentences,
    Share,
    Size,
    StructureName,
    Words,
    parse_bytes,
)

# the profile that is estimated first
AUTO = "auto"
# a default that depends on other settings, which pruning/settings.py fills in
SPARSITY = 0.8
# the same of a run that prunes from calibration samples
CALIBRATED_SPARSITY, CALIBRATION_SAMPLES, REPAIR_EPOCHS = 0.5, 128, 10


class ModelSection(Section):
    """The checkpoint and how it is loaded."""

    name: str = setting(..., "Hub id, local folder, builtin/blip or builtin/vit.", flag="")
    revision: str | None = setting(None, "Branch, tag or commit on the Hub.", shown="the main branch")
    dtype: Dtype = setting("float32", "Precision in which the weights are loaded.")
    device: str | None = setting(None, "Device, such as cpu or cuda:0.", shown="the accelerator, if there is one")
    trust_remote_code: bool = setting(False, "Run Python code from the model's repository.")
    chat_template: bool = setting(
        True,
        "Put texts about images into the checkpoint's chat template.",
        shown="where it has one",
        flag="--chat-template/--no-chat-template",
    )
    clean_texts: bool = setting(
        True,
        "Read captions and questions as BLIP's training does: lower case, no punctuation, captions cut at 30 words, "
        "questions at 35 tokens.",
        shown="with BLIP",
        flag="",
    )
    cache_dir: Path | None = setting(None, "Folder for downloads.", shown="that of huggingface_hub")
    local_files_only: bool = setting(False, "Download nothing.")


class DataSection(Section):
    """The samples."""

    dataset: str | None = setting(
        None,
        "Name listed by idvl eval --list, or a local path.",
        shown="that of the run that the model lies in, or of the built-in model",
    )
    data_dir: Path | None = setting(None, "Local copy of the dataset.", shown="none", value="DIR")
    dataset_id: str | None = setting(None, "Hub repository to read the dataset from instead.", value="ID")
    image_column: str | None = setting(None, "Column with the images.", value="NAME")
    text_column: str | None = setting(None, "Column with the texts.", value="NAME")
    label_column: str | None = setting(None, "Column with the class labels.", value="NAME")
    answers_column: str | None = setting(None, "Column with the answers to a question.", value="NAME")
    second_image_column: str | None = setting(
        None, "Column with the second image, for tasks on two images.", value="NAME"
    )
    allow_outside: bool = setting(False, "Read images that a table names outside of the dataset's folder.")
    split: str | None = setting(None, "Split to read.", shown="the dataset's own", value="NAME")
    samples: Count | None = setting(
        None, "Number of samples to estimate dimensions from.", shown="the dataset's own, mostly 2000"
    )
    # the largest that every generator takes
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = setting(0, "Random seed, which also selects the samples.")
    batch_size: Count = setting(16, "Samples per forward pass; changes results by rounding only.")
    force: bool = setting(False, "Estimate even from fewer than 100 samples.")


class EstimateSection(Section):
    """Which layers are measured, what a point is, and how its dimension is estimated."""

    tokens: Tokens = setting("flatten", "What a point is: all tokens of a sample, their mean, or one of them.")
    capture: Capture = setting("output", "Side of a layer that is measured.")
    estimator: EstimatorName = setting("twonn", "Estimator of the intrinsic dimension.")
    layers: str | None = setting(None, "Measure only layers whose names match a pattern.", shown="all", value="PATTERN")
    modality: Annotated[Annotated[list[Modality], Field(min_length=1)] | None, Words] = setting(
        None, "Measure only layers of this modality; repeatable.", shown="all"
    )
    knn: Knn = setting("auto", "Neighbour search backend; all give the same result, auto takes the fastest.")
    memory: Size | None = setting(None, "Memory budget, such as 8GiB.", shown="a quarter of what is free", value="SIZE")
    spill: Path | None = setting(None, "Folder on disk for data beyond the memory budget.", shown="none", value="DIR")
    offload: bool = setting(False, "Leave weights in the checkpoint's files, and read those of one block at a time.")

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes, None when none was given."""
        return None if self.memory is None else parse_bytes(self.memory)


class PruneSection(Section):
    """Which weights are pruned, and when. `initial` and `final` are fractions of all steps."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = setting(
        None,
        "Fraction of the weights in scope that become zero.",
        shown=f"{SPARSITY}, {CALIBRATED_SPARSITY} with calibration, there also vision=0.5,language=0.7; with N:M, what "
        "it implies",
    )
    modality_sparsity: ModalityShares | None = setting(
        None, "Sparsity of each modality: what sparsity is set to where it is no number.", flag=""
    )
    sparsity_ratio: Ratio | None = setting(
        None,
        "With calibration, the sparsity of vision in proportion to that of language, such as 30:70.",
        shown="one budget for all layers",
        value="VISION:LANGUAGE",
    )
    criterion: CriterionName = setting(
        DEFAULT_CRITERION,
        "Importance score of a weight. magnitude: its size; gradient: weight x gradient; platon: that, smoothed over "
        "steps; wanda: size x norm of its input; sparsegpt: error without it; multiflow: size x flow. Or a plug-in.",
    )
    calibration: Calibration | None = setting(
        None,
        "Prune once and without training, from calibration samples: block by block, each behind pruned ones "
        "(sequential), or all measured in the dense model.",
        shown="sequential with wanda, sparsegpt and multiflow, else none",
    )
    calibration_samples: Count | None = setting(None, "Number of calibration samples.", shown=f"{CALIBRATION_SAMPLES}")
    tokens_from: TokensFrom | None = setting(
        None,
        "With calibration, the tokens that count where a layer reads images and texts: all, image or text.",
        shown="all",
    )
    compare_within: Within | None = setting(
        None,
        "With calibration, the weights whose scores are compared.",
        shown="row with wanda, layer with magnitude, gradient and multiflow; sparsegpt compares blocks of columns",
    )
    repair: Repair | None = setting(
        None,
        "With calibration, what the weights that stay do: nothing, make up for the others by the OBS update (obs), or "
        "train until the block's output is near the dense block's (reconstruct).",
        shown="none; obs with sparsegpt",
    )
    repair_epochs: Count | None = setting(None, "Passes of reconstruct over the samples.", shown=f"{REPAIR_EPOCHS}")
    id_weight: IdWeight = setting(
        "multiply",
        "How the layer's intrinsic dimension enters the score.",
        shown="multiply; none with calibration",
    )
    # 2 to the 40 is beyond any factor that is used
    id_exponent: Annotated[float, Field(gt=0, le=40)] = setting(1.0, "Exponent of the intrinsic dimension.")
    profile: str = setting(
        AUTO,
        "Where the intrinsic dimensions come from: auto (estimated first), a file, or published:blip-coco.",
        value="PROFILE",
    )
    missing_id: MissingId = setting("median", "What to do about layers without a reliable ID.")
    refresh_profile: Count | None = setting(None, "Re-estimate the dimensions every N epochs.", shown="never")
    scope: str = setting(
        "all",
        "Layers to prune: all, vision, language (with cross-attention), language-without-cross, cross, or a pattern of "
        "names.",
        value="SCOPE",
    )
    allocation: AllocationName | None = setting(
        None,
        "One threshold over all layers, or the same sparsity in each; with calibration also by depth, dimension, "
        "gradient of the loss (ecoflap), outliers of the scores (owl), spectrum (alpha) or file:FILE.",
        shown="global; with N:M or calibration, uniform",
    )
    allocate_by: By | None = setting(
        None,
        "What shares one sparsity: a layer, or all layers of a block.",
        shown="block with ecoflap, owl and alpha, else layer",
    )
    spread: Annotated[float, Field(gt=0, lt=1)] | None = setting(
        None,
        "How far sparsities of an allocation are from the mean at most: of ecoflap (0.1 above it), owl (0.08), id (by "
        "rank); of depth (0.2) and alpha (0.3) as a part of the mean.",
        shown="the allocation's; id: none, in proportion",
    )
    ecoflap_order: EcoflapOrder | None = setting(
        None,
        "What ecoflap scores: the norm of the gradient, weight x gradient (first), or as published the change of the "
        "loss under noise (zeroth, much slower).",
        shown="gradient-norm",
    )
    structure: StructureName = setting(
        "unstructured",
        "Where zeros may stand: anywhere (unstructured), or N kept of every M consecutive inputs, such as 2:4.",
        value="STRUCTURE",
    )
    floor: Share = setting(0.0, "Lowest sparsity of a layer.")
    ceiling: Share = setting(1.0, "Highest sparsity of a layer.")
    min_keep: Amount | None = setting(None, "Number of weights that every layer keeps at least.", shown="1")
    schedule: ScheduleName = setting(
        "cubic", "How the sparsity rises: cubic (fast first), linear, or one-shot (no training)."
    )
    initial: Share = setting(0.2, "Fraction of the steps before pruning starts.")
    final: Share = setting(0.2, "Fraction of the steps after pruning has ended.")
    mask_every: Count | None = setting(None, "Steps between two mask updates.", shown="10, fewer in short runs")
    monotone: bool = setting(False, "Never let a pruned weight return.")
    compat: Compat = setting(
        "none", "Reproduce the paper's published code (icml24) where it differs from the paper's text."
    )
    beta1: Share = setting(0.85, "PLATON's smoothing of the importance.", flag="")
    beta2: Share = setting(0.95, "PLATON's smoothing of the uncertainty.", flag="")
    window: Count = setting(10, "Steps that PLATON averages the importance over.", flag="")
    smoothing_dtype: Smoothing = setting("float32", "Precision of PLATON's state.", flag="")

    @model_validator(mode="before")
    @classmethod
    def _by_modality(cls, values: Any) -> Any:
        """A sparsity such as vision=0.5,language=0.7 is one of modalities."""
        sparsity = values.get("sparsity") if isinstance(values, dict) else None
        if isinstance(sparsity, dict) or (isinstance(sparsity, str) and "=" in sparsity):
            return {**values, "sparsity": None, "modality_sparsity": sparsity}
        return values


class EvalSection(Section):
    """How a model is evaluated. `split` and `batch_size` are those of the evaluation alone."""

    task: Task | None = setting(
        None, "Task to evaluate.", shown="the first that both model and dataset are for", value="TASK"
    )
    split: str | None = setting(None, "Split to evaluate on.", shown="the dataset's own for evaluation", value="NAME")
    limit: Count | None = setting(None, "Evaluate at most N samples, drawn by --seed.", shown="all")
    batch_size: CountOrAuto = setting(16, "Samples per batch; auto takes as many as fit.", value="N|auto")
    prompt: str | None = setting(None, "What captions start with, or how a question is put.", shown="the model's own")
    beams: Annotated[int, Field(ge=1, le=1000)] = setting(3, "Beams of the beam search.")
    beam_length: BeamLength | None = setting(
        None,
        "Length that a beam's log-likelihood is divided by. whole: with the prompt, as in BLIP's code.",
        shown="without the prompt",
        flag="",
    )
    min_length: Annotated[int, Field(ge=0, le=100_000)] | None = setting(
        None, "Fewest tokens of a prediction.", shown="the model's own, mostly 5 for captions, 1 for answers"
    )
    max_length: Annotated[int, Field(ge=1, le=100_000)] | None = setting(
        None, "Most tokens of a prediction.", shown="the model's own, mostly 20 for captions, 10 for answers"
    )
    templates: Annotated[Annotated[list[str], Field(min_length=1)] | None, Sentences] = setting(
        None,
        "Sentence for zero-shot classification, with {} for the class; repeatable.",
        shown="the model's own, such as 'a photo of a {}.'",
        flag="--template",
    )
    rerank: Amount = setting(128, "Candidates that a matching head reranks.")
    metrics: Annotated[list[str], Words] = setting(
        [],
        "Additional metric of evaluate, a folder or a Hub name; repeatable.",
        shown="none",
        flag="--metric",
        value="NAME",
    )
    resamples: Annotated[int, Field(ge=100, le=100_000)] | None = setting(
        None, "Bootstrap samples of an interval.", shown="1000", flag=""
    )
    every: Count | None = setting(None, "Evaluate every N steps.", shown="never", flag="--eval-every")
    after: bool = setting(True, "Evaluate the pruned model.", shown="eval", flag="--eval/--no-eval")
