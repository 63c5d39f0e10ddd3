"""The command as a user types it, against a Hub on the loopback address that serves the real names."""

import json

import pytest

from tests.support import processes, tiny
from tests.support.hub import Hub, write_dataset

MODEL = "Salesforce/blip-image-captioning-base"
DATASET = "lmms-lab-encoder/COCO-Caption"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {"model": tiny.save("blip", root / "blip"), "coco": write_dataset("coco", root / "coco", 400, shards=4)}


def idvl(hub, cache, *arguments, **environment):
    return processes.run("-m", "idvl", "estimate-id", *arguments, env=hub.env(cache, **environment))


def test_a_hub_model_on_coco(folders, tmp_path):
    with Hub(models={MODEL: folders["model"]}, datasets={DATASET: folders["coco"]}) as hub:
        output = tmp_path / "run"
        done = idvl(
            hub, tmp_path / "cache", MODEL, "--dataset", "coco", "--samples", "120", "--output", output, "--json"
        )
    assert done.returncode == 0, done.stderr
    profile = json.loads(done.stdout)
    assert profile == json.loads((output / "profile.json").read_text())
    assert profile["model"]["name"] == MODEL
    assert profile["dataset"]["dataset_id"] == DATASET
    assert profile["dataset"]["split"] == "val"
    assert profile["dataset"]["method"] == "stream"
    assert len(profile["dataset"]["ids"]) == 120
    assert sum(layer["estimate"]["dimension"] is not None for layer in profile["layers"].values()) > 20


@pytest.mark.slow
def test_what_the_hub_refuses_ends_in_one_line(folders, tmp_path):
    with Hub(models={MODEL: folders["model"]}, datasets={}) as hub:
        done = idvl(hub, tmp_path / "cache", MODEL, "--dataset", "coco", "--samples", "120")
    assert done.returncode == 2
    assert "--dataset-id" in done.stderr and "Traceback" not in done.stderr
    with Hub(models={}, datasets={}) as hub:
        done = idvl(hub, tmp_path / "other", MODEL, "--dataset", "shapes")
    assert done.returncode == 2
    assert MODEL in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
