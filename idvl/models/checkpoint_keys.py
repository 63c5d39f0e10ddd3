"""The keys of a checkpoint against the parameters of the model that was built from its config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from idvl.errors import UsageError, first_line
from idvl.models.layers import block_of, find_layers, modality_of

if TYPE_CHECKING:
    from idvl.models.families.base import Family


def check_keys(name: str, model: nn.Module, family: Family, info: dict[str, Any]) -> list[str]:
    """Warnings about keys that do not matter here. Raises UsageError for those in blocks, layers or embeddings."""
    layers = find_layers(model, family)
    modules = {name for name, _ in model.named_modules()}

    def in_scope(key: str, kind: str) -> bool:
        module, _, leaf = key.rpartition(".")
        in_block = bool(block_of(module, family) and modality_of(f"{module}.x", family))
        if kind == "unexpected":
            # weights of a part that the model lacks; old checkpoints also hold buffers, which do no harm
            return leaf in ("weight", "bias") and (module in layers or (in_block and module not in modules))
        return module in layers or in_block or "embed" in key

    shapes = {key: f"{key} {tuple(stored)}, not {tuple(built)}" for key, stored, built in info["mismatched_keys"]}
    keys = {
        "missing": {key: key for key in sorted(info["missing_keys"])},
        "mismatched": dict(sorted(shapes.items())),
        "unexpected": {key: key for key in sorted(info["unexpected_keys"])},
    }
    wrong, rest = [], []
    for kind, texts in keys.items():
        fatal = [key for key in texts if in_scope(key, kind)]
        if fatal:
            wrong.append(f"{kind}: {_listed(texts[key] for key in fatal)}")
        other = [texts[key] for key in texts if key not in fatal]
        if other:
            rest.append(f"the checkpoint's weights outside of the layers differ; {kind}: {_listed(other)}")
    wrong += [first_line(error) for error in info.get("error_msgs", ())]
    if wrong:
        raise UsageError(
            f"the weights of {name} do not fit its config.json ({type(model).__name__}), and the model would be partly "
            f"random; {'; '.join(wrong)}"
        )
    return rest


def _listed(items: Iterable[str], most: int = 8) -> str:
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
