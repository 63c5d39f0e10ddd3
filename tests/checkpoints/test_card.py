"""The model card: what the Hub reads of it, and strings that would break a table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from idvl.checkpoints.card import base_facts, page, task

COMMAND = "idvl prune Salesforce/blip --dataset coco --sparsity 0.8"
RECIPE = {"model": {"name": "Salesforce/blip"}}


def part(weights: int, zeros: int, layers: int = 2) -> dict[str, Any]:
    return {"layers": layers, "weights": weights, "zeros": zeros, "sparsity": zeros / weights, "asked": None}


def report(factors: tuple[float | None, ...] = (1.0, 2.0)) -> dict[str, Any]:
    total = {**part(3000, 2400, 4), "prunable_weights": 4000, "prunable_sparsity": 0.6}
    return {
        "layers": {f"layer.{i}": {"factor": factor} for i, factor in enumerate(factors)},
        "modalities": {"vision": part(1000, 500), "language": part(2000, 1900)},
        "total": {**total, "model_weights": 5000, "model_sparsity": 0.48},
    }


def made(**changes: Any) -> str:
    model = {"name": "Salesforce/blip", "source": "hub", "class": "BlipForConditionalGeneration"}
    given = {"model": model, "command": COMMAND, "recipe": RECIPE, "versions": {"torch": "2.13.0"}, **changes}
    return page(given.pop("report", report()), **given)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_the_hub_reads_what_it_is() -> None:
    base = {"license": "bsd-3-clause", "language": "en"}
    data = ModelCard(made(base=base)).data.to_dict()
    assert data == {
        "base_model": "Salesforce/blip",
        "library_name": "transformers",
        "license": "bsd-3-clause",
        "language": "en",
        "pipeline_tag": "image-to-text",
        "tags": ["pruned", "sparse", "idvl"],
    }


@pytest.mark.parametrize("source", ["folder", "builtin", "memory"])
def test_a_base_that_is_not_on_the_hub_is_no_base_model(source: str) -> None:
    model = {"name": "/home/someone/my-blip", "source": source, "class": "BlipForConditionalGeneration"}
    card = ModelCard(made(model=model))
    assert "base_model" not in card.data.to_dict()
    if source == "folder":
        assert "/home/someone" not in card.text
        assert "# my-blip, 80.0% sparse" in card.text


def test_sparsity_per_modality_and_its_denominators() -> None:
    text = made()
    assert "80.00% of its weights in scope set to zero, which are 48.00% of all its weights" in text
    assert rows(text)[2:] == [
        ["vision", "2", "1,000", "500", "50.00%"],
        ["language", "2", "2,000", "1,900", "95.00%"],
        ["in scope", "4", "3,000", "2,400", "80.00%"],
        ["all prunable weights", "", "4,000", "2,400", "60.00%"],
        ["all weights", "", "5,000", "2,400", "48.00%"],
    ]


def test_it_says_how_it_was_made_and_that_it_was_not_evaluated() -> None:
    text = made()
    assert f"```bash\n{COMMAND}\n```" in text
    assert "```yaml\nmodel:\n  name: Salesforce/blip\n```" in text
    assert "torch 2.13.0" in text
    assert "It has not been evaluated since it was pruned." in text
    assert "multiplied by a factor from the intrinsic dimension of its layer" in text
    assert "intrinsic dimension" not in made(report=report((None, None))).split("## Sparsity")[0]


def evaluation(name="CIDEr", dataset="coco", limit=None):
    metrics = {
        name: {"value": 129.2, "low": 127.0, "high": 131.5, "interval": "images"},
        "SPICE": {"value": None, "skipped": "no jars", "hint": "get them"},
    }
    about = {"task": "caption", "headline": name, "samples": 5000, "limit": limit, "bootstrap": {"level": 0.95}}
    return {**about, "metrics": metrics, "dataset": {"dataset": dataset, "dataset_id": None, "split": "test"}}


def test_an_evaluation_is_a_table_and_a_result_that_the_hub_lists() -> None:
    text = made(evaluation=evaluation())
    assert rows(text)[-1] == ["CIDEr", "129.20", "127.00 to 131.50"]
    assert "caption on coco (test), 5,000 samples. In percent" in text and "Not computed: SPICE." in text
    assert "limit 500" in made(evaluation=evaluation(limit=500))
    (result,) = ModelCard(text).data.eval_results
    assert (result.task_type, result.dataset_name, result.metric_value) == ("image-to-text", "coco", 129.2)
    assert "/home" not in made(evaluation=evaluation(dataset="/home/someone/pictures"))


def test_no_place_on_the_machine_is_told() -> None:
    words = ["/home/someone/blip", "~/coco", "../up/there", "prune.profile=/data/someone/p.json", "a=b", "coco", "8/10"]
    text = made(command=shlex.join(["idvl", *words]), recipe={"data": {"data_dir": words[0], "list": words, "n": 3}})
    assert "idvl blip ./coco there prune.profile=p.json a=b coco 8/10\n" in text
    assert "data_dir: blip\n  list:\n  - blip\n  - ./coco\n  - there\n  - prune.profile=p.json\n" in text
    assert "someone" not in text


def test_no_string_breaks_the_page() -> None:
    model = {"name": "a|b\n# c `d` <e>", "source": "memory", "class": "ViTForImageClassification"}
    text = made(model=model, command="idvl prune '```\n| x |'", evaluation=evaluation("a|b\nc"))
    assert r"# a\|b \# c \`d\` \<e\>, 80.0% sparse" in text.splitlines()
    assert r"| a\|b c | 129.20 | 127.00 to 131.50 |" in text.splitlines()
    assert "````bash\nidvl prune '```\n| x |'\n````" in text
    ModelCard(text)


def test_no_string_breaks_the_front_matter() -> None:
    model = {"name": "x/y: [z", "source": "hub", "class": "CLIPModel"}
    assert ModelCard(made(model=model)).data.base_model == "x/y: [z"


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("BlipForConditionalGeneration", "image-to-text"),
        ("BlipForQuestionAnswering", "visual-question-answering"),
        ("ViTForImageClassification", "image-classification"),
        ("CLIPModel", "zero-shot-image-classification"),
        ("LlavaForConditionalGeneration", "image-text-to-text"),
        ("T5ForConditionalGeneration", None),
        ("BertForQuestionAnswering", None),
    ],
)
def test_the_task_of_a_class(name: str, tag: str | None) -> None:
    assert task(name) == tag


def test_facts_of_the_base_come_from_its_card(tmp_path: Path) -> None:
    assert base_facts({"name": "builtin/blip", "source": "builtin"}) == {"license": "apache-2.0"}
    folder = {"name": str(tmp_path), "source": "folder"}
    assert base_facts(folder) == {}
    card = "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\nlanguage: [en, de]\ntags: [x]\n---\n# base\n"
    (tmp_path / "README.md").write_text(card)
    found = {"license": "other", "license_name": "own", "license_link": "LICENSE", "language": ["en", "de"]}
    assert base_facts(folder) == found
    for broken in ("---\na: [\n---\n", "---\n- a\n---\n", "no card"):
        (tmp_path / "README.md").write_text(broken)
        assert base_facts(folder) == {}


def test_a_hub_model_without_network_or_card_has_no_facts(tmp_path: Path) -> None:
    model = {"name": "someone/model", "source": "hub", "revision": None}
    assert base_facts(model, cache_dir=tmp_path, local_files_only=True) == {}


def test_a_folder_called_like_a_known_dataset_is_not_taken_for_it() -> None:
    text = made(recipe={"data": {"dataset": "/home/me/digits"}}, command="idvl prune m --dataset /home/me/pictures")
    assert "dataset: ./digits" in text and "--dataset pictures" in text
