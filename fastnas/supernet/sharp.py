"""The convolutions of sharpDARTS."""

from collections.abc import Mapping

from torch import nn

from fastnas.supernet.operations import DARTS_OPERATIONS, BuildOperation, batch_norm, convolution
from fastnas_kernels.convolution import Geometry

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


def _choked(dilation: int) -> BuildOperation:
    return lambda channels, stride, searching: sharp_sep_conv(channels, CHOKE, 3, stride, dilation, searching)


SHARP_OPERATIONS: Mapping[str, BuildOperation] = {
    **DARTS_OPERATIONS,
    "sep_conv_3x3": _sharp(3),
    "sep_conv_5x5": _sharp(5),
    "dil_conv_3x3": _sharp(3, dilation=2),
    "dil_conv_5x5": _sharp(5, dilation=2),
    "flood_conv_3x3": _sharp(3, times=FLOOD),
    "dil_flood_conv_3x3": _sharp(3, dilation=2, times=FLOOD),
    "choke_conv_3x3": _choked(1),
    "dil_choke_conv_3x3": _choked(2),
}
"""Hundt et al., 2019, arXiv:1903.09900. Pools and skips are those of DARTS (the authors' code counts the padding in
its average pool)."""
