"""Sending a model to the Hub: what arrives, and what is said when nothing does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from idvl.checkpoints.hub import check, push
from idvl.errors import RunError, UsageError
from tests.support.hub import Hub

REPO = "someone/blip-80"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 34)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "blip"}')
    (tmp_path / "model" / "README.md").write_text("---\nlibrary_name: transformers\n---\n# card\n")
    (tmp_path / "masks.safetensors").write_bytes(b"beside")
    return tmp_path / "model"


@pytest.mark.parametrize("private", [True, False])
def test_the_folder_arrives_in_one_commit(hub: Hub, folder: Path, private: bool) -> None:
    assert push(folder, REPO, private=private) == f"{hub.endpoint}/{REPO}"
    (asked,) = hub.created
    assert (asked["organization"], asked["name"], asked["visibility"]) == (
        "someone",
        "blip-80",
        "private" if private else "public",
    )
    assert hub.uploaded == {REPO: {path.name: path.read_bytes() for path in folder.iterdir()}}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "does not accept the token (401) to push to someone/blip-80: run hf auth login, or set HF_TOKEN"),
        (403, "the token may not write to someone/blip-80 (403): take one with write access to someone"),
        (413, "the Hub refused the upload to someone/blip-80: "),
    ],
)
@pytest.mark.parametrize("where", ["create", "commit"])
def test_a_refusal_is_one_line_with_the_way_out(hub: Hub, folder: Path, status: int, message: str, where: str) -> None:
    hub.fault = lambda method, path: status if where == "create" or "/commit/" in path else None
    with pytest.raises(RunError) as refusal:
        push(folder, REPO)
    assert message in str(refusal.value)
    assert str(refusal.value).endswith(f"the model is in {folder}: hf upload {REPO} {folder}")
    assert "\n" not in str(refusal.value)
    assert not hub.uploaded


def test_no_network_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="^the Hub was not reached to push to someone/blip-80: ") as refusal:
        push(folder, REPO)
    assert "\n" not in str(refusal.value)


def test_what_can_be_known_before_is_refused_before(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    check(REPO)
    for wrong in ("a b/c", "a/b/c", "", "x" * 200):
        with pytest.raises(UsageError, match="is not the name of a Hub repository"):
            check(wrong)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match="no token; run hf auth login or set HF_TOKEN"):
        check(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        check(REPO)
    assert not hub.requests
