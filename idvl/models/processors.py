"""The processor of a checkpoint: loaded with all that the family needs, its parts, and what it makes of samples."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from idvl.errors import UsageError, first_line, quoted
from idvl.models.load_errors import unreached
from idvl.models.own import own_class

if TYPE_CHECKING:
    from idvl.models.families.base import Family

# pixels of the images that a processor is given at once: it holds each several times, as floats too
AT_ONCE = 32 << 20
NEEDED = {"image": "image processor (preprocessor_config.json)", "text": "tokenizer (tokenizer.json)"}


def load_processor(target: str, family: Family, config: Any, options: dict[str, Any]) -> Any:
    """The checkpoint's processor. Images are resized by PIL, with torchvision and without, where both can do it."""
    import transformers
    from transformers import AutoImageProcessor

    processor = _whole_processor(target, family, options)
    if "image" in family.needs and image_processor_of(processor) is None and is_described(target, options):
        processor = Pair(AutoImageProcessor.from_pretrained(target, backend="pil", **options), processor)
    for kind in lacking(processor, family):
        name = (config.architectures or [""])[0]
        known = own_class(name) or hasattr(transformers, name) or getattr(config, "auto_map", None)
        if name and not known:
            raise UsageError(
                f"{target} is a {quoted(name)} by its config.json, and transformers has no such class: correct its "
                '"architectures"'
            )
        raise UsageError(f"{target} has no {NEEDED[kind]}, which a {config.model_type} model needs; add it")
    # transformers makes up an empty tokenizer where the files are missing
    tokenizer = tokenizer_of(processor)
    if "text" in family.needs and len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2:
        raise UsageError(f"the tokenizer of {target} has no vocabulary; add the original model's tokenizer.json")
    own = image_processor_of(processor)
    if own is not None:
        images = AutoImageProcessor.from_pretrained(target, backend="pil", **options)
        for size in (getattr(images, name, None) or {} for name in ("size", "crop_size")):
            if size.get("height", 0) * size.get("width", 0) > AT_ONCE:
                raise UsageError(
                    f"the preprocessor_config.json of {target} asks for {size['width']} x {size['height']} pixels an "
                    f"image, more than {AT_ONCE:,}: correct its sizes"
                )
        if processor is own:
            return images
        processor.image_processor = images
    return processor


def _whole_processor(target: str, family: Family, options: dict[str, Any]) -> Any:
    """What the checkpoint's model type reads with, or images alone where the class reads nothing else."""
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.utils import is_torchvision_available

    try:
        return AutoProcessor.from_pretrained(target, **options)
    except (OSError, ValueError) as error:
        if unreached(error):
            raise
        if family.needs == ("image",) and is_described(target, options):
            with suppress(OSError, ValueError):
                return AutoImageProcessor.from_pretrained(target, backend="pil", **options)
        cause = first_line(error).partition(". ")[0]
        hint = "" if is_torchvision_available() else ", or pip install 'idvl[vlm]' if it needs torchvision"
        raise UsageError(
            f"{target} has no processor that loads ({cause}); add the original model's files{hint}"
        ) from error


def check_processor(processor: Any, family: Family) -> None:
    """UsageError for a processor in memory without a part that the family needs."""
    for kind in lacking(processor, family):
        raise UsageError(
            f"the processor, of type {type(processor).__name__}, has no {NEEDED[kind].partition(' (')[0]}, which a "
            f"{family.key} model needs: pass the model's own"
        )


def lacking(processor: Any, family: Family) -> list[str]:
    """What the family needs and the processor does not prepare: image, text."""
    has = {"image": image_processor_of(processor), "text": tokenizer_of(processor)}
    return [kind for kind in family.needs if has[kind] is None and not (kind == "image" and family.reads_regions)]


def is_described(target: str, options: dict[str, Any]) -> bool:
    """Whether a checkpoint has a preprocessor_config.json."""
    from transformers.utils import cached_file

    known = {key: value for key, value in options.items() if key != "trust_remote_code"}
    how = {"_raise_exceptions_for_missing_entries": False, **known}
    return cached_file(target, "preprocessor_config.json", **how) is not None


@dataclass
class Pair:
    """An image processor and a tokenizer of one checkpoint, where no class of transformers holds both."""

    image_processor: Any
    tokenizer: Any

    def __call__(self, images: Any, **how: Any) -> Any:
        """Pictures as the model takes them."""
        return self.image_processor(images, **how)

    def save_pretrained(self, folder: Any) -> None:
        """Write both side by side, as they were found."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def fit_tokenizer(processor: Any, config: Any) -> None:
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


def tokenizer_of(processor: Any) -> Any | None:
    """The tokenizer in a processor, or the processor itself if it is one; None where there is none."""
    if hasattr(processor, "tokenizer"):
        return processor.tokenizer
    return processor if hasattr(processor, "convert_tokens_to_ids") else None


def image_processor_of(processor: Any) -> Any | None:
    """The image processor in a processor, or the processor itself if it is one; None where there is none."""
    if hasattr(processor, "image_processor"):
        return processor.image_processor
    return processor if hasattr(processor, "preprocess") else None


def prepared(processor: Any, **inputs: Any) -> dict[str, Any]:
    """What a checkpoint's processor makes of images and texts. Raises UsageError where its settings make no sense."""
    try:
        return dict(processor(**inputs))
    except Exception as error:  # whatever a size of 0 or a mean of two channels leads to
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise
        raise UsageError(
            f"the checkpoint's processor cannot prepare the samples: {first_line(error)}; check its "
            "preprocessor_config.json"
        ) from error


def picture(width: int, height: int) -> Image.Image:
    """Brightness that grows downwards, upwards and to the right, a direction for each color."""
    down = Image.linear_gradient("L")
    ramps = (down, down.transpose(Image.Transpose.FLIP_TOP_BOTTOM), down.transpose(Image.Transpose.ROTATE_90))
    return Image.merge("RGB", [ramp.resize((width, height)) for ramp in ramps])


def prepared_picture(processor: Any, width: int = 96, height: int = 96) -> dict[str, Any]:
    """What a checkpoint's image processor makes of a picture of this size; nothing where it has none."""
    images = image_processor_of(processor)
    return {} if images is None else prepared(images, images=picture(width, height), return_tensors="pt")
