"""Images in one file: what goes in comes out, by any process, and a run that was killed leaves nothing that counts."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from idvl.data.image_spool import ImageSpool, SpooledImage
from idvl.data.samples import select
from tests.support.hub import jpeg, write_dataset


def test_what_is_kept_can_be_read_at_once(tmp_path: Path) -> None:
    with ImageSpool(tmp_path / "deep" / "images.bin") as store:
        stored = [store.keep(jpeg(number)) for number in range(5)]
        assert [part.read() for part in stored] == [jpeg(number) for number in range(5)]
        assert store.keep(stored[0]) is stored[0] and store.keep(tmp_path) is tmp_path and store.keep(None) is None
    code = "import pickle, sys; print(sum(map(len, (part.read() for part in pickle.load(sys.stdin.buffer)))))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(stored), capture_output=True, check=True)
    assert int(done.stdout) == sum(len(jpeg(number)) for number in range(5))


def test_without_a_path_bytes_stay_bytes() -> None:
    with ImageSpool(None) as store:
        assert store.keep(b"abc") == b"abc"


def test_a_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "images.bin"
    path.write_bytes(b"left by a run that was killed")
    with ImageSpool(path) as store:
        assert not path.exists()
        assert store.keep(b"new").start == 0
    assert path.read_bytes() == b"new"


def test_a_file_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "images.bin"
    path.write_bytes(b"abc")
    assert SpooledImage(path, 1, 2).read() == b"bc"
    with pytest.raises(OSError, match="ends within an image"):
        SpooledImage(path, 1, 3).read()


def _parquet(path: Path) -> str:
    return str(write_dataset("cifar100", path / "repo", 120, shards=2, row_group=25))


def _saved(path: Path) -> str:
    from datasets import load_dataset

    load_dataset("parquet", data_files=str(Path(_parquet(path)) / "data" / "*.parquet"), split="train").save_to_disk(
        path / "saved"
    )
    return str(path / "saved")


@pytest.mark.parametrize("make", [_parquet, _saved], ids=["parquet", "saved"])
@pytest.mark.parametrize("n", [None, 100])
def test_a_store_changes_only_where_images_lie(make, n: int | None, tmp_path: Path) -> None:
    place, path = make(tmp_path), tmp_path / "run" / "images.bin"
    wanted = {"n": n, "distinct": False, "force": True}
    held, stored = select(place, **wanted), select(place, **wanted, store=path)
    assert held.description == stored.description and len(stored.samples) == (n or 120)
    assert len(pickle.dumps(stored)) < len(pickle.dumps(held)) / 5
    for one, other in zip(held.samples, stored.samples, strict=True):
        assert isinstance(other.source, SpooledImage) and other.source.path == path
        assert other.source.read() == one.source and other.image == one.image
    assert path.stat().st_size == sum(len(sample.source) for sample in held.samples)


def test_both_images_are_stored_and_local_files_are_not(tmp_path: Path) -> None:
    pairs = write_dataset("nlvr2", tmp_path / "pairs", 20)
    found = select("nlvr2", data_dir=pairs, store=tmp_path / "pairs.bin", force=True)
    assert all(isinstance(source, SpooledImage) for s in found.samples for source in (s.source, s.second))
    assert [image.size for image in found.samples[0].images] == [(48, 40)] * 2
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
    found = select(str(folder), store=tmp_path / "none.bin", force=True)
    assert all(isinstance(sample.source, Path) for sample in found.samples) and not (tmp_path / "none.bin").exists()


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    # 100 MB of images, of which no more than a few row groups are ever held
    schema = pa.schema({"image": pa.binary(), "label": pa.int64()})
    with pq.ParquetWriter(tmp_path / "big.parquet", schema) as writer:
        for group in range(25):
            images = [jpeg(20 * group + row) + bytes(200_000) for row in range(20)]
            writer.write_table(pa.table({"image": images, "label": list(range(20))}, schema))
    code = (
        "import resource, sys, pyarrow.parquet\n"
        "from idvl.data.samples import select\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, path, n = peak(), sys.argv[1], int(sys.argv[2])\n"
        "select(path, n=n or None, distinct=False, force=True, store=f'{path}-{n}')\n"
        "print(peak() - before)\n"
    )
    for n in ("0", "400"):
        command = [sys.executable, "-c", code, str(tmp_path / "big.parquet"), n]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(done.stdout) < 60
