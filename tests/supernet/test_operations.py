"""Every primitive against the body that its authors published (method cards S1 and S6), in plain torch."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastnas.supernet.operations import (
    DARTS_OPERATIONS,
    NASBENCH201_OPERATIONS,
    Convolution,
    FactorizedReduce,
    batch_norm,
)
from fastnas_kernels.convolution import Geometry

CHANNELS = 4
SPACES = {"darts": DARTS_OPERATIONS, "nasbench201": NASBENCH201_OPERATIONS}
EVERY_PRIMITIVE = [  # no edge of NAS-Bench-201 is strided
    (space, name, stride)
    for space, strides in (("darts", (1, 2)), ("nasbench201", (1,)))
    for name in SPACES[space]
    for stride in strides
]


def build(space, name, stride, searching):
    """The primitive in float64, with statistics and affine parameters that are not those of the beginning."""
    module = SPACES[space][name](CHANNELS, stride, searching).double()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and not searching:
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return module if searching else module.eval()


class Published:
    """The published bodies on the weights of ``module``, taken in the order in which it holds them."""

    def __init__(self, module, searching):
        self.convolutions = iter([m for m in module.modules() if isinstance(m, Convolution | nn.Conv2d)])
        self.norms = iter([m for m in module.modules() if isinstance(m, nn.BatchNorm2d)])
        self.searching = searching

    def convolve(self, x, **geometry):
        convolution = next(self.convolutions)
        return F.conv2d(x, convolution.weight, convolution.bias, **geometry)

    def norm(self, x):
        norm = next(self.norms)
        if self.searching:  # by the statistics of the batch, without scale and shift
            assert not list(norm.parameters())
            return (x - x.mean((0, 2, 3), keepdim=True)) / (
                x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
            ).sqrt()
        mean, var, weight, bias = (
            t.view(1, -1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def separable(self, x, kernel, stride, dilation):
        padding = dilation * (kernel - 1) // 2
        x = self.convolve(x.relu(), stride=stride, padding=padding, dilation=dilation, groups=CHANNELS)
        return self.norm(self.convolve(x))

    def reduce(self, x):
        x = x.relu()
        height, width = x.shape[2:]
        skipped = x.new_zeros(*x.shape[:2], height + height % 2, width + width % 2)
        skipped[:, :, :height, :width] = x
        return self.norm(torch.cat([self.convolve(x[:, :, ::2, ::2]), self.convolve(skipped[:, :, 1::2, 1::2])], 1))

    def __call__(self, space, name, x, stride):
        kind, _, size = name.rpartition("_")
        kernel = int(size[0]) if size[0].isdigit() else 0
        if name == "none":
            return x * 0
        if name == "skip_connect":
            return x if stride == 1 else self.reduce(x)
        if kind.endswith("pool"):
            if kind == "max_pool":
                y = F.max_pool2d(x, 3, stride, 1)
            else:  # without counting the padding
                total, count = (F.avg_pool2d(t, 3, stride, 1) for t in (x, torch.ones_like(x)))
                y = total / count
            return self.norm(y) if self.searching and space == "darts" else y
        if kind == "sep_conv":
            return self.separable(self.separable(x, kernel, stride, 1), kernel, 1, 1)
        if kind == "dil_conv":
            return self.separable(x, kernel, stride, 2)
        assert kind == "nor_conv"
        return self.norm(self.convolve(x.relu(), stride=stride, padding=kernel // 2))


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("searching", [True, False], ids=["searching", "derived"])
@pytest.mark.parametrize(("space", "name", "stride"), EVERY_PRIMITIVE)
def test_a_primitive_has_its_published_body(space, name, stride, searching, size):
    module = build(space, name, stride, searching)
    x = torch.randn(3, CHANNELS, size, size, dtype=torch.float64)
    published = Published(module, searching)
    expected = published(space, name, x, stride)
    assert list(published.convolutions) == list(published.norms) == []  # nothing was left over
    y = module(x)
    assert y.shape == (3, CHANNELS, -(-size // stride), -(-size // stride))
    assert (y - expected).abs().max() < 1e-12


def test_convolutions_have_a_bias_only_in_the_supernet_of_nasbench201():
    for space, operations in SPACES.items():
        for name in operations:
            for searching in (True, False):
                biases = {
                    m.bias is not None for m in build(space, name, 1, searching).modules() if isinstance(m, Convolution)
                }
                assert biases <= {space == "nasbench201" and searching}


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (9, 8), (8, 9), (1, 1)])
def test_a_factorized_reduction_rounds_odd_maps_up_and_reads_every_pixel(height, width):
    module = FactorizedReduce(4, 6, True).double()
    x = torch.rand(2, 4, height, width, dtype=torch.float64) + 0.1
    module.norm = nn.Identity()
    x.requires_grad_()
    y = module(x)
    assert y.shape == (2, 6, -(-height // 2), -(-width // 2))
    y.pow(2).sum().backward()
    read = torch.zeros(height, width, dtype=torch.bool)
    read[::2, ::2] = read[1::2, 1::2] = True
    assert torch.equal((x.grad != 0).all(1).all(0), read)


def test_a_factorized_reduction_needs_an_even_number_of_channels():
    with pytest.raises(ValueError, match=r"FactorizedReduce: outputs must be even, got 5\. Choose an even"):
        FactorizedReduce(4, 5, True)


def test_convolutions_are_initialised_within_the_bounds_of_torch():
    for theirs, groups in ((nn.Conv2d(8, 64, 3), 1), (nn.Conv2d(64, 64, 5, groups=64), 64)):
        ours = Convolution(theirs.in_channels, 64, theirs.kernel_size[0], Geometry(groups=groups), bias=True)
        for mine, torchs in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert mine.shape == torchs.shape
            # The largest of 64 uniform magnitudes lies within a tenth of the bound but for 0.9**64 = 0.1 % of draws
            assert mine.abs().max().item() == pytest.approx(torchs.abs().max().item(), rel=0.1)


def test_normalisation_in_a_supernet_has_no_state():
    assert not list(batch_norm(4, searching=True).state_dict())
    assert set(batch_norm(4, searching=True, affine=True).state_dict()) == {"weight", "bias"}
    assert {"weight", "bias", "running_mean", "running_var"} <= set(batch_norm(4, searching=False).state_dict())


def test_a_narrow_reduction_writes_nothing_behind_its_memory():
    """A process of its own, whose allocator looks after every block (glibc's)."""
    script = (
        "import torch; from fastnas.supernet.operations import FactorizedReduce as F; torch.set_num_threads(1)\n"
        "for c, searching in [(4, 0), (12, 0), (4, 1), (12, 1)]:\n"
        "  x = torch.rand(4, c, 56, 56).contiguous(memory_format=torch.channels_last).requires_grad_()\n"
        "  layer = F(c, c, searching=bool(searching)).to(memory_format=torch.channels_last)\n"
        "  for _ in range(4): layer(x).sum().backward()\n"
    )
    checked = {"GLIBC_TUNABLES": "glibc.malloc.check=3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    subprocess.run([sys.executable, "-c", script], env={**os.environ, **checked}, check=True, timeout=120)
