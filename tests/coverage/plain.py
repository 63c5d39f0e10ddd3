"""A checkpoint used as its authors document it, with transformers alone: what idvl's results are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from tests.coverage.architectures import Architecture

# regions that a detector would have found
REGIONS = 4


def model(folder: Path | str) -> tuple[nn.Module, dict[str, Any]]:
    """The checkpoint's model by the class that its config names, and what loading it said."""
    config = transformers.AutoConfig.from_pretrained(folder)
    cls = getattr(transformers, config.architectures[0])
    loaded, info = cls.from_pretrained(folder, output_loading_info=True)
    return loaded.eval(), {key: sorted(map(str, value)) for key, value in info.items() if value}


class Processor:
    """The checkpoint's processor, or its parts where none holds them together."""

    def __init__(self, folder: Path | str, about: Architecture) -> None:
        self.about = about
        self.images = self.tokenizer = self.both = None
        if about.kind == "vision":
            self.images = _image_processor(folder)
        elif about.kind == "text" or about.name in ("lxmert", "visualbert"):
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        elif about.name == "vit_gpt2":
            self.images = _image_processor(folder)
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        else:
            self.both = transformers.AutoProcessor.from_pretrained(folder)
            self.both.image_processor = _image_processor(folder)
            self.tokenizer = self.both.tokenizer

    def inputs(self, pictures: list[Image.Image], text: str) -> dict[str, Tensor]:
        """What the model reads of one picture, or a pair, and a text."""
        if self.both is None:
            shown = {} if self.images is None else dict(self.images(pictures, return_tensors="pt"))
            return shown | ({} if self.tokenizer is None else dict(self.tokenizer(text, return_tensors="pt")))
        image: Any = pictures if len(pictures) > 1 else pictures[0]
        if getattr(self.both, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": text}]
            text = self.both.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
            started = self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token)
            more = {"add_special_tokens": False} if started else {}
            return dict(self.both(images=[[image]], text=[text], return_tensors="pt", **more))
        more: dict[str, Any] = {"padding": "max_length"} if self.about.name.startswith("siglip") else {}
        if self.about.name == "flava_pretraining":
            more = {"return_codebook_pixels": True, "return_image_mask": True}
        return dict(self.both(images=image, text=self.about.marker + text, return_tensors="pt", **more))


def _image_processor(folder: Path | str) -> Any:
    """The one that idvl takes too: torchvision's resizes a little differently."""
    return transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")


@torch.no_grad()
def output(loaded: nn.Module, about: Architecture, inputs: dict[str, Tensor]) -> Tensor:
    """The logits of a forward pass; of a model without, the first tensor that it returns."""
    arguments = forward_inputs(loaded, about, inputs)
    result = loaded(**arguments)
    for name in ("logits", "itm_score", "logits_per_image"):
        if isinstance(getattr(result, name, None), Tensor):
            return getattr(result, name)
    return next(value for value in result.to_tuple() if isinstance(value, Tensor) and value.is_floating_point())


def forward_inputs(loaded: nn.Module, about: Architecture, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs with what a forward pass wants besides: a decoder's tokens, regions, a pair's axis."""
    torch.manual_seed(0)
    arguments = dict(inputs)
    if about.name == "lxmert":
        arguments |= {"visual_feats": torch.randn(1, REGIONS, 16), "visual_pos": torch.rand(1, REGIONS, 4)}
    elif about.name == "visualbert":
        kinds = torch.ones(1, REGIONS).long()
        arguments |= {"visual_embeds": torch.randn(1, REGIONS, 16), "visual_token_type_ids": kinds}
        arguments |= {"visual_attention_mask": kinds.float()}
    elif about.name == "vilt_nlvr2":
        arguments |= {key: value.unsqueeze(0) for key, value in arguments.items() if key.startswith("pixel")}
    elif about.name in ("vit_gpt2", "trocr"):
        tokens = arguments.pop("input_ids", None)
        arguments = {"pixel_values": arguments["pixel_values"], "decoder_input_ids": arguments.pop("labels", tokens)}
    elif about.name == "pix2struct":
        arguments |= {"decoder_input_ids": torch.zeros(1, 4).long()}
    elif _writes_apart(loaded) or about.name == "blip_vqa":
        arguments |= {"decoder_input_ids": arguments["input_ids"].clone().clamp(max=_words(loaded) - 1)}
    return {key: value.to(loaded.dtype) if value.is_floating_point() else value for key, value in arguments.items()}


def _writes_apart(loaded: nn.Module) -> bool:
    configs = (loaded.config, loaded.config.get_text_config())
    return any(getattr(config, "is_encoder_decoder", False) for config in configs)


def _words(loaded: nn.Module) -> int:
    return loaded.config.get_text_config(decoder=True).vocab_size


def write(
    loaded: nn.Module, about: Architecture, processor: Processor, pictures: list[Image.Image], prompt: str, length: int
) -> str:
    """The text that the model adds to a prompt, by greedy search."""
    inputs = processor.inputs(pictures, prompt)
    if about.name in ("vit_gpt2", "trocr"):
        inputs = {"pixel_values": inputs["pixel_values"]}
    if about.name == "git":  # as documented: without the token at the end
        inputs = {"pixel_values": inputs["pixel_values"], "input_ids": inputs["input_ids"][:, :-1]}
    if about.name == "pix2struct" and not prompt:  # as documented: of the picture alone
        inputs = {key: inputs[key] for key in ("flattened_patches", "attention_mask")}
    inputs = {key: value.to(loaded.dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    whole = about.name.startswith("blip_")  # its lengths count the prompt
    limits = {"max_length": length, "min_length": 1} if whole else {"max_new_tokens": length, "min_new_tokens": 1}
    written = loaded.generate(**inputs, num_beams=1, do_sample=False, **limits)[0]
    begun = inputs.get("input_ids")
    repeated = begun is not None and torch.equal(written[: begun.shape[1]], begun[0])
    text = processor.tokenizer.decode(written[begun.shape[1] if repeated else 0 :], skip_special_tokens=True)
    return text.removeprefix(prompt).strip()
