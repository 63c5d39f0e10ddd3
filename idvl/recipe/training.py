"""The settings of training, declared once as those of sections.py are: of a pruning run, and of a recovery."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from idvl.choices import Augmentation, Precision, RecoveryCompat, RecoveryMethod, Texts
from idvl.profile import Modality
from idvl.recipe.section import Section, setting
from idvl.recipe.values import Amount, Count, Ranks, Words

# defaults that depend on other settings, which pruning/settings.py fills in
LEARNING_RATE, EPOCHS = 1e-5, 5
# pruning steps of one-shot pruning (appendix A, rows 5 and 6 of Table 8), each with its own sparsity
ONE_SHOT_STEPS = 50
# those of a recovery: ranks of SparseLoRA's code, whose Q-Former is a connector here, its learning rate and epochs
RANKS: dict[Modality, int] = {"vision": 4, "language": 8, "cross": 8, "fusion": 8, "connector": 2}
RECOVERY_LEARNING_RATE, RECOVERY_EPOCHS = 1e-4, 1


class TrainSection(Section):
    """How the weights are trained while they are pruned. `batch_size` is per process."""

    samples: Count | None = setting(None, "Number of training samples.", shown="all of the split", flag="")
    texts: Texts | None = setting(
        None,
        "Which of a sample's captions is read in an epoch: any, first, or all, each once.",
        shown="a built-in model's own, else any",
        flag="",
    )
    augmentation: Augmentation | None = setting(
        None,
        "How training images vary. blip: crops of half to all of the image, mirrored or not, RandAugment, and pairs "
        "of images in either order, as in BLIP's code.",
        shown="none",
        flag="",
    )
    epochs: Amount | None = setting(None, "Passes over the training samples.", shown=f"{EPOCHS}")
    max_steps: Count | None = setting(
        None, "Number of optimizer steps, instead of --epochs.", shown=f"none; one-shot {ONE_SHOT_STEPS}"
    )
    batch_size: Count = setting(20, "Training samples per process and batch.")
    accumulate: Count = setting(1, "Batches per optimizer step.")
    learning_rate: Annotated[float, Field(gt=0)] | None = setting(
        None, "Peak learning rate.", shown=f"a built-in model's own, else {LEARNING_RATE:g}"
    )
    weight_decay: Annotated[float, Field(ge=0)] = setting(0.0, "Weight decay of AdamW.")
    lr_schedule: str = setting(
        "cosine", "Learning rate scheduler of transformers, or cosine_by_epoch, as BLIP's code has it.", flag=""
    )
    warmup: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.0, "Fraction of the steps that the learning rate rises.", flag=""
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "Smoothing of the labels.", shown="the checkpoint's own, mostly 0", flag=""
    )
    text_dropout: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "Dropout of BLIP's text stack while training.", shown="the checkpoint's own, mostly 0", flag=""
    )
    clip: Annotated[float, Field(gt=0)] | None = setting(None, "Largest norm of the gradient.", shown="no clipping")
    mixed_precision: Precision = setting("no", "Precision of forward and backward passes.")
    gradient_checkpointing: bool = setting(False, "Recompute activations: less memory, more time.")
    distill: Annotated[float, Field(ge=0)] = setting(0.0, "Weight of the KL divergence to the dense model.")
    checkpoint_every: Count = setting(500, "Steps between two checkpoints.")
    report_to: Annotated[list[str], Words] = setting(
        [], "Tracker: tensorboard, wandb or trackio; repeatable.", shown="none", value="NAME"
    )
    new_head: bool = setting(False, "Put a new classifier for this dataset's labels on the model.")


class RecoverSection(Section):
    """How a pruned model is trained back under its masks. The section train says for how long, and what to distill."""

    method: RecoveryMethod | None = setting(
        None,
        "What is trained while pruned weights stay zero. lora: a low-rank update of each layer (SparseLoRA); full: all "
        "weights; biases: biases and norms alone.",
        shown="lora; none in idvl prune",
    )
    rank: Ranks | None = setting(
        None,
        "Rank of the update, one for all or by modality, as in vision=4,language=8.",
        shown="vision=4,language=8,cross=8,fusion=8,connector=2",
        value="N|MODALITY=N",
    )
    alpha: Annotated[float, Field(gt=0)] = setting(16.0, "The update is multiplied by alpha / rank.")
    layers: str = setting(
        "all", "Layers with an update: all, vision, language (with cross-attention), or a pattern.", value="SCOPE"
    )
    biases: bool = setting(False, "Train biases and norms beside the update.")
    masks: str | None = setting(
        None,
        "Masks of a model that idvl did not prune: a file, or zeros, which takes a mask from the model's zeros.",
        shown="those of the run that pruned it",
        value="FILE|zeros",
    )
    teacher: str | None = setting(None, "Dense model to distill from.", shown="the one that was pruned", value="MODEL")
    temperature: Annotated[float, Field(gt=0)] = setting(1.0, "Temperature of the distillation.")
    compat: RecoveryCompat = setting(
        "none",
        "Weigh the distillation as the code of the SparseLoRA paper does (ressa): (1 - w) x loss + w x KL, summed over "
        "the tokens of a sample.",
    )
