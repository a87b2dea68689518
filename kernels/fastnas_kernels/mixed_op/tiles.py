"""How much work one program of the mixed operation's kernels does."""

from dataclasses import dataclass

import torch
import triton


@dataclass(frozen=True)
class Tiles:
    """Sizes of a program's work; they change speed and rounding, never meaning.

    Args:
        pixels: Pixels in a tile.
        channels: Channels that are convolved at once.
        edges: Edges that share what they read of a state.
        splits: Programs among which the sums of a filter's gradient are divided.
        warps: Warps of a program.
        precision: Of float32 matrix products: ``ieee``, ``tf32x3`` or ``tf32``.
    """

    pixels: int
    channels: int
    edges: int = 4
    splits: int = 32
    warps: int = 4
    precision: str = "ieee"


def tiles_for(channels: int, dtype: torch.dtype) -> Tiles:
    """The tile sizes for candidates that see ``channels`` channels."""
    block = min(64, max(16, triton.next_power_of_2(channels)))
    return Tiles(pixels=64 if channels <= 16 else 32, channels=block)
