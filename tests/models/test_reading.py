"""Images with texts as a model's authors have it read them: labels, losses and prompts are those of plain scripts.

Each script writes out the text that its architecture's authors document.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from idvl.errors import UsageError
from idvl.measurement.api import estimate_id
from idvl.models.generation import Generation
from idvl.models.labels import IGNORED
from idvl.models.layers import find_layers
from idvl.models.loading import wrap
from tests.coverage.architectures import architectures
from tests.support import tiny

CAPTIONED = tiny.samples(4)
ANSWERED = [dataclasses.replace(one, answers=("two red",)) for one in CAPTIONED[:2]]
ANSWERED += [dataclasses.replace(one, answers=("a",)) for one in CAPTIONED[2:]]
# what stands before the answer, {} the question, and what ends the answer
PLAIN = {
    "aya_vision": (
        "<|START_OF_TURN_TOKEN|>user<image>{}<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>chatbot",
        "</s>",
    ),
    "glm4v": ("<|user|>\n<|begin_of_image|><|image|><|end_of_image|>{}<|assistant|>\n", "<|endoftext|>"),
}


def plain(loaded, name, sample):
    """Model inputs and labels of one sample: the tokens of the answer and of its end."""
    processor, tokenizer = loaded.processor, loaded.processor.tokenizer
    question, answer = (sample.texts[0], sample.answers[0]) if sample.answers else ("", sample.texts[0])
    before, end = PLAIN[name]
    before = before.format(question)
    inputs = processor(images=[sample.image], text=[before + answer + end], return_tensors="pt")
    whole, begun = (tokenizer(text)["input_ids"] for text in (before + answer + end, before.rstrip(" ")))
    ids = whole[len(begun) :]
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    labels[0, -len(ids) :] = torch.tensor(ids)
    return {**inputs, "labels": labels}


@pytest.mark.parametrize("samples", [CAPTIONED, ANSWERED], ids=["captions", "answers"])
@pytest.mark.parametrize("name", PLAIN)
def test_labels_and_loss_are_those_of_a_plain_script(get, name, samples):
    loaded = get(name)
    task, length = loaded.family.training_task, loaded.family.text_length(loaded.processor, samples)
    inputs = task.inputs(loaded.processor, samples, length, loaded.model.config)
    total, count, _ = task.loss(loaded.model, inputs, None)
    expected, terms = 0.0, 0
    for row, tokens, sample in zip(inputs["labels"], inputs["input_ids"], samples, strict=True):
        given = plain(loaded, name, sample)
        size = given["labels"].shape[1]
        assert row[:size].tolist() == given["labels"][0].tolist() and (row[size:] == IGNORED).all()
        assert tokens[:size].tolist() == given["input_ids"][0].tolist()
        learnt = int((given["labels"] != IGNORED).sum())
        expected += loaded.model(**given).loss * learnt
        terms += learnt
    assert count == terms
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["glm4v", "aya_vision", "mistral3"])
def test_what_is_written_does_not_depend_on_the_batch(get, name):
    """Images of two shapes, packed or in tiles, and questions of several lengths."""
    loaded = get(name)
    wide = [dataclasses.replace(one, source=one.image.resize((64, 32))) for one in CAPTIONED[:2]]
    samples, settings = [*wide, *CAPTIONED[2:]], Generation(beams=1, min_length=1, max_length=6)
    skill = loaded.family.skills["answer"]

    def written(some):
        return skill.perform(loaded, skill.prepare(loaded, some, settings), settings)

    assert written(samples) == [text for one in samples for text in written([one])]


def test_a_prompt_that_places_the_image_is_taken_as_it_is(get):
    loaded = get("qwen2_vl")
    prompt = "<|vision_start|><|image_pad|><|vision_end|>a red"
    prepare = loaded.family.skills["caption"].prepare
    inputs = prepare(loaded, CAPTIONED[:1], Generation(prompt=prompt))
    ids = loaded.processor(images=[CAPTIONED[0].image], text=[prompt], return_tensors="pt")["input_ids"]
    assert torch.equal(inputs["input_ids"], ids)


def test_without_its_template_texts_follow_the_image():
    torch.manual_seed(0)
    loaded = wrap(*architectures()["llava"].make(), chat_template=False)
    assert loaded.description["chat_template"] is False
    inputs = loaded.family.skills["answer"].prepare(loaded, CAPTIONED[:1], Generation())
    text = f"<image>{CAPTIONED[0].texts[0]}\nAnswer the question using a single word or phrase."
    ids = loaded.processor(images=[CAPTIONED[0].image], text=[text], return_tensors="pt")["input_ids"]
    assert torch.equal(inputs["input_ids"], ids)


def test_the_library_measures_without_the_template(tmp_path):
    loaded = wrap(*architectures()["llava"].make())
    for part in (loaded.model, loaded.processor):
        part.save_pretrained(tmp_path)
    chosen = {"layers": "*language_model*1.mlp.up_proj", "device": "cpu"}

    def dimension(model, **options):
        profile = estimate_id(model, tiny.samples(24), **chosen, **options)
        assert profile.model["chat_template"] is options.get("chat_template", True)
        (layer,) = profile.layers.values()
        return layer.estimate.dimension

    without = dimension(loaded.model, processor=loaded.processor, chat_template=False)
    assert dimension(tmp_path, chat_template=False) == without
    assert dimension(tmp_path) != without
    with pytest.raises(UsageError, match=r"model\.chat_template"):
        dimension(tmp_path, chat_template="none")


def test_a_mark_parts_chameleons_prompt_from_the_answer(get):
    """As its processor ends a prompt, and as in section 3 of its paper; the answer and its end alone are learnt."""
    loaded, sample = get("chameleon"), CAPTIONED[0]
    processor, tokenizer = loaded.processor, loaded.processor.tokenizer
    asked = processor(images=[sample.image], text=["<image>a red"], return_tensors="pt")["input_ids"]
    assert asked[0, -1] == tokenizer.sep_token_id != tokenizer.eos_token_id
    prepare = loaded.family.skills["caption"].prepare
    assert torch.equal(prepare(loaded, [sample], Generation(prompt="a red"))["input_ids"], asked)
    task = loaded.family.training_task
    inputs = task.inputs(processor, [sample], 64, loaded.model.config)
    learnt = inputs["labels"][0] != IGNORED
    answer = tokenizer(sample.texts[0] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    assert inputs["labels"][0][learnt].tolist() == answer == inputs["input_ids"][0, -len(answer) :].tolist()
    assert inputs["input_ids"][0, -len(answer) - 1] == tokenizer.sep_token_id


def test_a_template_is_used_and_recorded(get):
    loaded = get("llava")
    assert loaded.description["chat_template"] is True
    inputs = loaded.family.skills["answer"].prepare(loaded, CAPTIONED[:1], Generation())
    text = f"USER: <image>\n{CAPTIONED[0].texts[0]}\nAnswer the question using a single word or phrase. ASSISTANT:"
    ids = loaded.processor(images=[CAPTIONED[0].image], text=[text], return_tensors="pt")["input_ids"]
    assert torch.equal(inputs["input_ids"], ids)


def test_a_model_without_a_template_is_named():
    model, processor = architectures()["llava"].make()
    processor.chat_template = None
    assert any("has no chat template: texts follow <image>" in note for note in wrap(model, processor).family.notes)


def test_a_text_without_room_in_the_context_is_one_line(get):
    loaded = get("qwen2_vl")
    tokenizer, limit = loaded.processor.tokenizer, loaded.processor.tokenizer.model_max_length
    family, config = loaded.family, loaded.model.config
    try:
        tokenizer.model_max_length = 10
        with pytest.raises(UsageError, match="the image of sample '.*' takes 4 tokens, more than fit into the model's"):
            family.inputs(loaded.processor, CAPTIONED[:1], None)
        tokenizer.model_max_length = 30
        with pytest.raises(UsageError, match="with its answer, more than the model's 30: remove it"):
            family.training_task.inputs(loaded.processor, ANSWERED[:1], 0, config)
        with pytest.raises(UsageError, match="leaves no room for 64 more in the model's 30"):
            family.skills["caption"].prepare(loaded, CAPTIONED[:1], Generation(prompt="a"))
    finally:
        tokenizer.model_max_length = limit


def test_a_template_without_a_place_for_the_image_is_one_line():
    model, processor = architectures()["llava"].make()
    processor.chat_template = "{% for m in messages %}USER: {{ m['content'][-1]['text'] }}{% endfor %}ASSISTANT:"
    with pytest.raises(
        UsageError, match="the prompt has no place for the image of sample 'trial': put <image> into it"
    ):
        wrap(model, processor)


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "janus", "aya_vision"])
def test_every_layer_of_a_decoder_knows_its_padding(get, name):
    """The first layer's output projection too, where other tokens at padded positions change next to nothing."""
    loaded = get(name)
    places = loaded.family.token_mask.args[0]
    layers = find_layers(loaded.model, loaded.family)
    missing = [name for name, layer in layers.items() if layer.modality == "language" and name not in places]
    assert not missing and set(places.values()) == {("attention_mask", 0)}


def test_what_a_processor_pads_to_is_no_length_of_a_text(get, idvl_log, caplog):
    """OwlViT's pads every text to 64 tokens: the batch is as long, and a text is cut only where it is longer itself."""
    loaded, long = get("owlvit"), dataclasses.replace(CAPTIONED[0], texts=("a red star " * 30,))
    caplog.clear()
    assert loaded.family.text_length(loaded.processor, CAPTIONED) == 64 and not caplog.messages
    assert loaded.family.text_length(loaded.processor, [*CAPTIONED, long]) == 64
    assert "1 of 5 texts are longer than the model's 64 tokens and are cut" in caplog.messages
