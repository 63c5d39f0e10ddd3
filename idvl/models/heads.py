"""A new classifier on a trained encoder of images. It does not know how it will be trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from idvl.errors import UsageError
from idvl.models.loading import Loaded, wrap


def with_new_head(loaded: Loaded, labels: Sequence[str], *, seed: int = 0) -> Loaded:
    """The encoder of `loaded` with a random classifier of `labels`, in their order; the encoder's weights are copied.

    Raises UsageError for a model that reads text, or whose type has no classifier in transformers.
    """
    from transformers import AutoModelForImageClassification

    if "text" in loaded.family.needs:
        raise UsageError(f"a new head classifies images, but {loaded.name} reads text too: leave new_head out")
    config = copy.deepcopy(loaded.model.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = AutoModelForImageClassification.from_config(config)
        except ValueError as error:
            raise UsageError(
                f"transformers has no image classifier on a {config.model_type}: leave new_head out"
            ) from error
    # a bare encoder may pool what the classifier reads as it is
    _, extra = (base := model.base_model).load_state_dict(loaded.model.base_model.state_dict(), strict=False)
    if wrong := [name for name in extra if base is not model and not name.startswith("pooler.")]:
        raise UsageError(f"{wrong[0]} of {loaded.name} has no place under a new head: leave new_head out")
    model.config.architectures = [type(model).__name__]
    classifier = wrap(model.to(loaded.model.device, loaded.model.dtype), loaded.processor, name=loaded.name)
    origin = {key: loaded.description[key] for key in ("source", "revision")}
    return replace(classifier, description={**classifier.description, **origin})
