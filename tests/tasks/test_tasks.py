"""What every task keeps to, whichever it is; and which task a model is given."""

from dataclasses import replace

import pytest

from idvl import tasks
from idvl.data.samples import Sample
from idvl.errors import UsageError
from tests.support.tiny import samples

SKILLS = {"caption", "answer", "embed_images", "embed_texts", "match", "classify", "verify_statement"}


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_names_skills_that_families_have_and_says_what_a_sample_lacks(name):
    task = tasks.load(name)
    assert task.skills
    assert set().union(*task.skills) <= SKILLS
    assert task.unusable_reason(Sample(id="bare"))


def test_all_tasks_are_found():
    assert tasks.names() == ("caption", "classification", "reasoning", "retrieval", "vqa")


@pytest.mark.parametrize(
    ("skills", "expected"),
    [
        ({"caption"}, ["caption"]),
        ({"embed_images", "embed_texts"}, ["classification", "retrieval"]),
        ({"embed_images"}, []),
        ({"classify"}, ["classification"]),
        ({"verify_statement", "answer"}, ["reasoning", "vqa"]),
    ],
)
def test_what_a_model_can_do_follows_from_its_skills(skills, expected):
    assert tasks.possible(skills) == expected


def test_without_a_wish_the_first_task_that_model_and_dataset_share_is_done():
    both = {"embed_images": 1, "embed_texts": 1}
    assert tasks.choose(None, both, model="m", offered=["caption", "retrieval"]) == "retrieval"
    assert tasks.choose(None, both, model="m", offered=None) == "classification"
    assert tasks.choose("retrieval", both, model="m", offered=["caption"]) == "retrieval"


@pytest.mark.parametrize(
    ("asked", "skills", "offered", "told"),
    [
        ("vqa", {"caption": 1}, None, "m cannot do vqa: it can do caption"),
        ("captions", {"caption": 1}, None, "did you mean 'caption'"),
        (None, {"caption": 1}, ["vqa"], "m can do caption; the dataset is for vqa"),
        (None, {}, None, "no head for any task"),
        ("caption", {}, None, "no head for any task"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_can(asked, skills, offered, told):
    with pytest.raises(UsageError, match=told):
        tasks.choose(asked, skills, model="m", offered=offered)


def test_a_sentence_is_true_or_false() -> None:
    reasoning = tasks.load("reasoning")
    line = {"sentence": "a dog", "label": 1, "prediction": 0}
    for key in ("label", "prediction"):
        for value in (-1, 2, 10**30):
            with pytest.raises(ValueError, match=f"'{key}' of line 2 is {value}: 0 or 1"):
                reasoning.score([line, line | {key: value}], [])
    pair = replace(samples(1)[0], second=samples(1)[0].source)
    reasons = [reasoning.unusable_reason(replace(pair, label=label)) for label in (0, 1, 2, None)]
    assert reasons == [None, None, "a label other than 0 and 1", "no label (empty or -1)"]
