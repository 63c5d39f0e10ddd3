"""What models can be asked to do: the same as transformers does for one item alone, whatever the batch."""

from __future__ import annotations

import dataclasses
import functools
import logging
import warnings

import pytest
import torch
import torch.nn.functional as F
import transformers

from idvl.data import shapes
from idvl.errors import UsageError
from idvl.evaluation.evaluation import unread_settings
from idvl.models.families import family_of
from idvl.models.generation import Generation, resolve
from idvl.models.loading import load, wrap
from tests.support import tiny

SAMPLES = tiny.samples(8)
SHORT = Generation(min_length=1, max_length=8)
SKILLS_OF = {
    "blip": {"caption"},
    "blip-vqa": {"answer"},
    "blip-itm": {"embed_images", "embed_texts", "match"},
    "clip": {"embed_images", "embed_texts"},
    "siglip": {"embed_images", "embed_texts"},
    "flava": {"embed_images", "embed_texts"},
    "vit": {"classify"},
    "vilt": {"answer"},
    "blip-nlvr2": {"verify_statement"},
    "vilt-nlvr2": {"verify_statement"},
    "git": {"caption", "answer"},
    "llava": {"caption", "answer"},
    "blip2": {"caption", "answer"},
}


def sharpened(model):
    """Weights six times as large: a random model that tells one image, and one question, from another."""
    with torch.no_grad():
        for parameter in {id(weight): weight for weight in model.parameters()}.values():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def get():
    @functools.cache
    def wrapped(kind):
        torch.manual_seed(0)
        model, processor = tiny.KINDS[kind]()
        return wrap(sharpened(model), processor)

    return wrapped


@pytest.fixture(scope="module")
def builtin():
    return load("builtin/blip", device="cpu")


def do(loaded, name, items, settings=SHORT, size=8):
    skill, results = loaded.family.skills[name], []
    for start in range(0, len(items), size):
        inputs = skill.prepare(loaded, items[start : start + size], settings)
        assert all(value.device.type == "cpu" for value in inputs.values())
        results += skill.perform(loaded, inputs, settings)
    return results


def together(loaded, name, items, settings=SHORT):
    """The results of one batch, which are those of batches of any size."""
    whole = do(loaded, name, items, settings)
    assert len(whole) == len(items)
    for size in (1, 3):
        parts = do(loaded, name, items, settings, size)
        if isinstance(whole[0], str):
            assert parts == whole
        else:
            torch.testing.assert_close(torch.stack(parts), torch.stack(whole), atol=1e-5, rtol=1e-4)
    return whole


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_skills_are_read_off_the_class(kind):
    model, _ = tiny.KINDS[kind]()
    model.config.architectures = [type(model).__name__]
    assert set(family_of(model.config).skills) == SKILLS_OF.get(kind, set())


def test_captions_are_those_of_generate_for_the_image_alone(builtin):
    samples = shapes.samples("test", 12, 0)
    plain = []
    for sample in samples:
        pixels = builtin.processor(images=sample.image, return_tensors="pt")["pixel_values"]
        written = builtin.model.generate(pixel_values=pixels, num_beams=3, min_length=5, max_length=20)[0]
        plain.append(builtin.processor.decode(written, skip_special_tokens=True))
    assert together(builtin, "caption", samples, Generation()) == plain
    assert plain == [sample.texts[0] for sample in samples]


def test_a_caption_goes_on_from_its_prompt(get):
    loaded, settings = get("blip"), Generation(prompt="a red ", min_length=3, max_length=9)
    model, processor = loaded.model, loaded.processor
    start = torch.tensor([[model.config.text_config.bos_token_id, *map(tiny.VOCAB.get, ("a", "red"))]])
    plain = []
    for sample in SAMPLES:
        pixels = processor(images=sample.image, return_tensors="pt")["pixel_values"]
        written = model.text_decoder.generate(
            start,
            encoder_hidden_states=model.vision_model(pixels).last_hidden_state,
            eos_token_id=tiny.VOCAB["[SEP]"],
            pad_token_id=0,
            num_beams=3,
            min_length=3,
            max_length=9,
        )
        plain.append(processor.decode(written[0], skip_special_tokens=True))
    assert all(text.startswith("a red ") for text in plain) and len(set(plain)) > 3
    assert ["a red " + text for text in together(loaded, "caption", SAMPLES, settings)] == plain


WRITES = {"prompt", "beams", "min_length", "max_length"}


@pytest.mark.parametrize(
    ("name", "task", "read"),
    [
        ("blip", "caption", {*WRITES, "beam_length"}),
        ("blip-vqa", "vqa", WRITES),
        ("vilt", "vqa", {"prompt"}),
        ("blip-itm", "retrieval", {"prompt", "rerank"}),
        ("clip", "retrieval", {"prompt"}),
        ("clip", "classification", {"templates"}),
        ("vit", "classification", set()),
        ("vilt-nlvr2", "reasoning", set()),
    ],
)
def test_a_task_reads_the_settings_that_its_model_makes_use_of(get, name, task, read):
    assert unread_settings(get(name), task) == {*WRITES, "beam_length", "rerank", "templates"} - read


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_those_of_generate_for_the_question_alone(get, beams):
    loaded, settings = get("blip-vqa"), dataclasses.replace(SHORT, beams=beams)
    plain = []
    for sample in SAMPLES:
        shown = loaded.processor(images=sample.image, text=sample.texts[0], return_tensors="pt")
        written = loaded.model.generate(**shown, num_beams=beams, min_length=1, max_length=8)[0]
        plain.append(loaded.processor.decode(written, skip_special_tokens=True))
    assert len(set(plain)) > 2 and len({len(sample.texts[0].split()) for sample in SAMPLES}) > 2
    assert together(loaded, "answer", SAMPLES, settings) == plain


@pytest.mark.parametrize("kind", ["git", "llava", "blip2"])
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_written_goes_on_from_questions_of_any_length(get, kind, beams):
    loaded = get(kind)
    settings = dataclasses.replace(SHORT, prompt="the {} of", beams=beams)
    answers = together(loaded, "answer", SAMPLES, settings)
    assert len(set(answers)) > 3 and all(len(text.split()) <= 8 for text in answers)
    inputs = loaded.family.skills["answer"].prepare(loaded, SAMPLES, settings)
    assert (inputs["input_ids"][:, -1] == tiny.VOCAB["of"]).all()
    assert (inputs["attention_mask"][:, -1] == 1).all() and (inputs["attention_mask"] == 0).any()
    captions = together(loaded, "caption", SAMPLES, dataclasses.replace(settings, prompt="a red"))
    assert captions != answers


def test_a_model_that_encodes_its_prompt_does_not_repeat_it():
    torch.manual_seed(0)
    model, processor = tiny.blip2(tiny.t5()[0].config)
    loaded = wrap(sharpened(model), processor)
    answers = together(loaded, "answer", SAMPLES, dataclasses.replace(SHORT, prompt="the {} of"))
    assert len(set(answers)) > 1 and all(0 < len(text.split()) <= 8 for text in answers)
    inputs = loaded.family.skills["answer"].prepare(loaded, SAMPLES, SHORT)
    assert ((inputs["input_ids"] == tiny.VOCAB["[SEP]"]).sum(1) == 1).all()


def test_what_git_writes_is_what_generate_adds(get):
    loaded, settings = get("git"), dataclasses.replace(SHORT, prompt="{}", beams=1)
    plain = []
    for sample in SAMPLES:
        shown = loaded.processor(images=sample.image, text=sample.texts[0], return_tensors="pt")
        begun = shown["input_ids"][:, :-1]
        written = loaded.model.generate(
            input_ids=begun, pixel_values=shown["pixel_values"], max_new_tokens=8, min_new_tokens=1, do_sample=False
        )
        plain.append(loaded.processor.tokenizer.decode(written[0, begun.shape[1] :], skip_special_tokens=True))
    assert together(loaded, "answer", SAMPLES, settings) == plain


def test_the_checkpoints_preferences_do_not_count(get, caplog):
    loaded, settings = get("llava"), dataclasses.replace(SHORT, prompt="a red")
    expected = do(loaded, "caption", SAMPLES, settings)
    before = loaded.model.generation_config
    loaded.model.generation_config = transformers.GenerationConfig(
        **{key: value for key, value in before.to_dict().items() if key.endswith("token_id")},
        do_sample=True, temperature=9.0, num_beams=2, max_length=3, repetition_penalty=5.0, no_repeat_ngram_size=1,
        suppress_tokens=[tiny.VOCAB["a"]], num_return_sequences=2,
    )  # fmt: skip
    theirs = loaded.model.generation_config
    caplog.clear()  # of what loading said, where this test is the first to load it
    try:
        with caplog.at_level(logging.WARNING), warnings.catch_warnings():
            warnings.simplefilter("error")
            assert do(loaded, "caption", SAMPLES, settings) == expected
        assert loaded.model.generation_config is theirs
    finally:
        loaded.model.generation_config = before
    assert not caplog.records


def test_lengths_are_those_asked_for(get):
    written = do(get("blip2"), "caption", SAMPLES, Generation(prompt="a", min_length=6, max_length=6))
    assert all(0 < len(text.split()) <= 6 for text in written)
    with pytest.raises(UsageError, match="from 4 to 40"):
        do(get("blip"), "caption", SAMPLES, Generation(prompt="a red", min_length=1, max_length=3))
    with pytest.raises(UsageError, match="41 tokens at most"):
        do(get("blip"), "caption", SAMPLES, Generation(prompt="", max_length=41))
    with pytest.raises(UsageError, match="5 tokens at least is longer than 4"):
        resolve(get("blip"), "caption", Generation(max_length=4))
    with pytest.raises(UsageError, match="the prompt has 902 tokens, and .* reads 40 at most: shorten it"):
        resolve(get("blip"), "caption", Generation(prompt="a " * 900))
    resolved = resolve(get("blip-vqa"), "answer", Generation(beams=2))
    assert resolved == Generation(prompt="{}", beams=2, min_length=1, max_length=10)
    assert do(get("blip-vqa"), "answer", SAMPLES, Generation(beams=2)) == do(
        get("blip-vqa"), "answer", SAMPLES, resolved
    )


def test_the_prompt_is_the_familys_where_its_words_are_known(get, builtin):
    assert resolve(builtin, "caption", Generation()).prompt == ""
    assert resolve(builtin, "caption", Generation(prompt="a red ")).prompt == "a red "
    with pytest.raises(UsageError, match="does not know 'picture' in the prompt"):
        resolve(builtin, "caption", Generation(prompt="a picture of "))
    vocab = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"])}
    processor = transformers.BlipProcessor(
        get("blip").processor.image_processor, transformers.BertTokenizer(vocab=vocab)
    )
    knowing = dataclasses.replace(get("blip"), processor=processor)
    assert resolve(knowing, "caption", Generation()).prompt == "a picture of "
    assert resolve(knowing, "caption", Generation(prompt="")).prompt == ""
    assert resolve(get("blip-vqa"), "answer", Generation()).prompt == "{}"
    with pytest.raises(UsageError, match="no place for the question"):
        resolve(get("git"), "answer", Generation(prompt="a red"))


def test_clip_embeds_images_and_texts(get):
    loaded = get("clip")
    texts = [sample.texts[0] for sample in SAMPLES]
    shown = loaded.processor(images=[s.image for s in SAMPLES], text=texts, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        theirs = loaded.model(**shown)
    images = torch.stack(together(loaded, "embed_images", SAMPLES))
    read = torch.stack(together(loaded, "embed_texts", texts))
    torch.testing.assert_close(images, theirs.image_embeds)
    torch.testing.assert_close(read, theirs.text_embeds)
    for embeddings in (images, read):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(8))


def test_blip_embeds_and_matches_as_its_model_does(get):
    loaded = get("blip-itm")
    texts = [sample.texts[0] for sample in SAMPLES]
    shown = loaded.processor(images=[s.image for s in SAMPLES], text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        similar = loaded.model(**shown, use_itm_head=False).itm_score
    images = torch.stack(together(loaded, "embed_images", SAMPLES))
    read = torch.stack(together(loaded, "embed_texts", texts))
    torch.testing.assert_close(images @ read.T, similar, atol=1e-5, rtol=1e-4)
    for sample in SAMPLES[:2]:
        scores = torch.stack(do(loaded, "match", [(sample, texts * 10)]))
        for text, score in zip(texts, scores, strict=False):
            shown = loaded.processor(images=sample.image, text=text, return_tensors="pt")
            with torch.no_grad():
                torch.testing.assert_close(score, loaded.model(**shown).itm_score[0, 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores, scores[:8].repeat(10), atol=1e-5, rtol=1e-4)


def test_an_image_is_encoded_once_for_all_its_texts(get):
    loaded, calls = get("blip-itm"), []
    hook = loaded.model.vision_model.register_forward_pre_hook(lambda module, args: calls.append(len(args)))
    do(loaded, "match", [(SAMPLES[0], ["a red star"] * 70)])
    hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize(("kind", "name"), [("blip-itm", "match"), ("blip-vqa", "answer")])
def test_text_beside_an_image_starts_with_enc_where_there_is_one(kind, name):
    config = tiny.KINDS[kind]()[0].config
    config.text_config.vocab_size, config.text_config.bos_token_id = len(tiny.VOCAB) + 2, len(tiny.VOCAB)
    model, processor = tiny.KINDS[kind]()
    loaded = wrap(type(model)(config), processor)
    seen = []
    loaded.model.text_encoder.embeddings.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["input_ids"][:, 0].unique().tolist()), with_kwargs=True
    )
    do(loaded, name, [(SAMPLES[0], ["a red star"])] if name == "match" else SAMPLES)
    assert seen == [[len(tiny.VOCAB) + 1]]
    if name == "match":
        do(loaded, "embed_texts", ["a red star"])
        assert seen[1] == [tiny.VOCAB["[CLS]"]]


def test_a_retrieval_checkpoint_without_a_processor_file_is_read(tmp_path):
    model, processor = tiny.KINDS["blip-itm"]()
    for part in (model, processor.tokenizer, processor.image_processor):
        part.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), device="cpu")
    assert len(do(loaded, "match", [(SAMPLES[0], ["a red star", "two"])])) == 2


def test_classes_are_told_by_any_classifier(get):
    loaded = get("vit")
    pixels = loaded.processor([sample.image for sample in SAMPLES], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(together(loaded, "classify", SAMPLES)), loaded.model(pixels).logits)
    model, processor = tiny.KINDS["dinov2"]()
    model.config.num_labels = 7
    other = wrap(transformers.Dinov2ForImageClassification(model.config), processor)
    assert other.description["guessed"]
    assert torch.stack(together(other, "classify", SAMPLES)).shape == (8, 7)
    assert "classify" not in family_of(transformers.ViTConfig(architectures=["ViTModel"])).skills


def test_false_and_true_are_told_by_their_names(get):
    loaded, sizes = get("vilt-nlvr2"), [(40, 32), (32, 64), (64, 40), (48, 48)]
    samples = [
        dataclasses.replace(sample, source=sample.image.resize(sizes[i % 4]), second=sample.image.resize(sizes[i % 3]))
        for i, sample in enumerate(SAMPLES)
    ]
    alone = []
    for sample in samples:
        shown = loaded.processor(list(sample.images), sample.texts[0], return_tensors="pt")
        with torch.no_grad():
            pixels = {key: shown[key].unsqueeze(0) for key in ("pixel_values", "pixel_mask")}
            alone.append(loaded.model(input_ids=shown["input_ids"], **pixels).logits[0])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    scores = torch.stack(together(loaded, "verify_statement", samples))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(scores, torch.stack(alone), atol=1e-5, rtol=1e-4)
    assert (scores.std(0) > 1e-3).all()
    model = tiny.vilt_nlvr2(labels=("True", "False"))[0]
    model.load_state_dict(loaded.model.state_dict())
    turned = torch.stack(do(wrap(model, loaded.processor), "verify_statement", samples))
    torch.testing.assert_close(turned, scores.flip(1))


def test_a_pair_is_needed_to_verify_a_statement(get):
    alone = dataclasses.replace(SAMPLES[0], second=None)
    with pytest.raises(UsageError, match="no two images"):
        do(get("vilt-nlvr2"), "verify_statement", [alone])
    config = get("vilt-nlvr2").model.config
    reason = get("vilt-nlvr2").family.training_task.unusable_reason
    assert "two images" in reason(alone, config) and "label is None" in reason(SAMPLES[0], config)
    assert reason(dataclasses.replace(SAMPLES[0], label=1), config) is None


def test_other_vilts_verify_no_statements():
    for architectures in (["ViltForMaskedLM"], ["ViltModel"], None):
        assert family_of(transformers.ViltConfig(architectures=architectures)).guessed
    answering = family_of(transformers.ViltConfig(architectures=["ViltForQuestionAnswering"]))
    assert set(answering.skills) == {"answer"}


def test_results_do_not_depend_on_the_dtype_they_are_computed_in(get):
    half = wrap(tiny.KINDS["clip"]()[0].bfloat16(), get("clip").processor)
    embeddings = torch.stack(do(half, "embed_images", SAMPLES))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, F.normalize(embeddings, dim=-1))


def test_an_image_that_cannot_be_decoded_is_named(get):
    broken = dataclasses.replace(SAMPLES[0], source=b"no image")
    with pytest.raises(UsageError, match="image of sample tiny-0 cannot be decoded"):
        do(get("vit"), "classify", [broken])
