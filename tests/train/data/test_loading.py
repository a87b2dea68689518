import numpy as np
import pytest
import torch

from fastnas.train.data import load_data, paired_batches, split_halves, training_batches
from fastnas.train.data.transforms import Cutout

DIGITS = load_data("digits")
HALVES = split_halves(DIGITS.train.labels, np.arange(400), 0.5, 0)


def batches(first_step=0, num_steps=9, workers=0, search_from_step=2, seed=0):
    return list(
        paired_batches(
            DIGITS,
            *HALVES,
            batch_size=32,
            seed=seed,
            first_step=first_step,
            num_steps=num_steps,
            search_from_step=search_from_step,
            workers=workers,
        )
    )


def same(one, other):
    return all(
        (x is None and y is None) or (torch.equal(x.images, y.images) and torch.equal(x.labels, y.labels))
        for x, y in zip(one, other, strict=True)
    )


def test_workers_change_nothing():
    assert all(map(same, batches(), batches(workers=2)))


def test_a_step_has_the_same_batch_wherever_a_run_begins():
    everything = batches()
    assert all(map(same, everything[5:], batches(first_step=5, num_steps=4)))


def test_seeds_and_passes_differ():
    first, other = batches(), batches(seed=1)
    assert not same(first[0], other[0])
    steps = len(HALVES[0]) // 32
    assert not same(first[0], first[steps])


def test_no_image_for_alpha_is_decoded_before_it_is_needed():
    assert [alpha is None for _, alpha in batches()] == [True] * 2 + [False] * 7


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    batches(num_steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_every_image_of_a_half_is_seen_once_a_pass():
    labels = DIGITS.train.labels
    numbers = np.arange(len(labels))
    told = type(DIGITS)(**{**DIGITS.__dict__, "train": type(DIGITS.train)(numbers, DIGITS.train.image, str)})
    indices = np.arange(64)
    seen = [
        int(i)
        for batch in training_batches(told, indices, batch_size=16, seed=0, first_step=0, num_steps=4, workers=0)
        for i in batch.labels
    ]
    assert sorted(seen) == indices.tolist()


@pytest.mark.parametrize("side", [2, 5, 10])
def test_cutout_blanks_a_square_that_may_hang_over_the_border(side):
    areas = {int((Cutout(side)(torch.ones(3, 8, 8)) == 0).sum()) // 3 for _ in range(200)}
    assert max(areas) <= min(side, 8) ** 2
    assert min(areas) >= 1
    assert len(areas) > 1
