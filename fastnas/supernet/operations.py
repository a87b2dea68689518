"""The primitives as modules, with the bodies of their reference implementations."""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastnas_kernels.check import invalid
from fastnas_kernels.convolution import NARROW, Geometry, conv2d
from fastnas_kernels.normalisation import BatchNorm2d
from fastnas_kernels.random_numbers import normal_noise

BuildOperation = Callable[[int, int, bool], nn.Module]
"""``(channels, stride, searching)`` to a module from ``[N, C, H, W]`` to ``[N, C, H / stride, W / stride]``."""


_DIMENSIONS: ContextVar[int] = ContextVar("dimensions", default=2)
_CONVOLUTIONS = nn.Conv1d, nn.Conv2d, nn.Conv3d
_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d


class AvgPool3d(nn.AvgPool3d):
    """PyTorch's, also for volumes that are smaller than its window without the padding."""

    def forward(self, input: Tensor) -> Tensor:
        if min(input.shape[2:]) >= 3:
            return super().forward(input)
        padded, counted = (F.pad(part, [1] * 6) for part in (input, torch.ones_like(input[:1, :1])))
        return F.avg_pool3d(padded, 3, self.stride) / F.avg_pool3d(counted, 3, self.stride)


@contextmanager
def in_dimensions(count: int) -> Generator[None, None, None]:
    """Inside the block, the library's layers are built for maps of so many dimensions: 1, 2 or 3."""
    token = _DIMENSIONS.set(count)
    try:
        yield
    finally:
        _DIMENSIONS.reset(token)


class Convolution(nn.Module):
    """A convolution with PyTorch's initialisation that saves only what its backward needs."""

    def __init__(self, inputs: int, outputs: int, kernel: int, geometry: Geometry = Geometry(), bias: bool = False):  # noqa: B008
        super().__init__()
        fan_in = inputs // geometry.groups * kernel * kernel
        bound = 1 / math.sqrt(fan_in)
        weight = torch.empty(outputs, inputs // geometry.groups, kernel, kernel).uniform_(-bound, bound)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)) if bias else None
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.geometry)


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    geometry: Geometry = Geometry(),  # noqa: B008
    *,
    searching: bool,
    bias: bool = False,
) -> nn.Module:
    """A convolution with PyTorch's initialisation: :class:`Convolution` while searching on images, and otherwise one of
    ``torch.nn``."""
    dimensions = _DIMENSIONS.get()
    if searching and dimensions == 2:
        return Convolution(inputs, outputs, kernel, geometry, bias)
    stride, padding, dilation, groups = geometry
    plain = nn.utils.skip_init(
        _CONVOLUTIONS[dimensions - 1],
        *(inputs, outputs, kernel, stride, padding, dilation, groups, bias),
        device=torch.get_default_device(),
    )
    bound = 1 / math.sqrt(inputs // groups * kernel**dimensions)
    for parameter in plain.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    return plain


class _FlatBatchNorm(BatchNorm2d):
    """The same for maps of one or three dimensions, whose positions are laid side by side."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flatten(2).unsqueeze(2)).view_as(input)


def batch_norm(channels: int, searching: bool, affine: bool | None = None) -> nn.Module:
    """Batch normalisation by the statistics of the batch while searching, by running ones in a derived network.

    While searching it has no scale and shift (unless ``affine`` says so) and no state: the supernet stays a pure
    function, and a loss may be evaluated any number of times.
    """
    dimensions = _DIMENSIONS.get()
    if not searching:
        return _NORMS[dimensions - 1](channels)
    norm = BatchNorm2d if dimensions == 2 else _FlatBatchNorm
    return norm(channels, affine=bool(affine), track_running_stats=False)


def relu_conv_bn(
    inputs: int, outputs: int, kernel: int, geometry: Geometry, searching: bool, *, bias: bool = False
) -> nn.Sequential:
    """ReLU, convolution, batch normalisation: the order of all blocks of this family."""
    body = convolution(inputs, outputs, kernel, geometry, searching=searching, bias=bias)
    return nn.Sequential(nn.ReLU(), body, batch_norm(outputs, searching))


def separable_block(channels: int, kernel: int, stride: int, dilation: int, searching: bool) -> nn.Sequential:
    """ReLU, depthwise and pointwise convolution, batch normalisation."""
    depthwise = Geometry(stride, dilation * (kernel // 2), dilation, groups=channels)
    return nn.Sequential(
        nn.ReLU(),
        convolution(channels, channels, kernel, depthwise, searching=searching),
        convolution(channels, channels, 1, searching=searching),
        batch_norm(channels, searching),
    )


class FactorizedReduce(nn.Module):
    """Halve the resolution with two 1x1 convolutions, the second reading the pixels that the first skips.

    Args:
        inputs: Channels read.
        outputs: Channels written, an even number.
        searching: See :func:`batch_norm`.
    """

    def __init__(self, inputs: int, outputs: int, searching: bool) -> None:
        super().__init__()
        if outputs % 2 != 0:
            raise invalid("FactorizedReduce", "outputs must be even", outputs, "Choose an even channel count.")
        self.first = convolution(inputs, outputs // 2, 1, Geometry(stride=2), searching=searching)
        self.second = convolution(inputs, outputs // 2, 1, Geometry(stride=2), searching=searching)
        self.norm = batch_norm(outputs, searching)
        self.dimensions, self.narrow = _DIMENSIONS.get(), inputs < NARROW and not searching

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        if self.dimensions != 2:
            return self.norm(torch.cat([self.first(x), self.second(_shift(x))], dim=1))
        height, width = x.shape[2], x.shape[3]
        shifted = F.pad(x, [0, width % 2, 0, height % 2])[:, :, 1:, 1:]  # padded, so that odd maps round up alike
        if self.narrow and self.training and not x.is_cuda:
            halves = [
                F.conv2d(x[:, :, ::2, ::2], self.first.weight),  # type: ignore[arg-type]
                F.conv2d(shifted[:, :, ::2, ::2], self.second.weight),  # type: ignore[arg-type]
            ]
            return self.norm(torch.cat(halves, dim=1))
        return self.norm(torch.cat([self.first(x), self.second(shifted)], dim=1))


def _shift(x: Tensor) -> Tensor:
    """The map without its first position in every dimension, padded to an even size before."""
    for d in range(2, x.dim()):
        if x.size(d) % 2:
            x = torch.cat([x, torch.zeros_like(x.narrow(d, 0, 1))], dim=d)
        x = x.narrow(d, 1, x.size(d) - 1)
    return x


def pool(kind: str, stride: int) -> nn.Module:
    """Max or average pooling over 3 pixels in every dimension, not counting the padding."""
    dimension = _DIMENSIONS.get() - 1
    if kind == "max":
        return (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dimension](3, stride, 1)
    return (nn.AvgPool1d, nn.AvgPool2d, AvgPool3d)[dimension](3, stride, 1, count_include_pad=False)


def average_pairs() -> nn.Module:
    """The mean of two pixels in every dimension, with sizes rounded up."""
    return (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[_DIMENSIONS.get() - 1](2, 2, ceil_mode=True)


def take_every(x: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th position in every dimension of a map."""
    return x[(slice(None), slice(None), *[slice(None, None, stride)] * (x.dim() - 2))]


class Zero(nn.Module):
    """The primitive ``none`` in a derived network: an edge that carries nothing."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.dimensions = stride, _DIMENSIONS.get()

    def forward(self, x: Tensor) -> Tensor:
        if self.dimensions == 1:
            return torch.zeros_like(x[:, :, :: self.stride])
        if self.dimensions == 3:
            return torch.zeros_like(x[:, :, :: self.stride, :: self.stride, :: self.stride])
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def _make_normalised_pool(kind: str) -> BuildOperation:
    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        body = pool(kind, stride)
        return nn.Sequential(body, batch_norm(channels, searching)) if searching else body

    return build


def _skip(channels: int, stride: int, searching: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, searching)


def _separable(kernel: int) -> BuildOperation:
    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        first = separable_block(channels, kernel, stride, 1, searching)
        return nn.Sequential(*first, *separable_block(channels, kernel, 1, 1, searching))

    return build


def _dilate(kernel: int) -> BuildOperation:
    return lambda channels, stride, searching: separable_block(channels, kernel, stride, 2, searching)


def _plain(kernel: int) -> BuildOperation:
    # The reference gives these a bias exactly where their normalisation has no shift (xautodl, cell_operations.py)
    def build(channels: int, stride: int, searching: bool) -> nn.Module:
        return relu_conv_bn(channels, channels, kernel, Geometry(stride, kernel // 2), searching, bias=searching)

    return build


DARTS_OPERATIONS: Mapping[str, BuildOperation] = {
    "max_pool_3x3": _make_normalised_pool("max"),
    "avg_pool_3x3": _make_normalised_pool("avg"),
    "skip_connect": _skip,
    "sep_conv_3x3": _separable(3),
    "sep_conv_5x5": _separable(5),
    "sep_conv_7x7": _separable(7),
    "dil_conv_3x3": _dilate(3),
    "dil_conv_5x5": _dilate(5),
}
"""Liu et al., 2019, arXiv:1806.09055. ``none`` is absent: the supernet leaves it out of every sum."""

NASBENCH201_OPERATIONS: Mapping[str, BuildOperation] = {
    "none": lambda channels, stride, searching: Zero(stride),
    "skip_connect": _skip,
    "nor_conv_1x1": _plain(1),
    "nor_conv_3x3": _plain(3),
    "avg_pool_3x3": lambda channels, stride, searching: pool("avg", stride),
}
"""Dong and Yang, 2020, arXiv:2001.00326."""


_STREAMS = 1_000_003  # seeds of modules that draw for the same evaluation lie this far apart


class Noise(nn.Module):
    """Standard normal numbers of the shape that its input has after striding (Zela et al., 2020, arXiv:1909.09656).

    A network with noise stays a pure function: the numbers are decided by the seed that it is called with and by
    ``position``, which :func:`number_noise` sets to the module's place in its network. Nothing is drawn from a
    generator and nothing is kept. They carry no gradient.

    Args:
        stride: 2 where the edge halves the resolution, otherwise 1.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.position, self.seed = stride, 0, 0

    def draw_from(self, seed: int) -> None:
        """Draw from ``seed`` where it is called with the input alone."""
        self.seed = seed

    def forward(self, x: Tensor, seed: int | None = None) -> Tensor:
        seed = self.seed if seed is None else seed
        shape = (*x.shape[:2], *(-(-size // self.stride) for size in x.shape[2:]))
        return normal_noise(shape, seed + _STREAMS * self.position, x.device, x.dtype)


def number_noise(network: nn.Module) -> None:
    """Give every :class:`Noise` of ``network`` a stream of its own."""
    for position, module in enumerate(m for m in network.modules() if isinstance(m, Noise)):
        module.position = position


def call(operation: nn.Module, x: Tensor, seed: int) -> Tensor:
    """The output of a candidate at ``x``; noise draws from ``seed``."""
    return operation(x, seed) if isinstance(operation, Noise) else operation(x)


FLOOD = 4  # times as many channels in the middle
CHOKE = 32  # channels in the middle, however many there are outside


def sharp_sep_conv(
    channels: int, middle: int, kernel: int, stride: int, dilation: int, searching: bool
) -> nn.Sequential:
    """SharpSepConv (Hundt et al., 2019, arXiv:1903.09900, section 3): two separable convolutions with as many
    channels between them as one likes, the first strided and dilated, each followed by a normalisation.

    Args:
        channels: Channels read and written.
        middle: Channels between the two.
        kernel: Side of both depthwise filters in pixels, odd.
        stride: Of the first.
        dilation: Of the first.
        searching: See :func:`fastnas.supernet.operations.batch_norm`.
    """
    first = Geometry(stride, dilation * (kernel // 2), dilation, groups=channels)
    second = Geometry(1, kernel // 2, 1, groups=middle)
    return nn.Sequential(
        nn.ReLU(),
        convolution(channels, channels, kernel, first, searching=searching),
        convolution(channels, middle, 1, searching=searching),
        batch_norm(middle, searching),
        nn.ReLU(),
        convolution(middle, middle, kernel, second, searching=searching),
        convolution(middle, channels, 1, searching=searching),
        batch_norm(channels, searching),
    )


def _sharp(kernel: int, dilation: int = 1, times: int = 1) -> BuildOperation:
    return lambda channels, stride, searching: sharp_sep_conv(
        channels, times * channels, kernel, stride, dilation, searching
    )


def _choke(dilation: int) -> BuildOperation:
    return lambda channels, stride, searching: sharp_sep_conv(channels, CHOKE, 3, stride, dilation, searching)


SHARP_OPERATIONS: Mapping[str, BuildOperation] = {
    **DARTS_OPERATIONS,
    "sep_conv_3x3": _sharp(3),
    "sep_conv_5x5": _sharp(5),
    "dil_conv_3x3": _sharp(3, dilation=2),
    "dil_conv_5x5": _sharp(5, dilation=2),
    "flood_conv_3x3": _sharp(3, times=FLOOD),
    "dil_flood_conv_3x3": _sharp(3, dilation=2, times=FLOOD),
    "choke_conv_3x3": _choke(1),
    "dil_choke_conv_3x3": _choke(2),
}
"""Hundt et al., 2019, arXiv:1903.09900. Pools and skips are those of DARTS (the authors' code counts the padding in
its average pool)."""
