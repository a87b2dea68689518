"""The primitives of a chain: mobile inverted bottlenecks, which change channels and resolution."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from fastnas.supernet.operations import convolution
from fastnas_kernels.convolution import Geometry
from fastnas_kernels.normalisation import BatchNorm2d

BuildBlock = Callable[[int, int, int, bool], nn.Module]
"""``(inputs, outputs, stride, searching)`` to a module from ``[N, inputs, H, W]`` to ``[N, outputs, H / stride,
W / stride]``, odd maps rounded up."""


def chain_norm(channels: int, searching: bool) -> nn.BatchNorm2d:
    """Batch normalisation as the published code of ProxylessNAS has it: an epsilon of 1e-3, and scale and shift also
    while searching. By the statistics of the batch while searching, by running ones in a derived network."""
    if not searching:
        return nn.BatchNorm2d(channels, eps=1e-3)
    return BatchNorm2d(channels, eps=1e-3, track_running_stats=False)


def conv_norm_relu6(inputs: int, outputs: int, kernel: int, geometry: Geometry, searching: bool) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU6: the order of the blocks of a chain."""
    body = convolution(inputs, outputs, kernel, geometry, searching=searching)
    return nn.Sequential(body, chain_norm(outputs, searching), nn.ReLU6())


def mbconv(inputs: int, outputs: int, stride: int, searching: bool, *, kernel: int, expansion: int) -> nn.Sequential:
    """A mobile inverted bottleneck without its shortcut (Sandler et al., 2018, arXiv:1801.04381): more channels by a
    1x1 convolution, a depthwise one, and back to few channels with nothing behind it.

    Args:
        inputs: Channels read.
        outputs: Channels written.
        stride: Of the depthwise convolution.
        searching: See :func:`chain_norm`.
        kernel: Side of the depthwise kernel in pixels, odd.
        expansion: Channels in the middle for every channel read; 1 leaves the first convolution out.
    """
    middle = expansion * inputs
    expand = conv_norm_relu6(inputs, middle, 1, Geometry(), searching) if expansion > 1 else ()
    depthwise = conv_norm_relu6(middle, middle, kernel, Geometry(stride, kernel // 2, groups=middle), searching)
    project = convolution(middle, outputs, 1, searching=searching)
    return nn.Sequential(*expand, *depthwise, project, chain_norm(outputs, searching))


def initialise_chain(network: nn.Module) -> None:
    """Initialise as the published code of ProxylessNAS: filters by He with the fan-out (He et al., 2015,
    arXiv:1502.01852, for the backward pass), the bias of the classifier at zero; its weights stay as PyTorch has them.

    Args:
        network: A supernet or a derived network of a chain, its weights fresh.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


MBCONV_OPERATIONS: Mapping[str, BuildBlock] = {
    f"mbconv_{kernel}x{kernel}_e{expansion}": partial(mbconv, kernel=kernel, expansion=expansion)
    for kernel in (3, 5, 7)
    for expansion in (3, 6)
}
"""Cai et al., 2019, arXiv:1812.00332. ``none`` is absent: a block that chooses it is left out."""
