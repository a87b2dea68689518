import numpy as np
import pytest

from fastnas.data import class_balanced_fraction, split_halves, steps_per_epoch

LABELS = np.repeat([0, 1, 2], [100, 60, 20])


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_a_fraction_takes_the_same_share_of_every_class(fraction):
    kept = class_balanced_fraction(LABELS, fraction, 0)
    assert np.bincount(LABELS[kept]).tolist() == [round(fraction * n) for n in (100, 60, 20)]
    assert len(set(kept.tolist())) == len(kept)


def test_halves_are_disjoint_balanced_and_decided_by_the_seed():
    indices = class_balanced_fraction(LABELS, 0.5, 0)
    first, second = split_halves(LABELS, indices, 0.8, 0)
    assert sorted([*first, *second]) == indices.tolist()
    assert np.bincount(LABELS[first]).tolist() == [40, 24, 8]
    assert np.array_equal(first, split_halves(LABELS, indices, 0.8, 0)[0])
    assert not np.array_equal(first, split_halves(LABELS, indices, 0.8, 1)[0])


def test_divisions_that_leave_nothing_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r"0\.01, which leaves none of class 2\. Raise --train-fraction"):
        class_balanced_fraction(LABELS, 0.01, 0)
    with pytest.raises(ValueError, match=r"train_fraction must lie in \(0, 1\], got 0"):
        class_balanced_fraction(LABELS, 0, 0)
    with pytest.raises(ValueError, match="got none of class 2 in the half for alpha"):
        split_halves(LABELS, np.array([0, 1, 100, 101, 160]), 0.6, 0)
    with pytest.raises(ValueError, match=r"batch_size must not exceed the half for alpha \(10\), got 16\. Lower"):
        steps_per_epoch(10, 16, "the half for alpha")


def test_a_class_number_without_images_is_no_reason_to_refuse():
    labels = np.array([0, 0, 2, 2])
    assert class_balanced_fraction(labels, 1.0, 0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fraction", [-0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"train_fraction must lie in \(0, 1\], got"):
        class_balanced_fraction(LABELS, fraction, 0)


def test_an_incomplete_batch_is_dropped_and_an_empty_one_refused():
    assert steps_per_epoch(25_000, 64) == 390
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        steps_per_epoch(10, 0)
