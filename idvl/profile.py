"""What was measured: for every layer an estimate of its intrinsic dimension, and the protocol behind it.

A profile is plain data: it is written once by a run and read by everything after it (pruning, reports, comparisons).
Profiles that others published ship as data in the same form. It knows no torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from idvl import arguments
from idvl.errors import UsageError, did_you_mean, quoted
from idvl.files import reading, write_text
from idvl.json_file import load, sound
from idvl.json_schema import Schema, checked, problem
from idvl.schemas import Cost, DatasetFacts, ModelFacts

logger = logging.getLogger(__name__)

VERSION = 1
SCHEMA = f"idvl/profile/{VERSION}"
PUBLISHED = Path(__file__).parent / "profiles"
PREFIX = "published:"

Modality = Literal["vision", "language", "cross", "fusion", "connector"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

# The words of a protocol, spelled once; the first is the default
Tokens = Literal["flatten", "mean", "first", "last", "each"]
Capture = Literal["output", "input"]
EstimatorName = Literal["twonn", "twonn-mle", "gride", "icml24"]
Knn = Literal["auto", "torch", "faiss"]
Dtype = Literal["float32", "auto", "float16", "bfloat16"]

# what a file may hold: pydantic converts nothing
Text = Annotated[str, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
NotNegative = Annotated[float, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=0)]
EXACTLY = ConfigDict(extra="forbid")
T = TypeVar("T")


class Diagnostics(Schema):
    """What idvl relies on in the diagnostics of an estimate."""

    class Scale(Schema):
        neighbors: list[int]
        dimension: float | None
        mean_distance: float | None = None

    class SearchFacts(Schema):
        certified_rows: int | None = None

    scales: list[Scale] | None = None
    neighbors: SearchFacts | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The intrinsic dimension of one set of points.

    `dimension` is None when the points allow no estimate; `reason` then says why. `n_points` counts the points that
    the estimate rests on, `n_duplicates` those removed before. `stderr` is one standard deviation. `diagnostics` holds
    JSON values only. Raises ValueError for a dimension that is not a finite number, and for None without a reason.
    """

    __pydantic_config__ = EXACTLY

    dimension: NotNegative | None
    stderr: NotNegative | None
    n_points: Count
    n_duplicates: Count
    estimator: Text
    reason: Text | None = None
    diagnostics: Annotated[dict[str, Any], checked(Diagnostics)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dimension is None and not self.reason:
            raise ValueError("an estimate without a dimension needs a reason")
        if self.dimension is not None and not math.isfinite(self.dimension):
            raise ValueError(f"a dimension is a finite number or None with a reason, not {self.dimension}")


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """One layer: what it is, and its estimate.

    `depth` counts the layers of the model in the order in which they run, from 0. `width` is the number of features of
    one token, `n_features` that of one point (all tokens of a sample when they are flattened; None where a published
    profile does not say).
    """

    __pydantic_config__ = EXACTLY

    modality: Modality
    block: Text | None
    depth: Count
    width: Annotated[Count, Field(ge=1)]
    n_features: Count | None
    reads_image: Flag
    estimate: Estimate

    @classmethod
    def from_json(cls, values: Any, where: str) -> LayerProfile:
        """The layer in an object of a profile. UsageError, beginning with `where`, for anything else.

        Any finite dimension is accepted; idvl.reliability says whether it can be relied on.
        """
        return _validated(cls, values, where)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The IDs of a model's layers, keyed by qualified module name in the order in which the layers run."""

    __pydantic_config__ = EXACTLY

    layers: dict[str, LayerProfile]
    model: Annotated[dict[str, Any], checked(ModelFacts)]
    dataset: Annotated[dict[str, Any], checked(DatasetFacts)]
    protocol: dict[str, Any]
    provenance: Annotated[dict[str, Any], checked(Cost)]

    def to_json(self) -> dict[str, Any]:
        """The documented object: {"schema", "model", "dataset", "protocol", "provenance", "layers": {name: {...}}}.

        A number that is not finite (JSON has none) becomes None.
        """
        values = asdict(self)
        layers = values.pop("layers")
        return finite({"schema": SCHEMA, **values, "layers": layers})

    @classmethod
    def from_json(cls, values: Any, source: str = "the profile") -> Profile:
        """The profile in a documented object. UsageError, naming `source`, for anything else or a newer schema."""
        _check_schema(values, source)
        return _validated(cls, {key: value for key, value in values.items() if key != "schema"}, source)

    def dumps(self) -> str:
        """The documented object as JSON text, one layer a line. The same profile gives the same text."""
        values = self.to_json()
        layers = values.pop("layers")
        head = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        lines = [f"    {json.dumps(name)}: {json.dumps(layer, allow_nan=False)}" for name, layer in layers.items()]
        body = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        return f'{head},\n  "layers": {body}\n}}\n'

    def save(self, path: Path | str) -> None:
        """Write the profile as JSON, atomically."""
        write_text(arguments.path("the profile's file", path), self.dumps())

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        """Read a profile. UsageError for a file that is missing, no profile, or of a newer schema."""
        path = Path(path)
        with reading(path, "profile"):
            values = load(path)
        return cls.from_json(values, str(path))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two profiles side by side, by layer name.

    `differences` holds second minus first for every layer that both have, None where either has no estimate.
    `settings` holds what was measured differently: dotted name -> (first, second).
    """

    differences: dict[str, float | None]
    only_first: list[str]
    only_second: list[str]
    settings: dict[str, tuple[Any, Any]]


def compare(first: Profile, second: Profile) -> Comparison:
    """What `second` found otherwise than `first`, layer by layer, in the order of `first`.

    A warning is logged where they have no layer in common.
    """
    for profile in (first, second):
        if not isinstance(profile, Profile):
            raise UsageError(f"compare takes two profiles, as load_profile reads them, not {quoted(profile)}")
    differences: dict[str, float | None] = {}
    for name in (name for name in first.layers if name in second.layers):
        a, b = (profile.layers[name].estimate.dimension for profile in (first, second))
        differences[name] = None if a is None or b is None else b - a
    if not differences:
        logger.warning("the two profiles have no layer in common: no dimension is compared")
    settings = {}
    for part in ("model", "dataset", "protocol"):
        a, b = getattr(first, part), getattr(second, part)
        both = [key for key in a if key in b and a[key] != b[key]]
        settings |= {f"{part}.{key}": (a[key], b[key]) for key in both}
    return Comparison(
        differences=differences,
        only_first=[name for name in first.layers if name not in second.layers],
        only_second=[name for name in second.layers if name not in first.layers],
        settings=settings,
    )


def published_names() -> list[str]:
    """The names of the profiles that ship with idvl."""
    return sorted(path.stem for path in PUBLISHED.glob("*.json"))


def published(name: str) -> Profile:
    """A profile that others published, by its name; its source is in `provenance`. UsageError for an unknown name."""
    names = published_names()
    if name not in names:
        raise UsageError(f"unknown published profile {quoted(name)}; there is {', '.join(names)}")
    return Profile.load(PUBLISHED / f"{name}.json")


def load_profile(path: Path | str) -> Profile:
    """The profile in a file, in a run folder, or published:NAME (or NAME alone). UsageError if there is none."""
    folder = arguments.path("a profile", path)
    if str(path).startswith(PREFIX):
        return published(str(path).removeprefix(PREFIX))
    if os.path.isdir(folder):
        return Profile.load(folder / "profile.json")
    if not os.path.exists(folder):
        if str(path) in published_names():
            return published(str(path))
        raise UsageError(f"there is no profile {quoted(path)}{did_you_mean(path, published_names())}")
    return Profile.load(folder)


def _check_schema(values: Any, source: str) -> None:
    schema = values.get("schema") if isinstance(values, dict) else None
    version = re.fullmatch(r"idvl/profile/([0-9]{1,9})", schema) if isinstance(schema, str) else None
    if version is None:
        raise UsageError(f'{source} is not an idvl profile: its "schema" is {quoted(schema)}, not {quoted(SCHEMA)}')
    if int(version[1]) > VERSION:
        raise UsageError(
            f"{source} was written by a newer idvl (schema {version[1]}, this one reads {VERSION}); update idvl"
        )
    if int(version[1]) < VERSION:
        raise UsageError(f"{source} has the schema {version[1]}, which no idvl has written; measure again")


def _validated(kind: type[T], values: Any, where: str) -> T:
    """The dataclass in an object. UsageError, beginning with `where` and naming the field, for any other."""
    try:
        return _adapter(kind).validate_python(sound(values))
    except ValidationError as error:
        raise UsageError(f"{where}: {problem(error)}") from error
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def finite(value: Any) -> Any:
    """The value with None in the place of every number that JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
