"""How the pixels of a cell's output are shared out among programs, in tiles of pixels or of stretches that lie abreast.

What lies abreast is read once for all of a stretch; the last stretch of a row may be shorter than the others.
"""

from typing import NamedTuple

import torch

from fastnas_kernels.mixed_op.lowering import Lowered
from fastnas_kernels.mixed_op.plan import Size
from fastnas_kernels.mixed_op.tables import Tile, Tiles, ceil_div


class Share(NamedTuple):
    """A tile, how many pixels of a row lie abreast in it, and the number of tiles."""

    tile: Tile
    abreast: int
    tiles: int


def num_stretches(size: Size, abreast: int, dilation: int = 1) -> int:
    """Stretches that cover the rows of the output, of so many pixels that a dilated filter leads from one to the next
    of."""
    a_row = dilation * ceil_div(size.out_width, abreast * dilation)
    return size.images * size.out_height * a_row


def shares_forward(lowered: Lowered, size: Size, tiles: Tiles) -> tuple[Share, Share]:
    """Of the convolutions that read a state, and of those that read other branches."""
    of_state = Share(tiles.stage, 1, ceil_div(size.out_pixels, tiles.stage.pixels))
    if not lowered.dense:
        return of_state, of_state
    stretches, abreast = tiles.halves
    return of_state, Share(tiles.stage_of_halves, abreast, ceil_div(num_stretches(size, abreast), stretches))


def share_of_inner_gradient(lowered: Lowered, size: Size, tiles: Tiles, dtype: torch.dtype) -> Share:
    """Of the gradient of what second halves read; ``tile`` counts pixels."""
    if not lowered.dense:
        return Share(tiles.gradients, 1, ceil_div(size.out_pixels, tiles.gradients.pixels))
    tile, abreast = tiles.stretches, tiles.abreast(dtype)
    return Share(tile, abreast, ceil_div(num_stretches(size, abreast), tile.pixels // abreast))


def stretches_of_filters(size: Size, tiles: Tiles) -> tuple[int, int]:
    """Tiles of stretches for the gradients of filters, and how many more those of filters dilated by 2 have."""
    abreast, pixels = tiles.abreast_of_filters, tiles.filters.pixels
    near, far = (ceil_div(num_stretches(size, abreast, dilation), pixels) for dilation in (1, 2))
    return near, far - near
