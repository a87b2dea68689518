"""How much work one program of the mixed operation's kernels does: a table that is shipped and looked up.

The entries were chosen by what the compiler makes of them: no spilled register, at most 168 registers, which lets
three programs of 128 threads share a multiprocessor, and accesses of 128 bits. ``profiling/tune.py`` measures on a
GPU and writes a new table; nothing is ever tuned while a search runs.
"""

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import torch

from fastnas_kernels.check import require


@dataclass(frozen=True)
class Tile:
    """Work of a program: ``pixels`` times ``channels`` elements by ``warps`` warps."""

    pixels: int
    channels: int
    warps: int = 4


@dataclass(frozen=True)
class Tiles:
    """Sizes of all kernels' programs; they change speed and rounding, never meaning.

    Args:
        stage: Of the convolutions that go forward, and of everything that is reduced beside them.
        pointwise: Of the gradient of a branch's 1x1 convolution.
        filters: Of the gradient of depthwise filters.
        elementwise: Of everything else.
        edges: Edges that share what they read of a state; more than one only if a tile has all channels.
        splits: Programs among which the sums of a filter's gradient are divided.
        precision: Of float32 matrix products: ``ieee``, or ``tf32x3``, which does them on matrix units in three
            parts and keeps float32's accuracy but for the last bit or two.
    """

    stage: Tile
    pointwise: Tile
    filters: Tile
    elementwise: Tile
    edges: int = 4
    splits: int = 32
    precision: str = "ieee"


def tiles_from_json(entry: dict) -> Tiles:
    """One entry of the table: tiles as lists ``[pixels, channels, warps]``."""
    kernels = {name: Tile(*entry[name]) for name in ("stage", "pointwise", "filters", "elementwise")}
    return Tiles(**kernels, edges=entry["edges"], splits=entry["splits"], precision=entry["precision"])


@cache
def shipped_table() -> list[dict]:
    """The entries of ``tiles.json``, by rising ``channels``: the most that each is for."""
    return json.loads(files("fastnas_kernels.mixed_op").joinpath("tiles.json").read_text())


@lru_cache(maxsize=64)
def tiles_for(channels: int, dtype: torch.dtype) -> Tiles:
    """The tiles for candidates that see ``channels`` channels.

    Raises:
        ValueError: If no entry of the table is wide enough.
    """
    table = shipped_table()
    widest = table[-1]["channels"]
    remedy = "Use fewer channels, or set FASTNAS_BACKEND=reference."
    require(channels <= widest, "mixed_cell", f"candidates must see at most {widest} channels", channels, remedy)
    entry = next(entry for entry in table if channels <= entry["channels"])
    tiles = tiles_from_json(entry)
    if dtype == torch.float64:  # has no other precision
        return Tiles(tiles.stage, tiles.pointwise, tiles.filters, tiles.elementwise, tiles.edges, tiles.splits, "ieee")
    return tiles
