"""What each family learns: the sum over terms of the loss that the literature, or transformers, defines."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from idvl.errors import UsageError
from idvl.models.families import family_of
from idvl.models.generation import Generation
from idvl.models.heads import with_new_head
from idvl.models.inputs import encode
from idvl.models.labels import IGNORED, next_tokens
from idvl.models.loading import load, wrap
from idvl.models.losses import contrastive, divergence, over_labels
from idvl.models.skills import clean_caption
from idvl.training import Training
from idvl.training.accelerator import check, left_out
from tests.coverage.architectures import architectures
from tests.support import tiny

ANSWERED = [dataclasses.replace(sample, answers=("two red",)) for sample in tiny.samples(6)]
STATEMENTS = [dataclasses.replace(sample, label=i % 2) for i, sample in enumerate(tiny.samples(6))]
LABELLED = [dataclasses.replace(sample, label=i % 3, texts=()) for i, sample in enumerate(tiny.samples(6))]
SAMPLES = {"blip-vqa": ANSWERED, "vit": LABELLED, "vilt-nlvr2": STATEMENTS, "blip-nlvr2": STATEMENTS}
KINDS = [
    "blip",
    "blip-vqa",
    "blip-itm",
    "blip-nlvr2",
    "clip",
    "vit",
    "vilt-nlvr2",
    "git",
    "gpt2",
    "t5",
    "llava",
    "blip2",
]
# transformers computes their losses: decoders', which compare the next token, and an encoder-decoder's
OWN = ("git", "gpt2", "t5", "llava", "blip2")


@pytest.fixture(scope="module")
def get(tmp_path_factory):
    models = {}

    def load_once(kind):
        if kind not in models:
            models[kind] = load(str(tiny.save(kind, tmp_path_factory.mktemp(kind))), device="cpu")
        return models[kind]

    return load_once


def shown(loaded, samples):
    length = loaded.family.text_length(loaded.processor, samples)
    return loaded.family.training_task.inputs(loaded.processor, samples, length, loaded.model.config)


def learn(loaded, samples):
    return loaded.family.training_task.loss(loaded.model, shown(loaded, samples), None)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_count_the_terms(get, kind):
    samples = SAMPLES.get(kind, tiny.samples(6))
    inputs = shown(get(kind), samples)
    total, count, logits = get(kind).family.training_task.loss(get(kind).model, inputs, None)
    assert count == int((inputs["labels"] != IGNORED).sum()) > 0
    assert total.ndim == 0 and total.isfinite() and total > 0
    rows = logits()
    assert len(rows) == (2 * count if kind == "clip" else count)
    if kind in OWN:
        labels = inputs["labels"][inputs["labels"] != IGNORED]
        torch.testing.assert_close(F.cross_entropy(rows, labels, reduction="sum"), total)


def test_a_loss_that_is_no_cross_entropy_gives_no_logits():
    """The balance of a mixture's experts is a part of it."""
    loaded = wrap(*architectures()["mixtral"].make())
    assert learn(loaded, tiny.samples(6)).logits().ndim == 2
    loaded.model.config.output_router_logits = True
    loaded.model.router_aux_loss_coef = 1.0
    with pytest.raises(UsageError, match="the loss of MixtralForCausalLM is no plain cross-entropy of its logits"):
        learn(loaded, tiny.samples(6)).logits()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("clip", "blip-itm")])
def test_totals_add_up_whatever_the_batches(get, kind):
    samples = SAMPLES.get(kind, tiny.samples(6))
    whole = learn(get(kind), samples)
    parts = [learn(get(kind), samples[i : i + 2]) for i in (0, 2, 4)]
    assert sum(part.count for part in parts) == whole.count
    torch.testing.assert_close(sum(part.total for part in parts), whole.total, rtol=1e-5, atol=1e-5)


def test_a_captions_loss_is_that_of_transformers(get):
    loaded = get("blip")
    inputs = shown(loaded, tiny.samples(6))
    total, count, logits = loaded.family.training_task.loss(loaded.model, inputs, None)
    tokens = inputs["input_ids"].clone()
    tokens[:, 0] = loaded.model.config.text_config.bos_token_id
    theirs = loaded.model(
        pixel_values=inputs["pixel_values"],
        input_ids=tokens,
        attention_mask=inputs["attention_mask"],
        labels=tokens.masked_fill(inputs["attention_mask"] == 0, IGNORED),
    )
    torch.testing.assert_close(total / count, theirs.loss)
    assert count == int(inputs["attention_mask"][:, 1:].sum())
    assert logits().shape == (count, loaded.model.config.text_config.vocab_size)


def test_an_answers_loss_is_that_of_transformers_where_questions_are_equally_long(get):
    loaded = get("blip-vqa")
    sample = dataclasses.replace(ANSWERED[0], texts=("a red star",), answers=("two blue",))
    inputs = shown(loaded, [sample])
    total, count, _ = loaded.family.training_task.loss(loaded.model, inputs, None)
    tokens = inputs["decoder_input_ids"].clone()
    tokens[:, 0] = loaded.model.config.text_config.bos_token_id
    theirs = loaded.model(
        **{key: inputs[key] for key in ("pixel_values", "input_ids", "attention_mask", "decoder_attention_mask")},
        decoder_input_ids=tokens,
        labels=tokens.masked_fill(inputs["decoder_attention_mask"] == 0, IGNORED),
    )
    torch.testing.assert_close(total / count, theirs.loss)
    assert count == 3  # two words and the end


def test_the_contrastive_loss_is_that_of_transformers(get):
    loaded = get("clip")
    inputs = shown(loaded, tiny.samples(6))
    total, count, logits = loaded.family.training_task.loss(loaded.model, inputs, None)
    theirs = loaded.model(**{k: v for k, v in inputs.items() if k != "labels"}, return_loss=True)
    torch.testing.assert_close(total / count, theirs.loss)
    assert logits().shape == (12, 6)
    total.backward()
    assert loaded.model.logit_scale.grad is not None
    loaded.model.zero_grad()


def test_a_class_is_learnt_by_cross_entropy(get):
    inputs = shown(get("vit"), LABELLED)
    total, count, logits = get("vit").family.training_task.loss(get("vit").model, inputs, None)
    torch.testing.assert_close(total, F.cross_entropy(logits(), torch.tensor([0, 1, 2, 0, 1, 2]), reduction="sum"))
    assert count == 6


def test_matching_tells_an_images_text_from_another_ones(get):
    samples = tiny.samples(3)
    twice = [samples[0], samples[0], samples[1]]
    inputs = shown(get("blip-itm"), twice)
    # the second pair's wrong text would be right
    assert inputs["labels"].tolist() == [1, 1, 1, 0, IGNORED, 0]
    assert torch.equal(inputs["pixel_values"][:3], inputs["pixel_values"][3:])
    assert torch.equal(inputs["input_ids"][3:], inputs["input_ids"][[2, 0, 1]])


def test_processes_that_share_pairs_have_one_loss():
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(6, 4), dim=-1) for _ in range(2))
    whole = contrastive(images, texts, torch.tensor(3.0))
    parts = []
    for start in (0, 3):
        everything = iter(((images, start), (texts, start)))
        mine = slice(start, start + 3)
        parts.append(contrastive(images[mine], texts[mine], torch.tensor(3.0), lambda _, of=everything: next(of)))
    torch.testing.assert_close(parts[0].total + parts[1].total, whole.total)


def test_the_divergence_is_the_mean_over_rows():
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    p, q = teacher.softmax(-1), student.softmax(-1)
    torch.testing.assert_close(divergence(student, teacher), (p * (p / q).log()).sum(1).mean())
    assert divergence(student, student).abs() < 1e-6


def test_a_temperature_keeps_the_scale_of_the_gradient():
    teacher, gradients = torch.randn(50, 7), []
    for temperature in (1.0, 2.0, 4.0):
        student = torch.zeros(50, 7, requires_grad=True)
        divergence(student, teacher, temperature).backward()
        gradients.append(student.grad.norm().item())
        assert divergence(teacher, teacher, temperature).abs() < 1e-5
    assert all(0.5 < gradient / gradients[0] < 2 for gradient in gradients)
    p, q = (teacher / 2).softmax(-1), torch.full((50, 7), 1 / 7)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(divergence(torch.zeros(50, 7), teacher, 2.0), expected)


def test_the_next_tokens_end_with_the_last_real_one():
    tokens, mask = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    labels = next_tokens(tokens, mask)
    assert labels.tolist() == [[6, 7, IGNORED, IGNORED], [6, 7, 8, IGNORED]]
    logits = torch.randn(2, 4, 9)
    assert over_labels(logits, labels).count == 5


@pytest.mark.parametrize("kind", ["dinov2"])
def test_models_without_a_known_loss_are_refused(get, kind):
    with pytest.raises(UsageError, match="has no loss for a"):
        check(get(kind), tiny.samples(2), Training(batch_size=2))


def test_a_bare_vit_is_refused_until_it_has_a_head(get, tmp_path):
    get("vit").model.base_model.save_pretrained(tmp_path)
    get("vit").processor.save_pretrained(tmp_path)
    bare = load(str(tmp_path), device="cpu")
    with pytest.raises(UsageError, match="ViTForImageClassification"):
        check(bare, LABELLED, Training(batch_size=2))
    headed = with_new_head(bare, ["cat", "dog", "bird"])
    check(headed, LABELLED, Training(batch_size=2))
    assert learn(headed, LABELLED).logits().shape == (6, 3)
    for name, value in headed.model.base_model.state_dict().items():
        assert torch.equal(value, bare.model.state_dict()[name])
    again = with_new_head(get("vit"), ["cat", "dog", "bird"])
    assert torch.equal(again.model.classifier.weight, headed.model.classifier.weight)
    assert again.model.config.id2label == {0: "cat", 1: "dog", 2: "bird"}
    assert family_of(again.model.config).training_task is not None


def test_a_reader_of_text_gets_no_new_head(get):
    with pytest.raises(UsageError, match="reads text"):
        with_new_head(get("clip"), ["a", "b"])


@pytest.mark.parametrize(
    ("kind", "samples", "settings", "said"),
    [
        ("clip", tiny.samples(4), {"accumulate": 2, "batch_size": 2}, "accumulate 1 and a batch_size of 4"),
        ("clip", tiny.samples(4), {"batch_size": 1}, "at least 2"),
        ("blip-vqa", tiny.samples(4), {}, "no answer"),
        ("blip-vqa", ANSWERED, {"gradient_checkpointing": True}, "checkpointing"),
        (
            "vilt",
            ANSWERED,
            {},
            "any of the 6 samples: no answer, as 'two red', is one of the model's .LABEL_0, LABEL_1, LABEL_2.;",
        ),
        ("vit", tiny.samples(4), {}, "no label"),
        ("vit", [dataclasses.replace(LABELLED[0], label=10)], {}, "classes are 0 to 9"),
        ("blip", [dataclasses.replace(tiny.samples(1)[0], texts=())], {}, "no text"),
        (
            "clip",
            tiny.samples(4),
            {"label_smoothing": 0.1},
            "label_smoothing does not work with CLIPModel: leave it out",
        ),
        ("git", tiny.samples(4), {"text_dropout": 0.1}, "text_dropout is for BLIP, not for GitForCausalLM"),
        ("gpt2", tiny.samples(4), {"augmentation": "blip"}, "reads no images: leave augmentation out"),
    ],
)
def test_what_cannot_be_learnt_is_refused_first(get, kind, samples, settings, said):
    with pytest.raises(UsageError, match=said):
        check(get(kind), samples, Training(**{"batch_size": 2, **settings}))


def test_samples_that_the_loss_leaves_out_are_counted(get, monkeypatch):
    loaded, known = get("vilt"), dataclasses.replace(ANSWERED[0], answers=("blue", "Label_1"))
    monkeypatch.setattr(loaded.model.config, "label2id", {"label_1": 1})
    assert left_out(loaded, [known] * 3) is None
    told = left_out(loaded, [known, *ANSWERED[:2]])
    assert told.startswith(
        "2 of 3 samples are left out of the loss: no answer, as 'two red', is one of the model's (label_1)"
    )


def test_blip_reads_captions_cleaned_and_behind_the_prompt(get, monkeypatch):
    """In estimate-id as in training, where the prompt is not learnt; the length is capped at 30 words and 40 tokens."""
    from idvl.models.families.blip import inputs

    monkeypatch.setattr(inputs, "PROMPT", "two red ")
    loaded = get("blip")
    texts = ("A star.", '(a) Circle: "near"  a!', "star " * 31)
    samples = [dataclasses.replace(sample, texts=(text,)) for sample, text in zip(tiny.samples(3), texts, strict=True)]
    cleaned = ["two red a star", "two red a circle near a", "two red" + " star" * 30]
    (batch,) = encode(loaded, samples, batch_size=3)
    assert loaded.processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == cleaned
    learning = shown(loaded, samples)
    assert torch.equal(learning["input_ids"], batch["input_ids"])
    learnt = [loaded.processor.decode(row[row != IGNORED]) for row in learning["labels"]]
    assert learnt == [f"{text.removeprefix('two red ')} [SEP]" for text in cleaned]

    raw = wrap(loaded.model, loaded.processor, clean_texts=False)
    assert (loaded.description["clean_texts"], raw.description["clean_texts"]) == (True, False)
    (batch,) = encode(raw, samples[:1], batch_size=1)
    assert loaded.processor.batch_decode(batch["input_ids"]) == ["[CLS] two red a star [UNK] [SEP]"]
    monkeypatch.setattr(inputs, "PROMPT", "two " * 20)
    assert encode(loaded, samples, batch_size=3)[0]["input_ids"].shape == (3, 40)


def test_a_caption_is_cleaned_as_by_blips_own_code():
    """pre_caption of its data/utils.py: words end at a space, or at several of any white space."""
    assert clean_caption(' A "Red"\tstar; (2)  of\n\nthree!\n', words=30) == "a red star 2 of three"
    assert clean_caption("one\ttwo three four", words=2) == "one\ttwo three"


def test_blip_reads_questions_and_matched_captions_cleaned(get):
    sample = dataclasses.replace(tiny.samples(1)[0], texts=("Two. (Circle)",), answers=("a STAR.",))
    for kind in ("blip-vqa", "blip-itm"):
        loaded = get(kind)
        (batch,) = encode(loaded, [sample], batch_size=1)
        for inputs in (shown(loaded, [sample, sample]), batch):
            read = loaded.processor.decode(inputs["input_ids"][0])
            assert read.replace(" [PAD]", "") == "[CLS] two circle [SEP]", kind
    assert get("vit").description["clean_texts"] is None


def test_blip_reads_35_tokens_of_a_question(get):
    """In estimate-id, training and evaluation, as models/blip_vqa.py cuts it; a long answer is read whole."""
    loaded = get("blip-vqa")
    sample = dataclasses.replace(tiny.samples(1)[0], texts=("A star. " * 20,), answers=("two " * 37,))
    question = f"[CLS]{' a star' * 16} a [SEP]"  # the model takes 40
    (batch,) = encode(loaded, [sample], batch_size=1)
    answered = loaded.family.skills["answer"].prepare(loaded, [sample], Generation())
    for inputs in (batch, shown(loaded, [sample]), answered):
        assert loaded.processor.decode(inputs["input_ids"][0, inputs["attention_mask"][0] == 1]) == question
    assert int((shown(loaded, [sample])["labels"] != IGNORED).sum()) == 38
    assert learn(loaded, [sample]).total.isfinite()
    # of a question without an answer, the decoder reads the question as it is
    (batch,) = encode(loaded, [dataclasses.replace(sample, answers=())], batch_size=1)
    assert int(batch["decoder_attention_mask"].sum()) == 40

    raw = wrap(loaded.model, loaded.processor, clean_texts=False)
    whole = [*encode(raw, [sample], batch_size=1), raw.family.skills["answer"].prepare(raw, [sample], Generation())]
    assert [int(inputs["attention_mask"].sum()) for inputs in whole] == [40, 40]


@pytest.mark.parametrize(
    ("kind", "skill", "items"),
    [
        ("blip-vqa", "answer", lambda sample: [sample]),
        ("blip-itm", "embed_texts", lambda sample: list(sample.texts)),
        ("blip-nlvr2", "verify_statement", lambda sample: [sample]),
    ],
)
def test_blip_is_evaluated_on_texts_as_it_is_trained_on(kind, skill, items, get):
    (picture,) = tiny.samples(1)
    sample = dataclasses.replace(picture, texts=("Two. (Circle)",), answers=("star",), second=picture.source)
    for clean, read in ((True, "two circle"), (False, "two [UNK] [UNK] circle [UNK]")):
        loaded = wrap(get(kind).model, get(kind).processor, clean_texts=clean)
        shown = loaded.family.skills[skill].prepare(loaded, items(sample), Generation())
        assert loaded.processor.decode(shown["input_ids"][0]) == f"[CLS] {read} [SEP]"
