"""A checkpoint is whole or not there, and a resumed run ends as if it had never been interrupted."""

import copy
import json
import os
import random
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idvl.errors import RunError, UsageError
from idvl.models.loading import load
from idvl.training import Training, checkpoint, train
from tests.support import processes, tiny
from tests.support.interrupted import STORIES

ROOT = Path(__file__).parents[2]


class Box:
    """The smallest thing with state."""

    def __init__(self, **tensors):
        self.tensors = tensors

    def state_dict(self):
        return self.tensors

    def load_state_dict(self, state):
        self.tensors = {name: state[name] for name in self.tensors}


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    """What became of each story, all told by one process."""
    folder = tmp_path_factory.mktemp("interrupted")
    model = tiny.save("blip", folder / "model")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = processes.run("-m", "tests.support.interrupted", model, folder, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("story", STORIES)
def test_a_resumed_run_ends_bit_by_bit_as_an_uninterrupted_one(stories, story):
    told = stories[story]
    assert told["codes"] == told["expected"]
    assert told["differing"] == []
    assert told["kept"] == ["step-000000015"]


def test_what_is_saved_comes_back_and_the_one_before_goes(tmp_path):
    box = Box(a=torch.randn(3), b=torch.arange(4), c=torch.tensor(2.5))
    before = {name: value.clone() for name, value in box.tensors.items()}
    checkpoint.save(tmp_path, 5, {"box": box}, {"step": 5})
    (tmp_path / ".step-000000007.tmp").mkdir()
    checkpoint.save(tmp_path, 10, {"box": box}, {"step": 10})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010"]
    path = checkpoint.latest(tmp_path)
    assert checkpoint.read(path)["step"] == 10
    box.tensors = {name: torch.zeros_like(value) for name, value in box.tensors.items()}
    checkpoint.restore(path, {"box": box})
    assert all(torch.equal(box.tensors[name], value) for name, value in before.items())


def test_a_changed_tensor_is_refused_and_a_checkpoint_without_checksums_is_read(tmp_path):
    checkpoint.save(tmp_path, 5, {"box": Box(a=torch.zeros(300))}, {"step": 5})
    path = checkpoint.latest(tmp_path)
    file, box = path / "box.safetensors", Box(a=torch.ones(300))
    data = file.read_bytes()
    file.write_bytes(data[:-400] + bytes(byte ^ 1 for byte in data[-400:-200]) + data[-200:])
    with pytest.raises(RunError, match=r"cannot be read: its contents have changed \(box.safetensors .*--overwrite"):
        checkpoint.restore(path, {"box": box})
    assert torch.equal(box.tensors["a"], torch.ones(300))
    (path / "state.json").write_text('{"step": 5}')
    checkpoint.restore(path, {"box": box})
    assert box.tensors["a"].count_nonzero() == 50


DAMAGES = {
    "step": lambda record: record.update(step=1),
    "a step of text": lambda record: record.update(step="2"),
    "position": lambda record: record.update(position=0),
    "skipped": lambda record: record.update(skipped=-1, position=1),
    "random state": lambda record: record["random"][0]["python"][1].__setitem__(0, "x"),
    "no random state": lambda record: record.update(random=[]),
    "random bytes": lambda record: record["random"][0].update(torch="00"),
    "schedule": lambda record: record["schedule"].update(last_epoch=0),
    "no schedule": lambda record: record.update(schedule=None),
    "rates": lambda record: record.update(rates=["x"]),
    "checksums": lambda record: record.update(sha256=[]),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A model, its training of 2 steps, and the checkpoint of the second."""
    folder = tmp_path_factory.mktemp("finished")
    model, settings = load(str(tiny.save("vit", folder / "m"))), Training(batch_size=4, max_steps=2, checkpoint_every=2)
    train(model, labelled(), settings, folder=folder / "c")
    return model, settings, folder / "c"


def labelled():
    return [replace(sample, label=0) for sample in tiny.samples(8)]


@pytest.mark.parametrize("older", [False, True], ids=["with its checksum", "without"])
def test_a_changed_record_is_refused(finished, tmp_path, older):
    model, settings, folder = finished
    shutil.copytree(folder, tmp_path / "c")
    file = checkpoint.latest(tmp_path / "c") / "state.json"
    record = json.loads(file.read_text())
    if older:
        del record["sha256"]["state.json"], record["learning_rate"], record["augmentation"]
        del record["loss"], record["cost"]
    file.write_text(json.dumps(record))
    outcome = train(model, labelled(), settings, folder=tmp_path / "c", resume=True)
    assert outcome.resumed_at == 2
    # what a checkpoint does not say is not known
    assert [value is None for value in (outcome.loss, outcome.seconds, outcome.peak_memory)] == [older] * 3
    for name, damage in DAMAGES.items():
        changed = copy.deepcopy(record)
        damage(changed)
        file.write_text(json.dumps(changed))
        with pytest.raises(RunError) as refused:
            train(model, labelled(), settings, folder=tmp_path / "c", resume=True)
        said = r"the checkpoint '.*' cannot be read: its contents have changed \(.*--overwrite"
        assert re.match(said, str(refused.value)), name


def test_any_change_of_a_record_is_refused(tmp_path):
    checkpoint.save(tmp_path, 5, {}, {"step": 5, "random": [1, 2.5], "schedule": {"rate": 0.1}})
    path = checkpoint.latest(tmp_path)
    record = checkpoint.read(path)
    for change in ({"random": [1, 2.25]}, {"schedule": {"rate": 0.2}}, {"more": 1}):
        (path / "state.json").write_text(json.dumps(record | change))
        with pytest.raises(RunError, match=r"its contents have changed \(state.json differs from its checksum\)"):
            checkpoint.read(path)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    box = Box(a=torch.randn(3))
    checkpoint.save(tmp_path, 5, {"box": box}, {"step": 5})

    def full(tensors, path):
        Path(path).write_bytes(b"half")
        raise checkpoint.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(RunError, match="full"):
        checkpoint.save(tmp_path, 10, {"box": box}, {"step": 10})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000005"]


def test_random_numbers_go_on_where_they_were():
    state = json.loads(json.dumps(checkpoint.random_state()))
    first = random.random(), np.random.rand(), torch.rand(1).item()
    checkpoint.set_random_state(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    model = load(str(tiny.save("blip", tmp_path / "m")), device="cpu").model
    part = checkpoint.Weights(model)
    assert "text_decoder.cls.predictions.decoder.weight" not in part.state_dict()
    saved = {name: torch.ones_like(value) for name, value in part.state_dict().items()}
    part.load_state_dict(saved)
    decoder = model.text_decoder
    assert decoder.cls.predictions.decoder.weight is decoder.bert.embeddings.word_embeddings.weight
    assert (decoder.cls.predictions.decoder.weight == 1).all()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    model = str(tiny.save("blip", tmp_path / "m"))
    settings = {"batch_size": 4, "max_steps": 2, "checkpoint_every": 2}
    train(load(model), tiny.samples(8), Training(**settings), folder=tmp_path / "c")
    same = load(model)
    for other, said in (
        ({"max_steps": 3}, "total was 2, is 3"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"learning_rate": 1e-4}, "learning_rate was 1e-05, is 0.0001"),
        ({"lr_schedule": "cosine_by_epoch"}, "lr_schedule was cosine, is cosine_by_epoch"),
        ({"weight_decay": 0.1}, "weight_decay was 0.0, is 0.1"),
        ({"augmentation": "blip"}, "augmentation was None, is blip"),
        ({"label_smoothing": 0.1}, "label_smoothing was None, is 0.1"),
        ({"text_dropout": 0.1}, "text_dropout was None, is 0.1"),
        ({"distill": 0.5}, "distill was 0.0, is 0.5"),
    ):
        with pytest.raises(UsageError, match=said):
            train(same, tiny.samples(8), Training(**settings | other), folder=tmp_path / "c", resume=True)
    other = Training(**settings | {"checkpoint_every": 1, "log_every": 1, "workers": 0})
    assert train(same, tiny.samples(8), other, folder=tmp_path / "c", resume=True).resumed_at == 2
    vit = str(tiny.save("git", tmp_path / "v"))
    with pytest.raises(UsageError, match="not of this run's model"):
        train(load(vit), tiny.samples(8), Training(**settings), folder=tmp_path / "c", resume=True)
    (checkpoint.latest(tmp_path / "c") / "optimizer.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(RunError, match="cannot be read"):
        train(load(model), tiny.samples(8), Training(**settings), folder=tmp_path / "c", resume=True)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    model = str(tiny.save("blip", tmp_path / "m"))
    settings = Training(batch_size=4, max_steps=2, checkpoint_every=2)
    first = load(model)
    slow = train(first, tiny.samples(8), settings, folder=tmp_path / "c", on_step=lambda step: time.sleep(0.2))
    again = load(model)
    outcome = train(again, tiny.samples(8), settings, folder=tmp_path / "c", resume=True)
    assert (outcome.steps, outcome.resumed_at, outcome.loss) == (2, 2, slow.loss)
    assert slow.seconds > 0.4 and outcome.seconds > 0.4 and outcome.peak_memory >= slow.peak_memory > 2**20
    for one, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
