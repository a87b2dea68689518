"""How much work one program of the mixed operation's kernels does: a table that is shipped and looked up.

The entries were chosen by what the compiler makes of them: no spilled register, at most 168 registers, which lets
three programs of 128 threads share a multiprocessor, and accesses of 128 bits. ``profiling/tune.py`` measures on a
GPU and writes a new table; nothing is ever tuned while a search runs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.resources import files

import torch

from fastnas_kernels.check import invalid

MOST_SPLITS = 5
"""Programs that share the sums of a filter's gradient on a device of many multiprocessors, in multiples of
``Tiles.splits``: a launch for two branches then has two for each of an H100's 132."""
KERNELS = ("stage", "pointwise", "filters", "elementwise")


def ceil_div(a: int, b: int) -> int:
    """``a / b``, rounded up; Triton's own takes 4 microseconds, and a launch asks three times."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least ``n``, which is positive."""
    return 1 << (n - 1).bit_length()


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
        stage: Of the convolutions that go forward.
        pointwise: Of the gradient of a branch's 1x1 convolution.
        filters: Of the gradient of depthwise filters.
        elementwise: Of the sum at a node, and of the gradient of the channels that pass it by.
        edges: Edges that share what they read of a state; more than one only if a tile has all channels.
        splits: Programs, at least, among which the sums of a filter's gradient are divided.
        precision: Of float32 matrix products: ``ieee``, or ``tf32x3``, which does them on NVIDIA's matrix units in
            three parts.
    """

    stage: Tile
    pointwise: Tile
    filters: Tile
    elementwise: Tile
    edges: int = 4
    splits: int = 32
    precision: str = "ieee"

    @property
    def kernels(self) -> Mapping[str, Tile]:
        """All tiles by their names."""
        return {name: getattr(self, name) for name in KERNELS}

    @cached_property
    def states(self) -> Tile:
        """Of the pools and of the gradients of states: the pixels of ``stage``, beside whose sums theirs lie, and no
        more than eight numbers for each of a warp's 32 threads (four for AMD's 64): windows take registers as well."""
        most = 8 * 32 * self.stage.warps // self.stage.pixels
        return replace(self.stage, channels=min(self.stage.channels, most))

    def compute_again(self, channels: int) -> bool:
        """Whether a branch's raw output is computed once more where the gradients of its filters are, which need its
        depthwise output anyhow, and not read: if a tile has all ``channels``, and products are not in parts, which
        takes the registers that this would need."""
        return channels <= self.pointwise.channels and self.precision == "ieee"


# Why `tf32x3` keeps float32's accuracy. It splits a = a1 + a2 + r into two numbers of 11 bits and a rest, so that
# |a - a1| <= 2^-11 |a| and |r| <= 2^-22 |a|, and computes a1 b1 + a1 b2 + a2 b1 of each product a b. What is left out,
# a2 b2 + r b + a r', is at most 3 * 2^-22 |a b|, twelve units of float32's rounding (2^-24); with errors spread evenly
# within their bounds, its root mean square is near one unit. Eager float32 rounds once an addition, C times for C
# channels: at most C units, near sqrt(C / 3) of them in the mean. For C >= 32 the former is smaller than the latter,
# so the two together stay below twice the latter; for C <= 16 it need not be, and there the table says `ieee`.


def tiles_from_json(entry: dict) -> Tiles:
    """One entry of the table: tiles as lists ``[pixels, channels, warps]``."""
    kernels = {name: Tile(*entry[name]) for name in KERNELS}
    return Tiles(**kernels, edges=entry["edges"], splits=entry["splits"], precision=entry["precision"])


@cache
def shipped_table() -> list[dict]:
    """The entries of ``tiles.json``, by rising ``channels``: the most that each is for. An entry with a ``dtype`` is
    for that one only."""
    return json.loads(files("fastnas_kernels.mixed_op").joinpath("tiles.json").read_text())


def vendor() -> str:
    """Whose GPUs this build of PyTorch is for: ``cuda`` or ``hip``."""
    return "hip" if torch.version.hip else "cuda"


@lru_cache(maxsize=64)
def tiles_for(channels: int, dtype: torch.dtype, backend: str = "cuda") -> Tiles:
    """The tiles for candidates that see ``channels`` channels, on GPUs of ``backend``, see :func:`vendor`.

    The table is for NVIDIA's. A wavefront of AMD's has the threads of two warps, and its matrix units take float32 as
    it is; ``tf32x3`` does not exist there.

    Raises:
        ValueError: If no entry of the table is wide enough.
    """
    table = shipped_table()
    widest = table[-1]["channels"]
    if channels > widest:
        remedy = "Use fewer channels, or set FASTNAS_BACKEND=reference."
        raise invalid("mixed_cell", f"candidates must see at most {widest} channels", channels, remedy)
    of_type = (entry for entry in table if entry.get("dtype") in (None, str(dtype).removeprefix("torch.")))
    tiles = tiles_from_json(next(entry for entry in of_type if channels <= entry["channels"]))
    if backend == "hip":
        halves = {name: replace(tile, warps=max(1, tile.warps // 2)) for name, tile in tiles.kernels.items()}
        return replace(tiles, **halves, precision="ieee")
    return replace(tiles, precision="ieee") if dtype == torch.float64 else tiles  # which has no other precision
