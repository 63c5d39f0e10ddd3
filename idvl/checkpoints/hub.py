"""A saved model folder sent to the Hub, and what can go wrong in one line. It makes no model."""

from __future__ import annotations

from pathlib import Path

from idvl.errors import RunError, UsageError, first_line, quoted


def check(repo_id: str) -> None:
    """Refuse, before anything else is done and without a network, a repository that nothing could be sent to.

    Raises UsageError for an id that is no owner/name, for offline mode, and where there is no token.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(f"{quoted(repo_id)} is not the name of a Hub repository, such as owner/name") from error
    if constants.is_offline_mode():
        raise UsageError(f"cannot push to {repo_id}: HF_HUB_OFFLINE is set; unset it, or leave out --push-to-hub")
    if get_token() is None:
        raise UsageError(f"cannot push to {repo_id}: no token; run hf auth login or set HF_TOKEN")


def push(folder: Path | str, repo_id: str, *, private: bool = True) -> str:
    """Upload a model folder, in one commit, and return its address; a repository that does not exist is made.

    `private` is for a new repository: the visibility of one that exists stays. Raises RunError in one line; the folder
    is untouched.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo.repo_id, folder_path=folder, commit_message="Upload a model pruned with idvl")
    except Exception as error:
        raise RunError(f"{_cause(repo_id, error)}; the model is in {folder}: hf upload {repo_id} {folder}") from error
    return str(repo)


def _cause(repo_id: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"the Hub does not accept the token (401) to push to {repo_id}: run hf auth login, or set HF_TOKEN"
    if status == 403:
        return f"the token may not write to {repo_id} (403): take one with write access to {repo_id.partition('/')[0]}"
    if status is not None or isinstance(error, ValueError):
        return f"the Hub refused the upload to {repo_id}: {first_line(error)}"
    return f"the Hub was not reached to push to {repo_id}: {first_line(error)}"
