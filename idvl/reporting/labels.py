"""What tables and figures call things: criteria, weightings by ID, sparsities and protocols."""

from __future__ import annotations

from idvl.profile import Profile

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


def points(profile: Profile) -> str:
    """The fewest and the most points that the layers of a profile have an estimate from: "36-150", or "150"."""
    counts = [layer.estimate.n_points for layer in profile.layers.values() if layer.estimate.dimension is not None]
    few, many = min(counts, default=0), max(counts, default=0)
    return f"{many:,}" if few == many else f"{few:,}-{many:,}"


def protocol(profile: Profile) -> dict[str, str]:
    """How a profile was measured, in words: its points, estimator, tokens, and what of a layer."""
    most = max((layer.estimate.n_points for layer in profile.layers.values()), default=0)
    stated = profile.protocol
    return {
        "points": f"{most:,} points",
        "estimator": str(stated.get("estimator") or "estimator: ?"),
        "tokens": f"tokens: {stated.get('tokens', '?')}",
        "capture": f"layer {stated['capture']}s" if stated.get("capture") else "capture: ?",
    }
