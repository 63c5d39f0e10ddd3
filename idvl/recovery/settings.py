"""What the recipe of a recovery leaves open, and what it sets that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from idvl.builtin import learning_rate_of
from idvl.errors import UsageError
from idvl.recipe import Recipe
from idvl.recipe.training import LEARNING_RATE, RANKS, RECOVERY_EPOCHS, RECOVERY_LEARNING_RATE
from idvl.session import with_dataset
from idvl.training import Training

if TYPE_CHECKING:
    from idvl.recovery.start import Start

# settings of masked LoRA alone
OF_LORA = ("rank", "layers", "biases", "alpha")
# settings of section recover that the divergence to a teacher has
OF_DISTILLATION = ("teacher", "temperature", "compat")


def resolve(recipe: Recipe, start: Start) -> Recipe:
    """The recipe with every value that it leaves open. UsageError for one that makes no sense.

    Its section prune is that of the run that pruned the model.
    """
    recover, train = recipe.recover, recipe.train
    method = recover.method or "lora"
    refuse(recipe)
    own_rate = learning_rate_of(start.origin) if start.origin.startswith("builtin/") else LEARNING_RATE
    training = {
        "learning_rate": train.learning_rate or (own_rate if method == "full" else RECOVERY_LEARNING_RATE),
        "texts": train.texts or ("first" if start.origin.startswith("builtin/") else "any"),
        "epochs": RECOVERY_EPOCHS if train.epochs is None else train.epochs,
    }
    settings = {"method": method, "rank": RANKS | (recover.rank or {})}
    recipe = recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update={"name": start.model}),
            "prune": start.pruning(recipe.prune),
            "train": train.model_copy(update=training),
            "recover": recover.model_copy(update=settings),
        }
    )
    return with_dataset(recipe)


def training_of(recipe: Recipe) -> Training:
    """The settings of the loop."""
    settings = recipe.train.model_dump(exclude={"samples", "texts", "new_head", "report_to"})
    return Training(
        **settings,
        temperature=recipe.recover.temperature,
        compat=recipe.recover.compat,
        report_to=tuple(recipe.train.report_to),
        evaluate_every=recipe.eval.every,
        seed=recipe.data.seed,
    )


def refuse(recipe: Recipe) -> None:
    """UsageError for settings that make no sense, whatever the model."""
    recover, train = recipe.recover, recipe.train
    method = recover.method or "lora"
    if recipe.model.dtype != "float32":
        raise UsageError(f"weights are trained in float32, not {recipe.model.dtype}: see train.mixed_precision")
    if recipe.estimate.offload:
        raise UsageError("recovery trains a model in memory: leave offload out")
    if train.new_head:
        raise UsageError("new_head and idvl recover: a pruned model keeps its head; leave new_head out")
    if train.epochs == 0 and not train.max_steps:
        raise UsageError("0 epochs recover nothing: set epochs or max_steps")
    named = recover.model_fields_set
    for name in OF_LORA if method != "lora" else ():
        if name in named and getattr(recover, name) != type(recover).model_fields[name].default:
            raise UsageError(f"{name} and method {method}: it belongs to method lora; leave {name} out")
    for name in OF_DISTILLATION if not train.distill else ():
        if name in named and getattr(recover, name) != type(recover).model_fields[name].default:
            raise UsageError(f"{name} without distill: nothing is distilled; set distill, or leave {name} out")
    if recover.compat == "ressa" and train.distill > 1:
        raise UsageError(f"compat ressa weighs the loss by 1 - distill: use at most 1, not {train.distill}")
