"""What a run takes from a dataset and what it passes over; names that do not exist."""

from __future__ import annotations

import errno
import importlib
import io
import json
import logging
import os
import platform
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idvl.data.catalog import CATALOG
from idvl.data.image_spool import ImageSpool
from idvl.data.sample_cache import SampleCache
from idvl.data.samples import Sample, select
from idvl.errors import RunError, UsageError
from tests.support.hub import caption, jpeg


def write(folder: Path, rows: list[tuple[bytes, object]]) -> str:
    for i, (image, _) in enumerate(rows):
        (folder / f"{i:04d}.jpg").write_bytes(image)
    lines = [{"file_name": f"{i:04d}.jpg", "text": text} for i, (_, text) in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def good(n: int, start: int = 0) -> list[tuple[bytes, object]]:
    return [(jpeg(i), caption(i)) for i in range(start, start + n)]


def test_distinct_images_and_captions(tmp_path: Path) -> None:
    same_image = [(jpeg(i), caption(i + 500)) for i in range(20)]
    same_caption = [(jpeg(i + 700), caption(i).upper()) for i in range(20, 40)]
    selection = select(write(tmp_path, good(120) + same_image + same_caption), n=160)
    assert len(selection.samples) == 120 and selection.description["duplicates"] == 40
    assert len({sample.texts[0].lower() for sample in selection.samples}) == 120
    assert (
        "120 distinct usable samples (40 duplicates, 20 by their text alone, 0 unusable), 160 requested; "
        in selection.description["warnings"][0]
    )


def test_images_alone_are_distinct_where_no_text_is_read(tmp_path: Path) -> None:
    rows = [(jpeg(i), [caption(i % 3), caption(i)]) for i in range(110)] + [(jpeg(0), caption(500))]
    selection = select(write(tmp_path, rows), n=111, distinct="images")
    assert len(selection.samples) == 110 and selection.description["duplicates"] == 1
    assert {sample.texts[0] for sample in selection.samples} == {caption(0), caption(1), caption(2)}
    assert "110 distinct usable samples (1 duplicates, 0 unusable), 111 requested" in "".join(
        selection.description["warnings"]
    )


def test_texts_that_run_out_are_named_with_the_way_out(tmp_path: Path) -> None:
    rows = [(jpeg(i), caption(i % 3)) for i in range(110)]
    way_out = r"another column \(--text-column\); layers that read images alone need none \(--modality vision\)$"
    with pytest.raises(UsageError, match=rf"has 3 distinct .*107 duplicates, 107 by their text alone.*{way_out}"):
        select(write(tmp_path, rows))


def test_a_used_caption_gives_way_to_the_next(tmp_path: Path) -> None:
    rows = [(jpeg(i), ["a dog", caption(i)]) for i in range(110)]
    selection = select(write(tmp_path, rows), n=110)
    assert selection.samples[0].texts[0] == "a dog" and selection.description["duplicates"] == 0
    assert all(sample.texts == (sample.texts[0], "a dog") for sample in selection.samples[1:])


BROKEN = {
    "zero bytes": (b"", "x"),
    "cannot be decoded": (jpeg(1)[:-60], "y"),
    "not an image": (b"<html>not found</html>", "z"),
    "not an image of a known format (JPEG, ": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n", "z"),
    "cannot be decoded: 3000 x 1 pixels: one side is more than 200 times": (jpeg(4, (3000, 1)), "z"),
    "no text in column 'text'": (jpeg(2), None),
    "no text in column": (jpeg(3), "  "),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_unusable_samples_are_skipped_and_listed(reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        selection = select(write(tmp_path, good(110, start=10) + [BROKEN[reason]] * 5), n=115)
    about = selection.description
    assert len(about["ids"]) == 110 and about["looked_at"] == 115 and len(about["skipped"]) == 5
    assert all(skip["reason"].startswith(reason) for skip in about["skipped"])
    assert {skip["id"] for skip in about["skipped"]} == {f"{i:04d}.jpg" for i in range(110, 115)}
    assert any("skipped 5 unusable of 115" in warning for warning in about["warnings"])
    assert "skipped 5 unusable" in caplog.text


def test_unusable_samples_are_replaced_from_the_rest(tmp_path: Path) -> None:
    selection = select(write(tmp_path, good(150, start=10) + [(b"", "x")] * 3), n=150)
    assert len(selection.samples) == 150


@pytest.mark.parametrize("reason", BROKEN)
def test_more_than_five_percent_are_refused(reason: str, tmp_path: Path) -> None:
    path = write(tmp_path, good(100, start=10) + [BROKEN[reason]] * 7)
    with pytest.raises(UsageError, match=r"cannot be used, more than 5 %: \d+.jpg \(.*repair or remove") as caught:
        select(path, n=107)
    assert ("text_column none" in str(caught.value)) == ("no text" in reason)


def test_images_can_be_taken_without_their_texts(tmp_path: Path) -> None:
    selection = select(write(tmp_path, [(jpeg(i), None) for i in range(100)]), n=100, text_column="none")
    assert {sample.texts for sample in selection.samples} == {()}


def test_missing_image_files(tmp_path: Path) -> None:
    path = write(tmp_path, good(110))
    (tmp_path / "0003.jpg").unlink()
    assert select(path, n=110).description["skipped"] == [{"id": "0003.jpg", "reason": "No such file or directory"}]
    (tmp_path / "test.csv").write_text("file_name,text\n0000.jpg,a\n0003.jpg,b\n")
    with pytest.raises(UsageError, match="; paths of images start from the folder of the table that names them$"):
        select(str(tmp_path / "test.csv"), distinct=False, force=True)


def test_few_samples_need_force(tmp_path: Path) -> None:
    path = write(tmp_path, good(30))
    with pytest.raises(UsageError, match=r"has 30 distinct usable samples.*fewer than 100.*--split.*--force"):
        select(path)
    with pytest.raises(UsageError, match=r"30 samples are too few.*--force"):
        select(path, n=30)
    assert len(select(path, n=30, force=True).samples) == 30
    with pytest.raises(UsageError, match="0 samples"):
        select(path, n=0, force=True)


def test_progress_reaches_the_number_asked_for(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    select(write(tmp_path, good(100)), n=100, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 100) and seen[-1] == (100, 100)


def test_a_folder_of_a_known_name_is_told_as_not_read(
    tmp_path: Path, idvl_log: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(select("digits", n=2, force=True).samples) == 2
    assert "digits is read, not the folder of that name here: write ./digits for the folder" in caplog.text


def test_unknown_dataset() -> None:
    with pytest.raises(UsageError, match=r"no dataset 'coc'; did you mean 'coco'\? \(there is shapes, digits, coco"):
        select("coc")
    with pytest.raises(UsageError, match=r"no/such/folder does not exist"):
        select("/no/such/folder")
    with pytest.raises(
        UsageError, match="no folder 'my/images/': for the dataset of that name on the Hub, leave out t"
    ):
        select("my/images/")
    with pytest.raises(UsageError, match="does not exist"):
        select("coco", data_dir="no-such-copy")
    with pytest.raises(UsageError, match="set one of them"):
        select("coco", data_dir=".", dataset_id="a/b")


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.module])
def test_built_in_datasets(name: str) -> None:
    if name == "digits":
        pytest.importorskip("sklearn")
    entry = CATALOG[name]
    module = importlib.import_module(entry.module)
    assert tuple(entry.splits) == tuple(module.SPLITS)
    assert (entry.default_split, entry.default_samples) == (module.DEFAULT_SPLIT, module.DEFAULT_SAMPLES)
    selection = select(name, n=150, seed=1)
    assert len(selection.samples) == 150 and selection.description["split"] == entry.default_split
    assert selection.description["ids"] == select(name, n=150, seed=1).description["ids"]
    with pytest.raises(UsageError, match=r"no split 'tset'; did you mean 'test'"):
        select(name, n=150, split="tset")
    with pytest.raises(UsageError, match="is built in"):
        select(name, text_column="x")


def test_a_built_in_split_smaller_than_asked() -> None:
    pytest.importorskip("sklearn")
    about = select("digits", split="test", n=5_000).description
    assert len(about["ids"]) == CATALOG["digits"].splits["test"]
    assert "5000 requested" in about["warnings"][0]
    assert select("digits", split="train").description["warnings"] == []


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_come_as_rgb(mode: str) -> None:
    encoded = io.BytesIO()
    picture = Image.open(io.BytesIO(jpeg(0))).convert(mode)
    picture.save(encoded, "TIFF")
    assert Sample(id="a", source=encoded.getvalue()).image.mode == "RGB"
    assert Sample(id="a", source=picture).image.mode == "RGB"


def test_a_turned_photograph_stands_upright() -> None:
    encoded, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(encoded, "JPEG", exif=exif)
    assert Sample(id="a", source=encoded.getvalue()).image.size == (20, 30)


GREYS = np.array([[0, 16640, 33280, 49920, 65535]], dtype=np.uint16)


def saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, kind, **options)
    return encoded.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_as_colour_of_16_bits_is(kind: str) -> None:
    found = np.asarray(Sample(id="a", source=saved(GREYS, kind)).image)
    assert found[0, :, 0].tolist() == [0, 65, 130, 195, 255] and (found == found[..., :1]).all()
    bytes_ = (GREYS >> 8).astype(np.uint8)
    assert (np.asarray(Sample(id="a", source=saved(bytes_, kind)).image) == found).all()


def test_a_decoded_image_of_16_bits_is_scaled() -> None:
    for pixels in (GREYS, GREYS.byteswap().view(GREYS.dtype.newbyteorder())):
        image = Image.fromarray(pixels)
        assert np.asarray(Sample(id="a", source=image).image)[0, :, 0].tolist() == [0, 65, 130, 195, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_without_a_white_are_unusable(kind: type, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(saved(GREYS.astype(kind), "TIFF"))
    with pytest.raises(UsageError, match="nothing says which value is white: use 8 or 16 bits"):
        select(str(tmp_path), force=True)
    with pytest.raises(OSError, match="nothing says which value is white"):
        _ = Sample(id="a", source=tmp_path / "a.tif").image


def test_what_pillow_raises_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(OSError, match="decompression bomb"):
        _ = Sample(id="a", source=jpeg(0)).image


def test_a_text_alone_is_a_tuple_of_one():
    sample = Sample(id="a", texts="a red circle", answers=["red", "crimson"])
    assert (sample.texts, sample.answers) == (("a red circle",), ("red", "crimson"))
    assert Sample(id="a", texts=(None,)).texts == (None,)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("texts", (5,), "texts holds texts"),
        ("answers", b"red", "answers holds texts"),
        ("texts", 5, "texts holds texts, not 5"),
        ("texts", ("red", "\ud800"), "texts holds lone surrogates"),
        ("source", np.zeros((4, 4, 3)), "source is a path, the bytes of a file or a PIL image, not ndarray"),
    ],
)
def test_a_sample_of_other_types_is_refused(field, value, reason):
    with pytest.raises(UsageError, match=reason):
        Sample(id="a", **{field: value})


def test_a_cache_that_cannot_be_made_is_told(tmp_path, caplog):
    (tmp_path / "downloads").write_text("no folder")
    assert not SampleCache(tmp_path / "downloads", {}).prepare()
    assert "no samples can be kept in" in caplog.text


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 64
    path.write_bytes(data)


DAMAGE = {
    "a bit of an image": lambda folder: flip(folder / "images", 900),
    "zeros": lambda folder: (folder / "images").write_bytes(bytes((folder / "images").stat().st_size)),
    "cut short": lambda folder: os.truncate(folder / "images", 50),
    "no images": lambda folder: (folder / "images").unlink(),
    "a caption": lambda folder: edited(folder, "two dogs", "two cats"),
    "a warning": lambda folder: edited(folder, "1 unusable", "5 unusable"),
    "where an image lies": lambda folder: edited(folder, "0,", "1,"),
    "no checksum": lambda folder: edited(folder, '"sha256"', '"sha255"'),
    "no JSON": lambda folder: (folder / "samples.json").write_text("{"),
}


def edited(folder: Path, old: str, new: str) -> None:
    text = (folder / "samples.json").read_text()
    assert old in text
    (folder / "samples.json").write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_cache_is_not_used(what, tmp_path, caplog):
    cache = SampleCache(tmp_path, {"seed": 0})
    assert cache.prepare()
    with ImageSpool(cache.images) as spool:
        samples = [Sample(id=str(i), source=spool.keep(jpeg(i)), texts=("two dogs",), label=i) for i in range(3)]
    about = {"warnings": ["1 unusable"], "ids": ["0", "1", "2"], "classes": None}
    kept = cache.keep(samples, about)
    assert cache.read() == (kept, about) and [sample.source.read() for sample in kept] == [jpeg(i) for i in range(3)]
    assert not caplog.records
    DAMAGE[what](cache.folder)
    assert cache.read() is None and not cache.folder.exists()
    (warning,) = caplog.messages
    assert str(cache.folder) in warning and "its samples are read from the Hub again" in warning


def test_a_cache_leaves_alone_what_runs_make_elsewhere(tmp_path, monkeypatch):
    """On another machine that shares the folder a process has a number that may not be one here."""
    cache = SampleCache(tmp_path, {})
    assert cache.prepare()
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    assert SampleCache(tmp_path, {})._unfinished.name.endswith(f".elsewhere.{os.getpid()}")
    (there := SampleCache(tmp_path, {})._unfinished.with_name(f".{cache.folder.name}.elsewhere.{2**22 + 1}")).mkdir()
    monkeypatch.undo()
    cache.discard()
    assert there.exists() and not cache.images.parent.exists()


def test_a_cache_that_cannot_be_completed_is_an_error(tmp_path, monkeypatch):
    cache = SampleCache(tmp_path, {})
    assert cache.prepare()
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(RunError, match="is full.*--cache-dir"):
        cache.keep([], {})


def test_an_image_that_was_closed_cannot_be_decoded():
    image = Image.new("L", (8, 8))
    image.close()
    with pytest.raises(OSError, match="closed image"):
        _ = Sample(id="a", source=image).image
