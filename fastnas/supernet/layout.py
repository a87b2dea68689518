"""Where cells stand in a network, the same for supernets and derived networks."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastnas.supernet.operations import FactorizedReduce, average_pairs, batch_norm, convolution, relu_conv_bn
from fastnas_kernels.check import require
from fastnas_kernels.convolution import Geometry

Resolution = int | tuple[int, int]
"""Height and width in pixels, or the side of a square."""
Sizes = int | tuple[int, ...]
"""The same, or the sizes of maps of one or three dimensions."""
Fit = Literal["squeeze", "pad", "crop"]
"""How an image of another shape gets to a resolution."""


def height_and_width(resolution: Sizes) -> tuple[int, int]:
    """Both numbers of a resolution.

    Raises:
        ValueError: For the sizes of maps of one or three dimensions.
    """
    if isinstance(resolution, int):
        return resolution, resolution
    require(len(resolution) == 2, "images", "resolution must be a height and a width", resolution)
    height, width = resolution
    return height, width


def shrink(size: tuple[int, int], factor: int) -> tuple[int, int]:
    """Height and width behind strides of ``factor`` in all, rounded up as the operations do."""
    return -(-size[0] // factor), -(-size[1] // factor)


def channels_last(images: Tensor, dimensions: int = 2) -> Tensor:
    """``images`` in the layout in which convolutions are fastest; maps of one or three dimensions as they are."""
    if dimensions != 2:
        return images
    return images.contiguous(memory_format=torch.channels_last)


def lay_out(network: nn.Module) -> nn.Module:
    """Bring the filters of ``network`` into that layout, in place."""
    if any(p.dim() == 5 for p in network.parameters()):
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def average(maps: Tensor, dimensions: int = 2) -> Tensor:
    """The mean of every channel, from ``[N, C, *size]`` to ``[N, C]``."""
    if dimensions == 2:  # and not the tensor's, which torch.fx does not know
        return maps.mean((2, 3))
    return maps.flatten(2).mean(2)


class CellPlace(NamedTuple):
    """One cell of a DARTS network: its type, its channels, and the two states that it reads."""

    cell_type: str
    channels: int
    inputs: tuple[int, int]
    after_reduction: bool

    @property
    def stride(self) -> int:
        return 2 if self.cell_type == "reduction" else 1

    def prepare_inputs(self, searching: bool) -> list[nn.Module]:
        """The modules that bring both inputs to the cell's channels and resolution."""
        older, newer = self.inputs
        first = (
            FactorizedReduce(older, self.channels, searching)
            if self.after_reduction
            else relu_conv_bn(older, self.channels, 1, Geometry(), searching)
        )
        return [first, relu_conv_bn(newer, self.channels, 1, Geometry(), searching)]


def darts_layout(cells: int, channels: int, stem_channels: int, num_concat: int, reduced_stem: bool) -> list[CellPlace]:
    """The cells of a DARTS network (Liu et al., 2019, arXiv:1806.09055): reductions at a third and two thirds of
    the depth, each doubling the channels.

    Args:
        cells: Depth; at least 3, so that two different cells can reduce.
        channels: Channels inside the first cells.
        stem_channels: Channels of both outputs of the stem.
        num_concat: States that a cell concatenates.
        reduced_stem: Whether the stem's second output has half the resolution of its first.
    """
    require(cells >= 3, "layout", "cells must be at least 3", cells, "Two of them reduce the resolution.")
    require(channels >= 1, "layout", "channels must be positive", channels)
    places = []
    older, newer, after_reduction = stem_channels, stem_channels, reduced_stem
    for position in range(cells):
        reduces = position in (cells // 3, 2 * cells // 3)
        channels = 2 * channels if reduces else channels
        places.append(CellPlace("reduction" if reduces else "normal", channels, (older, newer), after_reduction))
        older, newer, after_reduction = newer, num_concat * channels, reduces
    return places


class SmallStem(nn.Module):
    """3x3 convolution and normalisation, for images of tens of pixels; both states are the same."""

    def __init__(self, image_channels: int, channels: int, searching: bool) -> None:
        super().__init__()
        self.convolution = convolution(image_channels, channels, 3, Geometry(padding=1), searching=searching)
        self.norm = batch_norm(channels, searching, affine=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = self.norm(self.convolution(x))
        return state, state


class LargeStem(nn.Module):
    """Three strided 3x3 convolutions, for images of hundreds of pixels: states at a quarter and an eighth."""

    def __init__(self, image_channels: int, channels: int, searching: bool) -> None:
        super().__init__()
        halving = Geometry(stride=2, padding=1)

        def norm(width: int) -> nn.Module:
            return batch_norm(width, searching, affine=True)

        self.quarter = nn.Sequential(
            convolution(image_channels, channels // 2, 3, halving, searching=searching),
            norm(channels // 2),
            nn.ReLU(),
            convolution(channels // 2, channels, 3, halving, searching=searching),
            norm(channels),
        )
        self.eighth = nn.Sequential(
            nn.ReLU(), convolution(channels, channels, 3, halving, searching=searching), norm(channels)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        quarter = self.quarter(x)
        return quarter, self.eighth(quarter)


class ResidualReduction(nn.Module):
    """The block between the stages of NAS-Bench-201 (Dong and Yang, 2020, arXiv:2001.00326): halves the
    resolution, doubles the channels."""

    def __init__(self, channels: int, searching: bool) -> None:
        super().__init__()

        def block(inputs: int, stride: int) -> nn.Sequential:
            body = convolution(inputs, 2 * channels, 3, Geometry(stride, 1), searching=searching)
            return nn.Sequential(nn.ReLU(), body, batch_norm(2 * channels, searching, affine=True))

        self.residual = nn.Sequential(block(channels, 2), block(2 * channels, 1))
        self.shortcut = nn.Sequential(average_pairs(), convolution(channels, 2 * channels, 1, searching=searching))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)
