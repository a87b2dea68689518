"""How the pixels of a cell's output are shared out among programs, in tiles of pixels or of stretches that lie abreast.

What lies abreast is read once for all of a stretch; the last stretch of a row may be shorter than the others.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas_kernels.mixed_op.lowering import Lowered
from fastnas_kernels.mixed_op.plan import Size
from fastnas_kernels.mixed_op.tables import Tile, Tiles, ceil_div


class Share(NamedTuple):
    """A tile, how many pixels of a row lie abreast in it, and the number of tiles."""

    tile: Tile
    abreast: int
    tiles: int


class Shares(NamedTuple):
    """Of the kernels whose pixels may lie abreast."""

    forward: tuple[Share, Share]
    """Of the convolutions that read a state, and of those that read other branches."""
    inner_gradient: Share
    """Of the gradient of what second halves read; its tile counts pixels."""
    filters: tuple[int, int]
    """Tiles of stretches for the gradients of filters, and how many more those of filters dilated by 2 have."""
    uneven_sums: Sequence[tuple[int, ...]]
    """Shapes of the partial sums of each source's gradient, if not all of its rows have as many tiles."""


def shares_of(lowered: Lowered, size: Size, tiles: Tiles, dtype: torch.dtype, channels: int) -> Shares:
    """A lowered cell's at one size."""
    of_state = Share(tiles.stage, 1, ceil_div(size.out_pixels, tiles.stage.pixels))
    of_halves = of_state
    inner = Share(tiles.gradients, 1, ceil_div(size.out_pixels, tiles.gradients.pixels))
    if lowered.dense:
        stretches, abreast = tiles.halves
        of_halves = Share(tiles.stage_of_halves, abreast, ceil_div(_stretches(size, abreast), stretches))
        tile, abreast = tiles.stretches, tiles.abreast(dtype)
        inner = Share(tile, abreast, ceil_div(_stretches(size, abreast), tile.pixels // abreast))
    near, far = (
        ceil_div(_stretches(size, tiles.abreast_of_filters, dilation), tiles.filters.pixels) for dilation in (1, 2)
    )
    fewer, most = sorted((of_state.tiles, of_halves.tiles))
    spans = lowered.sum_spans if fewer < most and any(last > middle for _, middle, last in lowered.ranges) else ()
    uneven = [(last - first, most, 2, channels) for first, last in spans]
    return Shares((of_state, of_halves), inner, (near, far - near), uneven)


def _stretches(size: Size, abreast: int, dilation: int = 1) -> int:
    """How many cover the rows of the output, of so many pixels that a dilated filter leads from one to the next of."""
    a_row = dilation * ceil_div(size.out_width, abreast * dilation)
    return size.images * size.out_height * a_row


def zeros(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Tensors that one operation sets to zero, each from a multiple of 16 bytes on."""
    sizes = [ceil_div(prod(shape), 4) * 4 for shape in shapes]
    parts = torch.zeros(sum(sizes), dtype=dtype, device=device).split(sizes)
    return [part[: prod(shape)].view(shape) for part, shape in zip(parts, shapes, strict=True)]
