"""A hub id, a local folder or a built-in name, turned into a model in eval mode with its processor and family.

Weights come from safetensors, or from torch files read with weights_only; weights that a layer needs and the
checkpoint lacks are an error, never a random start. It does not know what the model is used for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idvl.device import find_device
from idvl.errors import UsageError, first_line, quoted
from idvl.models import stated
from idvl.models.families import family_of
from idvl.models.families.base import Family
from idvl.models.inputs import AT_ONCE, image_processor_of, tokenizer_of
from idvl.models.layers import block_of, find_layers, modality_of
from idvl.models.load_errors import nearby, one_line, unreached

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "auto": "auto"}
NEEDED = {"image": "image processor (preprocessor_config.json)", "text": "tokenizer (tokenizer.json)"}
# values of each parameter that the fingerprint reads
FINGERPRINT_VALUES = 4096


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
    local_files_only: bool = False,
    cache_dir: str | None = None,
) -> Loaded:
    """Load a model by hub id, folder or built-in name.

    `dtype` "auto" keeps the checkpoint's; `device` None is the first GPU, or the CPU where there is none. Raises
    UsageError, in one line, for whatever keeps a model from being loaded whole.
    """
    place = find_device(device)
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {quoted(dtype)}; choose {', '.join(DTYPES)}")
    source, folder = _locate(name)
    options = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": local_files_only,
        "cache_dir": cache_dir,
        "revision": None if folder else revision,
    }
    with one_line(name, folder), quiet():
        from transformers import AutoConfig

        if not folder:
            options |= _pin(name, revision=revision, cache_dir=cache_dir, local=local_files_only)
        target = str(folder or name)
        whole = stated.check(name, target, options)
        config = AutoConfig.from_pretrained(target, **options)
        family = family_of(config)
        reading = {"dtype": DTYPES[dtype], "output_loading_info": True, "ignore_mismatched_sizes": True}
        cls = family.model_class(config)
        model, info = cls.from_pretrained(target, config=config, **reading, **options)
        stated.check_weights(name, model, whole)
        warnings = _check_keys(name, model, family, info)
        missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
        processor = _processor(target, family, config, options)
        loaded = wrap(model.to(place), processor, name=name)
    resolved = getattr(options["revision"], "resolved", options["revision"])
    stored = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    about = {"source": source, "revision": resolved, "stored_dtype": stored, "missing": missing}
    if source == "folder":  # which a relative name does not tell later
        about["path"] = str(folder.resolve())
    for warning in warnings:
        logger.warning(warning)
    noted = [*loaded.description["warnings"], *warnings]
    return Loaded(**{**vars(loaded), "description": {**loaded.description, **about, "warnings": noted}})


def wrap(model: nn.Module, processor: Any, *, name: str | None = None) -> Loaded:
    """A model that is in memory already, with the processor that prepares its inputs; both are kept, not copied.

    The model is switched to eval mode, the processor to padding on the right within the model's length.
    """
    import transformers

    model.eval()
    # one made in memory does not say which of its type's classes it is
    model.config.architectures = model.config.architectures or [type(model).__name__]
    family = family_of(model.config)
    _fit_tokenizer(processor, model.config)
    if family.fit:
        family = family.fit(family, model, processor)
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
        "dtype": str(model.dtype).removeprefix("torch."),
        "family": family.key,
        "guessed": family.guessed,
        "image_processor": type(images).__name__ if images else None,
        "image_backend": getattr(images, "backend", None),
        "transformers": transformers.__version__,
        "fingerprint": fingerprint(model),
        "configuration": configuration(model, processor),
        "warnings": list(family.notes),
    }
    return Loaded(model=model, processor=processor, family=family, name=name, description=description)


def fingerprint(model: nn.Module) -> str:
    """sha256 over each parameter's name, shape and up to 4,096 evenly spaced values, read as float32.

    Cheap for any size; a model whose weights were trained or pruned gets another one for all practical purposes, but
    a change of a few single weights may go unseen.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        flat = parameter.detach().reshape(-1)
        values = flat[:: max(1, -(-flat.numel() // FINGERPRINT_VALUES))]
        digest.update(values.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def configuration(model: nn.Module, processor: Any) -> str:
    """sha256 over what a model's outputs depend on beside its parameters: configs, saved buffers, processor."""
    images, tokenizer = image_processor_of(processor), tokenizer_of(processor)
    parts = [part.to_dict() for part in (model.config, getattr(model, "generation_config", None), images) if part]
    if tokenizer:
        parts.append(getattr(tokenizer, "chat_template", None))
        if getattr(tokenizer, "is_fast", False):  # padding and truncation are those of the last call
            backend = json.loads(tokenizer.backend_tokenizer.to_str())
            parts.append({key: value for key, value in backend.items() if key not in ("padding", "truncation")})
        else:
            parts.append(tokenizer.get_vocab())
    digest = hashlib.sha256(json.dumps(_lasting(parts), sort_keys=True, default=str).encode())
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, buffer in model.state_dict().items():
        if name not in parameters and isinstance(buffer, torch.Tensor):
            digest.update(name.encode() + buffer.float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _lasting(value: Any) -> Any:
    """A config's values without those that tell where and how it was loaded."""
    if isinstance(value, dict):
        kept = {str(key): item for key, item in value.items() if str(key) not in ("transformers_version", "dtype")}
        return {key: _lasting(item) for key, item in kept.items() if not key.startswith("_")}
    return [_lasting(item) for item in value] if isinstance(value, list | tuple) else value


def _locate(name: str) -> tuple[str, Path | None]:
    """(source, folder): where the name points, the folder None for a hub id."""
    if name.startswith("builtin/"):
        from idvl import builtin

        return "builtin", builtin.path(name)
    path = Path(name).expanduser()
    like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or name.endswith("/") or os.path.isabs(name)
    if not path.exists():
        if like_path:
            raise UsageError(f"{name} does not exist{nearby(path)}")
        return "hub", None
    if not path.is_dir():
        raise UsageError(f"{name} is a file; give the folder that holds the model's config.json")
    if not (path / "config.json").is_file():
        raise UsageError(f"{name} is not a model: it has no config.json{nearby(path)}")
    return "folder", path


def _pin(name: str, *, revision: str | None, cache_dir: str | None, local: bool) -> dict[str, Any]:
    """The options that take all files from one commit, from the local cache if the hub cannot be asked."""
    from huggingface_hub import HfApi, constants, resolve_revision
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    local = local or constants.is_offline_mode()
    unreachable = None
    try:
        if not local:
            HfApi().model_info(name, revision=revision)
    except (HfHubHTTPError, HFValidationError):
        raise
    except Exception as error:
        # each of the many files would be tried several times, with pauses
        unreachable, local = error, True
    pinned = resolve_revision(name, revision=revision, cache_dir=cache_dir, local_files_only=local)
    if unreachable:
        logger.warning("the hub cannot be reached (%s): taking %s from the local cache", first_line(unreachable), name)
    return {"revision": pinned, "local_files_only": local}


def _processor(target: str, family: Family, config: Any, options: dict[str, Any]) -> Any:
    """The checkpoint's processor. Images are resized by PIL, with torchvision and without, where both can do it."""
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        processor = AutoProcessor.from_pretrained(target, **options)
    except (OSError, ValueError) as error:
        if unreached(error):
            raise
        cause = first_line(error).partition(". ")[0]
        hint = "" if is_torchvision_available() else ", or pip install 'idvl[vlm]' if it needs torchvision"
        raise UsageError(
            f"{target} has no processor that loads ({cause}); add the original model's files{hint}"
        ) from error
    has = {"image": image_processor_of(processor), "text": tokenizer_of(processor)}
    for kind in family.needs:
        if has[kind] is None:
            raise UsageError(f"{target} has no {NEEDED[kind]}, which a {config.model_type} model needs; add it")
    # transformers makes up an empty tokenizer where the files are missing
    if "text" in family.needs and len(has["text"]) - len(set(has["text"].all_special_ids)) < 2:
        raise UsageError(f"the tokenizer of {target} has no vocabulary; add the original model's tokenizer.json")
    if has["image"] is not None:
        images = AutoImageProcessor.from_pretrained(target, backend="pil", **options)
        for size in (getattr(images, name, None) or {} for name in ("size", "crop_size")):
            if size.get("height", 0) * size.get("width", 0) > AT_ONCE:
                raise UsageError(
                    f"the preprocessor_config.json of {target} asks for {size['width']} x {size['height']} pixels an "
                    f"image, more than {AT_ONCE:,}: correct its sizes"
                )
        if processor is has["image"]:
            return images
        processor.image_processor = images
    return processor


def _fit_tokenizer(processor: Any, config: Any) -> None:
    """Padding on the right, with a token to pad with, and never longer than the model has positions."""
    tokenizer = tokenizer_of(processor)
    if tokenizer is None:
        return
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    text = config.get_text_config()
    for key in ("max_position_embeddings", "n_positions"):
        if getattr(text, key, None):
            tokenizer.model_max_length = min(tokenizer.model_max_length, getattr(text, key))


def _check_keys(name: str, model: nn.Module, family: Family, info: dict[str, Any]) -> list[str]:
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

    mismatched = {key: f"{key} {tuple(found)}, not {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]}
    keys = {
        "missing": {key: key for key in sorted(info["missing_keys"])},
        "mismatched": {key: mismatched[key] for key in sorted(mismatched)},
        "unexpected": {key: key for key in sorted(info["unexpected_keys"])},
    }
    wrong, rest = [], []
    for kind, said in keys.items():
        fatal = [key for key in said if in_scope(key, kind)]
        if fatal:
            wrong.append(f"{kind}: {_listed(said[key] for key in fatal)}")
        other = [said[key] for key in said if key not in fatal]
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
