"""How many steps a training makes, and which settings make no sense."""

import dataclasses

import pytest

from idvl.errors import UsageError
from idvl.recipe import TrainSection
from idvl.training import Training, global_batch, steps_per_epoch, total_steps


def test_steps_follow_from_the_global_batch_alone():
    one = Training(epochs=3, batch_size=8)
    assert global_batch(one, 1) == 8
    assert steps_per_epoch(one, 100) == 12
    assert total_steps(one, 100) == 36
    for other, processes in (
        (Training(epochs=3, batch_size=4), 2),
        (Training(epochs=3, batch_size=2, accumulate=2), 2),
    ):
        assert total_steps(other, 100, processes) == 36


def test_max_steps_replace_epochs():
    assert total_steps(Training(epochs=0, max_steps=50), 100) == 50
    assert total_steps(Training(epochs=0), 100) == 0


def test_fewer_samples_than_one_step_learns_from():
    with pytest.raises(UsageError, match="batch_size of at most 3"):
        total_steps(Training(batch_size=8, accumulate=2), 15, 2)
    with pytest.raises(UsageError, match="fewer processes"):
        total_steps(Training(batch_size=8, accumulate=4), 5, 2)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"lr_schedule": "reduce_lr_on_plateau"}, "metric"),
        ({"lr_schedule": "constant", "warmup": 0.1}, "constant_with_warmup"),
        ({"lr_schedule": "cosine_by_epoch", "warmup": 0.1}, "no warmup"),
    ],
)
def test_settings_that_make_no_sense(setting, said):
    with pytest.raises(UsageError, match=said):
        Training(**setting)


def test_a_recipe_says_the_same_where_it_says_nothing():
    """`epochs` None is a recipe's word for the default, `learning_rate` None for one that depends on the model."""
    asked = {key: field.default for key, field in TrainSection.model_fields.items()}
    for field in dataclasses.fields(Training):
        if field.name in asked and field.name not in ("epochs", "learning_rate", "report_to"):
            assert asked[field.name] == field.default, field.name
