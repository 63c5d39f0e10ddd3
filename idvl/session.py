"""What a recipe asks for, opened: its model and its samples. It does not know what is done with them."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from idvl import downloads, runs
from idvl import recipe as recipes
from idvl.builtin import dataset_of
from idvl.checkpoints.report import load_report
from idvl.data.catalog import CATALOG
from idvl.data.samples import Selection, select
from idvl.data.sources import HUB_ID, Location, path_or_ids
from idvl.distributed import Team, join_team
from idvl.downloads import Download
from idvl.errors import UsageError, quoted
from idvl.models.layers import Layer
from idvl.models.loading import Loaded, load
from idvl.models.locating import locate
from idvl.profile import Profile
from idvl.recipe import DataSection, ModelSection, Recipe
from idvl.reporter import Reporter
from idvl.sparsity.masks import ACCIDENTAL

logger = logging.getLogger(__name__)

# what a folder of this name holds is the model of a run one level up
MODEL = "model"
RECIPE = "recipe.yaml"
# the settings that say where samples come from; allow_outside is not among them, as it takes trust
SOURCE = {
    *("dataset", "data_dir", "dataset_id"),
    *("image_column", "text_column", "label_column", "answers_column", "second_image_column"),
}
# what a run read beside its settings, and how the dimensions were measured that it read
INPUTS = {"fingerprint", "pruned", "samples", "profile", "densities", "seed", "processes", "batch_size", "dtype"}
INPUTS |= {"chat_template", "clean_texts"}
PROTOCOL = ("tokens", "capture", "estimator", "n_samples")
# skills of models that learn from captions
OF_CAPTIONS = {"caption", "embed_texts", "match"}
# the settings that decide which files of a model are read
OF_FILES = {"name", "revision", "cache_dir", "local_files_only", "trust_remote_code"}


def with_dataset(recipe: Recipe) -> Recipe:
    """The recipe with its dataset: its own, that of the run whose model it names, or a built-in model's.

    UsageError where there is none, and before that for the path of a model that does not exist.
    """
    if recipe.data.dataset:
        return recipe
    kind, _ = locate(recipe.model.name, recipe.model.revision)
    run = run_of(recipe.model.name)
    source = _recorded_source(run) if run else {}
    if not source.get("dataset") and kind == "hub":
        raise UsageError(
            f"there is no folder {quoted(recipe.model.name)}, and no dataset for a model of that name on the Hub: "
            "check the path, or set dataset (--dataset) to a name, a folder or a Hub id"
        )
    if not source.get("dataset"):
        source = {"dataset": dataset_of(recipe.model.name)}
    missing = {key: value for key, value in source.items() if getattr(recipe.data, key) is None}
    data = recipe.data.model_copy(update=missing)
    if run and not recipe.data.data_dir:
        data = from_folder_of(run, data)
    return recipe.model_copy(update={"data": data})


def data_of(run: Path) -> DataSection | None:
    """Where the samples of a run came from, its relative path from the folder in which the run was started.

    None where its recipe cannot be read or the path is not there any more.
    """
    try:
        return from_folder_of(run, recipes.load(run / RECIPE).data, warn=False)
    except UsageError:
        return None


def places(data: DataSection) -> set[str]:
    """What a dataset is read from: a path without links, ids of the Hub, or the name of a built-in dataset."""
    where = path_or_ids(Location(data.dataset, CATALOG.get(data.dataset), data.data_dir, data.dataset_id))
    return {os.path.realpath(where)} if isinstance(where, Path) else {*where} or {data.dataset}


def _recorded_source(run: Path) -> dict[str, Any]:
    """Where the samples of a run came from: nothing where its recipe cannot be read."""
    try:
        return recipes.load(run / RECIPE).data.model_dump(include=SOURCE)
    except UsageError:
        return {}


def from_folder_of(run: Path, data: DataSection, *, warn: bool = True) -> DataSection:
    """The data of a run's recipe, whose relative path starts from the folder in which the run was started.

    UsageError where there is no such path. Runs of older versions do not say where they were started: `warn` of it.
    """
    key, name = ("data_dir", data.data_dir) if data.data_dir else ("dataset", data.dataset)
    if key == "dataset" and (name in CATALOG or data.dataset_id):
        return data
    started = runs.read_record(run).get("directory")
    path = os.path.join(started or "", os.path.expanduser(name))
    if not os.path.exists(path):
        if key == "dataset" and re.fullmatch(HUB_ID, name):
            return data
        option = "--data-dir" if key == "data_dir" else "--dataset"
        raise UsageError(f"{quoted(path)} does not exist, the dataset of {quoted(run / RECIPE)}: pass {option}")
    if warn and not started and not os.path.isabs(path):
        logger.warning(
            "%s, the dataset of %s, is read from the current folder: that run does not say where it was started",
            *(quoted(name), quoted(run / RECIPE)),
        )
    return data if os.path.realpath(path) == os.path.realpath(name) else data.model_copy(update={key: type(name)(path)})


def run_of(model: str) -> Path | None:
    """The run folder whose model this is, also through a link, None for a model from elsewhere."""
    named = Path(os.path.expanduser(model))
    for path in (named, Path(os.path.realpath(named))):
        if path.name == MODEL and runs.read_record(path.parent):
            return path.parent
    return None


def model_before(run: Path) -> str:
    """The name of the model that a run began with, by which it is found from the current folder.

    A relative path starts from the folder in which the run was started, or from the current one if it is not there.
    UsageError where the recipe of the run cannot be read.
    """
    name = recipes.load(run / RECIPE).model.name
    path = os.path.join(runs.read_record(run).get("directory") or "", os.path.expanduser(name))
    return path if os.path.exists(path) and os.path.realpath(path) != os.path.realpath(name) else name


def runs_behind(model: str) -> list[Path]:
    """The run that saved a model, the one that saved the model it began with, and so on, as far as these are there."""
    behind: list[Path] = []
    while (run := run_of(model)) and run not in behind:
        behind.append(run)
        try:
            model = model_before(run)
        except UsageError:
            break
    return behind


def history_of(model: str) -> list[dict[str, Any]]:
    """The settings and inputs of the runs that pruned and recovered a model, the first one first; [] without a run.

    The first one names the model that it began with, and counts the zeros that this held, unless they are few.
    """
    run = run_of(model)
    signature = (runs.read_record(run) or {}).get("signature", {}) if run else {}
    # a recovery has the settings of the pruning too, which are those of a step before
    own = "recover." if "recover.method" in signature else "prune."
    step = {key: word for key, word in signature.items() if key.startswith((own, "train.")) or key in INPUTS}
    if not step:
        return []
    earlier = signature.get("history", [])
    try:
        recipe, report = recipes.load(run / RECIPE), load_report(run)
    except UsageError:
        return [*earlier, step]
    # what its masks depend on and its signature does not hold
    made = report.get("made") or {}
    step |= {f"data.{key}": getattr(recipe.data, key) for key in sorted(SOURCE - {"dataset", "data_dir"})}
    # of a folder the name alone, as it has several paths
    step["data.dataset"] = Path(recipe.data.dataset or "").name
    step["data.split"] = (made.get("training") or made.get("calibration") or {}).get("split")
    step |= _measured(run)
    if earlier:
        return [*earlier, step]
    zeros, least = (report.get("before") or {}).get("zeros", 0), ACCIDENTAL * report["total"]["prunable_weights"]
    return [step | {"model": recipe.model.name, "zeros": zeros if zeros >= least else 0}]


def _measured(run: Path) -> dict[str, Any]:
    """How the dimensions that a run of prune began with were measured; {} where it has none that can be read."""
    for file in (run / "profile" / "profile.json", run / "profile.json"):
        with contextlib.suppress(UsageError):
            profile = Profile.load(file)
            measured = {key: profile.protocol.get(key) for key in PROTOCOL} | {"split": profile.dataset.get("split")}
            return {f"estimate.{key}": value for key, value in measured.items()}
    return {}


def read_by(recipe: Recipe, teacher: ModelSection | None = None) -> list[Path | str | None]:
    """The files and folders that a recipe names, with those of its `teacher`, among names of the Hub."""
    data, profile = recipe.data, recipe.prune.profile
    models = (recipe.model.name, recipe.recover.teacher, teacher and teacher.name)
    key, _, densities = (recipe.prune.allocation or "").partition(":")
    return [
        *(name for name in models if name and not name.startswith("builtin/")),
        None if data.dataset in CATALOG else data.dataset,
        data.data_dir,
        None if profile == "auto" else profile,
        densities if key == "file" else None,
        recipe.recover.masks,
        *recipe.eval.metrics,
    ]


def begin(
    recipe: Recipe,
    name: runs.FolderName,
    folder: Path | None,
    *,
    resume: bool,
    overwrite: bool,
    reads: Sequence[Path | None] = (),
    teacher: ModelSection | None = None,
    **arguments: Any,
) -> tuple[Path, torch.device, Team]:
    """Where a run goes (`folder`, or a new one with `name`), its device and its processes.

    UsageError where the folder is not free or spill is in it, the run would remove what it `reads` or its `teacher`, or
    processes were given other settings or other arguments, of which `arguments` are those that not every command has.
    """
    path = folder or runs.default_folder(name)
    spill = recipe.estimate.spill
    if spill and runs.is_inside(spill, path):
        raise UsageError(
            f"spill {quoted(spill)} is in the folder of the run, {quoted(path)}, which must be empty: set spill "
            "(--spill) to another folder"
        )
    runs.check(path, resume=resume, overwrite=overwrite, reads=[*reads, *read_by(recipe, teacher)])
    shared = {"command": name.command, "output": folder, "resume": resume, "overwrite": overwrite, **arguments}
    return path, *join_team(recipe.model.device, recipe.same_everywhere(), **shared)


def open_run(
    stack: contextlib.ExitStack, team: Team, folder: Path | None, name: runs.FolderName, **options: Any
) -> tuple[runs.Run | None, Path]:
    """The run of a folder (None: a new one with `name`), which the first process alone holds, and the folder.

    `options` are those of `Run.open`; an error of the first process is raised on all.
    """
    opened: list[runs.Run] = []
    team.first(lambda: opened.append(stack.enter_context(runs.Run.open(folder or runs.new_folder(name), **options))))
    return (opened[0] if opened else None), team.first(lambda: opened[0].folder)


def planned_downloads(
    recipe: Recipe, team: Team, reporter: Reporter, *splits: str | None, teacher: ModelSection | None = None
) -> tuple[Download, ...]:
    """What a run of the recipe, which reads these splits, lacks of the Hub; said before any of it is read."""
    data, cache_dir = recipe.data, recipe.model.cache_dir
    models = [section.model_dump(include=OF_FILES) for section in (recipe.model, teacher) if section]
    location = Location(data.dataset, CATALOG.get(data.dataset), data.data_dir, data.dataset_id, cache_dir)

    def planned() -> list[Download | None]:
        read = [downloads.of_model(**model) for model in models]
        return [*read, *(downloads.of_dataset(location, split) for split in dict.fromkeys(splits))]

    found = tuple(dict.fromkeys(each for each in team.first(planned) if each))
    for each in found:
        if each.bytes != 0:
            reporter.note(each.line())
    return found


def open_model(section: ModelSection, device: torch.device, team: Team, *, offload: bool = False) -> Loaded:
    """The model on this process's device; what keeps one process from loading it is raised on all."""
    options = {**section.model_dump(exclude={"name", "device"}), "offload": offload}
    return team.each(lambda: load(section.name, device=device, **options))


def choose_samples(
    recipe: Recipe,
    team: Team,
    *,
    split: str | None,
    n: int | None,
    force: bool,
    reporter: Reporter | None = None,
    purpose: str = "",
    loaded: Loaded | None = None,
    **options: Any,
) -> Selection:
    """Samples of the recipe's dataset, chosen by the first process for all; `n` None is as many as `select` takes.

    The reporter tells the progress, and which samples `purpose` has, in a line. `options` are further ones of `select`:
    with a file `store`, images that are not local files go there, not into every process's memory. A warning where the
    model `loaded` reads texts as captions that are hardly any.
    """
    source = recipe.data.model_dump(exclude={"dataset", "split", "samples", "batch_size", "force"})
    source |= {"cache_dir": recipe.model.cache_dir, "split": split, "n": n, "force": force}
    label = f"choosing {purpose} samples"
    with reporter.progress(label) if reporter else contextlib.nullcontext() as progress:
        selection = team.first(lambda: select(recipe.data.dataset, **source, progress=progress, **options))
    if reporter:
        reporter.note(f"{purpose}: {selection.line}")
    if loaded and selection.doubtful_captions and _reads_captions(loaded, selection):
        team.first(lambda: logger.warning(selection.doubtful_captions))
    return selection


def _reads_captions(loaded: Loaded, selection: Selection) -> bool:
    """Whether a model takes the samples' texts for captions, not for questions that it answers."""
    skills = set(loaded.family.skills)
    answers = "answer" in skills and "answers" in selection.description["columns"]
    return bool(skills & OF_CAPTIONS) and not answers


@contextlib.contextmanager
def image_store(folder: Path, team: Team, kind: str) -> Iterator[Path]:
    """A file beside a run's folder for its images, removed at the end; what killed runs of it left is removed first."""
    folder = folder.resolve()
    prefix = f".{folder.name}.{kind}.{platform.node()}."

    def clear() -> Path:
        for leftover in folder.parent.glob(f"{glob.escape(prefix)}*.images"):
            pid = leftover.name.removeprefix(prefix).removesuffix(".images")
            if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
                leftover.unlink(missing_ok=True)
        name = f"{prefix}{os.getpid()}.images"
        return folder / name if folder.is_dir() and not os.access(folder.parent, os.W_OK) else folder.with_name(name)

    new = not folder.parent.exists()
    path = team.first(clear)
    try:
        yield path
    finally:
        if team.rank == 0:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            if new:
                with contextlib.suppress(OSError):  # a run may be in it by now
                    folder.parent.rmdir()


def other_widths(profile: Profile, layers: Mapping[str, Layer]) -> dict[str, str]:
    """The layers of a profile that are as wide as neither side of the model's layer of that name, each with how."""
    return {
        name: f"{name} has {layer.width} features there, {layers[name].out_features} here"
        for name, layer in profile.layers.items()
        if name in layers and layer.width not in (layers[name].in_features, layers[name].out_features)
    }
