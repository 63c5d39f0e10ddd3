"""Accuracy against hand calculation."""

from __future__ import annotations

import pytest

from idvl.errors import UsageError
from idvl.metrics.accuracy import accuracy, topk


def test_accuracy_is_the_share_of_equal_ones() -> None:
    assert accuracy([1, 0, 1, 1], [1, 1, 1, 0])["accuracy"].value == 50.0


def test_top_one_and_five() -> None:
    found = topk([3, 0, 9], [[3, 1, 2, 4, 5], [1, 2, 3, 4, 0], [1, 2, 3, 4, 5]])
    assert {name: measured.value for name, measured in found.items()} == pytest.approx(
        {"top-1": 100 / 3, "top-5": 200 / 3}
    )


def test_top_five_needs_five_classes() -> None:
    assert set(topk([0, 1], [[0, 1], [0, 1]])) == {"top-1"}
    # a sixth class does not count
    assert topk([6], [[1, 2, 3, 4, 5, 6]])["top-5"].value == 0


@pytest.mark.parametrize(
    ("labels", "top", "told"),
    [
        ([0, 1], [[0, 1], [0]], "same number of classes"),
        ([0], [[]], "same number of classes"),
        ([], [], "no predictions"),
        ([0, 1], [[0]], "1 predictions, but 2 labels"),
    ],
)
def test_damaged_predictions_are_refused(labels: list[int], top: list[list[int]], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        topk(labels, top)
