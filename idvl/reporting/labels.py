"""What tables and figures call things: criteria, weightings by ID and sparsities."""

from __future__ import annotations

CRITERIA = {
    "magnitude": "Magnitude",
    "gradient": "Gradient",
    "platon": "PLATON",
    "wanda": "Wanda",
    "sparsegpt": "SparseGPT",
    "multiflow": "MULTIFLOW",
}
# what stands behind the method of a run that recovered a pruned model
RECOVERIES = {"lora": "masked LoRA", "full": "full training", "biases": "biases and norms"}
# what stands behind a criterion that is weighted
WEIGHTINGS = {"none": "", "multiply": "× ID", "divide": "/ ID"}


def percent(share: float) -> str:
    """0.95 -> "95 %", 0.995 -> "99.5 %"."""
    return f"{100 * share:.4g} %"


def criterion(word: str) -> str:
    return CRITERIA.get(word, word)


def weighting(word: str) -> str:
    """By itself: "without ID", "× ID"."""
    return WEIGHTINGS.get(word, word) or "without ID"


def method(criterion_word: str, id_weight: str, *more: str) -> str:
    """ "PLATON × ID, one-shot"."""
    name = f"{criterion(criterion_word)} {WEIGHTINGS.get(id_weight, id_weight)}".rstrip()
    return ", ".join(filter(None, (name, *more)))
