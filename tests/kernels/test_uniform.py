import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from fastnas_kernels import random_numbers

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@triton.jit
def _rand(out_ptr, seed, BLOCK: tl.constexpr):
    position = tl.arange(0, BLOCK)
    tl.store(out_ptr + position, tl.rand(seed, position))


@pytest.mark.parametrize(  # the known answers that the authors publish with the generator
    ("counter", "seed", "words"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_are_met(counter, seed, words):
    assert tuple(random_numbers.philox_4x32(np.array(counter, np.uint64)[:, None], seed)[:, 0]) == words


@pytest.mark.parametrize("seed", [0, 5, 2**31, 2**40 + 7, 2**63 - 1])
def test_uniform_numbers_are_bit_for_bit_those_of_triton(seed):
    theirs = torch.empty(256, device=DEVICE)
    _rand[(1,)](theirs, seed, BLOCK=256)
    assert np.array_equal(theirs.cpu().numpy(), random_numbers.uniform(seed, 256))


@pytest.mark.parametrize("seed", [0, 5, 2**31, 2**32 - 1, 2**40 + 7, 2**63 - 1])
def test_a_seed_on_the_device_gives_the_same_numbers_bit_for_bit(seed):
    ours = random_numbers.uniform_of(torch.tensor(seed, device=DEVICE), 1000)
    assert np.array_equal(ours.cpu().numpy(), random_numbers.uniform(seed, 1000))


def test_a_number_depends_on_seed_and_position_alone():
    assert np.array_equal(random_numbers.uniform(3, 100)[:7], random_numbers.uniform(3, 7))
    assert not np.intersect1d(random_numbers.uniform(3, 100), random_numbers.uniform(4, 100)).size


def test_extreme_words_stay_inside_of_the_documented_range(monkeypatch):
    words = np.array([0, 0xFFFFFFFF, 1, 0x7FFFFFFF, 0x80000000], np.uint64)
    monkeypatch.setattr(random_numbers, "philox_4x32", lambda counter, seed: words[None])
    smallest_positive = float(np.float32(4.6566127342e-10))
    assert random_numbers.uniform(0, 5).tolist() == [0, 0, smallest_positive, 1 - 2**-24, 1 - 2**-24]
