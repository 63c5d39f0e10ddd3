"""A hub id, a local folder or a built-in name, turned into a model in eval mode with its processor and family.

Weights come from safetensors, or from torch files read with weights_only; weights that a layer needs and the
checkpoint lacks are an error, never a random start. It does not know what the model is used for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from idvl.device import find_device
from idvl.errors import UsageError, quoted
from idvl.models import stated
from idvl.models.checkpoint_keys import check_keys
from idvl.models.families import family_of
from idvl.models.families.base import Family
from idvl.models.fingerprints import configuration, fingerprint
from idvl.models.layers import uncovered_weights
from idvl.models.load_errors import one_line
from idvl.models.locating import locate, pin
from idvl.models.processors import fit_tokenizer, image_processor_of, load_processor

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "auto": "auto"}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run. `description` is JSON-ready and goes into the profile."""

    model: nn.Module
    processor: Any
    family: Family
    name: str
    description: dict[str, Any]


def load(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    chat_template: bool = True,
    local_files_only: bool = False,
    cache_dir: str | None = None,
) -> Loaded:
    """Load a model by hub id, folder or built-in name.

    `dtype` "auto" keeps the checkpoint's; `chat_template` puts texts about images into its chat template, if it has
    one; `device` None is the first GPU, or the CPU where there is none. Raises
    UsageError, in one line, for whatever keeps a model from being loaded whole.
    """
    target_device = find_device(device)
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {quoted(dtype)}; choose {', '.join(DTYPES)}")
    source, folder = locate(name)
    options = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": local_files_only,
        "cache_dir": cache_dir,
        "revision": None if folder else revision,
    }
    with one_line(name, folder), quiet():
        if not folder:
            options |= pin(name, revision=revision, cache_dir=cache_dir, local=local_files_only)
        target = str(folder or name)
        model, family, origin, warnings = _read(name, target, DTYPES[dtype], options)
        processor = load_processor(target, family, model.config, options)
        loaded = wrap(model.to(target_device), processor, name=name, chat_template=chat_template)
    for warning in warnings:
        logger.warning(warning)
    origin |= {"source": source, "revision": getattr(options["revision"], "resolved", options["revision"])}
    if source == "folder":  # which a relative name does not tell later
        origin["path"] = str(folder.resolve())
    noted = [*loaded.description["warnings"], *warnings]
    return replace(loaded, description={**loaded.description, **origin, "warnings": noted})


def _read(
    name: str, target: str, dtype: torch.dtype | str, options: dict[str, Any]
) -> tuple[nn.Module, Family, dict[str, Any], list[str]]:
    """The model on the CPU, its family, the dtype and the missing keys of its checkpoint, and warnings."""
    from transformers import AutoConfig

    whole = stated.check(name, target, options)
    config = AutoConfig.from_pretrained(target, **options)
    family = family_of(config)
    reading = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = family.model_class(config).from_pretrained(target, config=config, **reading, **options)
    stated.check_weights(name, model, whole)
    warnings = check_keys(name, model, family, info)
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    stored = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    return model, family, {"stored_dtype": stored, "missing": missing}, warnings


def wrap(model: nn.Module, processor: Any, *, name: str | None = None, chat_template: bool = True) -> Loaded:
    """A model that is in memory already, with the processor that prepares its inputs; both are kept, not copied.

    `chat_template`: as in `load`. The model is switched to eval mode, the processor to padding on the right within the
    model's length.
    """
    import transformers

    model.eval()
    # one made in memory does not say which of its type's classes it is
    model.config.architectures = model.config.architectures or [type(model).__name__]
    family = family_of(model.config)
    fit_tokenizer(processor, model.config)
    if family.fit:
        family = family.fit(replace(family, chat_template=chat_template), model, processor)
    for note in family.notes:
        logger.warning(note)
    images = image_processor_of(processor)
    name = name or model.config.name_or_path or type(model).__name__
    description = {
        "name": name,
        "source": "memory",
        "revision": None,
        "model_type": model.config.model_type,
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "not_covered": uncovered_weights(model, family),
        "dtype": str(model.dtype).removeprefix("torch."),
        "family": family.key,
        "guessed": family.guessed,
        "chat_template": family.chat_template,
        "image_processor": type(images).__name__ if images else None,
        "image_backend": getattr(images, "backend", None),
        "transformers": transformers.__version__,
        "fingerprint": fingerprint(model),
        "configuration": configuration(model, processor),
        "warnings": list(family.notes),
    }
    return Loaded(model=model, processor=processor, family=family, name=name, description=description)


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its reports, which are checked here, and without bars where no terminal shows them."""
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity()
    bars = theirs.is_progress_bar_enabled()
    if "TRANSFORMERS_VERBOSITY" not in os.environ:
        theirs.set_verbosity_error()
    if not sys.stderr.isatty():
        theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(before)
        if bars:
            theirs.enable_progress_bar()
