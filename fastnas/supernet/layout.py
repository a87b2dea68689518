"""Where cells and blocks stand in a network, and the parts between them: the same for search and for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastnas.spaces.chain_space import ChainSpace
from fastnas.supernet.operations import FactorizedReduce, average_pairs, batch_norm, convolution, relu_conv_bn
from fastnas_kernels.check import invalid
from fastnas_kernels.convolution import Geometry

Resolution = int | tuple[int, int]
"""Height and width in pixels, or the side of a square."""
Sizes = int | tuple[int, ...]
"""The same, or the sizes of maps of one or three dimensions."""
Fit = Literal["squeeze", "pad", "crop"]
"""How an image of another shape gets to a resolution."""


def height_and_width(resolution: Sizes) -> tuple[int, int]:
    """Both numbers of a resolution."""
    if isinstance(resolution, int):
        return resolution, resolution
    if len(resolution) != 2:
        raise invalid("images", "resolution must be a height and a width", resolution)
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


def lay_out_darts(
    cells: int, channels: int, stem_channels: int, num_concat: int, reduced_stem: bool
) -> list[CellPlace]:
    """The cells of a DARTS network (Liu et al., 2019, arXiv:1806.09055): reductions at a third and two thirds of
    the depth, each doubling the channels.

    Args:
        cells: Depth; at least 3, so that two different cells can reduce.
        channels: Channels inside the first cells.
        stem_channels: Channels of both outputs of the stem.
        num_concat: States that a cell concatenates.
        reduced_stem: Whether the stem's second output has half the resolution of its first.
    """
    if cells < 3:
        raise invalid("layout", "cells must be at least 3", cells, "Two of them reduce the resolution.")
    if channels < 1:
        raise invalid("layout", "channels must be positive", channels)
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


PAPER_CHANNELS = 16  # of the first block, at width 1


@dataclass(frozen=True, kw_only=True)
class ChainShape:
    """Channels and strides of a network that is a chain of blocks.

    Args:
        stem: Channels of the first convolution.
        first: Channels of the first block, which is not searched.
        stages: Channels of every stage.
        strides: Stride of every stage's first block.
        head: Channels of the last convolution.
    """

    stem: int
    first: int
    stages: tuple[int, ...]
    strides: tuple[int, ...]
    head: int


class BlockPlace(NamedTuple):
    """One block of a chain: the channels that it reads and writes, its stride, and whether its input is added to its
    output."""

    inputs: int
    outputs: int
    stride: int
    shortcut: bool


def round_channels(width: float) -> int:
    """The multiple of 8 nearest to ``width``, never 0, nor more than a tenth below it (Sandler et al., 2018,
    arXiv:1801.04381, in its published code)."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def shape_proxyless(channels: int = PAPER_CHANNELS) -> ChainShape:
    """The shape of ProxylessNAS's search space (Cai et al., 2019, arXiv:1812.00332; the numbers:
    ``imagenet_arch_search.py`` of the authors' code).

    Args:
        channels: Of the first block. The paper has 16; all other channels change in proportion, rounded to multiples
            of 8, but for those of the head, which are never less than 1,280.
    """
    if channels < 1:
        raise invalid("layout", "channels must be positive", channels)
    scale = channels / PAPER_CHANNELS
    return ChainShape(
        stem=round_channels(32 * scale),
        first=round_channels(16 * scale),
        stages=tuple(round_channels(width * scale) for width in (24, 40, 80, 96, 192, 320)),
        strides=(2, 2, 2, 1, 2, 1),
        head=round_channels(1280 * max(scale, 1)),
    )


def lay_out_chain(space: ChainSpace, shape: ChainShape) -> list[BlockPlace]:
    """The searched blocks of the chain ``space``: the first of a stage changes channels and resolution, the others
    keep both and have a shortcut."""
    stages = space.stages
    lengths = (len(shape.stages), len(shape.strides))
    if lengths != (len(stages),) * 2:
        raise invalid("layout", f"shape must have {len(stages)} stages and strides", lengths)
    places, inputs = [], shape.first
    for blocks, outputs, stride in zip(stages, shape.stages, shape.strides, strict=True):
        places.append(BlockPlace(inputs, outputs, stride, False))
        places += [BlockPlace(outputs, outputs, 1, True)] * (blocks - 1)
        inputs = outputs
    return places


GROUPS = 8  # of the two thin convolutions


class FixedReduction(nn.Module):
    """Halves the resolution without anything to choose: of both inputs a 1x3 and 3x1 convolution and a pool, side by
    side (Dong and Yang, 2019, arXiv:1910.04465, section 3.3, with the numbers of the published code).

    Args:
        inputs: One module for each of the two input states, which brings it to ``channels``.
        channels: Channels of every branch, a multiple of 8.
        searching: See :func:`fastnas.supernet.operations.batch_norm`.
    """

    def __init__(self, inputs: Sequence[nn.Module], channels: int, searching: bool) -> None:
        super().__init__()
        if channels % GROUPS != 0:
            remedy = "Its thin convolutions have 8 groups: choose channels that are a multiple of 4."
            raise invalid("FixedReduction", f"channels must be a multiple of {GROUPS}", channels, remedy)
        self.inputs = nn.ModuleList(inputs)
        self.thin = nn.ModuleList(_thin(channels, searching) for _ in inputs)
        self.pools = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(3, 2, 1), batch_norm(channels, searching)) for _ in inputs
        )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """From the input states ``[N, *, H, W]`` to ``[N, 4 * channels, H / 2, W / 2]``."""
        states: list[Tensor] = []
        for i, prepare in enumerate(self.inputs):
            states.append(prepare(inputs[i]))
        branches: list[Tensor] = []
        for i, branch in enumerate(self.thin):
            branches.append(branch(states[i]))
        for i, branch in enumerate(self.pools):
            branches.append(branch(states[i]))
        return torch.cat(branches, dim=1)


def _thin(channels: int, searching: bool) -> nn.Sequential:
    """Grouped convolutions along rows and along columns, and a 1x1 convolution that brings the groups together."""
    across = nn.Conv2d(channels, channels, (1, 3), (1, 2), (0, 1), groups=GROUPS, bias=False)
    down = nn.Conv2d(channels, channels, (3, 1), (2, 1), (1, 0), groups=GROUPS, bias=False)
    mixed = [nn.ReLU(), convolution(channels, channels, 1, searching=searching), batch_norm(channels, searching)]
    return nn.Sequential(nn.ReLU(), across, down, batch_norm(channels, searching), *mixed)
