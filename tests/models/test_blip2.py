"""BLIP-2 and InstructBLIP as their authors use them: inputs, losses and texts are those of plain transformers."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from idvl.metrics.retrieval import similarity
from idvl.models.generation import Generation
from idvl.models.inputs import encode
from idvl.models.labels import IGNORED
from idvl.models.layers import find_layers, in_scope
from idvl.models.loading import wrap
from idvl.models.text_positions import mask_at, text_offsets
from idvl.sweep.grid import read
from tests.coverage.architectures import architectures, audible
from tests.support import tiny
from tests.support.outputs import outputs

CAPTIONED = tiny.samples(4)
ANSWERED = [dataclasses.replace(one, answers=("two red",)) for one in CAPTIONED[:2]]
ANSWERED += [dataclasses.replace(one, answers=("a",)) for one in CAPTIONED[2:]]
# what the authors put before a caption and an answer
PROMPTS = {
    "blip2_opt": ("a photo of", "Question: {} Answer:"),
    "blip2_t5": ("a photo of", "Question: {} Short answer:"),
    "instructblip_vicuna": ("A short image description:", "Question: {} Short answer:"),
    "instructblip_t5": ("A short image description:", "Question: {} Short answer:"),
}
WRITERS = ["blip2_t5", "instructblip_vicuna"]
WRITERS += [pytest.param(name, marks=pytest.mark.slow) for name in ("blip2_opt", "instructblip_t5")]


@pytest.fixture(scope="module")
def get():
    """An architecture of `make coverage` by name, with weights so large that it tells one question from another."""

    @functools.cache
    def build(name):
        torch.manual_seed(0)
        model, processor = architectures()[name].make()
        audible(model)
        for parameter in model.language_model.decoder.parameters() if name.endswith("t5") else ():
            parameter.data.mul_(3 if parameter.ndim > 1 else 1)
        return wrap(model.eval(), processor)

    return build


def prompt(name, sample):
    caption, answer = PROMPTS[name]
    return answer.replace("{}", sample.texts[0]) if sample.answers else caption


def plain(loaded, name, sample, end):
    """Model inputs and labels of one sample: the tokens of the answer and of its end."""
    processor, before = loaded.processor, prompt(name, sample)
    answer = sample.answers[0] if sample.answers else sample.texts[0]
    shown = dict(processor(images=sample.image, text=before, return_tensors="pt"))
    if name.endswith("t5"):
        return {**shown, "labels": torch.tensor([processor.tokenizer(answer)["input_ids"]])}
    whole = dict(processor(images=sample.image, text=f"{before} {answer}{end}", return_tensors="pt"))
    labels = whole["input_ids"].clone()
    labels[:, : shown["input_ids"].shape[1]] = IGNORED
    read = {key: value for key, value in shown.items() if key.startswith("qformer_")}
    return {**whole, **read, "labels": labels}


@pytest.mark.parametrize("samples", [CAPTIONED, ANSWERED], ids=["captions", "answers"])
@pytest.mark.parametrize("name", WRITERS)
def test_labels_and_loss_are_those_of_a_plain_script(get, name, samples):
    loaded = get(name)
    task = loaded.family.training_task
    inputs = task.inputs(loaded.processor, samples, 0, loaded.model.config)
    total, count, _ = task.loss(loaded.model, inputs, None)
    expected, terms = 0.0, 0
    for row, sample in zip(inputs["labels"], samples, strict=True):
        given = plain(loaded, name, sample, loaded.processor.tokenizer.eos_token)
        size = given["labels"].shape[1]
        assert row[:size].tolist() == given["labels"][0].tolist() and (row[size:] == IGNORED).all()
        learnt = int((given["labels"] != IGNORED).sum())
        expected += loaded.model(**given).loss * learnt
        terms += learnt
    assert count == terms
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_texts_are_those_of_generate_for_one_image_alone(get, name):
    loaded, settings = get(name), Generation(beams=1, min_length=1, max_length=6)
    texts = set()
    for skill, samples in (("caption", CAPTIONED), ("answer", ANSWERED)):
        expected = []
        for one in samples:
            shown = loaded.processor(images=one.image, text=prompt(name, one), return_tensors="pt")
            written = loaded.model.generate(**shown, num_beams=1, do_sample=False, max_new_tokens=6, min_new_tokens=1)
            begun = 0 if name.endswith("t5") else shown["input_ids"].shape[1]
            expected.append(loaded.processor.tokenizer.decode(written[0, begun:], skip_special_tokens=True).strip())
        ability = loaded.family.skills[skill]
        assert ability.perform(loaded, ability.prepare(loaded, samples, settings), settings) == expected
        texts.update(expected)
    assert len(texts) > 1


def test_a_text_ends_where_opt_stops():
    """OPT's checkpoints of BLIP-2 stop at a line break, which their tokenizer does not call its end."""
    torch.manual_seed(0)
    model, processor = architectures()["blip2_opt"].make()
    line = processor.tokenizer.convert_tokens_to_ids("Ċ")
    model.language_model.generation_config.eos_token_id = line
    loaded = wrap(model, processor)
    inputs = loaded.family.training_task.inputs(loaded.processor, CAPTIONED[:1], 0, model.config)
    given = plain(loaded, "blip2_opt", CAPTIONED[0], "\n")
    assert inputs["labels"].tolist() == given["labels"].tolist() and given["labels"][0, -1] == line


@pytest.mark.parametrize("name", WRITERS)
def test_real_tokens_are_those_that_a_trial_finds(get, name):
    """Other tokens at padded positions change what the mask leaves out, and nothing else."""
    loaded = get(name)
    places, faults = text_offsets(loaded.family, loaded.model, loaded.processor)
    assert not faults
    (batch,) = encode(loaded, CAPTIONED, batch_size=4)
    counts = lengths(loaded, batch)
    assert set(counts) == set(find_layers(loaded.model, loaded.family))
    for layer, count in counts.items():
        own, found = loaded.family.token_mask(layer, count, batch), mask_at(places, layer, count, batch)
        assert (own is None and found is None) or torch.equal(own, found), layer


@pytest.mark.parametrize("name", WRITERS)
def test_queries_are_image_tokens(get, name):
    loaded = get(name)
    (batch,) = encode(loaded, CAPTIONED, batch_size=4)
    counts, seen = lengths(loaded, batch), {}
    for layer, count in counts.items():
        mask = loaded.family.image_tokens(layer, count, batch)
        seen.setdefault(layer.split(".")[0], set()).add(None if mask is None else tuple(mask.sum(1).tolist()))
        assert mask is None or mask.shape == (4, count)
    queries, text = (4,) * 4, (0,) * 4
    assert seen["vision_model"] == seen["language_projection"] == {None}
    assert seen["qformer"] == ({None, queries, text} if name.startswith("instructblip") else {None})
    assert seen["language_model"] == ({None, queries} if name.endswith("t5") else {queries})
    first = next(layer for layer in counts if layer.startswith("language_model."))
    assert loaded.family.image_tokens(first, counts[first], batch)[:, :4].all()


def lengths(loaded, batch):
    """The tokens of each layer."""
    return {
        name: out.numel() // out.shape[-1] // len(batch["input_ids"]) for name, out in outputs(loaded, batch).items()
    }


@pytest.mark.parametrize("samples", [CAPTIONED, ANSWERED], ids=["captions", "answers"])
def test_a_decoder_reads_answers_or_texts_and_no_places_of_queries(get, samples):
    loaded = get("blip2_t5")
    (batch,) = encode(loaded, samples, batch_size=4)
    answers = [sample.answers[0] if sample.answers else sample.texts[0] for sample in samples]
    labels = loaded.processor.tokenizer(answers, padding=True, return_tensors="pt")["input_ids"]
    read = loaded.model.language_model._shift_right(labels)
    tokens, real = batch["decoder_input_ids"], batch["decoder_attention_mask"].bool()
    assert torch.equal(tokens[:, : read.shape[1]], read) and torch.equal(real[:, 1 : read.shape[1]], read[:, 1:] != 0)


def test_a_q_former_does_not_read_the_answer(get):
    loaded = get("instructblip_vicuna")
    inputs = loaded.family.training_task.inputs(loaded.processor, ANSWERED, 0, loaded.model.config)
    questions = [prompt("instructblip_vicuna", one) for one in ANSWERED]
    masks = inputs["qformer_attention_mask"].bool()
    for row, mask, question in zip(inputs["qformer_input_ids"], masks, questions, strict=True):
        assert row[mask].tolist() == loaded.processor.qformer_tokenizer(question)["input_ids"]


@pytest.mark.parametrize("name", WRITERS)
def test_the_scope_of_language_is_the_language_model(get, name):
    loaded = get(name)
    scope = in_scope(loaded.model, loaded.family, "language")
    maps = {key for key, module in loaded.model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert set(scope) == {key for key in maps if key.startswith("language_model.")} - {"language_model.lm_head"}
    assert set(find_layers(loaded.model, loaded.family)) == maps - {"language_model.lm_head"}
    # of the recipe of ECoFLaP, whose Q-Former stays dense
    pruned = in_scope(loaded.model, loaded.family, read("ecoflap/blip2").cells[0].recipe.prune.scope)
    assert {layer.modality for layer in pruned.values()} == {"vision", *(layer.modality for layer in scope.values())}
    assert not any(name.startswith(("qformer.", "language_projection")) for name in pruned)


@pytest.fixture(scope="module", params=["places", "no places"])
def matching(get, request):
    """The class of image-text matching, whose texts begin with places of queries, as the processor gives, or do not."""
    torch.manual_seed(0)
    model, processor = architectures()["blip2_itm"].make()
    audible(model)
    if request.param == "no places":
        model.config.image_token_index = processor.num_query_tokens = None
    return wrap(model.eval(), processor)


def pair(loaded, sample, text):
    return dict(loaded.processor(images=sample.image, text=text, return_tensors="pt"))


def test_the_matching_loss_is_that_of_a_plain_script(matching):
    samples = [CAPTIONED[0], dataclasses.replace(CAPTIONED[0], source=CAPTIONED[1].source), *CAPTIONED[2:]]
    task = matching.family.training_task
    inputs = task.inputs(matching.processor, samples, 30, matching.model.config)
    assert inputs["labels"].tolist() == [1, 1, 1, 1, 0, IGNORED, 0, 0]
    total, count, _ = task.loss(matching.model, inputs, None)
    expected = []
    for at, label in ((0, 1), (1, 1), (2, 1), (3, 1), (0, 0), (2, 0), (3, 0)):
        shown = pair(matching, samples[at], samples[at if label else at - 1].texts[0])
        logits = matching.model(**shown, use_image_text_matching_head=True).logits_per_image
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor([label])))
    assert count == 7
    torch.testing.assert_close(total, sum(expected), rtol=1e-4, atol=1e-4)


def test_embeddings_and_matches_are_those_of_the_model_for_one_pair_alone(matching):
    skills, texts, settings = matching.family.skills, [one.texts[0] for one in CAPTIONED], Generation()
    images = skills["embed_images"].perform(
        matching, skills["embed_images"].prepare(matching, CAPTIONED, settings), settings
    )
    read = skills["embed_texts"].perform(matching, skills["embed_texts"].prepare(matching, texts, settings), settings)
    assert images.shape == (4, 4, 16) and images.dtype == torch.float32
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(4, 4))
    for row, sample in enumerate(CAPTIONED):
        scores = skills["match"].perform(
            matching, skills["match"].prepare(matching, [(sample, texts * 20)], settings), settings
        )
        torch.testing.assert_close(scores, scores[:4].repeat(20), rtol=1e-4, atol=1e-5)
        for column, text in enumerate(texts):
            shown = pair(matching, sample, text)
            with torch.no_grad():
                together = matching.model(**shown, use_image_text_matching_head=True).logits_per_image[0, 1]
                apart = matching.model(**shown, use_image_text_matching_head=False).logits_per_image[0, 0]
            torch.testing.assert_close(scores[column], together, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(similarity(images, read)[row, column], apart, rtol=1e-4, atol=1e-5)


def test_a_matching_q_former_knows_its_text_and_its_queries(matching):
    (batch,) = encode(matching, CAPTIONED, batch_size=4)
    shift = 0 if matching.model.config.image_token_index is None else 4
    real = batch["attention_mask"][:, shift:].bool()
    counts, layers = lengths(matching, batch), find_layers(matching.model, matching.family)
    assert set(counts) == set(layers)
    if not shift:
        places, faults = text_offsets(matching.family, matching.model, matching.processor)
        assert not faults
        assert set(places) == {name for name, layer in layers.items() if layer.modality in ("language", "fusion")}
    for layer, count in counts.items():
        modality, mask = layers[layer].modality, matching.family.token_mask(layer, count, batch)
        image = matching.family.image_tokens(layer, count, batch)
        assert (mask is not None) == (modality in ("language", "fusion")), layer
        if modality == "fusion":
            assert mask[:, :4].all() and torch.equal(mask[:, 4:], real)
            assert image[:, :4].all() and not image[:, 4:].any()
        else:
            assert image is None and (mask is None or torch.equal(mask, real))


def test_captions_are_cleaned_as_in_lavis(matching):
    prepare = matching.family.skills["embed_texts"].prepare
    texts = ["A red, (star)!", "near " * 60]
    ids = prepare(matching, texts, Generation())["input_ids"]
    plain = matching.processor.tokenizer(["a red, star", "near " * 33], padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(ids, plain) and ids.shape[1] == 35


@pytest.mark.parametrize("name", [*WRITERS, "blip2_itm"])
def test_the_text_moves_no_vision_layer_and_the_image_moves_all_that_read_it(get, name):
    loaded = get(name)
    worded = dataclasses.replace(CAPTIONED[0], texts=CAPTIONED[1].texts)
    shown = dataclasses.replace(CAPTIONED[0], source=CAPTIONED[1].source)
    own, worded, shown = (
        outputs(loaded, encode(loaded, [one], batch_size=1)[0]) for one in (CAPTIONED[0], worded, shown)
    )
    former_reads = name.startswith("instructblip") or name == "blip2_itm"
    for layer, found in find_layers(loaded.model, loaded.family).items():
        first = own[layer]
        if found.modality == "vision" or (found.modality == "connector" and not former_reads):
            assert torch.equal(worded[layer], first), layer
        elif found.modality != "connector" and not found.reads_image:
            assert worded[layer].shape != first.shape or not torch.allclose(worded[layer], first, atol=1e-6), layer
        if found.block and not found.block.endswith(".0"):
            assert not torch.allclose(shown[layer], first, atol=1e-6), layer


def test_a_text_beyond_the_positions_of_the_qformer_is_cut(get, caplog):
    loaded = get("instructblip_vicuna")
    samples = [
        dataclasses.replace(sample, texts=("red " * n,)) for sample, n in zip(tiny.samples(2), (3, 100), strict=True)
    ]
    with caplog.at_level("WARNING", "idvl"):
        batch = encode(loaded, samples, batch_size=2)[0]
    assert "1 of 2 texts are longer than the Q-Former's 64 tokens and are cut" in caplog.messages
    end = loaded.processor.qformer_tokenizer.sep_token_id
    assert batch["qformer_input_ids"].shape == (2, 64) and batch["qformer_input_ids"][1, -1] == end
    assert batch["input_ids"].shape[1] > 100
    loaded.family.call(loaded.model, batch)
