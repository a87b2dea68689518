"""Where the blocks of a chain stand, the same for supernets and derived networks."""

from dataclasses import dataclass
from typing import NamedTuple

from fastnas.spaces.chain_space import ChainSpace
from fastnas_kernels.check import require

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


def rounded(width: float) -> int:
    """The multiple of 8 nearest to ``width``, never 0, nor more than a tenth below it (Sandler et al., 2018,
    arXiv:1801.04381, in its published code)."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest


def proxyless_shape(channels: int = PAPER_CHANNELS) -> ChainShape:
    """The shape of ProxylessNAS's search space (Cai et al., 2019, arXiv:1812.00332; the numbers:
    ``imagenet_arch_search.py`` of the authors' code).

    Args:
        channels: Of the first block. The paper has 16; all other channels change in proportion, rounded to multiples
            of 8, but for those of the head, which are never less than 1,280.
    """
    require(channels >= 1, "layout", "channels must be positive", channels)
    scale = channels / PAPER_CHANNELS
    return ChainShape(
        stem=rounded(32 * scale),
        first=rounded(16 * scale),
        stages=tuple(rounded(width * scale) for width in (24, 40, 80, 96, 192, 320)),
        strides=(2, 2, 2, 1, 2, 1),
        head=rounded(1280 * max(scale, 1)),
    )


def chain_layout(space: ChainSpace, shape: ChainShape) -> list[BlockPlace]:
    """The searched blocks of the chain ``space``: the first of a stage changes channels and resolution, the others
    keep both and have a shortcut."""
    stages = space.stages
    lengths = (len(shape.stages), len(shape.strides))
    require(lengths == (len(stages),) * 2, "layout", f"shape must have {len(stages)} stages and strides", lengths)
    places, inputs = [], shape.first
    for blocks, outputs, stride in zip(stages, shape.stages, shape.strides, strict=True):
        places.append(BlockPlace(inputs, outputs, stride, False))
        places += [BlockPlace(outputs, outputs, 1, True)] * (blocks - 1)
        inputs = outputs
    return places
