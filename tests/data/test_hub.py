"""Datasets and models of the Hub through the real clients, against a Hub on the loopback address."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from idvl.data.catalog import CATALOG
from idvl.data.repository import _unreadable
from idvl.data.splits import EVALUATION, TRAINING
from tests.support import processes
from tests.support.hub import Hub, caption, class_name, jpeg, write_dataset

ROOT = Path(__file__).parents[2]
COCO = "lmms-lab-encoder/COCO-Caption"


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("repos")
    made = {
        "coco": write_dataset("coco", folder / "coco", 3_000, shards=15, row_group=50),
        "coco-karpathy": write_dataset("coco-karpathy", folder / "coco-karpathy", range(5, 3_000, 20)),
        "flickr30k": write_dataset("flickr30k", folder / "flickr30k", 40),
        "textvqa": write_dataset("textvqa", folder / "textvqa", 240, shards=2),
        "vqav2": write_dataset("vqav2", folder / "vqav2", 30),
        "nlvr2": write_dataset("nlvr2", folder / "nlvr2", 40),
        "cifar100": write_dataset("cifar100", folder / "cifar100", 120, shards=2),
        "fashion-mnist": write_dataset("fashion-mnist", folder / "fashion-mnist", 120),
        "imagenet-1k": write_dataset("imagenet-1k", folder / "imagenet-1k", 20),
    }
    write_dataset("flickr30k", made["flickr30k"], range(40, 160), split="val")
    write_dataset("flickr30k", made["flickr30k"], range(160, 190), split="train")
    for kind, split in (("coco", "test"), ("textvqa", "test"), ("vqav2", "testdev"), ("imagenet-1k", "test")):
        write_dataset(kind, made[kind], 20, split=split, hidden=True)
    return made


def serve(repos: dict[str, Path], *kinds: str, **options: Any) -> Hub:
    """A Hub that has these datasets where the catalogue looks for them."""
    ids = {**{name: entry.ids for name, entry in CATALOG.items()}, "coco-karpathy": CATALOG["coco"].joins["test"].ids}
    return Hub(datasets={ids[kind][0]: repos[kind] for kind in kinds or repos}, **options)


def ask(hub: Hub, cache: Path, *calls: dict[str, Any], **env: str) -> list[dict[str, Any]]:
    """What `select` answers to each call, all in a process: its description, or the error's class and message."""
    code = (
        "import json, sys, time\n"
        "from idvl.data.samples import select\n"
        # the clients wait for seconds before they try again
        "time.sleep = lambda seconds, sleep=time.sleep: sleep(seconds / 10)\n"
        "for call in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        selection = select(**call)\n"
        "        first = selection.samples[0]\n"
        "        sizes = [image.size for image in first.images]\n"
        "        seen = {'texts': first.texts, 'size': first.image.size, 'sizes': sizes, 'answers': first.answers}\n"
        "        labels = [sample.label for sample in selection.samples]\n"
        "        about = {**seen, 'labels': labels, 'whole': selection.is_whole, **selection.description}\n"
        "    except (ValueError, RuntimeError) as error:\n"
        "        about = {'error': type(error).__name__, 'message': str(error)}\n"
        "    print(json.dumps(about), flush=True)\n"
    )
    command, how = ["-c", code, json.dumps(calls)], {"env": hub.env(cache, **env), "cwd": ROOT}
    if "HF_HUB_OFFLINE" in env:  # which is read while the clients are imported
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=200, **how)
    else:
        done = processes.run(*command, **how)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


EVERYTHING = {"distinct": False, "force": True}


def test_catalogue_entries_stream(repos: dict[str, Path], tmp_path: Path) -> None:
    served = {COCO: "coco", "umaru97/flickr30k_train_val_test": "flickr30k", "lmms-lab/textvqa": "textvqa"}
    with Hub(datasets={name: repos[kind] for name, kind in served.items()}) as hub:
        coco, flickr30k, textvqa = ask(
            hub,
            tmp_path,
            {"dataset": "coco", "n": 150},
            {"dataset": "flickr30k", "n": 110},
            {"dataset": "textvqa", "n": 110},
        )
    assert (coco["dataset_id"], coco["split"], coco["method"], coco["size"]) == (COCO, "val", "stream", [48, 40])
    assert coco["columns"] == {"image": "image", "text": "answer", "guessed": []}
    assert coco["shuffle"]["shards"] == 15 and len(coco["revision"]) == 40
    assert coco["texts"][0] == caption(int(coco["ids"][0].removeprefix("COCO_val2014_").removesuffix(".jpg")))
    assert len(set(coco["ids"])) == 150
    # held out from training, and not what is evaluated on
    assert flickr30k["split"] == "val" and {int(name) for name in flickr30k["ids"]} <= set(range(40, 160))
    assert textvqa["dataset_id"] == "lmms-lab/textvqa"
    assert textvqa["texts"][0].startswith("what is written on") and textvqa["duplicates"] > 0


def test_splits_of_any_name(tmp_path: Path) -> None:
    """Spelled in any case, and none of them for an evaluation."""
    for name, splits in (("cased", ("Train", "Test")), ("odd", ("train", "holdout"))):
        files = [{"split": split, "path": f"{number}.parquet"} for number, split in enumerate(splits)]
        for number in range(2):
            write_dataset("flickr30k", tmp_path / name, 5, split=str(number))
            (tmp_path / name / "data" / f"{number}-00000-of-00001.parquet").rename(
                tmp_path / name / f"{number}.parquet"
            )
        card = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
        (tmp_path / name / "README.md").write_text(f"---\n{card}\n---\n")
    wanted = [("cased", TRAINING), ("cased", EVALUATION), ("odd", EVALUATION)]
    calls = [{"dataset": f"org/{name}", "split": split, **EVERYTHING} for name, split in wanted]
    with Hub(datasets={f"org/{name}": tmp_path / name for name in ("cased", "odd")}) as hub:
        *found, refused = ask(hub, tmp_path / "cache", *calls)
    assert [about.get("split") for about in found] == ["Train", "Test"]
    assert "org/odd has the splits train, holdout, none of them called test or validation" in refused["message"]


def test_what_an_evaluation_reads_of_each_entry(repos: dict[str, Path], tmp_path: Path) -> None:
    names = ("coco", "flickr30k", "textvqa", "vqav2", "nlvr2", "cifar100", "imagenet-1k")
    with serve(repos, gated=CATALOG["imagenet-1k"].ids) as hub:
        found = ask(
            hub,
            tmp_path,
            *({"dataset": name, "split": EVALUATION, **EVERYTHING} for name in names),
            *({"dataset": "flickr30k", "split": EVALUATION, **EVERYTHING, "n": n} for n in (1_000, 40, 39)),
            HF_TOKEN="hf_secret",
        )
    *found, more, all_rows, fewer = found
    about = dict(zip(names, found, strict=True))
    assert {name: answer["split"] for name, answer in about.items()} == {n: CATALOG[n].eval_split for n in names}
    assert {answer["dataset_id"] for answer in found} == {CATALOG[name].ids[0] for name in names}
    sizes = {"coco": 150, "flickr30k": 40, "textvqa": 240, "vqav2": 30, "nlvr2": 40, "cifar100": 120, "imagenet-1k": 20}
    assert {name: len(answer["ids"]) for name, answer in about.items()} == sizes
    assert all(len(set(answer["ids"])) == answer["requested"] for answer in found)
    assert not any("shuffle" in answer for answer in found)
    assert about["textvqa"]["answers"] == [caption(0)] * 10 and about["textvqa"]["texts"] == [
        f"what is written on {caption(0)}?"
    ]
    assert about["vqav2"]["answers"] == ["yes"] * 7 + ["no"] * 3 and about["vqav2"]["ids"][:2] == ["0", "1000"]
    assert about["nlvr2"]["sizes"] == [[48, 40]] * 2 and about["nlvr2"]["labels"] == [1, 0, 0] * 13 + [1]
    assert about["cifar100"]["classes"] == [class_name(i) for i in range(100)]
    assert about["cifar100"]["labels"] == [i % 100 for i in range(120)]
    assert len(about["imagenet-1k"]["classes"]) == 1_000 and about["imagenet-1k"]["labels"] == list(range(20))
    # an incomplete copy says so
    (told,) = about["flickr30k"]["warnings"]
    assert "has 40 rows in umaru97/flickr30k_train_val_test, 1,000 as published: results do not compare" in told
    # with a limit that leaves no row out, too
    assert more["warnings"] == all_rows["warnings"] == [told] and not fewer["warnings"]


def test_karpathys_test_split_is_put_together_from_two_repositories(repos: dict[str, Path], tmp_path: Path) -> None:
    with serve(repos, "coco", "coco-karpathy") as hub:
        learnt, whole, drawn, again = ask(
            hub,
            tmp_path,
            {"dataset": "coco", "split": TRAINING, **EVERYTHING},
            {"dataset": "coco", "split": "test", **EVERYTHING},
            *({"dataset": "coco", "split": "test", "n": 30, **EVERYTHING} for _ in range(2)),
        )
    listed = [f"COCO_val2014_{number:012d}.jpg" for number in range(5, 3_000, 20)]
    assert whole["ids"] == listed and whole["split"] == "test"
    assert whole["texts"] == [f"{caption(5, version)}, as listed" for version in range(5)]
    # what is evaluated on is not trained on
    assert learnt["split"] == "val" and len(learnt["ids"]) == 2_850 and not set(learnt["ids"]) & set(listed)
    assert learnt["without"]["list"] == "yerevann/coco-karpathy"
    join = whole["join"]
    assert (join["list"], join["images"], join["on"]) == ("yerevann/coco-karpathy", "val", "file_name = filename")
    assert join["listed"] == 150 and len(join["list_revision"]) == 40
    assert set(drawn["ids"]) < set(listed) and len(drawn["ids"]) == 30 and drawn == again


def test_splits_whose_answers_are_not_public(repos: dict[str, Path], tmp_path: Path) -> None:
    with serve(repos, "coco", "textvqa", "vqav2", "imagenet-1k", "nlvr2") as hub:
        textvqa, vqav2, imagenet, coco, nlvr2, unlisted = ask(
            hub,
            tmp_path,
            {"dataset": "textvqa", "split": "test", **EVERYTHING},
            {"dataset": "vqav2", "split": "testdev", **EVERYTHING},
            {"dataset": "imagenet-1k", "split": "test", **EVERYTHING},
            {"dataset": COCO, "split": "test", "text_column": "answer", **EVERYTHING},
            {"dataset": "nlvr2", "split": "train", **EVERYTHING},
            {"dataset": "coco", "split": "test", **EVERYTHING},
        )
    assert textvqa["answers"] == vqav2["answers"] == [] and len(textvqa["texts"]) == len(vqav2["texts"]) == 1
    assert imagenet["labels"] == [None] * 20
    assert coco["error"] == "UsageError" and "no text in column 'answer'" in coco["message"]
    assert "no split 'train' (there is unbalanced_test_public)" in nlvr2["message"] and "no train" in nlvr2["message"]
    assert unlisted["error"] == "UsageError" and "listed in another repository" in unlisted["message"]
    assert "no dataset yerevann/coco-karpathy" in unlisted["message"] and "\n" not in unlisted["message"]


def test_passing_faults_change_nothing(repos: dict[str, Path], tmp_path: Path) -> None:
    faults = {"cifar100": 500, "nlvr2": "cut", "imagenet-1k": 503, "coco": "cut"}
    asked: Counter[str] = Counter()

    def failing(method: str, path: str) -> int | str | None:
        name = next((name for name in faults if CATALOG[name].ids[0] in path), None)
        if method != "GET" or not path.endswith(".parquet") or name is None:
            return None
        asked[name] += 1
        return faults[name] if asked[name] == 2 else None

    calls = [{"dataset": name, "split": EVALUATION, **EVERYTHING} for name in faults if name != "coco"]
    calls.append({"dataset": "coco", "n": 100})
    with serve(repos) as hub:
        whole = ask(hub, tmp_path / "whole", *calls)
    with serve(repos, fault=failing) as hub:
        assert ask(hub, tmp_path / "faulty", *calls) == whole
    assert min(asked.values()) > 2 and set(asked) == set(faults)
    assert [len(answer["ids"]) for answer in whole] == [120, 40, 20, 100]


def test_a_stream_leaves_most_shards_alone(repos: dict[str, Path], tmp_path: Path) -> None:
    calls = [{"dataset": "coco", "n": 100, "seed": seed} for seed in (5, 5, 6)]
    with Hub(datasets={COCO: repos["coco"]}) as hub:
        (first,) = ask(hub, tmp_path, calls[0])
        shards = [path for path in hub.sent if path.endswith(".parquet")]
        again, other = ask(hub, tmp_path / "other", *calls[1:])
    # 1,000 rows to fill the buffer, 200 in each of 15 shards, and the first shard for its schema
    assert 5 <= len(shards) <= 8
    assert first["shuffle"] == {"buffer": 1000, "shards": 15}
    assert first == again and first["ids"] != other["ids"]


def test_a_selection_is_streamed_once(repos: dict[str, Path], tmp_path: Path) -> None:
    call = {"dataset": "coco", "n": 100}
    with Hub(datasets={COCO: repos["coco"]}) as hub:

        def asked(**more: Any) -> tuple[dict[str, Any], int]:
            before = sum(hub.sent.values())
            (answer,) = ask(hub, tmp_path, {**call, **more})
            return answer, sum(hub.sent.values()) - before

        def kept() -> list[Path]:
            return sorted((tmp_path / "idvl-samples").iterdir())

        first, streamed = asked()
        (folder,) = kept()
        # the header of one shard, which tells the columns
        assert asked() == (first, pytest.approx(streamed / 20, rel=1))
        assert asked(seed=1)[0]["ids"] != first["ids"] and len(kept()) == 2

        def spoil_images() -> None:
            images = (folder / "images").read_bytes()
            (folder / "images").write_bytes(images[:300] + bytes(byte ^ 85 for byte in images[300:340]) + images[340:])

        # what a killed run has left goes with the next
        (left := folder.with_name(f".{folder.name}.{platform.node()}.{2**22 + 1}")).mkdir()
        (elsewhere := folder.with_name(f".{folder.name}.elsewhere.{2**22 + 1}")).mkdir()
        for damage in spoil_images, lambda: (folder / "samples.json").write_text("{"):
            damage()
            again, sent = asked()
            assert again == first and sent > streamed / 2 and folder in kept() and not left.exists()
        assert elsewhere.exists()
        # another commit
        card = repos["coco"] / "README.md"
        card.write_text(f"{card.read_text()}\n")
        later, sent = asked()
        assert later["revision"] != first["revision"] and later["ids"] == first["ids"]
        assert sent > streamed / 2 and folder.exists()


def test_folders_of_images_are_refused_before_they_are_downloaded(tmp_path: Path) -> None:
    layouts = {
        "plain": ["0.jpg", "1.jpg"],
        "classes": ["train/cat/0.jpg", "train/dog/1.jpg", "test/cat/2.jpg", "test/dog/3.jpg"],
        "jsonl": ["0.jpg", "metadata.jsonl"],
        "csv": ["data/0.jpg", "data/metadata.csv"],
        "zip": ["train.zip"],
    }
    for layout, files in layouts.items():
        for number, name in enumerate(files):
            (path := tmp_path / layout / name).parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(number))
    (tmp_path / "jsonl" / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "a dog"}\n')
    (tmp_path / "csv" / "data" / "metadata.csv").write_text("file_name,text\n0.jpg,a dog\n")
    with zipfile.ZipFile(tmp_path / "zip" / "train.zip", "w") as archive:
        archive.write(tmp_path / "plain" / "0.jpg", "0.jpg")
    cache, names = tmp_path / "cache", [f"o/{layout}" for layout in layouts]
    with Hub(datasets={name: tmp_path / name[2:] for name in names}) as hub:
        *found, known = ask(
            hub,
            cache,
            *({"dataset": name, **EVERYTHING} for name in names),
            {"dataset": "coco", "dataset_id": "o/plain", **EVERYTHING},
        )
        # of the archive the list of its files is read
        read = {path for path in hub.sent if "/resolve/" in path}
    assert all(path.endswith((".md", ".yaml", ".json", "train.zip")) for path in read), read
    assert not [path for path in cache.rglob("*") if path.suffix in (".jpg", ".zip", ".jsonl", ".csv")]
    for name, answer in zip([*names, "o/plain"], [*found, known], strict=True):
        assert answer["error"] == "UsageError" and "\n" not in answer["message"]
        assert f"{name} holds images as files, which are read from a local copy alone: run hf " in answer["message"]
        assert f"hf download {name} --repo-type dataset --local-dir DIR, unpack archives" in answer["message"]
        assert answer["message"].endswith("set data_dir (--data-dir) to DIR, in place of any dataset_id")


def test_what_is_read_from_a_local_copy_alone(tmp_path: Path) -> None:
    # text that is not UTF-8, several configurations, labels that are words
    (latin := tmp_path / "latin").mkdir()
    columns = "".join(f"\n  - {{name: {name}, dtype: string}}" for name in ("image", "text"))
    (latin / "README.md").write_text(f"---\ndataset_info:\n  features:{columns}\n---\n")
    (latin / "train.jsonl").write_bytes(b'{"image": "0.jpg", "text": "caf\xe9"}\n')
    for name in ("one", "two"):
        write_dataset("cifar100", tmp_path / "several" / name, 4)
    cards = [{"config_name": name, "data_files": f"{name}/data/*"} for name in ("one", "two")]
    (tmp_path / "several" / "README.md").write_text(f"---\n{json.dumps({'configs': cards})}\n---\n")
    write_dataset("flickr30k", tmp_path / "words", 4, instead=lambda number: {"kind": ["1", "dog"][number % 2]})
    write_dataset("flickr30k", tmp_path / "floats", 4, instead=lambda number: {"label": float(number % 2)})
    write_dataset("flickr30k", tmp_path / "truths", 4, instead=lambda number: {"label": number % 2 == 0})
    served = ("latin", "several", "words", "floats", "truths")
    labelled, copy = {"label_column": "kind", **EVERYTHING}, str(tmp_path / "several" / "one")
    with Hub(datasets={f"o/{name}": tmp_path / name for name in served}) as hub:
        refused, several, one, words, named, unread, read, truths = ask(
            hub,
            tmp_path / "cache",
            {"dataset": "o/latin", **EVERYTHING},
            {"dataset": "o/several", **EVERYTHING},
            {"dataset": "o/several", "data_dir": copy, **EVERYTHING},
            {"dataset": "o/words", **labelled},
            {"dataset": "o/words", "data_dir": str(tmp_path / "words"), **labelled},
            {"dataset": "o/floats", **EVERYTHING},
            {"dataset": "o/floats", "label_column": "label", **EVERYTHING},
            {"dataset": "o/truths", **EVERYTHING},
        )
    assert "o/several has several configurations (one, two), read from a local copy alone" in several["message"]
    assert "run hf download o/several --repo-type dataset --local-dir DIR, and set data_dir" in several["message"]
    assert len(one["ids"]) == 4
    assert "the column 'kind' of o/words holds words ('dog'), which are read as classes from a loc" in words["message"]
    assert "run hf download o/words --repo-type dataset --local-dir DIR, and set data_dir" in words["message"]
    assert (named["classes"], named["labels"]) == (["1", "dog"], [0, 1, 0, 1])
    assert (truths["classes"], truths["labels"]) == (["False", "True"], [1, 0, 1, 0])
    assert unread["labels"] == [None] * 4 and read["labels"] == [0, 1, 0, 1] and not read["warnings"]
    assert unread["warnings"] == [
        "the column 'label' holds float64 and is not read as labels: if its values are whole numbers or true and "
        "false, set label_column (--label-column label)"
    ]
    assert refused["error"] == "UsageError" and "UnicodeDecodeError" in refused["message"]
    assert "): download it, correct it, and set data_dir (--data-dir) to the folder" in refused["message"]


def test_names_that_the_hub_does_not_have(repos: dict[str, Path], tmp_path: Path) -> None:
    served = {COCO: repos["nlvr2"], "lmms-lab/VQAv2": repos["coco"], "me/own": repos["flickr30k"]}
    served["me/one"] = write_dataset("flickr30k", tmp_path / "one", 4, instead=lambda number: {"split": "train"})
    with Hub(datasets=served, moved={"me/old": "me/own"}) as hub:
        moved, pairs, split, column, typo, renamed, answers, own, old, one, every, three = ask(
            hub,
            tmp_path,
            {"dataset": "textvqa"},
            {"dataset": "nlvr2"},
            {"dataset": "flickr30k", "dataset_id": "me/own", "split": "tes"},
            {"dataset": "flickr30k", "dataset_id": "me/own", "text_column": "captoin"},
            {"dataset": "my/images"},
            {"dataset": "coco", "split": "unbalanced_test_public"},
            {"dataset": "vqav2", "split": "val", "text_column": "question"},
            {"dataset": "me/own", "n": 120},
            {"dataset": "me/old", "n": 120},
            {"dataset": "me/one", **EVERYTHING},
            {"dataset": "me/one", "n": 4, "keep_order": True, **EVERYTHING},
            {"dataset": "me/one", "n": 3, "keep_order": True, **EVERYTHING},
        )
    assert "no dataset lmms-lab-encoder/textvqa or lmms-lab/textvqa" in moved["message"]
    assert "--dataset-id" in moved["message"] and "--data-dir" in moved["message"]
    assert "no dataset lmms-lab/NLVR2 or lmms-lab-encoder/NLVR2" in pairs["message"]
    assert "no split 'tes'; did you mean 'test'? (there is test, val, train)" in split["message"]
    assert "no column 'captoin'; did you mean 'caption'? (there is caption, sentids" in column["message"]
    assert typo["message"].startswith("my/images is not a local path; the Hub has no dataset my/images")
    assert f"{COCO} has no column 'image', which holds the image of coco (it has question_id" in renamed["message"]
    assert (
        "has no column 'answers'" in answers["message"]
        and "set answers_column (--answers-column)" in answers["message"]
    )
    refused = (moved, pairs, split, column, typo, renamed, answers)
    assert {answer["error"] for answer in refused} == {"UsageError"}
    assert not any("\n" in answer["message"] for answer in refused)
    guessed, unread = ["image", "caption"], ["sentids", "filename"]
    assert own["columns"] == {"image": "image", "text": "caption", "guessed": guessed, "unread": unread}
    said = "the column 'split' is not read: whatever it holds, all rows of the split test are taken"
    assert one["warnings"] == [said] and not own["warnings"]
    assert every == one and every["whole"] and not three["whole"]
    # a repository that has been renamed is found under its old name
    assert old == {**own, "dataset": "me/old", "dataset_id": "me/old"}


def test_gated_dataset(repos: dict[str, Path], tmp_path: Path) -> None:
    closed_ids = {COCO, *CATALOG["imagenet-1k"].ids}
    with serve(repos, "coco", "imagenet-1k", gated=closed_ids) as hub:
        closed = ask(hub, tmp_path, {"dataset": "coco", "n": 100}, {"dataset": "imagenet-1k", **EVERYTHING})
        for answer in closed:
            assert answer["error"] == "UsageError" and "is gated: accept its terms" in answer["message"]
            assert "HF_TOKEN" in answer["message"] and "\n" not in answer["message"]
        (opened,) = ask(hub, tmp_path / "other", {"dataset": "coco", "n": 100}, HF_TOKEN="hf_secret")
        assert len(opened["ids"]) == 100


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


def test_a_shard_that_is_missing_and_one_that_is_damaged(tmp_path: Path) -> None:
    write_dataset("coco", tmp_path / "coco", 150, shards=3)
    _, second, last = sorted((tmp_path / "coco" / "data").iterdir())
    second.unlink()
    with Hub(datasets={COCO: tmp_path / "coco"}) as hub:
        code = "from idvl.data.samples import select\nprint(len(select('coco', **{'distinct': False}).samples))"
        done = processes.run("-c", code, env=hub.env(tmp_path / "cache"))
        assert done.stdout == "100\n"
        assert f"{COCO}/data lacks val-00001-of-00003.parquet (1 of 3 missing): only what is there is" in done.stderr
        last.write_bytes(last.read_bytes()[:-200])
        (answer,) = ask(hub, tmp_path / "second", {"dataset": "coco", **EVERYTHING})
    assert answer["error"] == "RunError" and "\n" not in answer["message"]
    assert f"{COCO} holds a file that is damaged on the Hub" in answer["message"]


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
        done = processes.run("-c", code, env=hub.env(tmp_path / "cache"))
    assert done.stdout.split() == ["16", "ViTModel"]


def test_a_token_that_is_refused_is_told() -> None:
    from huggingface_hub.errors import HfHubHTTPError

    error = HfHubHTTPError.__new__(HfHubHTTPError)
    error.response = SimpleNamespace(status_code=401)
    told = str(_unreadable(error, "a/b"))
    assert told == "the Hub refused to give a/b (401): run hf auth login, or set HF_TOKEN to a token of yours"
