"""idvl convert: a checkpoint as BLIP's authors published it -> a folder that transformers opens, with its processor."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import idvl
from idvl.checkpoints.save import save_dense
from idvl.errors import UsageError, quoted
from idvl.files import open_regular, reading
from idvl.models.families.blip.original import convert
from idvl.models.load_errors import one_line
from idvl.models.loading import quiet
from idvl.models.locating import pin
from idvl.reporter import Reporter

TOKENIZER = "google-bert/bert-base-uncased"
CARD = """\
# {title}

{class_name}, converted by idvl {version} from `{file}` (sha256 `{sha256}`), a checkpoint of BLIP (Li et al., 2022) in
the layout of its authors. {mapped} tensors have the values of that file; {left_out} were left out:

{lines}
"""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written. `mapped` counts the tensors of the file that the model holds; `left_out`: key -> reason."""

    folder: Path
    class_name: str
    parameters: int
    image_size: int
    mapped: int
    left_out: dict[str, str]
    sha256: str


def run(
    file: Path, folder: Path, *, tokenizer: str = TOKENIZER, local_files_only: bool = False, reporter: Reporter
) -> Conversion:
    """Convert `file` into `folder`, which must not exist or be empty.

    `tokenizer`: a folder or Hub id of BERT's uncased tokenizer, which the checkpoints of BLIP do not hold. Raises
    UsageError, before anything is written, for a file that is not whole, holds code, or is of another model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{quoted(folder)} exists: choose another OUT")
    with reporter.progress("reading the checkpoint"):
        state, sha256 = _read(file)
        try:
            converted = convert(state)
        except UsageError as error:
            raise UsageError(f"{quoted(file)} is not converted: {error}") from error
        model = converted.model
        processor = _processor(model.config, tokenizer, local_files_only=local_files_only)
    result = Conversion(
        folder=folder,
        class_name=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        image_size=model.config.vision_config.image_size,
        mapped=len(state) - len(converted.left_out),
        left_out=converted.left_out,
        sha256=sha256,
    )
    with reporter.progress("writing and reopening the model"):
        if folder.exists():
            folder.rmdir()
        save_dense(folder, model, processor, card=_card(result, file))
    return result


def _card(result: Conversion, file: Path) -> str:
    lines = "\n".join(f"- `{key}`: {reason}" for key, reason in result.left_out.items())
    return CARD.format(
        title=result.folder.name,
        class_name=result.class_name,
        version=idvl.__version__,
        file=file.name,
        sha256=result.sha256,
        mapped=result.mapped,
        left_out=len(result.left_out),
        lines=lines,
    )


def _read(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a file that torch.save wrote, under "model" or alone, and the file's sha256. No code is run."""
    with reading(path, "checkpoint"):
        file = open_regular(path)
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            # torch reads a zip archive without comparing its checksums
            if zipfile.is_zipfile(file) and (damaged := zipfile.ZipFile(file).testzip()):
                raise zipfile.BadZipFile(f"{damaged} differs from its checksum")
            file.seek(0)
            held = torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # whatever damaged bytes lead to
            if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
                raise UsageError(
                    f"{quoted(path)} holds code beside tensors, which is never run: the authors' checkpoints hold "
                    "tensors, numbers and text; download theirs"
                ) from error
            if path.suffix == ".safetensors":
                raise UsageError(
                    f"{quoted(path)} is a safetensors file: idvl convert reads the .pth files of BLIP's original "
                    "repository; a folder that transformers saved needs no conversion"
                ) from error
            # torch's own words advise to load files that may hold code
            reason = error if isinstance(error, zipfile.BadZipFile) else type(error).__name__
            raise UsageError(f"{quoted(path)} is damaged or no torch file ({reason}): download it again") from error
    state = held.get("model", held) if isinstance(held, dict) else held
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f'{quoted(path)} is no checkpoint of BLIP: it holds no tensors by name, nor any under "model"')
    return {str(key): value for key, value in state.items()}, sha256


def _processor(config: Any, tokenizer: str, *, local_files_only: bool) -> Any:
    """BLIP's processor: squares by bicubic interpolation, CLIP's mean and deviation, BERT's uncased words.

    The vocabulary is without [DEC] and [ENC], the last two rows of the embedding: the families of idvl put them in.
    """
    from transformers import BertTokenizer, BlipImageProcessorPil, BlipProcessor

    folder = Path(tokenizer) if Path(tokenizer).is_dir() else None
    options = {"local_files_only": local_files_only}
    with one_line(tokenizer, folder), quiet():
        if folder is None:
            options = pin(tokenizer, revision=None, cache_dir=None, local=local_files_only)
        words = BertTokenizer.from_pretrained(tokenizer, **options)
    # transformers makes up an empty tokenizer where the files are missing
    if set(words.get_vocab()) <= set(words.all_special_tokens):
        raise UsageError(f"the tokenizer {quoted(tokenizer)} has no vocabulary: give --tokenizer a folder that has one")
    text, side = config.text_config, config.vision_config.image_size
    if len(words) != text.vocab_size - 2:
        raise UsageError(
            f"the tokenizer {quoted(tokenizer)} has {len(words):,} words, and the checkpoint {text.vocab_size - 2:,} "
            f"beside [DEC] and [ENC]: give --tokenizer the one that it was trained with, {TOKENIZER}"
        )
    text.pad_token_id, text.sep_token_id = words.pad_token_id, words.sep_token_id
    text.eos_token_id = words.sep_token_id
    images = BlipImageProcessorPil(size={"height": side, "width": side})
    return BlipProcessor(images, words)
