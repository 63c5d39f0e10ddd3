"""Models that transformers does not have: the class of each, by the name that its config.json gives."""

from __future__ import annotations

from importlib import import_module

# class -> its module
MODULES = {
    "BlipForImagesAndTextClassification": "idvl.models.own.blip_pairs",
    "ButdForCaptioning": "idvl.models.own.butd",
}
# class of a config whose model type transformers does not have -> its module
CONFIGS = {"ButdConfig": "idvl.models.own.butd"}


def own_class(name: str) -> type | None:
    """The class of that name, None where it is none of these."""
    return getattr(import_module(MODULES[name]), name) if name in MODULES else None


def register_configs() -> None:
    """Tell transformers' AutoConfig of the model types that it does not have."""
    from transformers import AutoConfig

    for name, module in CONFIGS.items():
        config = getattr(import_module(module), name)
        AutoConfig.register(config.model_type, config, exist_ok=True)
