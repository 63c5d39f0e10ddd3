"""Whether a sentence is true of two images (NLVR2): what a model is shown, learns and answers.

It does not know which architectures take two images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from idvl.data.fields import TRUTH_CLASSES
from idvl.data.samples import Sample, Selection
from idvl.errors import UsageError, listed, quoted
from idvl.models.forward import on_device, unlabelled
from idvl.models.generation import Generation
from idvl.models.inputs import process
from idvl.models.losses import Gather, Objective, over_labels
from idvl.models.processors import tokenizer_of
from idvl.models.skills import tokens

if TYPE_CHECKING:
    from idvl.models.loading import Loaded

# words that say alone whether a sentence is true
MEANINGS = {"true": 1, "false": 0, "t": 1, "f": 0, "yes": 1, "no": 0, "y": 1, "n": 0, "1": 1, "0": 0}
SAY_WHETHER_TRUE = "labels must say whether a sentence is true: write true or false, or 1 or 0, in place of"


def with_truths(loaded: Loaded, selection: Selection) -> Selection:
    """The selection with labels 1 for true and 0 for false, by what the dataset's names of classes mean.

    Names are those of MEANINGS and of the head's two classes. UsageError for another one; without names for a label
    other than 0 and 1, of the whole column where `labels` of the description says it; and where numbers, or true and
    false, of one value stand among missing ones (-1 too), which may mean the other value.
    """
    described, samples = selection.description, selection.samples
    drawn = {sample.label for sample in samples} - {None}
    if not drawn:
        return selection
    where, names = described["dataset"], described.get("classes")
    meanings = [0, 1]
    if names:
        id2label = loaded.model.config.id2label
        of_head = {_folded(id2label[place]): truth for truth, place in enumerate(classes(loaded.model.config))}
        meanings = [(of_head | MEANINGS).get(_folded(name)) for name in names]
        if odd := [quoted(name) for name, meaning in zip(names, meanings, strict=True) if meaning is None]:
            raise UsageError(f"{where}: {SAY_WHETHER_TRUE} {listed(odd)}")
    lowest, highest = described.get("labels") or (min(drawn), max(drawn))
    if not names and highest > 1:
        raise UsageError(f"{where}: {SAY_WHETHER_TRUE} numbers up to {highest}")
    says_both = names and tuple(names) != TRUTH_CLASSES
    if not says_both and lowest == highest and any(sample.label is None for sample in samples):
        raise UsageError(
            f"{where}: every label is {lowest} or missing (-1 counts as missing), and a missing one does not say that "
            f"a sentence is {'true' if lowest == 0 else 'false'}: write true or false, or 1 or 0, or remove the "
            "samples without a label"
        )
    meant = dict(enumerate(meanings)) | {None: None}
    return Selection(
        samples=[replace(sample, label=meant[sample.label]) for sample in samples],
        description=described | {"classes": ["false", "true"]},
    )


def both(processor: Any, samples: Sequence[Sample], square: int | None = None) -> dict[str, Tensor]:
    """pixel_values (n, 2, 3, height, width), and what else the processor makes of each image, as pixel_mask.

    `square`: as in `process`. Raises UsageError for a sample without two images.
    """
    images = []
    for sample in samples:
        if sample.source is None or sample.second is None:
            raise UsageError(f"sample {sample.id} has no two images to compare; choose a dataset of pairs, as nlvr2")
        images += [sample, replace(sample, source=sample.second)]
    pairs = process(processor, images, 0, needs=("image",), square=square)
    return {key: value.unflatten(0, (len(samples), 2)) for key, value in pairs.items()}


def training_inputs(processor: Any, samples: Sequence[Sample], text_length: int, config: Any) -> dict[str, Tensor]:
    """Texts, `both` images, and labels (n,): the class that means what the sample's label says."""
    text = process(tokenizer_of(processor), samples, text_length, needs=("text",))
    labels = torch.tensor([classes(config)[sample.label] for sample in samples])
    return {**text, **both(processor, samples), "labels": labels}


def loss(
    call: Callable[[nn.Module, dict[str, Tensor]], Any],
    model: nn.Module,
    inputs: dict[str, Tensor],
    gather: Gather | None = None,
) -> Objective:
    """Cross-entropy of false and true, of a model's `call`."""
    return over_labels(call(model, unlabelled(inputs)).logits, inputs["labels"])


def unusable_reason(sample: Sample, config: Any) -> str | None:
    """A sample needs two images, and a label that says whether the sentence is true of them."""
    if sample.source is None or sample.second is None:
        return "it has no two images; choose a dataset of pairs, as nlvr2"
    return None if sample.label in (0, 1) else f"its label is {sample.label}, not 0 (false) or 1 (true)"


def statements(loaded: Loaded, samples: Sequence[Sample], settings: Generation) -> dict[str, Tensor]:
    """`both` images, and the sentences."""
    return {**both(loaded.processor, samples), **tokens(loaded, [sample.texts[0] for sample in samples])}


@torch.no_grad()
def verify_statement(loaded: Loaded, inputs: dict[str, Tensor], settings: Generation) -> Tensor:
    """The logits of false and true, (n, 2)."""
    scores = loaded.family.call(loaded.model, on_device(loaded.model, inputs)).logits
    return scores[:, classes(loaded.model.config)].float().cpu()


def classes(config: Any) -> list[int]:
    """The classes that mean false and true, by their names, or in this order where they have other names."""
    named = {MEANINGS.get(_folded(name)): number for number, name in config.id2label.items()}
    return [named[0], named[1]] if {0, 1} <= set(named) else [0, 1]


def _folded(name: str) -> str:
    return str(name).strip().casefold()
