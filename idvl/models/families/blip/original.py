"""The checkpoints that BLIP's authors published: their tensors under the names of transformers, and the config.

The names are those of models/blip.py, blip_retrieval.py, blip_vqa.py, blip_nlvr.py, med.py, nlvr_encoder.py and vit.py
of github.com/salesforce/BLIP; sizes are read from the tensors, and what tensors do not tell is BLIP's for all of them.
It opens no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from idvl.errors import UsageError, listed
from idvl.models.own import own_class

# the modules that a checkpoint holds -> its class
CLASSES = {
    frozenset({"visual_encoder", "text_decoder"}): "BlipForConditionalGeneration",
    frozenset({"visual_encoder", "text_encoder", "text_decoder"}): "BlipForQuestionAnswering",
    frozenset({"visual_encoder", "text_encoder", "vision_proj", "text_proj", "itm_head"}): "BlipForImageTextRetrieval",
    frozenset({"visual_encoder", "text_encoder", "cls_head"}): "BlipForImagesAndTextClassification",
}
# what is not converted -> why
LEFT_OUT = {
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\..+": "momentum copy, for training alone",
    r"(image|text|idx)_queue|ptr_queue": "queue of contrastive training",
    r"temp": "temperature of contrastive training",
    r"text_(en|de)coder\.(bert\.)?embeddings\.position_ids": "numbers of the positions, which transformers makes",
}
BLOCK = r"visual_encoder\.blocks\.(\d+)\."
RENAMED = {
    r"visual_encoder\.cls_token": r"vision_model.embeddings.class_embedding",
    r"visual_encoder\.pos_embed": r"vision_model.embeddings.position_embedding",
    r"visual_encoder\.patch_embed\.proj\.(.+)": r"vision_model.embeddings.patch_embedding.\1",
    r"visual_encoder\.norm\.(.+)": r"vision_model.post_layernorm.\1",
    BLOCK + r"norm([12])\.(.+)": r"vision_model.encoder.layers.\1.layer_norm\2.\3",
    BLOCK + r"attn\.qkv\.(.+)": r"vision_model.encoder.layers.\1.self_attn.qkv.\2",
    BLOCK + r"attn\.proj\.(.+)": r"vision_model.encoder.layers.\1.self_attn.projection.\2",
    BLOCK + r"mlp\.(.+)": r"vision_model.encoder.layers.\1.mlp.\2",
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# width of an attention head in both stacks of BLIP-base and BLIP-large
HEAD = 64
# configs/med_config.json, and the smoothing that models/med.py has in its loss
TRAINED_WITH = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "label_smoothing": 0.1}
# names in a decoder that stand for one tensor each
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A model of transformers with a checkpoint's weights, and the keys that it does not hold, each with the reason."""

    model: nn.Module
    left_out: dict[str, str]


def convert(state: Mapping[str, Tensor]) -> Converted:
    """The model of a published checkpoint's tensors. UsageError where they are not all of one such model, and no more.

    The config has the sizes of the tensors, and the dropout and label smoothing of BLIP's training; [DEC] and [ENC] are
    the last two words of the vocabulary.
    """
    if odd := [key for key, tensor in state.items() if tensor.layout is not torch.strided or tensor.is_meta]:
        raise UsageError(f"its {odd[0]} is sparse or has no values")
    left_out = {key: reason for key in state if (reason := _reason(key))}
    parts = frozenset(key.partition(".")[0] for key in state if key not in left_out)
    others = parts - frozenset().union(*CLASSES)
    if others and parts - others in CLASSES:
        _refuse_unknown([key for key in state if key.partition(".")[0] in others])
    if parts not in CLASSES:
        raise UsageError(
            f"it holds {listed(sorted(parts))}, none of BLIP's models for captions, retrieval, answers or NLVR2"
        )
    for key in left_out:
        if key.endswith("position_ids") and not torch.equal(state[key].flatten(), torch.arange(state[key].numel())):
            raise UsageError(f"its {key} do not count from 0, as they do in BLIP")
    tensors = {_renamed(key): tensor for key, tensor in state.items() if key not in left_out}
    if len({tensor.dtype for tensor in tensors.values()}) > 1 or tensors[_first(tensors)].dtype not in DTYPES:
        raise UsageError("its tensors are not all of one floating-point dtype, of 16 bits or more")
    model = _model(CLASSES[parts], _config(tensors)).to(tensors[_first(tensors)].dtype)
    _check(model, tensors)
    model.load_state_dict(tensors)
    return Converted(model=model, left_out=left_out)


def _first(tensors: Mapping[str, Tensor]) -> str:
    return next(iter(tensors))


def _model(name: str, config: Any) -> nn.Module:
    import transformers

    model = (own_class(name) or getattr(transformers, name))(config)
    model.config.architectures = [name]
    return model.eval()


def _reason(key: str) -> str | None:
    return next((reason for pattern, reason in LEFT_OUT.items() if re.fullmatch(pattern, key)), None)


def _renamed(key: str) -> str:
    for pattern, name in RENAMED.items():
        if match := re.fullmatch(pattern, key):
            return match.expand(name)
    return key


def _config(tensors: Mapping[str, Tensor]) -> Any:
    """The config whose sizes are those of the tensors."""
    from transformers import BlipConfig

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].dim() != axes:
            raise UsageError(f"it has no tensor of {axes} axes for {name}: copy or download it again")
        return tuple(tensors[name].shape)

    def stack(layers: str, width: int, inner: str) -> dict[str, int]:
        if width % HEAD:
            raise UsageError(f"it is {width} wide, no multiple of {HEAD}, the width of a head in BLIP")
        numbers = {int(match[1]) for name in tensors if (match := re.match(re.escape(layers) + r"(\d+)\.", name))}
        return {
            "hidden_size": width,
            "intermediate_size": shape(f"{layers}0.{inner}.weight", 2)[0],
            "num_hidden_layers": len(numbers),
            "num_attention_heads": width // HEAD,
        }

    embeddings = "vision_model.embeddings"
    side = shape(f"{embeddings}.patch_embedding.weight", 4)[-1]
    _, positions, width = shape(f"{embeddings}.position_embedding", 3)
    if positions < 2:
        raise UsageError(
            f"its pos_embed has {positions} rows: one is for the class token, the others for a square of patches"
        )
    vision = {
        **stack("vision_model.encoder.layers.", width, "mlp.fc1"),
        "patch_size": side,
        # one position for each patch of a square, one for the class token
        "image_size": math.isqrt(positions - 1) * side,
        "layer_norm_eps": 1e-6,
    }
    text = "text_encoder." if any(name.startswith("text_encoder.") for name in tensors) else "text_decoder.bert."
    words, hidden = shape(f"{text}embeddings.word_embeddings.weight", 2)
    language = {
        **stack(f"{text}encoder.layer.", hidden, "intermediate.dense"),
        **TRAINED_WITH,
        "vocab_size": words,
        "bos_token_id": words - 2,
        "max_position_embeddings": shape(f"{text}embeddings.position_embeddings.weight", 2)[0],
    }
    projected = {"image_text_hidden_size": shape("vision_proj.weight", 2)[0]} if "vision_proj.weight" in tensors else {}
    pairs = {"id2label": {0: "False", 1: "True"}, "label2id": {"False": 0, "True": 1}}
    own = pairs if "cls_head.0.weight" in tensors else {}
    return BlipConfig(vision_config=vision, text_config=language, **projected, **own)


def _refuse_unknown(names: Sequence[str]) -> NoReturn:
    raise UsageError(f"it has {len(names)} tensors that BLIP does not have, {names[0]} first")


def _check(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """UsageError where the tensors are not those of the model, name by name, shape by shape, tie by tie."""
    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if missing := [name for name in built if name not in tensors]:
        raise UsageError(f"it lacks {len(missing)} of {len(built)} tensors, {missing[0]} first")
    if unknown := [name for name in tensors if name not in built]:
        _refuse_unknown(unknown)
    for name, shape in built.items():
        if tuple(tensors[name].shape) != shape:
            raise UsageError(f"its {name} is {tuple(tensors[name].shape)}, where BLIP has {shape}")
        if not torch.isfinite(tensors[name]).all():
            raise UsageError(f"its {name} holds NaN or infinite values")
    for name, other in TIED.items() if "text_decoder" in dict(model.named_children()) else ():
        if not torch.equal(tensors[f"text_decoder.{name}"], tensors[f"text_decoder.{other}"]):
            raise UsageError(f"its text_decoder.{name} and text_decoder.{other} differ, and are one tensor in BLIP")
