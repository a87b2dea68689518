import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fastnas_kernels.mixture import mixed_sum


def make(k=3, shape=(2, 3, 2, 2), dtype=torch.float64):
    return torch.rand(k, dtype=dtype), [torch.randn(shape, dtype=dtype) for _ in range(k)]


NEEDS = [n for k in (1, 3) for n in itertools.product([True, False], repeat=1 + k) if any(n)]


@pytest.mark.parametrize("needs", NEEDS, ids=str)
def test_derivatives_are_exact_to_second_order_whatever_is_asked_for(needs):
    mix, candidates = make(len(needs) - 1)
    inputs = [tensor.requires_grad_(need) for tensor, need in zip((mix, *candidates), needs, strict=True)]
    assert gradcheck(lambda m, *xs: mixed_sum(xs, m), inputs)
    assert gradgradcheck(lambda m, *xs: mixed_sum(xs, m), inputs)


def test_memory_formats_may_differ_and_nothing_is_written_into_a_candidate():
    mix, candidates = make(3, (2, 4, 3, 3))
    candidates[1] = candidates[1].contiguous(memory_format=torch.channels_last)
    candidates[2] = candidates[2].transpose(2, 3)
    before = [x.clone() for x in candidates]
    y = mixed_sum(candidates, mix)
    assert (y - sum(m * x for m, x in zip(mix, candidates, strict=True))).abs().max() < 1e-15 * 3 * 4
    assert all(map(torch.equal, candidates, before))
    only = mixed_sum(candidates[:1], torch.ones(1, dtype=torch.float64))
    assert torch.equal(only, candidates[0])
    assert only.data_ptr() != candidates[0].data_ptr()


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_at_most_twice_as_inaccurate_as_those_of_the_plain_sum(dtype):
    mix, candidates = make(8, (4, 8, 7, 5))
    mix, low = mix.float().requires_grad_(), [x.to(dtype).requires_grad_() for x in candidates]
    exact = [t.detach().double().requires_grad_() for t in (mix, *low)]
    dy = torch.randn_like(low[0])
    truths = torch.autograd.grad(sum(m * x for m, x in zip(exact[0], exact[1:], strict=True)), exact, dy.double())
    ours = torch.autograd.grad(mixed_sum(low, mix), (mix, *low), dy)
    plain_y = sum(m.to(dtype) * x for m, x in zip(mix, low, strict=True))
    plain = torch.autograd.grad(plain_y, (mix, *low), dy)
    for mine, eager, true in zip(ours, plain, truths, strict=True):
        assert mine.dtype == eager.dtype
        assert (mine - true).abs().max() <= 2 * (eager - true).abs().max()


def test_low_precision_is_accumulated_in_float32_and_rounded_once():
    mix, candidates = make(8, (4, 8, 7, 5))
    mix, low = mix.float().requires_grad_(), [x.bfloat16() for x in candidates]
    y = mixed_sum(low, mix)
    products = [m.double() * x.double() for m, x in zip(mix, low, strict=True)]
    float32 = 8 * torch.finfo(torch.float32).eps * sum(p.abs() for p in products)  # a rounding for each candidate
    assert ((y - sum(products)).abs() <= torch.finfo(torch.bfloat16).eps / 2 * sum(products).abs() + float32).all()
    dy = torch.randn_like(y)
    (dmix,) = torch.autograd.grad(y, mix, dy)
    for mine, x in zip(dmix, low, strict=True):
        terms = x.double() * dy.double()
        # A pairwise sum of 1120 terms rounds log2(1120) < 11 times, and each term once
        assert (mine - terms.sum()).abs() <= 12 * torch.finfo(torch.float32).eps * terms.abs().sum()


def test_names_the_argument_the_rule_and_the_value():
    mix, candidates = make()
    with pytest.raises(ValueError, match=r"mixed_sum: mix must have shape \[3\] \(one coefficient .*got \[2\]"):
        mixed_sum(candidates, mix[:2])
    with pytest.raises(ValueError, match="mixed_sum: candidates must not be empty"):
        mixed_sum([], mix)
    with pytest.raises(ValueError, match="candidates must have one shape"):
        mixed_sum([*candidates[:2], candidates[0][:1]], mix)
