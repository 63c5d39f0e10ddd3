"""A model whose outputs are NaN or inf ends an evaluation with the sample's name, in every task."""

import functools
from dataclasses import replace

import pytest
import torch

from idvl import tasks
from idvl.errors import RunError
from idvl.models.generation import Generation, resolve
from idvl.models.loading import wrap
from idvl.tasks import TaskSettings
from tests.support import tiny

WRITTEN = {"answer", "caption"}


@functools.cache
def loaded(kind):
    torch.manual_seed(0)
    return wrap(*tiny.KINDS[kind]())


def walk(kind, task, n=3):
    """The task's walk over n samples, and its settings."""
    model = loaded(kind)
    generation = Generation()
    for skill in WRITTEN & set().union(*tasks.load(task).skills):
        generation = resolve(model, skill, generation)
    classes = ("red star", "blue star") if kind == "clip" else None
    asked = TaskSettings(generation=generation, classes=classes, rerank=2)
    samples = [replace(sample, label=k % 2, answers=("red",)) for k, sample in enumerate(tiny.samples(n))]
    return tasks.load(task).predict(model, samples, asked), samples, asked


def poisoned(inputs, row, value=float("nan")):
    """Model inputs whose image number `row` is no image."""
    images = inputs.get("images", inputs)
    images["pixel_values"][row] = value
    return inputs


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("vit", "classification"),
        ("clip", "classification"),
        ("clip", "retrieval"),
        ("blip-itm", "retrieval"),
        ("blip", "caption"),
        ("git", "caption"),
        ("llava", "vqa"),
        ("blip-vqa", "vqa"),
        ("vilt-nlvr2", "reasoning"),
    ],
)
def test_the_sample_whose_output_is_nan_is_named(kind, task):
    done, samples, _ = walk(kind, task)
    assert len(done.perform(samples, done.prepare(samples))) == 3
    with pytest.raises(RunError, match="for tiny-1 is NaN or inf"):
        done.perform(samples, poisoned(done.prepare(samples), 1))


@pytest.mark.parametrize(
    ("kind", "task", "weight"),
    [
        ("vit", "classification", "classifier.weight"),
        ("blip", "caption", "text_decoder.cls.predictions.decoder.weight"),
        ("clip", "retrieval", "text_projection.weight"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_end_the_evaluation(kind, task, weight, value):
    done, samples, _ = walk(kind, task)
    parameter = loaded(kind).model.get_parameter(weight)
    kept = parameter.detach().clone()
    with torch.no_grad():
        parameter[0, 0] = value
    try:
        with pytest.raises(RunError, match="for tiny-0 is NaN or inf"):
            done.perform(samples, done.prepare(samples))
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def test_a_class_whose_sentence_is_nan_is_named():
    model = loaded("clip")
    parameter = model.model.get_parameter("text_model.embeddings.token_embedding.weight")
    kept = parameter.detach().clone()
    with torch.no_grad():
        # the tiny CLIP reads letters; one that "a photo of a red star." has not
        parameter[model.processor.tokenizer("blue", add_special_tokens=False)["input_ids"][0]] = float("nan")
    try:
        with pytest.raises(RunError, match="for a photo of a blue star. is NaN or inf"):
            walk("clip", "classification")
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


def test_a_matching_score_that_is_nan_names_its_image():
    done, samples, asked = walk("blip-itm", "retrieval")
    records = done.perform(samples, done.prepare(samples))
    again = tasks.load("retrieval").refine(loaded("blip-itm"), samples, asked, records)
    inputs = again.prepare(again.items)
    inputs[2]["pixel_values"][:] = float("nan")
    with pytest.raises(RunError, match="for tiny-2 is NaN or inf"):
        again.perform(again.items, inputs)
