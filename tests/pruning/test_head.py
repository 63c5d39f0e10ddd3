"""The classes of a new head: those of the dataset, with what is said of classes that cannot be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest

from idvl.data.samples import Selection, select
from idvl.errors import UsageError
from idvl.pruning.head import classes_of
from tests.support import tiny
from tests.support.reporter import Silent


def labelled(tmp_path: Path, *labels: int) -> Selection:
    folder = tiny.save_samples(tmp_path / "data", tiny.samples(len(labels)), lambda n, _: [{"label": labels[n]}])
    return select(str(folder), label_column="label", text_column="none", force=True, distinct=False)


def folders(root: Path, *classes: str) -> Selection:
    """The training split of folders of one image a class, `split/class`."""
    for name, sample in zip(classes, tiny.samples(len(classes)), strict=True):
        (root / name).mkdir(parents=True)
        sample.source.save(root / name / "0.png")
    return select(str(root), split="train", force=True, distinct=False)


def test_classes_without_a_training_sample_are_told(tmp_path: Path) -> None:
    reporter, places = Silent(), ("train/cat", "train/dog", "test/dog", "test/emu", "test/fox", "test/owl", "test/yak")
    assert classes_of(folders(tmp_path, *places), reporter) == ["cat", "dog", "emu", "fox", "owl", "yak"]
    (warning,) = reporter.warnings
    assert warning.startswith(
        "4 of 6 classes have none of the 2 training samples (emu, fox, owl, ...): the new head can"
    )


@pytest.mark.parametrize(("labels", "told"), [((0, 1, 1, 2), 0), ((0, 2, 2), 1)])
def test_numbers_are_the_names_of_classes_that_have_none(tmp_path: Path, labels: tuple[int, ...], told: int) -> None:
    reporter = Silent()
    assert classes_of(labelled(tmp_path, *labels), reporter) == ["0", "1", "2"]
    assert ["1 of 3 classes have none of the 3 training samples (1)" in line for line in reporter.warnings] == [
        True
    ] * told


def test_the_largest_label_of_all_rows_counts_where_samples_are_drawn(tmp_path: Path) -> None:
    folder = tiny.save_samples(tmp_path / "data", tiny.samples(5), lambda n, _: [{"label": [4, 0, 0, 0, 0][n]}])
    few = select(str(folder), n=2, seed=0, label_column="label", text_column="none", force=True, distinct=False)
    assert {sample.label for sample in few.samples} == {0}
    assert classes_of(few, Silent()) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("times", [1, 3])
def test_labels_that_are_no_numbers_of_classes_are_refused(tmp_path: Path, times: int) -> None:
    selection = labelled(tmp_path, *(2084071, 2084072, 0) * times)
    with pytest.raises(
        UsageError, match=r"would have 2,084,073 classes, .* only 3 of these numbers .* \(--label-column\)"
    ) as told:
        classes_of(selection, Silent())
    assert "\n" not in str(told.value)


def test_few_samples_of_many_classes_are_learnt_from(tmp_path: Path) -> None:
    """As where `--samples` draws 12 of a dataset of 1,200 classes: hardly any class comes twice."""
    reporter = Silent()
    assert len(classes_of(labelled(tmp_path, *range(99, 1200, 100)), reporter)) == 1200
    assert len(reporter.warnings) == 1
