"""What config.json states, held against the tensors that are stored, before anything is built from either."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from idvl.errors import UsageError, quoted
from idvl.models.load_errors import QUANTIZED, answered

# the files that weights are taken from, the first that is there, as in transformers
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# what is never negative, where other keys count from the end or say "none" or "all" by -1
SIZES = {
    *("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "num_layers", "num_channels", "vocab_size"),
    *("hidden_size", "intermediate_size", "image_size", "patch_size"),
}
# dtypes in the words of safetensors -> in those of torch
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# how the names of dtypes begin that are not floating-point
WHOLE = ("i", "u", "bool", "c")
# how the config.json of various models spells the number of their blocks
DEPTHS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth"}


def check(name: str, target: str, options: Mapping[str, Any]) -> list[str]:
    """The stored tensors that hold integers, booleans or complex numbers.

    UsageError for a model without config.json, for a quantized one, for a precision that no model has, for a negative
    size, for more blocks than there are tensors, and for a missing file of weights.
    """
    from transformers import PreTrainedConfig

    config, _ = PreTrainedConfig.get_config_dict(target, **options)
    if not config and _path(target, "config.json", options) is None:
        raise UsageError(f"{name} is not a model: it has no config.json")
    # what is no object is refused by AutoConfig
    settings = list(_pairs(config)) if isinstance(config, Mapping) else []
    for key, value in settings:
        if key == "quantization_config" and value is not None:
            method = value.get("quant_method") if isinstance(value, Mapping) else value
            how = f"by {quoted(method)}" if isinstance(method, str) else "by its config.json"
            raise UsageError(QUANTIZED.format(name, how))
    whole = {key: dtype.startswith(WHOLE) for key, dtype in stored_dtypes(target, options).items()}
    for key, value in settings:
        if key in ("dtype", "torch_dtype") and isinstance(value, str):
            kind = getattr(torch, value.removeprefix("torch."), None)
            if value != "auto" and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
                raise UsageError(f"the config.json of {name} has {key} {quoted(value)}: give a floating-point one")
        if key in SIZES and type(value) is int and value < 0:
            raise UsageError(f"the config.json of {name} has {key} {value}: give the number that its weights have")
        if key in DEPTHS and whole and type(value) is int and value > len(whole):
            raise UsageError(
                f"the config.json of {name} has {key} {quoted(value)}, but its weights are only "
                f"{len(whole)} tensors: use the config.json that belongs to them"
            )
    return [key for key, is_whole in whole.items() if is_whole]


def check_offload(name: str, target: str, options: Mapping[str, Any]) -> None:
    """UsageError where weights cannot stay in their files, which are no safetensors."""
    if other := [path.name for path in weight_files(target, options) if path.suffix != ".safetensors"]:
        raise UsageError(
            f"--offload reads weights from safetensors, and {name} has {other[0]}: omit it, or load and save the model "
            "with transformers first"
        )


def check_weights(name: str, model: torch.nn.Module, whole: list[str]) -> None:
    """UsageError where a stored tensor of integers, booleans or complex numbers became a floating-point parameter."""
    leaves = {key.rpartition(".")[2] for key, value in model.named_parameters() if value.is_floating_point()}
    if wrong := [key for key in whole if key.rpartition(".")[2] in leaves]:
        raise UsageError(
            f"the weights of {name} hold integers, booleans or complex numbers, and its config.json has no "
            f"quantization_config to say what they stand for ({len(wrong)} tensors, first {quoted(wrong[0])}): load "
            "one that is not quantized"
        )


def _pairs(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key and value, those of the configs inside it too."""
    for key, value in config.items():
        yield key, value
        if isinstance(value, Mapping) and key != "quantization_config":
            yield from _pairs(value)


def stored_dtypes(target: str, options: Mapping[str, Any]) -> dict[str, str]:
    """The name of each stored tensor and that of its dtype, as in torch for float16 to float64; no values are read."""
    return {key: dtype for path in weight_files(target, options) for key, dtype in _tensors(path).items()}


def weight_files(target: str, options: Mapping[str, Any]) -> list[Path]:
    """The files that hold the weights: none where there is only what is not looked at here.

    UsageError where one is missing that the index names.
    """
    stored = next((path for file in WEIGHTS if (path := _path(target, file, options))), None)
    if stored is None or stored.suffix != ".json":
        return [stored] if stored else []
    parts = sorted({*json.loads(stored.read_text(encoding="utf-8"))["weight_map"].values()})
    paths = {part: _path(target, part, options) for part in parts}
    if missing := [part for part, path in paths.items() if path is None]:
        raise UsageError(
            f"{target} lacks {len(missing)} of the {len(parts)} files that its {stored.name} names, {missing[0]} "
            "first: copy or download it again"
        )
    return list(paths.values())


def _path(target: str, file: str, options: Mapping[str, Any]) -> Path | None:
    """A file of a model, None where it has none of that name. OSError where the Hub refuses to answer."""
    from transformers.utils import cached_file

    options = {key: value for key, value in options.items() if key != "trust_remote_code"}
    try:
        path = cached_file(target, file, **options)
    except OSError as error:
        if answered(error):
            raise
        path = None
    return Path(path) if path else None


def _tensors(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            stored = {key: file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        return {key: FLOATS.get(word, word.lower()) for key, word in stored.items()}
    values = torch.load(path, map_location="meta", weights_only=True)
    tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
    return {key: str(value.dtype).removeprefix("torch.") for key, value in tensors.items()}
