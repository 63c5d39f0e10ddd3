"""Datasets and models of the Hub through the real clients, against a Hub on the loopback address."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub, caption, write_dataset

ROOT = Path(__file__).parents[2]
COCO = "lmms-lab-encoder/COCO-Caption"


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("repos")
    return {
        "coco": write_dataset("coco", folder / "coco", 3_000, shards=15, row_group=50),
        "flickr30k": write_dataset("flickr30k", folder / "flickr30k", 160),
        "textvqa": write_dataset("textvqa", folder / "textvqa", 240, shards=2),
    }


def ask(hub: Hub, cache: Path, *calls: dict[str, Any], **env: str) -> list[dict[str, Any]]:
    """What `select` answers to each call in one fresh process: its description, or the error's class and message."""
    code = (
        "import json, sys\n"
        "from idvl.data.samples import select\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        selection = select(**call)\n"
        "        first = selection.samples[0]\n"
        "        about = {'texts': first.texts, 'size': first.image.size, **selection.description}\n"
        "    except (ValueError, RuntimeError) as error:\n"
        "        about = {'error': type(error).__name__, 'message': str(error)}\n"
        "    print(json.dumps(about), flush=True)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(calls)]
    done = subprocess.run(
        command, env=hub.env(cache, **env), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_catalogue_entries_stream(repos: dict[str, Path], tmp_path: Path) -> None:
    served = {COCO: "coco", "lmms-lab/flickr30k": "flickr30k", "lmms-lab-encoder/textvqa": "textvqa"}
    with Hub(datasets={name: repos[kind] for name, kind in served.items()}) as hub:
        coco, flickr30k, textvqa = ask(
            hub,
            tmp_path,
            {"dataset": "coco", "n": 150},
            {"dataset": "flickr30k", "n": 150},
            {"dataset": "textvqa", "n": 110},
        )
    assert (coco["dataset_id"], coco["split"], coco["method"], coco["size"]) == (COCO, "val", "stream", [48, 40])
    assert coco["columns"] == {"image": "image", "text": "answer", "guessed": []}
    assert coco["shuffle"]["shards"] == 15 and len(coco["revision"]) == 40
    assert coco["texts"][0] == caption(int(coco["ids"][0].removeprefix("COCO_val2014_").removesuffix(".jpg")))
    assert len(set(coco["ids"])) == 150
    assert flickr30k["dataset_id"] == "lmms-lab/flickr30k" and flickr30k["split"] == "test"
    assert textvqa["texts"][0].startswith("what is written on") and textvqa["duplicates"] > 0


def test_a_stream_leaves_most_shards_alone(repos: dict[str, Path], tmp_path: Path) -> None:
    calls = [{"dataset": "coco", "n": 100, "seed": seed} for seed in (5, 5, 6)]
    with Hub(datasets={COCO: repos["coco"]}) as hub:
        (first,) = ask(hub, tmp_path, calls[0])
        shards = [path for path in hub.sent if path.endswith(".parquet")]
        again, other = ask(hub, tmp_path, *calls[1:])
    # 1,000 rows to fill the buffer, 200 in each of 15 shards, and the first shard for its schema
    assert 5 <= len(shards) <= 8
    assert first["shuffle"] == {"buffer": 1000, "shards": 15}
    assert first == again and first["ids"] != other["ids"]


def test_names_that_the_hub_does_not_have(repos: dict[str, Path], tmp_path: Path) -> None:
    with Hub(datasets={COCO: repos["flickr30k"], "me/own": repos["flickr30k"]}) as hub:
        moved, split, column, revision, typo, own = ask(
            hub,
            tmp_path,
            {"dataset": "textvqa"},
            {"dataset": "flickr30k", "dataset_id": "me/own", "split": "tes"},
            {"dataset": "flickr30k", "dataset_id": "me/own", "text_column": "captoin"},
            {"dataset": "flickr30k", "dataset_id": "me/own", "revision": "v9"},
            {"dataset": "my/images"},
            {"dataset": "me/own", "n": 120},
        )
    assert "no dataset lmms-lab-encoder/textvqa or lmms-lab/textvqa" in moved["message"]
    assert "--dataset-id" in moved["message"] and "--data-dir" in moved["message"]
    assert "no split 'tes'; did you mean 'test'? (there is test)" in split["message"]
    assert "no column 'captoin'; did you mean 'caption'? (there is caption, sentids" in column["message"]
    assert "no revision 'v9'" in revision["message"]
    assert typo["message"].startswith("my/images is no local path; the Hub has no dataset my/images")
    answers = (moved, split, column, revision, typo)
    assert {answer["error"] for answer in answers} == {"UsageError"}
    assert not any("\n" in answer["message"] for answer in answers)
    assert own["columns"] == {"image": "image", "text": "caption", "guessed": ["image", "caption"]}


def test_gated_dataset(repos: dict[str, Path], tmp_path: Path) -> None:
    with Hub(datasets={COCO: repos["coco"]}, gated={COCO}) as hub:
        closed, opened = ask(
            hub, tmp_path, {"dataset": "coco", "n": 100}, {"dataset": "coco", "n": 100, "token": "hf_secret"}
        )
        assert closed["error"] == "UsageError" and "is gated: accept its terms" in closed["message"]
        assert "HF_TOKEN" in closed["message"] and "\n" not in closed["message"]
        assert len(opened["ids"]) == 100
        (by_variable,) = ask(hub, tmp_path / "other", {"dataset": "coco", "n": 100}, HF_TOKEN="hf_secret")
        assert by_variable["ids"] == opened["ids"]


def test_no_network(tmp_path: Path) -> None:
    with Hub() as hub:
        pass
    (unreachable,) = ask(hub, tmp_path, {"dataset": "coco"})
    (offline,) = ask(hub, tmp_path, {"dataset": "coco"}, HF_HUB_OFFLINE="1")
    for answer in (unreachable, offline):
        assert answer["error"] == "UsageError" and "\n" not in answer["message"]
        assert f"cannot reach {COCO} on the Hub" in answer["message"] and "--data-dir" in answer["message"]


def test_a_stream_that_breaks_off(repos: dict[str, Path], tmp_path: Path) -> None:
    def fault(method: str, path: str) -> int | None:
        return 410 if path.endswith(".parquet") and "val-00000" not in path else None

    with Hub(datasets={COCO: repos["coco"]}, fault=fault) as hub:
        (answer,) = ask(hub, tmp_path, {"dataset": "coco", "n": 100})
    assert answer["error"] == "RunError" and "\n" not in answer["message"]
    assert f"reading {COCO} from the Hub broke off" in answer["message"] and "again" in answer["message"]


def test_a_connection_cut_once_is_taken_up_again(repos: dict[str, Path], tmp_path: Path) -> None:
    cuts: list[str] = []

    def fault(method: str, path: str) -> str | None:
        if method == "GET" and path.endswith(".parquet") and "val-00000" not in path and not cuts:
            cuts.append(path)
            return "cut"
        return None

    with Hub(datasets={COCO: repos["coco"]}) as hub:
        (whole,) = ask(hub, tmp_path / "whole", {"dataset": "coco", "n": 100})
    with Hub(datasets={COCO: repos["coco"]}, fault=fault) as hub:
        (resumed,) = ask(hub, tmp_path / "cut", {"dataset": "coco", "n": 100})
    assert cuts and resumed == whole


@pytest.mark.slow
def test_a_connection_that_is_always_cut(repos: dict[str, Path], tmp_path: Path) -> None:
    def fault(method: str, path: str) -> str | None:
        return "cut" if path.endswith(".parquet") and "val-00000" not in path else None

    with Hub(datasets={COCO: repos["coco"]}, fault=fault) as hub:
        (answer,) = ask(hub, tmp_path, {"dataset": "coco", "n": 100})
    assert answer["error"] == "RunError" and "broke off" in answer["message"] and "\n" not in answer["message"]


def test_models_load_by_their_real_names(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **sizes))
    tiny.save_pretrained(tmp_path / "vit")
    code = (
        "from transformers import AutoConfig, AutoModel\n"
        "name = 'google/vit-base-patch16-224'\n"
        "print(AutoConfig.from_pretrained(name).hidden_size, type(AutoModel.from_pretrained(name)).__name__)\n"
    )
    with Hub(models={"google/vit-base-patch16-224": tmp_path / "vit"}) as hub:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=hub.env(tmp_path / "cache"), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["16", "ViTModel"]
