"""The types of settings' values: numbers within bounds, sizes, lists of words. Each refuses what it cannot be."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationError, WrapValidator
from pydantic import ValidatorFunctionWrapHandler as Validate

from idvl import plugins, yaml_file
from idvl.choices import Allocation, Criterion
from idvl.errors import quoted
from idvl.profile import MODALITIES, Modality

# no run is larger: a number beyond is a slip, and would overflow far from here
MOST = 10**9
Count = Annotated[int, Field(ge=1, le=MOST)]
Amount = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]

UNITS = {"": 1, "B": 1, **{p + "B": 1000**i for i, p in enumerate("KMGT", 1)}}
UNITS |= {p + suffix: 1024**i for i, p in enumerate("KMGT", 1) for suffix in ("", "I", "IB")}


def parse_bytes(text: str | int) -> int:
    """The number of bytes in "8GiB", "500MB", "1.5 GiB", "8G" (a GiB) or "1048576". ValueError for anything else."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(text))
    count = int(float(match[1]) * UNITS.get(match[2].upper(), 0)) if match else 0
    if not count:
        raise ValueError(f"a size such as 8GiB or 500MB, not {quoted(str(text))}")
    return count


def _size(text: str) -> str:
    parse_bytes(text)
    return text


def _words(value: Any) -> Any:
    """A list as a command line or YAML may write it: [vision, cross] or vision,cross."""
    value = _bracketed(value)
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _alone(value: Any) -> Any:
    """A list of one may be written without its brackets; a comma in it is part of the text."""
    value = _bracketed(value)
    return [value] if isinstance(value, str) else value


def _bracketed(value: Any) -> Any:
    """The list in a text that begins with a bracket, as --set passes it on; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        items = yaml_file.parse(value)
    except ValueError:
        items = None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(f'a list of texts such as ["a", "b"], not {quoted(value)}')
    return items


def _ranks(value: Any) -> Any:
    """A rank by modality, as a mapping or as vision=4,language=8; one number is that of all."""
    if isinstance(value, str) and "=" in value:
        parts = [part.partition("=") for part in value.split(",")]
        ranks = {key.strip(): rank.strip() for key, _, rank in parts}
        if len(ranks) < len(parts):
            raise ValueError(f"one rank of each modality, not {quoted(value)}")
        return ranks
    return value if isinstance(value, dict) else dict.fromkeys(MODALITIES, value)


def _or_auto(value: Any) -> Any:
    if value == "auto":
        return 0
    # 0 in a file is how a recipe writes auto
    if not str(value).isdecimal() or (isinstance(value, str) and not int(value)):
        raise ValueError(f'a number of samples, or "auto", not {quoted(value)}')
    return value


def _or_plugin(value: Any, validate: Validate) -> Any:
    """A criterion of idvl, or of another package."""
    try:
        return validate(value)
    except ValidationError:
        if isinstance(value, str) and value in plugins.registered(plugins.CRITERIA, get_args(Criterion)):
            return value
        raise


def _or_named_file(value: Any, validate: Validate) -> Any:
    """An allocation of idvl, or a file of densities."""
    return value if isinstance(value, str) and re.fullmatch(r"file:.+", value) else validate(value)


def shares(text: str) -> dict[str, float]:
    """{"vision": 0.5, "language": 0.7} from "vision=0.5,language=0.7". ValueError for anything else."""
    words = [word.partition("=") for word in text.split(",")]
    sparsities = {name.strip(): value.strip() for name, _, value in words}
    wrong = [name for name, value in sparsities.items() if not re.fullmatch(r"0?\.[0-9]+|0", value)]
    if wrong or len(sparsities) < len(words) or set(sparsities) - set(MODALITIES):
        raise ValueError(
            f"sparsities below 1 of {', '.join(MODALITIES)}, such as vision=0.5,language=0.7, not {quoted(text)}"
        )
    return {name: float(value) for name, value in sparsities.items()}


def _shares(value: Any) -> Any:
    """The sparsities of modalities as one text, also from a mapping of YAML."""
    text = ",".join(f"{name}={share}" for name, share in value.items()) if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise ValueError(f"sparsities of modalities, such as vision=0.5,language=0.7, not {quoted(text)}")
    shares(text)
    return text.replace(" ", "")


def _ratio(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}:[1-9][0-9]{0,3}", text):
        raise ValueError(f"two whole numbers from 1 to 9999, such as 30:70, not {quoted(text)}")
    return text


def _structure(text: str) -> str:
    if not re.fullmatch(r"unstructured|[0-9]{1,3}:[0-9]{1,3}", text):
        raise ValueError(f"unstructured or N:M, such as 2:4, not {quoted(text)}")
    return text


Ratio = Annotated[str, AfterValidator(_ratio)]
StructureName = Annotated[str, AfterValidator(_structure)]
Ranks = Annotated[dict[Modality, Count], BeforeValidator(_ranks)]
Words = BeforeValidator(_words)
Sentences = BeforeValidator(_alone)
Size = Annotated[str, BeforeValidator(str), AfterValidator(_size)]
ModalityShares = Annotated[str, BeforeValidator(_shares)]
CountOrAuto = Annotated[Amount, BeforeValidator(_or_auto)]
AllocationName = Annotated[Allocation, WrapValidator(_or_named_file), PlainSerializer(str)]
CriterionName = Annotated[Criterion, WrapValidator(_or_plugin), PlainSerializer(str)]
