import math

import torch

from fastnas_kernels.random_numbers import normal_noise

CPU = torch.device("cpu")


def draw(seed, size=100_000, dtype=torch.float64):
    return normal_noise([size], seed, CPU, dtype)


def test_a_seed_decides_the_draw_and_nothing_else_does():
    state = torch.get_rng_state()
    first = draw(5)
    torch.manual_seed(123)
    assert torch.equal(first, draw(5))
    assert not (first == draw(6)).any()
    torch.manual_seed(123)
    expected = torch.randn(3)
    torch.manual_seed(123)
    draw(5)
    assert torch.equal(torch.randn(3), expected)
    torch.set_rng_state(state)


def test_a_shorter_draw_is_the_beginning_of_a_longer_one():
    assert torch.equal(draw(9)[:100], draw(9, 100))
    assert torch.equal(draw(9, 24).view(2, 3, 4), normal_noise((2, 3, 4), 9, CPU, torch.float64))


def test_the_numbers_are_standard_normal():
    x = draw(0)
    n = len(x)
    # Five standard errors of the mean, the variance and the fourth moment of n normal numbers
    assert abs(x.mean()) < 5 / n**0.5
    assert abs(x.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 5 * (96 / n) ** 0.5
    # Kolmogorov and Smirnov's distance; 1.95 / sqrt(n) is exceeded once in a thousand
    cdf = 0.5 * (1 + torch.erf(x.sort().values / math.sqrt(2)))
    assert (cdf - torch.arange(1, n + 1) / n).abs().max() < 1.95 / n**0.5


def test_streams_and_neighbours_do_not_correlate():
    x = draw(1)
    for other in (draw(2), draw(1_000_004), x.roll(1)):
        assert abs((x * other).mean()) < 5 / len(x) ** 0.5


def test_large_seeds_and_narrow_types_are_served():
    assert draw(2**63 - 1, 10).isfinite().all()
    for dtype in (torch.float32, torch.bfloat16):
        x = draw(3, 1000, dtype)
        assert x.dtype == dtype
        # float32 differs from float64 in the rounding of logarithm and cosine; bfloat16 has 8 bits
        assert (x.double() - draw(3, 1000)).abs().max() < (1e-5 if dtype == torch.float32 else 0.02)
