"""Why a model could not be loaded, in one line that names the way out. It loads nothing itself."""

from __future__ import annotations

import difflib
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from idvl.errors import UsageError, causes, first_line, listed, quoted, statuses

# what the extra vlm installs, as the messages of transformers spell it
VLM = ("torchvision", "num2words", "sentencepiece", "protobuf")

QUANTIZED = (
    "{} is quantized {}, and idvl measures and prunes floating-point weights: load the model that it was made from"
)
REFUSED = (
    "the model does not take what its processor prepares: {}; check its preprocessor_config.json or "
    "processor_config.json"
)


@contextmanager
def one_line(
    name: str, folder: Path | None, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Iterator[None]:
    """Whatever keeps a model from loading becomes a UsageError that says what to do."""
    try:
        yield
    except (UsageError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        where = partial(_not_cached, name, revision, cache_dir)
        raise UsageError(_explain(name, folder, error, where)) from error


def _explain(name: str, folder: Path | None, error: BaseException, not_cached: Callable[[], str]) -> str:
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    chain = list(causes(error))

    def has(*types: type) -> bool:
        return any(isinstance(link, types) for link in chain)

    text = " ".join(str(link) for link in chain)
    if "trust_remote_code" in text:
        return f"{name} brings its own model code; read it, then set trust_remote_code (--trust-remote-code) to run it"
    if has(ImportError) and (lacking := next((package for package in VLM if package in text.lower()), None)):
        return f"{name} needs {lacking}, which is not installed: pip install 'idvl[vlm]'"
    if has(hub.GatedRepoError):
        return f"{name} is gated: accept its terms on its hub page, then run hf auth login or set HF_TOKEN"
    if has(hub.RevisionNotFoundError):
        return f"{name} has no such revision; choose a branch, tag or commit of it"
    if has(hub.RepositoryNotFoundError):
        status = next(statuses(error), 404)
        login = "run hf auth login or set HF_TOKEN if it is private" if status == 401 else "check the id"
        return f"{name} is neither a folder here nor a model on the hub ({status}); {login}"
    if (status := answered(error)) in (401, 403):
        return (
            f"the Hub refused to give {name} ({status}): run hf auth login, or set HF_TOKEN to a token that may read it"
        )
    if status == 429 or (status or 0) >= 500:
        return f"the Hub answered {status} when asked for {name}: run the same command again later"
    if has(hub.HFValidationError):
        return f"{quoted(name)} is neither a folder here nor a hub id, which look like owner/model"
    if has(pickle.UnpicklingError) and "global" in text.lower():
        return f"{name} holds pickled code in its weights, which is never run; convert it to safetensors"
    if has(SafetensorError, pickle.UnpicklingError, EOFError) or "PytorchStreamReader" in text:
        return f"the weights of {name} are damaged ({first_line(chain[-1])}); copy or download them again"
    if "gguf" in name.lower():
        return QUANTIZED.format(name, "as GGUF")
    if has(json.JSONDecodeError) or "valid JSON" in text:
        return f"{name} is not a model: its config.json or another of its JSON files is not valid JSON"
    if "model_type" in text or "does not recognize this architecture" in text:
        return f"{name} is not a model that transformers knows: {_model_type(folder, text)}"
    if unreached(error):
        return not_cached()
    if isinstance(error, KeyError):
        return f"{name} cannot be loaded: its config.json, or another of its files, lacks {error} or names it wrongly"
    return f"{name} cannot be loaded: {first_line(error)}"


def _not_cached(name: str, revision: str | None, cache_dir: str | Path | None) -> str:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    kept = sorted(path.name for path in (folder / "snapshots").glob("*"))
    path = Path(name)
    if not kept and (path.parts[0] == "runs" or (path.parent.is_dir() and path.parent != Path())):
        return (
            f"there is no folder {name}{nearby(path)}; as a model of the Hub it is not in the local cache, and the Hub "
            "was not reached"
        )
    other = f" at revision {revision or 'main'} (but at {listed(kept)}; --revision chooses)" if kept else ""
    at = f" --revision {revision}" if revision else ""
    return (
        f"{name} is not a local folder, not {'whole ' if kept else ''}in the local cache{other}, and the Hub was not "
        f"reached (no network, HF_HUB_OFFLINE or --local-files-only). With a network, run: hf download {name}{at} "
        "--local-dir FOLDER, and pass FOLDER"
    )


def answered(error: BaseException) -> int | None:
    """The status of the Hub's answer behind an error; None where it gave none, or has no such file."""
    return next((status for status in statuses(error) if status != 404), None)


def unreached(error: BaseException) -> bool:
    """Whether a hub that could not be asked is behind an error."""
    from huggingface_hub import errors as hub

    types = (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, hub.RevisionResolutionError, ConnectionError)
    return any(isinstance(link, types) for link in causes(error))


def _model_type(folder: Path | None, text: str) -> str:
    """The model_type in a folder's config.json, of a model on the Hub as transformers tells it."""
    told = re.search("model type `([^`]+)`", text)
    try:
        kind = json.loads((folder / "config.json").read_text()).get("model_type") if folder else told and told[1]
    except (OSError, ValueError, AttributeError):
        kind = None
    return f"model_type {quoted(kind)} in its config.json" if kind else "its config.json names no model_type"


def holds_gguf(folder: Path) -> bool:
    """Whether a folder's weights are in GGUF files alone."""
    return any(folder.glob("*.gguf")) and not any(any(folder.glob(f"*.{kind}")) for kind in ("safetensors", "bin"))


def nearby(path: Path) -> str:
    """A hint at folders that hold a model: inside of `path`, else the ones beside it with the nearest names."""
    inside = _models_in(path)
    if inside:
        return f"; models inside it: {', '.join(str(path / name) for name in inside[:3])}"
    beside = _models_in(path.parent)
    near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0) if beside else []
    return f"; models near it: {', '.join(str(path.parent / name) for name in near)}" if near else ""


def _models_in(path: Path) -> list[str]:
    """Folders in one that are models, or runs with one, by their paths from it."""
    try:
        models = [folder for child in path.iterdir() for folder in (child, child / "model")]
        return sorted(str(folder.relative_to(path)) for folder in models if (folder / "config.json").is_file())
    except OSError:
        return []
