"""Normalisation against PyTorch's own, and its derivatives of second and third order."""

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn import functional as F

from fastnas_kernels.normalisation import normalise

EPS = 1e-5


def images(dtype=torch.float64, shape=(3, 2, 3, 4)):
    return 0.5 + 2 * torch.randn(shape, dtype=dtype)


def by_pytorch(z, eps=EPS):
    return F.batch_norm(z, None, None, training=True, eps=eps)


def test_values_and_gradients_are_those_of_pytorch_bit_for_bit():
    z, dy = images(torch.float32).requires_grad_(), torch.randn(3, 2, 3, 4)
    y, mean_C, rstd_C = normalise(z, EPS)
    expected = by_pytorch(z)
    assert torch.equal(y, expected)
    assert not mean_C.requires_grad
    torch.testing.assert_close(rstd_C, (z.var((0, 2, 3), correction=0) + EPS).rsqrt().detach())
    assert torch.equal(*(torch.autograd.grad(out, z, dy)[0] for out in (y, expected)))


@pytest.mark.parametrize("eps", [EPS, 1.0])
def test_derivatives_are_exact_in_reverse_and_in_forward_mode(eps):
    z = images().requires_grad_()
    assert gradcheck(lambda z: normalise(z, eps)[0], z, check_forward_ad=True)
    assert gradgradcheck(lambda z: normalise(z, eps)[0], z, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_a_third_derivative_is_that_of_the_formula():
    z, u, v, t = (images() for _ in range(4))

    def third(function):
        leaf = z.clone().requires_grad_()
        first = torch.autograd.grad((function(leaf) * u).sum(), leaf, create_graph=True)[0]
        second = torch.autograd.grad((first * v).sum(), leaf, create_graph=True)[0]
        return torch.autograd.grad((second * t).sum(), leaf)[0]

    def formula(z):
        centred = z - z.mean((0, 2, 3), keepdim=True)
        return centred * (centred.square().mean((0, 2, 3), keepdim=True) + EPS).rsqrt()

    torch.testing.assert_close(third(lambda z: normalise(z, EPS)[0]), third(formula), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_second_derivatives_of_narrow_numbers_are_as_exact_as_those_of_pytorch(dtype, layout):
    z, dy, u = (images(dtype, (8, 5, 6, 6)).contiguous(memory_format=layout) for _ in range(3))

    def second(function, dtype):
        leaf, weight = z.to(dtype).requires_grad_(), dy.to(dtype).requires_grad_()
        first = torch.autograd.grad(function(leaf), leaf, weight, create_graph=True)[0]
        return torch.autograd.grad(first, (leaf, weight), u.to(dtype))

    exact = second(by_pytorch, torch.float64)
    ours, theirs = (second(f, dtype) for f in (lambda z: normalise(z, EPS)[0], by_pytorch))
    for x, y, reference in zip(ours, theirs, exact, strict=True):
        assert x.dtype == dtype
        error, usual = ((found.double() - reference).abs().max() for found in (x, y))
        assert error <= 2 * usual + 1e-6 * reference.abs().max()  # house rule: at most twice PyTorch's own


def test_a_tangent_through_the_backward_pass_is_the_second_derivative():
    z, tz, dy, tdy = (images() for _ in range(4))
    leaf, weight = z.clone().requires_grad_(), dy.clone().requires_grad_()
    first = torch.autograd.grad(by_pytorch(leaf), leaf, weight, create_graph=True)[0]
    pull = torch.autograd.grad(first, (leaf, weight), torch.ones_like(z), create_graph=False)
    along = (pull[0] * tz).sum() + (pull[1] * tdy).sum()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(z.clone().requires_grad_(), tz)
        y = normalise(dual, EPS)[0]
        (gradient,) = torch.autograd.grad(y, dual, forward_ad.make_dual(dy, tdy))
        tangent = forward_ad.unpack_dual(gradient).tangent
    torch.testing.assert_close(tangent.sum(), along, rtol=1e-10, atol=1e-12)
