"""Saving a pruned model: what plain transformers opens, what is beside it, and what survives when something fails."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from idvl.checkpoints.verify import verify
from idvl.errors import RunError
from idvl.models.loading import load
from idvl.sparsity.masks import Masks
from tests.support import processes
from tests.support.pruned import Pruned


@pytest.fixture
def pruned(tmp_path: Path) -> Pruned:
    return Pruned("blip", tmp_path)


def first_kept_whole(pruned: Pruned) -> tuple[str, torch.Tensor]:
    name, weight = next(iter(pruned.weights.items()))
    return name, torch.ones(weight.shape, dtype=torch.bool)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    return load(str(folder), dtype="auto", device="cpu").model.state_dict()


# idvl is taken away first
OPEN = """
import sys
for name in [name for name in sys.modules if name.split(".")[0] == "idvl"]:
    sys.modules[name] = None
import torch
import transformers
model, info = getattr(transformers, sys.argv[2]).from_pretrained(sys.argv[1], output_loading_info=True)
processor = transformers.AutoProcessor.from_pretrained(sys.argv[1])
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
assert not [name for name, module in sys.modules.items() if module and name.split(".")[0] == "idvl"]
torch.save(model.state_dict(), sys.argv[1] + "/../state.pt")
"""


def test_plain_transformers_opens_it_without_idvl(pruned: Pruned, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "model"
    pruned.save(folder)
    opened = processes.run("-c", OPEN, folder, type(pruned.model).__name__)
    assert opened.returncode == 0, opened.stderr
    state = torch.load(folder.parent / "state.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in pruned.model.state_dict().items())
    for name in pruned.layers:
        assert not state[f"{name}.weight"][~pruned.masks.kept(name)].any()
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "README.md"} <= files


@pytest.mark.parametrize("kind", ["blip", "clip", "vit", "llava", "gpt2"])
def test_every_tensor_comes_back_and_tied_ones_are_written_once(kind: str, tmp_path: Path) -> None:
    pruned = Pruned(kind, tmp_path)
    verdict = pruned.save(tmp_path / "run" / "model")
    before, after = pruned.model.state_dict(), state_of(tmp_path / "run" / "model")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    distinct = len({tensor.data_ptr() for tensor in before.values()})
    with safe_open(tmp_path / "run" / "model" / "model.safetensors", "pt") as file:
        assert len(list(file.keys())) == distinct or kind in ("vit", "llava")  # their files split or rename weights
    assert (verdict.zeros, verdict.other_zeros) == (sum(pruned.masks.zeros.values()), 0)


def test_what_is_beside_the_model(pruned: Pruned, tmp_path: Path) -> None:
    verdict = pruned.save(tmp_path / "run" / "model")
    masks = Masks.load(tmp_path / "run" / "masks.safetensors")
    assert masks.hash() == pruned.masks.hash()
    written = json.loads((tmp_path / "run" / "report.json").read_text())
    assert written["verified"]["zeros"] == verdict.zeros == written["total"]["zeros"]
    assert (tmp_path / "run" / "README.md").read_text() == "# card\n"
    assert verify(tmp_path / "run" / "model", masks, report=written) == verdict
    assert sorted(os.listdir(tmp_path / "run")) == ["README.md", "masks.safetensors", "model", "report.json"]


def test_a_model_in_training_and_wrapped_is_saved_and_left_as_it_was(pruned: Pruned, tmp_path: Path) -> None:
    model = pruned.model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    known = model.config.to_json_string()
    pruned.save(tmp_path / "run" / "model", model=torch.nn.DataParallel(model))
    assert model.training and model.config.to_json_string() == known
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["architectures"] == [
        "BlipForConditionalGeneration"
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_file_has_the_dtype_asked_for(pruned: Pruned, tmp_path: Path, dtype: torch.dtype) -> None:
    name, weight = next(iter(pruned.weights.items()))
    with torch.no_grad():
        weight[tuple(pruned.masks.kept(name).nonzero()[0])] = 1e-12
    verdict = pruned.save(tmp_path / "run" / "model", dtype=dtype)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    said = str(dtype).removeprefix("torch.")
    assert {config["dtype"], config["text_config"]["dtype"], config["vision_config"]["dtype"]} == {said}
    assert verdict.dtype == said
    # too small for half precision: a zero that no mask asked for is counted as such
    assert verdict.other_zeros == (dtype == torch.float16)
    after, before = state_of(tmp_path / "run" / "model"), dict(pruned.model.named_parameters())
    assert all(torch.equal(after[name], tensor.to(dtype)) for name, tensor in before.items())
    assert next(pruned.model.parameters()).dtype == torch.float32


def test_n_to_m_is_checked(tmp_path: Path) -> None:
    pruned = Pruned("vit", tmp_path, structure="2:4")
    pruned.save(tmp_path / "run" / "model", structure="2:4")
    pruned.masks.set(*first_kept_whole(pruned))
    with pytest.raises(RunError, match="does not keep 2 of every 4 inputs"):
        verify(tmp_path / "run" / "model", pruned.masks, "2:4")


@pytest.mark.parametrize("failing", ["weights", "processor", "swap"])
def test_a_full_disk_leaves_the_model_before(
    pruned: Pruned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    folder = tmp_path / "run" / "model"
    pruned.save(folder)
    before = state_of(folder)
    with torch.no_grad():
        next(pruned.model.parameters()).add_(1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if failing == "weights":
        monkeypatch.setattr(type(pruned.model), "save_pretrained", full)
    elif failing == "processor":
        monkeypatch.setattr(type(pruned.processor), "save_pretrained", full)
    else:
        real = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: full() if ".fresh." in str(a) else real(a, b))
    with pytest.raises(RunError, match=r"the disk of '.*model' is full: free some space"):
        pruned.save(folder)
    monkeypatch.undo()
    after = state_of(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "run" / "report.json").exists()
    assert not [name for name in os.listdir(tmp_path / "run") if name.endswith(".tmp")]


def test_a_disk_that_stops_in_the_middle_of_the_weights_is_told_in_one_line(pruned: Pruned, tmp_path: Path) -> None:
    # a file may not grow beyond 16 KiB: safetensors fails while it writes
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, hard))
    try:
        with pytest.raises(RunError, match="model' allows no file so large: free some space") as refusal:
            pruned.save(tmp_path / "run" / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path / "run") == []


def test_what_transformers_refuses_to_write_is_one_line(pruned: Pruned, tmp_path: Path) -> None:
    pruned.model.generation_config.do_sample = False
    pruned.model.generation_config.temperature = 0.3
    with pytest.raises(RunError, match="transformers does not write a BlipForConditionalGeneration: ") as refusal:
        pruned.save(tmp_path / "run" / "model")
    assert "\n" not in str(refusal.value)


@pytest.mark.gpu
def test_a_model_and_masks_on_a_gpu(pruned: Pruned, tmp_path: Path) -> None:
    pruned.model.cuda()
    masks = Masks(pruned.masks.shapes, "cuda")
    masks.load_state_dict(pruned.masks.state_dict())
    assert pruned.save(tmp_path / "run" / "model", masks=masks, dtype=torch.bfloat16).dtype == "bfloat16"
    assert Masks.load(tmp_path / "run" / "masks.safetensors").hash() == pruned.masks.hash()
    assert next(pruned.model.parameters()).is_cuda


KILLED = """
import os, sys
from pathlib import Path
from tests.support.pruned import Pruned
import idvl.checkpoints.save as save

root = Path(sys.argv[1])
def die(*_, **__):
    os.kill(os.getpid(), 9)
Pruned("vit", root / "once").save(root / "once" / "run" / "model")  # what is imported late is imported now
# before it is verified, between the two renames, after them, before the report
moments = {"verify": None, "replace": ".fresh.", "to_disk": "run", "write_json": None}
for number, (where, when) in enumerate(moments.items()):
    child = os.fork()
    if not child:
        pruned = Pruned("vit", root / str(number))
        folder = root / str(number) / "run" / "model"
        pruned.save(folder)
        owner = os if where == "replace" else save
        real = getattr(owner, where)
        def dying(path, *rest, **named):
            return die() if when is None or when in Path(path).name else real(path, *rest, **named)
        setattr(owner, where, dying)
        pruned.save(folder)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 9
"""


def test_a_save_that_was_killed_never_looks_finished_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    done = processes.run("-c", KILLED, tmp_path)
    assert done.returncode == 0, done.stderr
    for number in range(4):
        pruned = Pruned("vit", tmp_path / f"again-{number}")
        run = tmp_path / str(number) / "run"
        assert not (run / "report.json").exists()
        assert (run / "model").exists() == (number != 1)
        # a save that is refused, as its report is another's: the model before is back, or still there
        with pytest.raises(RunError, match="has a mask, the report lacks it"):
            pruned.save(run / "model", report={**pruned.report, "layers": {}})
        assert verify(run / "model", Masks.load(run / "masks.safetensors")).zeros
        pruned.save(run / "model")
        assert sorted(os.listdir(run)) == ["README.md", "masks.safetensors", "model", "report.json"]
