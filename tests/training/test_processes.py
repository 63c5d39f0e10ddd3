"""Two processes train the model that one would train, and stop together."""

import json
from pathlib import Path

import pytest
import torch

from idvl.models.loading import load
from idvl.training import Training, train
from tests.support import processes, tiny
from tests.support.pair import SETTINGS

ROOT = Path(__file__).parents[2]


def launch(folder, fault="none"):
    """Run the pair; (exit codes, what each process said, the errors of the first)."""
    ended = processes.team("-m", "tests.support.pair", folder, fault)
    paths = [folder / f"said-{rank}.json" for rank in range(2)]
    said = [json.loads(path.read_text()) if path.exists() else None for path in paths]
    return [process.wait() for process in ended], said, ended[0].stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for kind in ("blip", "clip", "blip-itm", "blip-vqa"):
        tiny.save(kind, folder / kind)
    return folder


@pytest.fixture(scope="module")
def said(folder):
    codes, said, errors = launch(folder)
    assert codes == [0, 0], errors
    return said


def alone(folder, kind, batch_size):
    """(gradients of the first step, weights of the end, rates) of one process."""
    loaded, seen, rates = load(str(folder / kind), device="cpu"), {}, []

    def note(step):
        if step == 1:
            seen.update({n: w.grad.clone() for n, w in loaded.model.named_parameters() if w.grad is not None})

    settings = Training(**SETTINGS | {"checkpoint_every": None}, batch_size=batch_size)
    train(
        loaded,
        tiny.samples(16),
        settings,
        on_step=note,
        progress=lambda step, total, numbers: rates.append([numbers["lr"], numbers["loss"]]),
    )
    return seen, rates


@pytest.mark.parametrize("name", ["blip", "accumulated", "clip"])
def test_two_processes_have_the_gradients_of_one(folder, said, name):
    kind = "blip" if name == "accumulated" else name
    gradients, rates = alone(folder, kind, 8)
    both = [torch.load(folder / f"{name}-{rank}.pt") for rank in range(2)]
    for part in ("gradients", "weights"):
        for key, value in both[0][part].items():
            assert torch.equal(value, both[1][part][key]), f"{part} of {key}"
    assert gradients.keys() == both[0]["gradients"].keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(both[0]["gradients"][key], gradient, atol=1e-6, rtol=1e-3, msg=key)
    # the same rates: the scheduler makes one step for both processes, not two
    theirs = said[0]["blip accumulated" if name == "accumulated" else name]
    assert [rate for rate, _ in theirs] == [rate for rate, _ in rates] == [1e-3, 7.5e-4, 5e-4, 2.5e-4]
    assert [loss for _, loss in theirs] == pytest.approx([loss for _, loss in rates], rel=1e-3)


def test_heads_that_the_loss_leaves_out_do_no_harm(said):
    assert len(said[0]["blip-itm"]) == len(said[0]["blip-vqa"]) == 4


def test_the_first_process_alone_is_asked_for_progress_and_writes(folder, said):
    assert said[1]["blip"] == []
    assert [path.name for path in (folder / "blip-checkpoints").iterdir()] == ["step-000000004"]


def test_processes_that_disagree_all_stop(said):
    for each in said:
        assert each["agreed"] == "nothing"
        assert each["differing"].startswith("the masks at step 3 differ between processes 0 and 1:")
        assert "processes 0 and 1, first in b:" in each["differing in"]


def test_processes_are_evaluated_with_the_batch_statistics_of_the_first(said):
    ((first, second),) = said[0]["statistics"]
    assert first == second


def test_processes_with_other_settings_are_refused_on_all(said):
    told = "processes 0 and 1 were given different settings: data.seed is 0 and 5; give all processes the same "
    assert all(each["settings"].startswith(told) for each in said)


def test_a_late_process_ends_an_exchange_but_not_what_each_does_alone(said):
    assert [each["late alone"] for each in said] == ["nothing", "nothing"]
    assert said[0]["late"].startswith(
        "another process has not answered for 0.5 s: it is stuck, stopped or slow (IDVL_T"
    )


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (
            "raise",
            [["RunError", "process 1 failed: layer fc1 has NaN scores"], ["RunError", "layer fc1 has NaN scores"]],
        ),
        pytest.param(
            "save",
            [["RunError", "the disk of "], ["RunError", "process 0 failed: the disk of "]],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "kill", [["RunError", "another process ended without a word, killed "], None], marks=pytest.mark.slow
        ),
        pytest.param("term", [["SystemExit", "143"], ["SystemExit", "143"]], marks=pytest.mark.slow),
    ],
)
def test_one_process_stops_all_with_its_reason(folder, tmp_path, fault, expected):
    (tmp_path / "blip").symlink_to(folder / "blip")
    codes, said, _ = launch(tmp_path, fault)
    assert 0 not in codes
    for each, wanted in zip(said, expected, strict=True):
        assert (each is None) == (wanted is None)
        if each:
            assert each[0] == wanted[0] and each[1].startswith(wanted[1])
    if fault == "term":
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000003"]
