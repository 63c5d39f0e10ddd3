"""What a plan says that a run downloads, beside what the Hub on the loopback address sends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from idvl.data.catalog import CATALOG
from idvl.data.sources import Location
from idvl.downloads import files_read, of_dataset, of_model
from tests.support import processes, tiny
from tests.support.hub import Hub, jpeg, write_dataset

VIT, TEACHER, CIFAR = "google/vit-base-patch16-224", "google/vit-dense", "uoft-cs/cifar100"
# commands and what is said before their results, all in one process
COMMANDS = """
import contextlib, io, json, sys
from idvl.commands import main
for words in json.loads(sys.argv[1]):
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        code = main(words)
    print(json.dumps([code, out.getvalue(), told.getvalue()]))
"""


def run_all(hub: Hub, cache: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each command."""
    done = processes.run("-c", COMMANDS, json.dumps(commands), env=hub.env(cache))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_plan_says_what_is_downloaded_before_it_is_and_where_nobody_knows(tmp_path: Path) -> None:
    model = tiny.save("vit", tmp_path / "vit")
    # which nothing reads
    for name in (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "README.md",
        "LICENSE.txt",
        "trainer_state.json",
        "handler.py",
    ):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(bytes(100_000))
    data = write_dataset("cifar100", tmp_path / "data", 120, shards=2)
    write_dataset("cifar100", data, 120, split="train")
    sizes = {split: sum(file.stat().st_size for file in data.glob(f"data/{split}-*")) for split in ("train", "test")}
    (images := tmp_path / "images").mkdir()
    (images / "0.jpg").write_bytes(jpeg(0))
    pictures = ["estimate-id", VIT, "--dataset", "me/images", "--force", "--plan"]
    about = [VIT, "--dataset", "cifar100"]
    measuring = ["estimate-id", *about, "--samples", "100", "--plan"]
    pruning = ["prune", *about, "--sparsity", "0.5", "--criterion", "wanda", "--no-eval", "--json"]
    teaching = ["--dataset", "digits", "--recover", "lora", "--distill", "1", "--set", f"recover.teacher={TEACHER}"]
    run = str(tmp_path / "run")
    recovering = ["recover", f"{run}/model", "--dataset", "digits", "--distill", "1", "--no-eval", "--plan", "--json"]
    with Hub(models={VIT: model, TEACHER: model}, datasets={CIFAR: data, "me/images": images}) as hub:
        (code, out, told), (_, again, quiet), (_, alone, _), (failed, both, why), *recovery, folder = run_all(
            *(hub, tmp_path / "cache", [*measuring, "--json"], measuring, [*pruning, "--plan"]),
            *([*pruning, *teaching, "--plan"], [*pruning, "--output", run], recovering, pictures),
        )
        # beside the card, which a run that leaves a model behind reads for its licence
        sent = sum(
            count
            for path, count in hub.sent.items()
            if path.startswith(f"/{VIT}/resolve/") and not path.endswith("/README.md")
        )
        # another commit has the same files
        (model / "README.md").write_bytes(bytes(200_000))
        ((_, moved, _),) = run_all(hub, tmp_path / "cache", [*measuring, "--json"])
        hub.fault = lambda method, path: "html"
        behind_a_proxy = run_all(hub, tmp_path / "cache", [*measuring, "--dataset", "digits"], measuring)
    assert code == 0, told
    files, split = json.loads(out)["downloads"]
    assert files == {"name": VIT, "bytes": sent, "files": 3, "cached": 0, "split": None, "rows": None}
    assert split == {"name": CIFAR, "bytes": sizes["test"], "files": 2, "cached": 0, "split": "test", "rows": 120}
    assert f"of {VIT}, 3 of 3 files" in told and f"of {CIFAR} (test, 2 files)" in told
    assert f"download  nothing of {VIT}: 3 files in the cache" in again and VIT not in quiet
    assert f"stream    up to {-(-sizes['test'] // 1024)}KiB of {CIFAR} (test, 2 files), about " in again
    cached = {**files, "bytes": 0, "cached": 3}
    assert json.loads(moved)["downloads"][0] == cached
    # the teachers: a named one, and the model that was pruned
    assert failed == 0, why
    assert json.loads(both)["downloads"] == [cached, {**files, "name": TEACHER}]
    assert json.loads(alone)["downloads"][1]["split"] == "train"
    assert [code for code, _, _ in recovery] == [0, 0], recovery
    assert [each["name"] for each in json.loads(recovery[1][1])["downloads"]] == [VIT]
    assert folder[0] == 2 and "me/images holds images as files, which are read from a local copy alone" in folder[2]
    # without the Hub, from the cache
    (code, unknown, _), (refused, _, reason) = behind_a_proxy
    assert code == 0 and f"download  unknown for {VIT}: the Hub gave no sizes" in unknown
    assert refused == 2 and f"{CIFAR} cannot be read: JSONDecodeError" in reason
    measuring[3] = "digits"
    unreached, local = run_all(hub, tmp_path / "cache", measuring, [*measuring, "--local-files-only"])
    assert unreached[0] == local[0] == 0 and f"download  unknown for {VIT}" in unreached[1]
    assert "layers" in local[1] and "download" not in local[1]


def test_nothing_is_downloaded_where_the_hub_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert of_model(VIT) is None and of_dataset(Location("cifar100", CATALOG["cifar100"]), "test") is None


def test_sizes_of_many_files_are_asked_in_several_requests(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("a" * number)
    ask = f"from idvl.data import repository; repository.PATHS = 2; _, info = repository.find(['{CIFAR}']); "
    ask += f"print(repository.sizes_of('{CIFAR}', info.sha, [f'{{n}}.txt' for n in range(5)]))"
    with Hub(datasets={CIFAR: tmp_path}) as hub:
        assert json.loads(processes.run("-c", ask, env=hub.env(tmp_path / "cache")).stdout) == [0, 1, 2, 3, 4]
        assert [method for method, _ in hub.requests] == ["GET", "POST", "POST", "POST"]


def test_which_files_of_a_model_are_read() -> None:
    settings = ["config.json", "merges.txt", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"]
    settings += ["preprocessor_config.json", "vocab.txt", "additional_chat_templates/rag.jinja"]
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = "model.safetensors.index.json"
    unread = ["README.md", "tf_model.h5", "onnx/model.onnx", "original/params.json", "consolidated.safetensors"]
    unread += ["LICENSE.txt", "trainer_state.json", "eval_results.json", "requirements.txt", "handler.py"]
    other = ["model.fp16-00001-of-00001.safetensors", "model.safetensors.index.fp16.json"]
    bins = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert files_read([*settings, *parts, index, *unread, *bins, *other]) == sorted([*settings, *parts, index])
    assert files_read([*settings, *unread, *bins]) == sorted([*settings, *bins])
    single = ["model.safetensors", "pytorch_model.bin"]
    assert files_read([*settings, *single]) == sorted([*settings, "model.safetensors"])
    named = [f"model.safetensors-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert files_read([*named, index]) == sorted([*named, index])
    assert files_read(["handler.py", *single], trust_remote_code=True) == ["handler.py", "model.safetensors"]
