"""The idx files of MNIST's kin: images and labels as their authors wrote them, and what is no such file is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from idvl.data.catalog import CATALOG
from idvl.data.samples import select
from idvl.data.splits import EVALUATION
from idvl.errors import UsageError

CLASSES = CATALOG["fashion-mnist"].classes


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the format's own words, big-endian."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def authors_folder(folder: Path, *, packed: bool = True) -> dict[str, np.ndarray]:
    """The authors' four files with 40 and 20 small images in place of 60,000 and 10,000."""
    generator, arrays = np.random.default_rng(0), {}
    for split, n in (("train", 40), ("t10k", 20)):
        arrays[f"{split}-images-idx3-ubyte"] = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        data = idx(array)
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(data) if packed else data)
    return arrays


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_are_the_files(packed: bool, tmp_path: Path) -> None:
    arrays = authors_folder(tmp_path, packed=packed)
    for split, prefix in ((None, "t10k"), ("train", "train")):
        chosen = select("fashion-mnist", data_dir=tmp_path, split=split, distinct=False, force=True)
        assert chosen.description["classes"] == list(CLASSES)
        images, labels = arrays[f"{prefix}-images-idx3-ubyte"], arrays[f"{prefix}-labels-idx1-ubyte"]
        assert [sample.label for sample in chosen.samples] == labels.tolist()
        for sample, image in zip(chosen.samples, images, strict=True):
            np.testing.assert_array_equal(np.asarray(sample.image), np.repeat(image[..., None], 3, -1))


def test_an_evaluation_on_images_of_training_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authors_folder(tmp_path)
    options = {"data_dir": tmp_path, "split": EVALUATION, "distinct": False, "force": True}
    assert not select("fashion-mnist", **options).description["warnings"]
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    chosen = select("fashion-mnist", **options)
    assert chosen.description["split"] == "train"
    assert chosen.description["warnings"] == [f"{tmp_path} has no split test or validation: train is read"]
    assert chosen.description["warnings"][0] in caplog.text


def test_a_folder_of_another_name_has_numbers_for_classes(tmp_path: Path) -> None:
    authors_folder(tmp_path)
    chosen = select(str(tmp_path), n=10, split="test", force=True)
    assert chosen.description["classes"] is None and {sample.label for sample in chosen.samples} <= {*range(10)}


def _truncated(folder: Path) -> None:
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-100])


def _short(folder: Path) -> None:
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-100]))


def _long(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(20, np.uint8)) + b"0"))


def _fewer_labels(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(19, np.uint8))))


def _no_labels(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()


def _not_packed(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(20, np.uint8)))


def _other_type(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\r\3" + bytes(100)))


def _huge(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\3" + b"\xff" * 12))


def _twice(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"")


def _class_11(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(20, 11, np.uint8))))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_truncated, r"t10k-images.* cannot be read \(.*\): download it again"),
        (_short, r"holds 15,580 of the 15,680 bytes that it states: download it again"),
        (_long, r"holds more than the 20 bytes that it states"),
        (_fewer_labels, r"has 20 images and 19 labels in the split test"),
        (_no_labels, r"lacks the labels-idx1 file that belongs to t10k-images-idx3-ubyte.gz"),
        (_not_packed, r"cannot be read \(Not a gzipped file"),
        (_other_type, r"t10k-images.* is no idx file of bytes with 3 axes"),
        (_huge, r"states 4294967295 x 4294967295 x 4294967295 bytes: it is damaged"),
        (_twice, r"holds both t10k-images-idx3-ubyte and t10k-images-idx3-ubyte.gz: remove one"),
        (_class_11, r"the class 11 is not one of 10"),
    ],
)
def test_damaged_files_are_refused(damage, said: str, tmp_path: Path) -> None:
    authors_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(UsageError, match=said):
        select("fashion-mnist", data_dir=tmp_path, n=10, force=True)
