"""What is asked of a run: every setting in one schema, read from YAML and overridden by flags.

Unknown keys and values are refused with the nearest valid one. Workflows and commands read it; no other room knows it.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from idvl import plugins, yaml_file
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
from idvl.errors import UsageError, did_you_mean, quoted
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


def _or_plugin(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """A criterion of idvl, or of another package."""
    try:
        return validate(value)
    except ValidationError:
        if isinstance(value, str) and value in plugins.found(plugins.CRITERIA, get_args(Criterion)):
            return value
        raise


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
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise ValueError(f"text without NUL characters, not {quoted(text)}")
            if isinstance(text, str) and text.encode("utf-8", "replace").decode() != text:
                raise ValueError(f"valid UTF-8, not {quoted(text)}")
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


def _setting(
    default: Any, text: str, *, shown: str | None = None, flag: str | None = None, value: str | None = None
) -> Any:
    """A setting's default and what the command line says of it.

    `shown` is the default in words; `flag` its option where that is not its name ("" for none); `value` a placeholder.
    """
    return Field(default, description=text, json_schema_extra={"shown": shown, "flag": flag, "value": value})


class ModelSection(Section):
    """The checkpoint and how it is loaded."""

    name: str = _setting(..., "Hub id, local folder, builtin/blip or builtin/vit.", flag="")
    revision: str | None = _setting(None, "Branch, tag or commit on the Hub.", shown="the main branch")
    dtype: Dtype = _setting("float32", "Precision in which the weights are loaded.")
    device: str | None = _setting(None, "Device, such as cpu or cuda:0.", shown="the accelerator, if there is one")
    trust_remote_code: bool = _setting(False, "Run Python code from the model's repository.")
    cache_dir: Path | None = _setting(None, "Folder for downloads.", shown="that of huggingface_hub")
    local_files_only: bool = _setting(False, "Download nothing.")


class DataSection(Section):
    """The samples."""

    dataset: str | None = _setting(
        None,
        "Name listed by idvl eval --list, or a local path.",
        shown="the one that the built-in model was trained on",
    )
    data_dir: Path | None = _setting(None, "Local copy of the dataset.", value="DIR")
    dataset_id: str | None = _setting(None, "Hub repository to read the dataset from instead.", value="ID")
    image_column: str | None = _setting(None, "Column with the images.", value="NAME")
    text_column: str | None = _setting(None, "Column with the texts.", value="NAME")
    label_column: str | None = _setting(None, "Column with the class labels.", value="NAME")
    answers_column: str | None = _setting(None, "Column with the answers to a question.", value="NAME")
    second_image_column: str | None = _setting(
        None, "Column with the second image, for tasks on two images.", value="NAME"
    )
    allow_outside: bool = _setting(False, "Read images that a table names outside of the dataset's folder.")
    split: str | None = _setting(None, "Split to read.", shown="the dataset's own", value="NAME")
    samples: Count | None = _setting(
        None, "Number of samples to estimate dimensions from.", shown="the dataset's own, mostly 2000"
    )
    # the largest that every generator takes
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = _setting(0, "Random seed, which also selects the samples.")
    batch_size: Count = _setting(16, "Samples per forward pass; changes results by rounding only.")
    force: bool = _setting(False, "Estimate even from fewer than 100 samples.")


class EstimateSection(Section):
    """Which layers are measured, what a point is, and how its dimension is estimated."""

    tokens: Tokens = _setting("flatten", "What a point is: all tokens of a sample, their mean, or one of them.")
    capture: Capture = _setting("output", "Side of a layer that is measured.")
    estimator: EstimatorName = _setting("twonn", "Estimator of the intrinsic dimension.")
    layers: str | None = _setting(
        None, "Measure only layers whose name matches this pattern.", shown="all", value="PATTERN"
    )
    modality: Annotated[Annotated[list[Modality], Field(min_length=1)] | None, BeforeValidator(_words)] = _setting(
        None, "Measure only layers of this modality; repeatable.", shown="all"
    )
    knn: Knn = _setting("auto", "Neighbour search backend; all give the same result, auto takes the fastest.")
    memory: Annotated[str, BeforeValidator(str), AfterValidator(_size)] | None = _setting(
        None, "Memory budget, such as 8GiB.", shown="a quarter of what is free", value="SIZE"
    )
    spill: Path | None = _setting(None, "Folder on disk for data beyond the memory budget.", value="DIR")

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes, None when none was given."""
        return None if self.memory is None else parse_bytes(self.memory)


class PruneSection(Section):
    """Which weights are pruned, and when. `initial` and `final` are fractions of all steps."""

    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = _setting(
        None, "Fraction of the weights in scope that become zero.", shown="0.8; with N:M, what it implies"
    )
    criterion: Annotated[Criterion, WrapValidator(_or_plugin), PlainSerializer(str)] = _setting(
        DEFAULT_CRITERION, "Importance score of a weight; plug-ins add others."
    )
    id_weight: IdWeight = _setting("multiply", "How the layer's intrinsic dimension enters the score.")
    # 2 to the 40 is beyond any factor that is used
    id_exponent: Annotated[float, Field(gt=0, le=40)] = _setting(1.0, "Exponent of the intrinsic dimension.")
    profile: str = _setting(
        "auto",
        "Where the intrinsic dimensions come from: auto (estimated first), a file, or published:blip-coco.",
        value="PROFILE",
    )
    missing_id: MissingId = _setting("median", "What to do about layers without a sound dimension.")
    refresh_profile: Count | None = _setting(None, "Re-estimate the dimensions every N epochs.", shown="never")
    scope: str = _setting(
        "all", "Layers to prune: all, vision, language, language-without-cross, or a pattern of names.", value="SCOPE"
    )
    allocation: Allocation | None = _setting(
        None, "One threshold over all layers, or the same sparsity in each.", shown="global; with N:M, uniform"
    )
    structure: Annotated[str, Field(pattern=r"^(unstructured|[0-9]{1,3}:[0-9]{1,3})$")] = _setting(
        "unstructured", "unstructured, or N:M, such as 2:4.", value="STRUCTURE"
    )
    floor: Share = _setting(0.0, "Lowest sparsity of a layer.")
    ceiling: Share = _setting(1.0, "Highest sparsity of a layer.")
    min_keep: Amount | None = _setting(None, "Number of weights that every layer keeps at least.", shown="1")
    schedule: ScheduleName = _setting("cubic", "Sparsity schedule.")
    initial: Share = _setting(0.2, "Fraction of the steps before pruning starts.")
    final: Share = _setting(0.2, "Fraction of the steps after pruning has ended.")
    mask_every: Count | None = _setting(None, "Steps between two mask updates.", shown="10, fewer in short runs")
    monotone: bool = _setting(False, "Keep pruned weights pruned.")
    compat: Compat = _setting("none", "Update masks as this code does; icml24 is the paper's.")
    beta1: Share = _setting(0.85, "PLATON's smoothing of the importance.", flag="")
    beta2: Share = _setting(0.95, "PLATON's smoothing of the uncertainty.", flag="")
    window: Count = _setting(10, "Steps that PLATON averages the importance over.", flag="")
    smoothing_dtype: Smoothing = _setting("float32", "Precision of PLATON's state.", flag="")


class TrainSection(Section):
    """How the weights are trained while they are pruned. `batch_size` is per process."""

    samples: Count | None = _setting(None, "Number of training samples.", shown="all of the split", flag="")
    texts: Texts | None = _setting(
        None, "Which of a sample's captions is read in an epoch.", shown="a built-in model's own, else any", flag=""
    )
    epochs: Amount | None = _setting(None, "Passes over the training samples.", shown="5")
    max_steps: Count | None = _setting(None, "Number of optimizer steps, instead of --epochs.")
    batch_size: Count = _setting(20, "Training samples per process and batch.")
    accumulate: Count = _setting(1, "Batches per optimizer step.")
    learning_rate: Annotated[float, Field(gt=0)] | None = _setting(
        None, "Peak learning rate.", shown="a built-in model's own, else 1e-5"
    )
    weight_decay: Annotated[float, Field(ge=0)] = _setting(0.0, "Weight decay of AdamW.")
    lr_schedule: str = _setting("cosine", "Learning rate scheduler of transformers.", flag="")
    warmup: Annotated[float, Field(ge=0, lt=1)] = _setting(
        0.0, "Fraction of the steps that the learning rate rises.", flag=""
    )
    clip: Annotated[float, Field(gt=0)] | None = _setting(None, "Largest norm of the gradient.", shown="no clipping")
    mixed_precision: Precision = _setting("no", "Precision of forward and backward passes.")
    gradient_checkpointing: bool = _setting(False, "Recompute activations: less memory, more time.")
    distill: Annotated[float, Field(ge=0)] = _setting(0.0, "Weight of the KL divergence to the dense model.")
    checkpoint_every: Count = _setting(500, "Steps between two checkpoints.")
    report_to: Annotated[list[str], BeforeValidator(_words)] = _setting(
        [], "Tracker: tensorboard, wandb or trackio; repeatable.", value="NAME"
    )
    new_head: bool = _setting(False, "Put a new classifier for this dataset's labels on the model.")


class EvalSection(Section):
    """How a model is evaluated. `split` and `batch_size` are those of the evaluation alone."""

    task: str | None = _setting(
        None,
        "caption, retrieval, reasoning, classification or vqa.",
        shown="the first that both model and dataset are for",
        value="TASK",
    )
    split: str | None = _setting(None, "Split to evaluate on.", shown="the dataset's own for evaluation", value="NAME")
    limit: Count | None = _setting(None, "Evaluate at most N samples, drawn by --seed.", shown="all")
    batch_size: Annotated[Amount, BeforeValidator(_or_auto)] = _setting(
        16, "Samples per batch; auto takes as many as fit.", value="N|auto"
    )
    prompt: str | None = _setting(None, "What captions start with, or how a question is put.", shown="the model's own")
    beams: Annotated[int, Field(ge=1, le=1000)] = _setting(3, "Beams of the beam search.")
    min_length: Annotated[int, Field(ge=0, le=100_000)] | None = _setting(
        None, "Fewest tokens of a prediction.", shown="5 for captions, 1 for answers"
    )
    max_length: Annotated[int, Field(ge=1, le=100_000)] | None = _setting(
        None, "Most tokens of a prediction.", shown="20 for captions, 10 for answers"
    )
    templates: Annotated[list[str], Field(min_length=1)] = _setting(
        ["a photo of a {}."],
        "Sentence for zero-shot classification, with {} for the class; repeatable.",
        flag="--template",
    )
    rerank: Amount = _setting(128, "Candidates that a matching head reranks.")
    metrics: Annotated[list[str], BeforeValidator(_words)] = _setting(
        [], "Additional metric of evaluate, a folder or a Hub name; repeatable.", flag="--metric", value="NAME"
    )
    resamples: Annotated[int, Field(ge=100, le=100_000)] | None = _setting(
        None, "Bootstrap samples of an interval.", shown="1000", flag=""
    )
    every: Count | None = _setting(None, "Evaluate every N steps.", shown="never", flag="--eval-every")
    after: bool = _setting(True, "Evaluate the pruned model.", shown="eval", flag="--eval/--no-eval")


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


@functools.cache
def described() -> dict[str, dict[str, Any]]:
    """Every dotted key with the JSON schema of its setting, `shown`, `flag` and `value` included."""
    return {f"{section}.{name}": schema for section in SECTIONS for name, schema in _schemas(section)}


def _schemas(section: str) -> Iterable[tuple[str, dict[str, Any]]]:
    model: type[Section] = Recipe.model_fields[section].annotation  # type: ignore[assignment]
    for name, schema in model.model_json_schema()["properties"].items():
        # null is no value of its own
        (kind,) = [kind for kind in schema.pop("anyOf", [{}]) if kind.get("type") != "null"]
        yield name, kind | schema


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
        return f"{key}: {quoted(value)} is not one of {', '.join(allowed)}{did_you_mean(value, allowed)}"
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
