import itertools

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fastnas_kernels.convolution import Geometry, conv2d

GEOMETRIES = {
    "pointwise": (Geometry(), 1, (4, 3)),
    "strided": (Geometry(stride=2, padding=1), 3, (2, 3)),
    "strided pointwise": (Geometry(stride=2), 1, (4, 3)),
    "depthwise": (Geometry(padding=1, groups=4), 3, (4, 4)),
    "grouped": (Geometry(padding=1, groups=2), 3, (4, 4)),
    "dilated": (Geometry(padding=2, dilation=2), 3, (2, 3)),
    "strided dilated depthwise": (Geometry(2, 2, 2, 4), 3, (4, 4)),
}


def make(name, dtype=torch.float64, size=5, needs=(True, True, True)):
    geometry, kernel, (inputs, outputs) = GEOMETRIES[name]
    x = torch.randn(2, inputs, size, size, dtype=dtype)
    weight = torch.randn(outputs, inputs // geometry.groups, kernel, kernel, dtype=dtype)
    bias = torch.randn(outputs, dtype=dtype)
    return geometry, [t.requires_grad_(need) for t, need in zip((x, weight, bias), needs, strict=True)]


NEEDS = [needs for needs in itertools.product([True, False], repeat=3) if any(needs)]


@pytest.mark.parametrize("needs", NEEDS, ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_derivatives_are_exact_to_second_order_whatever_is_asked_for(name, needs):
    geometry, tensors = make(name, size=3, needs=needs)
    assert gradcheck(lambda x, w, b: conv2d(x, w, b, geometry), tensors)
    assert gradgradcheck(lambda x, w, b: conv2d(x, w, b, geometry), tensors)


def test_filters_that_skip_pixels_of_large_narrow_maps_have_the_same_gradients():
    geometry, tensors = make("strided pointwise", size=33)
    dy = torch.randn(2, 3, 17, 17, dtype=torch.float64)
    found = torch.autograd.grad(conv2d(*tensors, geometry), tensors, dy)
    torch.testing.assert_close(found, torch.autograd.grad(F.conv2d(*tensors, *geometry), tensors, dy))


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_derivatives_are_exact_to_second_order_without_bias_and_in_channels_last(name, needs):
    geometry, (x, weight, _) = make(name, size=3, needs=(*needs, False))
    # The layout is made inside, since gradcheck's perturbed copies are laid out as they please
    last = torch.channels_last

    def convolve(x, w):
        return conv2d(x.contiguous(memory_format=last), w.contiguous(memory_format=last), None, geometry)

    assert gradcheck(convolve, (x, weight))
    assert gradgradcheck(convolve, (x, weight))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_values_and_gradients_are_those_of_torch(name, channels_last):
    geometry, (x, weight, bias) = make(name, torch.float32, size=9)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    ours, theirs = conv2d(x, weight, bias, geometry), F.conv2d(x, weight, bias, *geometry)
    dy = torch.randn_like(ours)
    assert torch.equal(ours, theirs)
    inputs = (x, weight, bias)
    for mine, torchs in zip(
        torch.autograd.grad(ours, inputs, dy), torch.autograd.grad(theirs, inputs, dy), strict=True
    ):
        assert torch.equal(mine, torchs)


@pytest.mark.parametrize(
    ("needs", "saved"), [((True, False), ["weight"]), ((False, True), ["x"]), ((True, True), ["x", "weight"])], ids=str
)
def test_saves_an_argument_only_for_the_gradient_of_the_other(needs, saved):
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(4, 1, 3, 3)
    x.requires_grad_(needs[0])
    weight.requires_grad_(needs[1])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        conv2d(x, weight, None, Geometry(padding=1, groups=4))
    assert kept == [{"x": x, "weight": weight}[name].data_ptr() for name in saved]


def test_the_alpha_phase_forgets_the_input_of_every_convolution():
    x = torch.randn(2, 16, 32, 32, requires_grad=True)
    weight = torch.randn(16, 16, 1, 1)

    def saved_bytes(convolve, dtype):
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            convolve(x, weight)
        return sum(kept)

    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        assert saved_bytes(conv2d, dtype) == size * weight.numel()
        assert saved_bytes(F.conv2d, dtype) >= size * x.numel()  # what it is compared with: torch keeps the input


@pytest.mark.parametrize("name", GEOMETRIES)
def test_is_at_most_twice_as_inaccurate_as_torch_under_autocast(name):
    geometry, tensors = make(name, torch.float32, size=16)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    truth = F.conv2d(*exact, *geometry)
    dy = torch.randn_like(truth).bfloat16()

    def results(convolve):
        with torch.autocast("cpu", torch.bfloat16):
            y = convolve(*tensors)
        return [y, *torch.autograd.grad(y, tensors, dy)]

    truths = [truth, *torch.autograd.grad(truth, exact, dy.double())]
    ours, theirs = results(lambda x, w, b: conv2d(x, w, b, geometry)), results(lambda *t: F.conv2d(*t, *geometry))
    for mine, torchs, true in zip(ours, theirs, truths, strict=True):
        assert mine.dtype == torchs.dtype
        assert (mine - true).abs().max() <= 2 * (torchs - true).abs().max()


def test_casts_under_autocast_as_torch_does():
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(3, 4, 1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = conv2d(x, weight), F.conv2d(x, weight)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)
    ours.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_names_the_argument_the_rule_and_the_value():
    with pytest.raises(ValueError, match=r"conv2d: x must have shape \[N, 4, H, W\], got \[2, 3, 5, 5\]\."):
        conv2d(torch.ones(2, 3, 5, 5), torch.ones(2, 4, 1, 1))
    with pytest.raises(ValueError, match=r"conv2d: x must have shape \[N, 4, H, W\], got \[4, 5, 5\]\."):
        conv2d(torch.ones(4, 5, 5), torch.ones(4, 1, 1, 1), None, Geometry(groups=4))


def test_on_the_device_meta_a_convolution_has_its_shape_and_saves_as_much():
    weight = torch.empty(6, 4, 3, 3, device="meta", requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape), lambda t: t):
        y = conv2d(torch.empty(2, 4, 8, 8, device="meta", requires_grad=True), weight, None, Geometry(2, 1))
    assert y.shape == (2, 6, 4, 4)
    assert saved == [(2, 4, 8, 8), (6, 4, 3, 3)]
