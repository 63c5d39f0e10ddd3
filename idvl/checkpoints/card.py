"""The model card of a pruned model: README.md in the Hub's format. It measures nothing and writes nothing."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from idvl import builtin, yaml_file
from idvl.data.catalog import CATALOG
from idvl.models.own import MODULES
from idvl.uncovered import in_words

logger = logging.getLogger(__name__)

TAGS = ("pruned", "sparse", "idvl")
# what the Hub calls the tasks of transformers' classes; the first pattern found in the class name wins
TASKS = (
    (r"ForImageClassification$", "image-classification"),
    (r"^(Blip|Vilt)ForQuestionAnswering$", "visual-question-answering"),
    (r"^(CLIP|Siglip2?)Model$", "zero-shot-image-classification"),
    (r"^(Blip2?|Git)For(ConditionalGeneration|CausalLM)$", "image-to-text"),
    (r"^Llava\w*ForConditionalGeneration$", "image-text-to-text"),
)
# what the Hub calls idvl's tasks
HUB_TASKS = {
    "caption": "image-to-text",
    "retrieval": "image-text-retrieval",
    "classification": "image-classification",
    "vqa": "visual-question-answering",
}
# what the card of the base model says that holds for the pruned one too
INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag")

_WEIGHTED = """
The importance of each weight was multiplied by a factor from the intrinsic dimension of its layer (*Exploring Intrinsic
Dimension for Vision-Language Model Pruning*, ICML 2024).
"""
_FOREIGN = """
The dimensions were measured on other weights than those that were pruned.
"""
_RECOVERED = """
After pruning, {method} trained for {steps:,} steps, {parameters:,} parameters in all{teacher}; the zeros stayed in
place.
"""
# what a card calls the methods of a recovery
METHODS = {
    "lora": "masked LoRA (SparseLoRA, Li, He and Chen, 2024) was",
    "full": "all of its weights that are not pruned were",
    "biases": "its biases and norms alone were",
}
_PAGE = """\
# {title}

{name} with {sparsity:.2%} of its weights in scope set to zero, {whole} of all its weights.
{weighted}{recovered}
```python
{imports}

model = {class_name}.from_pretrained(FOLDER_OR_HUB_ID)
processor = AutoProcessor.from_pretrained(FOLDER_OR_HUB_ID)
```

The zeros are stored like other weights: the model is neither smaller on disk nor faster until something makes use of
them.

## Sparsity

{sparsities}

Weights in scope are those of the layers that were pruned; all prunable weights are those of the linear layers inside
transformer blocks; all weights include embeddings, norms, heads and biases.{other}{uncovered}

## Evaluation

{evaluation}

## How it was made

{command}

with the recipe

{recipe}

and {versions}.
"""


def page(
    report: Mapping[str, Any],
    *,
    model: Mapping[str, Any],
    command: str,
    recipe: Mapping[str, Any],
    versions: Mapping[str, str],
    base: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """The text of README.md.

    `model` is the description of the dense model (name, source, class), `recipe` the resolved recipe, `base` what
    `base_facts` found, `evaluation` its part of report.json. Of places on this machine that command and recipe name,
    only the last name is told.
    """
    from huggingface_hub import ModelCard, ModelCardData

    facts = {"pipeline_tag": task(model["class"]), **(base or {})}
    if model["source"] == "hub":
        facts["base_model"] = model["name"]
    name = model["name"] if model["source"] != "folder" else Path(model["name"]).name
    # the Hub's lists do not tell that samples were left out, or learnt from
    if evaluation and not evaluation["limit"] and not evaluation["dataset"].get("learnt"):
        facts |= {"model_name": f"{name} pruned", "eval_results": _model_index(evaluation)}
    data = ModelCardData(library_name="transformers", tags=list(TAGS), **facts)
    total = report["total"]
    more = total.get("model_zeros", total["zeros"]) - total["zeros"]
    factors = {layer["factor"] for layer in report["layers"].values()}
    foreign = (report.get("profile") or {}).get("other_weights")
    body = _PAGE.format(
        title=f"{_escaped(name)}, {total['sparsity']:.1%} sparse",
        name=_escaped(name),
        sparsity=total["sparsity"],
        whole=f"which {f'with {more:,} more zeros ' if more > 0 else ''}are {total['model_sparsity']:.2%}",
        other=f" All weights count {more:,} zeros that the masks do not have." if more > 0 else "",
        uncovered=_uncovered(report),
        weighted=(_WEIGHTED + (_FOREIGN if foreign else "")) if len(factors) > 1 else "",
        recovered=_recovered(report),
        class_name=model["class"],
        imports=_imports(model["class"]),
        sparsities=_sparsities(report),
        evaluation=_evaluation(evaluation),
        command=_fenced(shlex.join(_public(word) for word in shlex.split(command)), "bash"),
        recipe=_fenced(yaml_file.dump(_public(recipe)).strip(), "yaml"),
        versions=_escaped(", ".join(f"{package} {number}" for package, number in versions.items())),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def task(class_name: str) -> str | None:
    """What the Hub calls the task of a transformers class, None where that is not known."""
    return next((tag for pattern, tag in TASKS if re.search(pattern, class_name)), None)


def base_facts(
    model: Mapping[str, Any], *, cache_dir: str | Path | None = None, local_files_only: bool = False
) -> dict[str, Any]:
    """What the card of the dense model says that holds for the pruned one: licence, language, task.

    `model` is the description of the dense model; a hub model's card is taken from there or from the cache. {} where
    there is no card, or none that can be read.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.repocard import metadata_load

    name = model["name"]
    try:
        if model["source"] == "hub":
            options = {"cache_dir": cache_dir, "local_files_only": local_files_only}
            readme = Path(hf_hub_download(name, "README.md", revision=model["revision"], **options))
        else:
            readme = (builtin.path(name) if model["source"] == "builtin" else Path(name).expanduser()) / "README.md"
        metadata = metadata_load(readme) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        logger.info("no facts from the card of %s: %s", name, error)
        return {}
    return {key: metadata[key] for key in INHERITED if metadata.get(key)}


def _imports(class_name: str) -> str:
    if class_name not in MODULES:
        return f"from transformers import AutoProcessor, {class_name}"
    return f"from transformers import AutoProcessor\n\nfrom {MODULES[class_name]} import {class_name}"


def _recovered(report: Mapping[str, Any]) -> str:
    facts = report.get("recovered")
    if not facts:
        return ""
    described = {"method": METHODS[facts["method"]], "steps": report["made"]["steps"]}
    teacher = ""
    if dense := facts.get("teacher"):
        weight = f"with weight {dense['distill']:g} at temperature {dense['temperature']:g}"
        teacher = f", distilled from {_escaped(str(_public(dense['name'])))} {weight}"
    return _RECOVERED.format(**described, parameters=facts["parameters"], teacher=teacher)


def _sparsities(report: Mapping[str, Any]) -> str:
    total = report["total"]
    rows = [
        (_escaped(name), f"{part['layers']}", f"{part['weights']:,}", f"{part['zeros']:,}", f"{part['sparsity']:.2%}")
        for name, part in {**report["modalities"], "in scope": total}.items()
    ]
    for name, key in (("all prunable weights", "prunable"), ("all weights", "model")):
        weights, sparsity = total[f"{key}_weights"], total[f"{key}_sparsity"]
        zeros = total.get(f"{key}_zeros", total["zeros"])
        rows.append((name, "", f"{weights:,}", f"{zeros:,}", f"{sparsity:.2%}"))
    return _table(("", "layers", "weights", "zeros", "sparsity"), rows)


def _uncovered(report: Mapping[str, Any]) -> str:
    if not report.get("not_covered"):
        return ""
    text = in_words(report["not_covered"], report["total"]["model_weights"])
    return f"\n\n{_escaped(text[0].upper() + text[1:])}."


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if not evaluation:
        return "It has not been evaluated since it was pruned."
    dataset, level = evaluation["dataset"], f"{evaluation['bootstrap']['level']:.0%} interval"
    limited = f" (limit {evaluation['limit']:,}: not comparable with the whole split)" if evaluation["limit"] else ""
    where = f"{evaluation['task']} on {_public(dataset['dataset'])} ({dataset['split']})"
    rows = [
        (_escaped(name), f"{metric['value']:.2f}", f"{metric['low']:.2f} to {metric['high']:.2f}")
        for name, metric in evaluation["metrics"].items()
        if metric["value"] is not None
    ]
    skipped = [_escaped(name) for name, metric in evaluation["metrics"].items() if metric["value"] is None]
    without = f"\n\nNot computed: {', '.join(skipped)}." if skipped else ""
    intro = (
        f"{_escaped(where)}, {evaluation['samples']:,} samples{limited}. In percent; the interval is one over samples."
    )
    if learnt := evaluation["dataset"].get("learnt"):
        intro += f" Samples of this split were used for {learnt}: these numbers are not a test."
    return f"{intro}\n\n{_table(('metric', 'value', level), rows)}{without}"


def _model_index(evaluation: Mapping[str, Any]) -> list[Any]:
    """The evaluation in the form in which the Hub lists results."""
    from huggingface_hub import EvalResult

    dataset = evaluation["dataset"]
    listed = dataset.get("join")
    return [
        EvalResult(
            task_type=HUB_TASKS.get(evaluation["task"], evaluation["task"]),
            dataset_type=listed["list"] if listed else dataset["dataset_id"] or _public(dataset["dataset"]),
            dataset_name=_public(dataset["dataset"]),
            dataset_split=dataset["split"],
            metric_type=name.lower(),
            metric_name=name,
            metric_value=round(metric["value"], 4),
        )
        for name, metric in evaluation["metrics"].items()
        if metric["value"] is not None
    ]


def _public(value: Any) -> Any:
    """A value, or all in it, with the last name of each path that says where this machine keeps things.

    Such a path is absolute, begins at a home folder or leads upwards; it may follow "key=".
    """
    if isinstance(value, Mapping):
        return {key: _public(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_public(each) for each in value]
    if not isinstance(value, str):
        return value
    if _is_place(value):
        name = PurePath(value).name
        # what would be a known dataset alone is a folder
        return f"./{name}" if name in CATALOG else name
    key, equals, path = value.partition("=")
    return f"{key}={PurePath(path).name}" if equals and _is_place(path) else value


def _is_place(text: str) -> bool:
    parts = PurePath(text).parts
    return bool(parts) and (parts[0][0] in "/~" or ".." in parts)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _escaped(text: str) -> str:
    """Any text as plain words of a markdown line or table cell."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))


def _fenced(text: str, language: str) -> str:
    """Any text as a block of code: the fence is longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
