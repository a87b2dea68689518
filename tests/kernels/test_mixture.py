import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastnas_kernels.mixture import mixed_sum


def make(k=3, shape=(2, 3, 2, 2), dtype=torch.float64):
    return torch.rand(k, dtype=dtype), [torch.randn(shape, dtype=dtype) for _ in range(k)]


@pytest.mark.parametrize("needs", [n for n in itertools.product([True, False], repeat=2) if any(n)], ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_derivatives_are_exact_to_second_order(needs, k):
    mix, candidates = make(k)
    inputs = [mix.requires_grad_(needs[0]), *(x.requires_grad_(needs[1]) for x in candidates)]
    assert gradcheck(lambda m, *xs: mixed_sum(xs, m), inputs)
    assert gradgradcheck(lambda m, *xs: mixed_sum(xs, m), inputs)


def test_no_candidate_is_saved_when_the_coefficients_are_constant():
    mix, candidates = make()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        mixed_sum([x.requires_grad_() for x in candidates], mix)
    assert saved == [mix.shape]


def test_no_coefficient_is_saved_when_the_candidates_are_constant():
    mix, candidates = make()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        mixed_sum(candidates, mix.requires_grad_())
    assert saved == [candidates[0].shape] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_is_at_most_twice_as_inaccurate_as_the_plain_sum(dtype):
    mix, candidates = make(8, (4, 8, 7, 5))
    low = [x.to(dtype) for x in candidates]
    truth = sum(m * x.double() for m, x in zip(mix.float().double(), low, strict=True))
    plain = sum(m.to(dtype) * x for m, x in zip(mix, low, strict=True))
    error, plain_error = ((y.double() - truth).abs().max() for y in (mixed_sum(low, mix.float()), plain))
    assert error <= 2 * plain_error


def test_names_the_argument_the_rule_and_the_value():
    mix, candidates = make()
    with pytest.raises(ValueError, match=r"mixed_sum: mix must have shape \[3\] \(one coefficient .*got \[2\]"):
        mixed_sum(candidates, mix[:2])
    with pytest.raises(ValueError, match="mixed_sum: candidates must not be empty"):
        mixed_sum([], mix)
    with pytest.raises(ValueError, match="candidates must have one shape"):
        mixed_sum([*candidates[:2], candidates[0][:1]], mix)
