"""What is asked of a run: every setting in one schema, read from YAML and overridden by flags.

Unknown keys and values are refused with the nearest valid one. Workflows and commands read it; no other room knows it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from idvl import yaml_file
from idvl.choices import (
    DEFAULT_CRITERION,
    Allocation,
    Compat,
    Criterion,
    IdWeight,
    MissingId,
    Precision,
    ScheduleName,
    Smoothing,
    Texts,
)
from idvl.errors import UsageError, quoted
from idvl.files import write_text
from idvl.profile import Capture, Dtype, EstimatorName, Knn, Modality, Tokens

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
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _or_auto(value: Any) -> Any:
    if value == "auto":
        return 0
    if not str(value).isdecimal():
        raise ValueError(f'a number of samples, or "auto", not {quoted(value)}')
    return value


# settings of which an empty text is one
EMPTY = ("prompt",)


class Section(BaseModel):
    """Settings that belong together. Refused: unknown keys, empty text, infinities, true or false for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_max_length=4096)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError(f"a number or text, not {str(value).lower()}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"text without NUL characters, not {quoted(value)}")
        if value == "" and info.field_name not in EMPTY:
            raise ValueError("a value, not ''; leave it out for the default")
        return value

    @field_validator("*", mode="wrap")
    @classmethod
    def _digits(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        found = validate(value)
        if isinstance(value, str) and "_" in value and isinstance(found, int | float):
            raise ValueError(f"a number without underscores, not {quoted(value)}")
        return found


# no run is larger: a number beyond is a slip, and would overflow far from here
MOST = 10**9
Count = Annotated[int, Field(ge=1, le=MOST)]
Amount = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]


class ModelSection(Section):
    """Which checkpoint, and how it is loaded."""

    name: str
    revision: str | None = None
    dtype: Dtype = "float32"
    device: str | None = None  # None: the accelerator if there is one
    trust_remote_code: bool = False
    cache_dir: Path | None = None
    local_files_only: bool = False


class DataSection(Section):
    """Which samples."""

    dataset: str | None = None  # None: the data set that the built-in model was trained on
    data_dir: Path | None = None
    dataset_id: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    answers_column: str | None = None
    second_image_column: str | None = None  # of tasks that show two
    allow_outside: bool = False  # read images that a table names outside of the dataset's folder
    split: str | None = None  # None: the dataset's own
    samples: Count | None = None  # None: the dataset's own number
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    batch_size: Count = 16
    force: bool = False  # estimate from fewer than 100 samples all the same


class EstimateSection(Section):
    """Which layers, what is a point, and how its dimension is estimated."""

    tokens: Tokens = "flatten"
    capture: Capture = "output"
    estimator: EstimatorName = "twonn"
    layers: str | None = None  # a pattern of qualified module names
    modality: Annotated[Annotated[list[Modality], Field(min_length=1)] | None, BeforeValidator(_words)] = None
    knn: Knn = "auto"
    memory: Annotated[str, BeforeValidator(str), AfterValidator(_size)] | None = None  # None: a quarter of what is free
    spill: Path | None = None

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes, None when none was given."""
        return None if self.memory is None else parse_bytes(self.memory)


class PruneSection(Section):
    """Which weights go, and when. `initial` and `final` are shares of all steps."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: what N:M fixes, else 0.8
    criterion: Criterion = DEFAULT_CRITERION
    id_weight: IdWeight = "multiply"
    id_exponent: Annotated[float, Field(gt=0, le=40)] = 1.0  # 2 to the 40 is beyond any factor that is used
    profile: str = "auto"  # or a file, or published:NAME
    missing_id: MissingId = "median"
    refresh_profile: Count | None = None  # in epochs
    scope: str = "all"  # vision, language, language-without-cross, or a pattern of layer names
    allocation: Allocation | None = None  # None: global, and for N:M uniform
    structure: Annotated[str, Field(pattern=r"^(unstructured|[0-9]{1,3}:[0-9]{1,3})$")] = "unstructured"
    floor: Share = 0.0  # the least sparsity of a layer
    ceiling: Share = 1.0  # the most
    min_keep: Amount | None = None  # weights that every layer keeps
    schedule: ScheduleName = "cubic"
    initial: Share = 0.2
    final: Share = 0.2
    mask_every: Count | None = None  # None: 10, or fewer where that leaves fewer than 10 masks
    monotone: bool = False
    compat: Compat = "none"
    beta1: Share = 0.85
    beta2: Share = 0.95
    window: Count = 10
    smoothing_dtype: Smoothing = "float32"


class TrainSection(Section):
    """How the weights are trained meanwhile. `batch_size` is one process's."""

    samples: Count | None = None  # None: all of the split
    texts: Texts | None = None  # of a sample's captions, each epoch another or the first; None: a built-in model's way
    epochs: Amount | None = None  # None: 5, or what max_steps says
    max_steps: Count | None = None
    batch_size: Count = 20
    accumulate: Count = 1
    learning_rate: Annotated[float, Field(gt=0)] | None = None  # None: a built-in model's own, else 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    lr_schedule: str = "cosine"
    warmup: Share = 0.0
    clip: Annotated[float, Field(gt=0)] | None = None
    mixed_precision: Precision = "no"
    gradient_checkpointing: bool = False
    distill: Annotated[float, Field(ge=0)] = 0.0
    checkpoint_every: Count = 500
    report_to: Annotated[list[str], BeforeValidator(_words)] = []
    new_head: bool = False


class EvalSection(Section):
    """How well a model does its task. `split` and `batch_size` are those of the evaluation alone."""

    task: str | None = None  # None: the first that the model can do and the dataset is for
    split: str | None = None  # None: the dataset's own for evaluation
    limit: Count | None = None  # None: all samples
    batch_size: Annotated[Amount, BeforeValidator(_or_auto)] = 16  # 0, "auto": the largest that fits
    prompt: str | None = None  # None: the model's own
    beams: Annotated[int, Field(ge=1, le=1000)] = 3
    # None: the task's own, 5 to 20 tokens of a caption, 1 to 10 of an answer
    min_length: Annotated[int, Field(ge=0, le=100_000)] | None = None
    max_length: Annotated[int, Field(ge=1, le=100_000)] | None = None
    templates: Annotated[list[str], Field(min_length=1)] = ["a photo of a {}."]
    rerank: Amount = 128
    metrics: Annotated[list[str], BeforeValidator(_words)] = []
    resamples: Annotated[int, Field(ge=100, le=100_000)] | None = None  # None: 1,000
    every: Count | None = None  # in optimizer steps of prune
    after: bool = True  # prune evaluates the pruned model


class Recipe(Section):
    """A run. estimate-id reads the first three sections, prune all of them, eval model, data and eval.

    `needs` says why a recipe cannot be carried out yet.
    """

    needs: str | None = None
    model: ModelSection
    data: DataSection = DataSection()
    estimate: EstimateSection = EstimateSection()
    prune: PruneSection = PruneSection()
    train: TrainSection = TrainSection()
    eval: EvalSection = EvalSection()

    def to_dict(self, *sections: str) -> dict[str, Any]:
        """The resolved recipe, or these sections of it, YAML- and JSON-ready; `load` reads it back."""
        return self.model_dump(mode="json", include=set(sections or SECTIONS))

    def same_everywhere(self) -> dict[str, Any]:
        """What all processes of a run must have been given alike: all but what may differ between machines."""
        return self.model_dump(mode="json", exclude={"model": {"device", "cache_dir"}, "estimate": {"spill"}})

    def save(self, path: Path | str) -> None:
        """Write the resolved recipe as YAML, atomically."""
        write_text(path, yaml_file.dump(self.to_dict()))


SECTIONS = tuple(name for name in Recipe.model_fields if name != "needs")
ESTIMATING = ("model", "data", "estimate")
EVALUATING = ("model", "data", "eval")


def load(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe in a YAML file, with `overrides` (dotted key -> value, "estimate.tokens": "mean") on top.

    Raises UsageError, in one line, for a file that can't be read, unknown keys and values that are not allowed.
    """
    values = {} if path is None else _read(Path(path))
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        if key in SECTIONS:
            raise UsageError(
                f"{key} is a section: set one of its keys, as in --set {key}.{next(iter(_names(key)))}=..."
            )
        if not name or not isinstance(values.setdefault(section, {}), dict):
            raise UsageError(_unknown(key))
        values[section][name] = value
    try:
        asked = Recipe.model_validate(values)
    except ValidationError as error:
        where = "" if path is None else f" (recipe {quoted(path)})"
        raise UsageError("; ".join(dict.fromkeys(_line(detail) for detail in error.errors())) + where) from error
    if asked.needs:
        raise UsageError(f"the recipe {quoted(path)} cannot be carried out yet: it needs {asked.needs}")
    return asked


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """{"estimate.tokens": "mean"} from ["estimate.tokens=mean"]; "null" is None, and "none" a word like others.

    UsageError for a missing "=".
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes key=value, as in --set estimate.tokens=mean, not {quoted(assignment)}")
        values[key.strip()] = None if text.strip().lower() == "null" else text.strip()
    return values


def keys() -> list[str]:
    """Every dotted key of a recipe."""
    return [f"{section}.{name}" for section in SECTIONS for name in _names(section)]


def _names(section: str) -> Iterable[str]:
    return Recipe.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def read_yaml(path: Path, kind: str) -> Any:
    """What a YAML file holds. UsageError, in one line that calls it a `kind`, for one that cannot be read."""
    try:
        return yaml_file.load(path)
    except FileNotFoundError:
        raise UsageError(f"there is no {kind} {quoted(path)}") from None
    except OSError as error:
        raise UsageError(f"cannot read the {kind} {quoted(path)}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the {kind} {quoted(path)} is not valid YAML: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    values = read_yaml(path, "recipe")
    if not isinstance(values, dict):
        raise UsageError(f"the recipe {quoted(path)} holds no sections; it has {', '.join(SECTIONS)}")
    return {key: {} if value is None and key in SECTIONS else value for key, value in values.items()}


def _line(detail: Mapping[str, Any]) -> str:
    """What is wrong, in words: one of pydantic's errors."""
    key = ".".join(str(part) for part in detail["loc"] if not isinstance(part, int))
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return _unknown(key)
    if kind == "missing":
        return "no model: name one, as builtin/blip, or as model.name in a recipe"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return f"{key}: {quoted(value)} is not one of {', '.join(allowed)}{_near(str(value), allowed)}"
    if kind == "value_error":
        return f"{key} takes {detail['ctx']['error']}"
    return f"{key}: {detail['msg'][0].lower()}{detail['msg'][1:]}, not {quoted(value)}{_meant(detail)}"


def _meant(detail: Mapping[str, Any]) -> str:
    """A hint at what a value that is refused was likely meant to be."""
    value, bound = detail["input"], {"less_than": "lt", "less_than_equal": "le"}.get(detail["type"])
    if bound and detail["ctx"][bound] == 1 and float(value) <= 100:
        return f"; {float(value):g} % is {float(value) / 100:g}"
    return "; no value at all is null" if isinstance(value, str) and value.lower() == "none" else ""


def _unknown(key: str) -> str:
    sections = list(SECTIONS)
    section, _, name = key.partition(".")
    inside = [known for known in keys() if name and known.startswith(f"{section}.")]
    words = {known.partition(".")[2]: known for known in keys()}
    # in its section, then in any, as the right key in the wrong section is likely
    near = difflib.get_close_matches(key, inside, n=1, cutoff=0.8)
    near = near or [words[word] for word in difflib.get_close_matches(name or key, words, n=1, cutoff=0.8)]
    near = near or ([] if inside else difflib.get_close_matches(key, sections, n=1))
    told = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(inside or sections)}"
    return f"unknown key {quoted(key)}; {told}"


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
