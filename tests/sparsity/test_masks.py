"""Masks: one bit a weight, enforced, taken off again to the bit, hashed, saved and verified."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idvl.errors import RunError, UsageError
from idvl.sparsity.masks import Masks, pack, unpack
from tests.support.layers import SHAPES, layers


def random_masks(seed: int = 0, share: float = 0.5) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    masks = Masks(SHAPES)
    for name, shape in SHAPES.items():
        masks.set(name, torch.rand(shape, generator=generator) >= share)
    return masks


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 1000])
def test_pack_and_back(n: int) -> None:
    kept = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    packed = pack(kept)
    bits = [sum(int(kept[i + j]) << j for j in range(min(8, n - i))) for i in range(0, n, 8)]
    assert packed.tolist() == bits
    assert torch.equal(unpack(packed, n), kept)


def test_all_is_kept_at_first() -> None:
    masks = Masks(SHAPES)
    assert masks.total == 12 * 8 + 8 * 16 + 24 * 8 and not sum(masks.zeros.values())
    assert all(masks.kept(name).all() and masks.kept(name).shape == shape for name, shape in SHAPES.items())


def test_enforce_writes_zeros_where_the_mask_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idvl.sparsity.masks.CHUNK", 64)
    masks, weights = random_masks(), layers()
    weights["a.fc1"].data[masks.kept("a.fc1").logical_not()] = float("nan")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    masks.enforce_(weights)
    for name, weight in weights.items():
        assert torch.equal(weight.detach(), before[name].where(masks.kept(name), torch.tensor(0.0)))
        assert masks.zeros[name] == int((~masks.kept(name)).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_applied_puts_every_bit_back(dtype: torch.dtype) -> None:
    masks = random_masks()
    weights = {name: torch.nn.Parameter(weight.detach().to(dtype)) for name, weight in layers().items()}
    weights["a.fc2"].data.view(-1)[:8] = torch.tensor([0.0, -0.0, float("inf"), 1e-40, -0.0, 0.0, -1.0, -0.0]).to(dtype)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with pytest.raises(KeyboardInterrupt), masks.applied(weights):
        masks.verify(weights)
        raise KeyboardInterrupt
    for name, weight in weights.items():
        assert torch.equal(weight.detach().view(-1).view(torch.uint8), before[name].view(-1).view(torch.uint8))


def test_the_hash_is_of_the_masks() -> None:
    masks = random_masks()
    assert masks.hash() == random_masks().hash() != random_masks(seed=1).hash()
    kept = masks.kept("b.qkv")
    kept[3, 4] = ~kept[3, 4]
    before = masks.hash()
    masks.set("b.qkv", kept)
    assert masks.hash() != before


def test_saved_masks_come_back(tmp_path: Path) -> None:
    masks = random_masks()
    masks.save(tmp_path / "masks.safetensors")
    loaded = Masks.load(tmp_path / "masks.safetensors")
    assert loaded.hash() == masks.hash() and loaded.zeros == masks.zeros and loaded.shapes == masks.shapes
    assert (tmp_path / "masks.safetensors").stat().st_size < masks.total / 8 + 1000


def test_equal_masks_give_equal_bytes(tmp_path: Path) -> None:
    for number in range(20):
        random_masks().save(tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_files_that_hold_no_masks_are_refused(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("other", "text", "none"):
        with pytest.raises(UsageError, match=f"{name}.safetensors"):
            Masks.load(tmp_path / f"{name}.safetensors")


def test_masks_are_saved_to_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the masks' file is a name or a path, not 3"):
        random_masks().save(3)
    with pytest.raises(UsageError, match="cannot write to .*: Is a directory"):
        random_masks().save(tmp_path)


def test_verify_names_what_is_wrong() -> None:
    masks, weights = random_masks(), layers()
    with pytest.raises(RunError, match="masked weights of a.fc1 are not zero"):
        masks.verify(weights)
    masks.enforce_(weights)
    masks.verify(weights)
    with pytest.raises(RunError, match="keep 2 of every 4"):
        masks.verify(weights, "2:4")
    with pytest.raises(RunError, match="^a.fc1 has 8 inputs, which 2:3 does not divide$"):
        masks.verify(weights, "2:3")
    weights["b.qkv"].data[0, 0] = float("nan")
    with pytest.raises(RunError, match="b.qkv holds NaN"):
        masks.verify(weights)
    with pytest.raises(RunError, match="the model has nothing"):
        masks.verify({})
