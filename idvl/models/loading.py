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
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from idvl.device import find_device, give_back_freed_memory
from idvl.errors import UsageError, quoted
from idvl.models import stated
from idvl.models.checkpoint_keys import check_keys
from idvl.models.families import family_of
from idvl.models.families.base import Family
from idvl.models.fingerprints import configuration, fingerprint
from idvl.models.layers import uncovered_weights
from idvl.models.load_errors import one_line
from idvl.models.locating import locate, pin
from idvl.models.offload import CPU, Offload, places, take_over, without_warnings
from idvl.models.own import register_configs
from idvl.models.processors import check_processor, fit_tokenizer, image_processor_of, load_processor
from idvl.models.resolution import check_resolution

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "auto": "auto"}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run. `description` is JSON-ready and goes into the profile.

    With `offload` the model and its inputs are on the CPU, and its blocks run elsewhere.
    """

    model: nn.Module
    processor: Any
    family: Family
    name: str
    description: dict[str, Any]
    offload: Offload | None = None

    @property
    def device(self) -> torch.device:
        """Where blocks run."""
        return self.offload.device if self.offload else next(self.model.parameters()).device

    @property
    def inputs_device(self) -> torch.device:
        """Where the model takes its inputs."""
        return CPU if self.offload else self.device


def load(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    chat_template: bool = True,
    clean_texts: bool = True,
    local_files_only: bool = False,
    cache_dir: str | None = None,
    offload: bool = False,
) -> Loaded:
    """Load a model by hub id, folder or built-in name.

    `dtype` "auto" keeps the checkpoint's; `chat_template` puts texts about images into its chat template, if it has
    one; `clean_texts` cleans texts as in the model's own training, where its family knows how; `device` None is the
    first GPU, or the CPU where there is none; `offload` leaves the weights of blocks in their files. Raises UsageError,
    in one line, for whatever keeps a model from being loaded whole.
    """
    target_device = find_device(device)
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {quoted(dtype)}; choose {', '.join(DTYPES)}")
    source, folder = locate(name, revision)
    options = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": local_files_only,
        "cache_dir": cache_dir,
        "revision": None if folder else revision,
    }
    with one_line(name, folder, revision=revision, cache_dir=cache_dir), quiet():
        if not folder:
            options |= pin(name, revision=revision, cache_dir=cache_dir, local=local_files_only)
        target = str(folder or name)
        scratch = TemporaryDirectory(prefix="idvl-offload-") if offload else None
        model, family, origin, warnings = _read(name, target, DTYPES[dtype], options, scratch)
        processor = load_processor(target, family, model.config, options)
        taken = None
        if scratch:
            # freed weights of a block would stay with the process, between tensors that live on
            give_back_freed_memory()
            stored = sum(path.stat().st_size for path in stated.weight_files(target, options))
            taken = take_over(model, family, target_device, stored=stored, scratch=scratch)
        else:
            model = model.to(target_device)
        reading = {"chat_template": chat_template, "clean_texts": clean_texts}
        loaded = wrap(model, processor, name=name, offload=taken, **reading)
    for warning in warnings:
        logger.warning(warning)
    origin |= {"source": source, "revision": getattr(options["revision"], "resolved", options["revision"])}
    if source == "folder":  # which a relative name does not tell later
        origin["path"] = str(folder.resolve())
    noted = [*loaded.description["warnings"], *warnings]
    return replace(loaded, description={**loaded.description, **origin, "warnings": noted})


def _read(
    name: str, target: str, dtype: torch.dtype | str, options: dict[str, Any], scratch: TemporaryDirectory | None
) -> tuple[nn.Module, Family, dict[str, Any], list[str]]:
    """The model on the CPU, its family, the dtype and the missing keys of its checkpoint, and warnings.

    With `scratch` the weights of blocks stay in their files, or are put there where several make one.
    """
    from transformers import AutoConfig

    register_configs()
    whole = stated.check(name, target, options)
    config = AutoConfig.from_pretrained(target, **options)
    family = family_of(config)
    kind = family.model_class(config)
    reading = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
    if scratch:
        stated.check_offload(name, target, options)
        trust = options["trust_remote_code"]
        reading |= {"device_map": places(kind, config, family, trust_remote_code=trust), "offload_folder": scratch.name}
    with without_warnings():
        model, info = kind.from_pretrained(target, config=config, **reading, **options)
    stated.check_weights(name, model, whole)
    warnings = check_keys(name, model, family, info)
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    stored = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    return model, family, {"stored_dtype": stored, "missing": missing}, warnings


def wrap(
    model: nn.Module,
    processor: Any,
    *,
    name: str | None = None,
    chat_template: bool = True,
    clean_texts: bool = True,
    offload: Offload | None = None,
) -> Loaded:
    """A model that is in memory already, with the processor that prepares its inputs; both are kept, not copied.

    `chat_template`, `clean_texts`: as in `load`; `offload`: what reads the weights that the model lacks. The model is
    switched to eval mode, the processor to padding on the right within the model's length.
    """
    import transformers

    model.eval()
    # one made in memory does not say which of its type's classes it is
    model.config.architectures = model.config.architectures or [type(model).__name__]
    family = family_of(model.config)
    check_processor(processor, family)
    if "image" in family.needs:
        check_resolution(model, processor)
    fit_tokenizer(processor, model.config)
    if family.fit:
        reading = {"chat_template": chat_template, "clean_texts": family.clean_texts and clean_texts}
        family = family.fit(replace(family, **reading), model, processor)
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
        "clean_texts": family.clean_texts,
        "image_processor": type(images).__name__ if images else None,
        "image_backend": getattr(images, "backend", None),
        "transformers": transformers.__version__,
        "fingerprint": fingerprint(offload or model),
        "configuration": configuration(model, processor),
        "warnings": list(family.notes),
    }
    return Loaded(model=model, processor=processor, family=family, name=name, description=description, offload=offload)


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
