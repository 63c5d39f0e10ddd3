"""Models that transformers does not have: the class of each, by the name that its config.json gives."""

from __future__ import annotations

from importlib import import_module

# class -> its module
MODULES = {"BlipForImagesAndTextClassification": "idvl.models.own.blip_pairs"}


def own_class(name: str) -> type | None:
    """The class of that name, None where it is none of these."""
    return getattr(import_module(MODULES[name]), name) if name in MODULES else None
