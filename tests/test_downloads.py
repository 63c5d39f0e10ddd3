"""What a plan says that a run downloads, beside what the Hub on the loopback address sends."""

from __future__ import annotations

import json
from pathlib import Path

from idvl.downloads import files_read
from tests.support import processes, tiny
from tests.support.hub import Hub, write_dataset

VIT, CIFAR = "google/vit-base-patch16-224", "uoft-cs/cifar100"
# plans and what is said before them, all in one process
PLANS = """
import contextlib, io, json, sys
from idvl.commands import main
for words in json.loads(sys.argv[1]):
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        code = main(words)
    print(json.dumps([code, out.getvalue(), told.getvalue()]))
"""


def plans(hub: Hub, cache: Path, *commands: list[str]) -> list[tuple[int, str, str]]:
    """(exit code, stdout, stderr) of each command with --plan."""
    words = [[*command, "--plan"] for command in commands]
    done = processes.run("-c", PLANS, json.dumps(words), env=hub.env(cache))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_plan_says_what_is_downloaded_before_it_is_and_where_nobody_knows(tmp_path: Path) -> None:
    model = tiny.save("vit", tmp_path / "vit")
    # which nothing reads
    for name in ("pytorch_model.bin", "onnx/model.onnx", "README.md"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(bytes(100_000))
    data = write_dataset("cifar100", tmp_path / "data", 120, shards=2)
    write_dataset("cifar100", data, 120, split="train")
    sizes = {split: sum(file.stat().st_size for file in data.glob(f"data/{split}-*")) for split in ("train", "test")}
    measuring = ["estimate-id", VIT, "--dataset", "cifar100", "--samples", "100"]
    pruning = ["prune", VIT, "--dataset", "cifar100", "--sparsity", "0.5", "--criterion", "wanda", "--no-eval"]
    with Hub(models={VIT: model}, datasets={CIFAR: data}) as hub:
        (code, out, told), (_, again, quiet), (failed, both, why) = plans(
            hub, tmp_path / "cache", [*measuring, "--json"], measuring, [*pruning, "--json"]
        )
        sent = sum(count for path, count in hub.sent.items() if path.startswith(f"/{VIT}/resolve/"))
    assert code == 0, told
    files, split = json.loads(out)["downloads"]
    assert files == {"name": VIT, "bytes": sent, "files": 3, "cached": 0, "split": None, "rows": None}
    assert split == {"name": CIFAR, "bytes": sizes["test"], "files": 2, "cached": 0, "split": "test", "rows": 120}
    assert f"of {VIT}, 3 of 3 files" in told and f"of {CIFAR} (test, 2 files)" in told
    assert f"download  nothing of {VIT}: its 3 files are in the cache" in again and VIT not in quiet
    assert f"stream    up to {-(-sizes['test'] // 1024)}KiB of {CIFAR} (test, 2 files), about " in again
    assert failed == 0, why
    cached, training = json.loads(both)["downloads"]
    assert cached == {**files, "bytes": 0, "cached": 3} and training["split"] == "train"
    # without the Hub, from the cache
    measuring[3] = "digits"
    unreached, local = plans(hub, tmp_path / "cache", measuring, [*measuring, "--local-files-only"])
    assert unreached[0] == local[0] == 0 and f"download  unknown for {VIT}: the Hub was not reached" in unreached[1]
    assert "layers" in local[1] and "download" not in local[1]


def test_which_files_of_a_model_are_read() -> None:
    settings = ["config.json", "merges.txt", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"]
    parts = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = "model.safetensors.index.json"
    unread = ["README.md", "tf_model.h5", "onnx/model.onnx", "original/params.json", "consolidated.safetensors"]
    bins = ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"]
    assert files_read([*settings, *parts, index, *unread, *bins]) == sorted([*settings, *parts, index])
    assert files_read([*settings, *unread, *bins]) == sorted([*settings, *bins])
    single = ["model.safetensors", "pytorch_model.bin"]
    assert files_read([*settings, *single]) == sorted([*settings, "model.safetensors"])
