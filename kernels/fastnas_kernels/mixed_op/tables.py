"""What kernels look up: the integer tables of a lowered plan on a device, with what travels between the plan's own
order of weights and statistics and the rows that compiled kernels read and write; and how much work one program does.

The sizes of programs are shipped (``tiles.json``) and were chosen by what the compiler makes of them: no spilled
register, at most 168 registers, which lets three programs of 128 threads share a multiprocessor, and accesses of 128
bits. ``profiling/tune.py`` measures on a GPU and writes a new table; nothing is ever tuned while a search runs.

Shape suffixes: R rows of statistics, C channels that the candidates see, M pixels, D channels of all nodes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastnas_kernels.check import invalid
from fastnas_kernels.mixed_op.lowering import Lowered
from fastnas_kernels.mixed_op.plan import CellPlan


@dataclass(frozen=True)
class Span:
    """Entries ``[first, last)`` of a table."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, eq=False)
class Tables:
    """All integers that the kernels of one plan read."""

    branches: Tensor
    """``[B, 10]`` int32, the fields of :class:`Branch`."""
    edges: Tensor
    """``[E, 7]`` int32, see :meth:`Lowered.edge_table`."""
    entering: Tensor
    """Branches that are summed at a node, node by node."""
    entering_spans: tuple[Span, ...]
    leaving: Tensor
    """Edges, source by source."""
    leaving_spans: tuple[Span, ...]
    bundles: Tensor
    """``[G, 2]`` int32: first branch and number of branches that one program evaluates."""
    bundle_sizes: tuple[int, ...]
    """The number of branches of each bundle, for the host."""
    bundle_spans: tuple[tuple[Span, Span], ...]
    """For each source, the bundles that read the state and those that read other branches."""
    rows: Tensor
    """Rows of the statistics in the order in which they are made: branches that read the state, max-pool, avg-pool,
    branches that read other branches; source by source."""
    row_spans: tuple[tuple[Span, Span], ...]
    packing: Tensor
    constants: Tensor
    """Zero and one, float32, which the packing takes beside the weights."""
    unpacking: Tensor
    norm_rows: Tensor
    """``[2, R]``: the two rows whose sum is each normalisation of the plan; the last row is zero."""
    mix_rows: Tensor
    """``[2, coefficients]``, see :meth:`Lowered.mix_rows`."""
    sum_spans: tuple[Span, ...]
    """For each source, its rows of the sums that backward needs: one for each branch, two for each edge."""
    edge_ranks: Tensor
    """``[E]``: where each edge stands in ``leaving``."""
    live_channels: Tensor
    """``[rows, C]``: 1 where a channel of a row of statistics is not identically zero."""


class _Spans:
    """Appends lists and remembers where each lies."""

    def __init__(self) -> None:
        self.items: list = []

    def add(self, items: list) -> Span:
        first = len(self.items)
        self.items += items
        return Span(first, len(self.items))


@lru_cache(maxsize=256)
def tables_of(lowered: Lowered, device: torch.device, shared: bool, edges_a_program: int) -> Tables:
    """``shared``: pools keep one row of statistics for all edges that leave a state."""
    plan = lowered.plan
    entering, leaving, bundles, rows = _Spans(), _Spans(), _Spans(), _Spans()
    unused = lowered.num_rows  # receives the statistics of pools that no edge has
    bundle_spans, row_spans, leaving_spans = [], [], []
    for source, (first, middle, last) in enumerate(lowered.ranges):
        leaving_spans.append(leaving.add(plan.leaving(source)))
        of_state = bundles.add(lowered.bundles(source, edges_a_program))
        bundle_spans.append((of_state, bundles.add([(b, 1) for b in range(middle, last)])))
        shared_rows = lowered.pool_rows(source)
        pools = [shared_rows.get(kind, unused) for kind in ("max_pool", "avg_pool")] if shared_rows else []
        of_state = rows.add([*range(first, middle), *pools])
        row_spans.append((of_state, rows.add(list(range(middle, last)))))
    nodes = range(plan.num_inputs, plan.num_states)
    entering_spans = tuple(entering.add(lowered.entering(target)) for target in nodes)

    def put(values: object, dtype: torch.dtype = torch.int32) -> Tensor:
        # An empty table still needs an address
        array = np.array(values if len(values) else [0])  # type: ignore[arg-type]
        return torch.from_numpy(array).to(device, dtype)

    return Tables(
        branches=put(lowered.branches),
        edges=put(lowered.edge_table(shared)),
        entering=put(entering.items),
        entering_spans=entering_spans,
        leaving=put(leaving.items),
        leaving_spans=tuple(leaving_spans),
        bundles=put(bundles.items),
        bundle_sizes=tuple(number for _, number in bundles.items),
        bundle_spans=tuple(bundle_spans),
        rows=put(rows.items),
        row_spans=tuple(row_spans),
        packing=put(lowered.packing, torch.int64),
        constants=put([0, 1], torch.float32),
        unpacking=put(lowered.unpacking, torch.int64),
        norm_rows=put(lowered.norm_rows(shared), torch.int64),
        mix_rows=put(lowered.mix_rows(), torch.int64),
        sum_spans=tuple(Span(*span) for span in lowered.sum_spans),
        edge_ranks=put(np.argsort(lowered.leaving), torch.int64),
        live_channels=put(lowered.live_channels(), torch.bool),
    )


def pack(weights: Sequence[Tensor], tables: Tables, dtype: torch.dtype, constant: bool = True) -> Tensor:
    """All filters in one vector, channels innermost, in the accumulator's precision. ``constant`` includes what is the
    same for all weights, of which a tangent has nothing."""
    if not weights:
        return torch.zeros(1, dtype=dtype, device=tables.packing.device)
    constants = tables.constants if constant else torch.zeros_like(tables.constants)
    # One operation: on a CPU, one for each of a cell's 168 small weights takes longer than the cell
    flat = torch._utils._flatten_dense_tensors([*weights, constants]).to(dtype)  # type: ignore[attr-defined]
    return flat.index_select(0, tables.packing)  # several times faster on a CPU than flat[...]


def spread_statistics(statistics: Tensor, tables: Tables, eps: float, stats_R3C: Tensor) -> None:
    """Spread the statistics of the plan's normalisations over the rows that the kernels read."""
    mean, variance = statistics.to(stats_R3C.dtype).unbind(1)
    for half in tables.norm_rows:
        stats_R3C[half, 0], stats_R3C[half, 2] = mean, variance
    stats_R3C[:, 1] = (stats_R3C[:, 2] + eps).rsqrt()
    stats_R3C[:, 0].masked_fill_(~tables.live_channels, 0.0)


def noted_statistics(lowered: Lowered, tables: Tables, stats_R3C: Tensor) -> Tensor:
    """Mean and variance of the plan's normalisations, ``[norms, 2, C]``, from the rows that the kernels filled."""
    rows, others = tables.norm_rows
    found = stats_R3C[rows, ::2]
    if lowered.has_halves:
        found += stats_R3C[others, ::2]
    return found


def mix_gradient(lowered: Lowered, tables: Tables, sums: Tensor) -> Tensor:
    """The gradient of the mix from the sums of every channel, ``[sums, 2, C]``, whose last row is free."""
    rows, others = tables.mix_rows
    if lowered.has_halves:
        sums[-1] = 0  # stands for the second half of what has none
    totals = sums.sum(-1).flatten()
    return totals[rows] + totals[others] if lowered.has_halves else totals[rows]


def begun_gradients(dnodes_MD: Tensor, plan: CellPlan) -> Tensor:
    """Memory for the gradients of all nodes, ``[M, D]``, each in the order before the shuffle: its mixed channels side
    by side. Only those of nodes that no edge leaves are there already, for nothing will be added to them."""
    gradients = torch.empty_like(dnodes_MD)
    begun = gradients.view(-1, plan.num_nodes, plan.k, plan.mixed_channels)
    given = dnodes_MD.view(-1, plan.num_nodes, plan.mixed_channels, plan.k).transpose(2, 3)
    for node in range(plan.num_nodes):
        if not plan.leaving(plan.num_inputs + node):
            begun[:, node] = given[:, node]
    return gradients


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
        precision: Of matrix products: ``ieee``, or on NVIDIA's matrix units ``tf32x3``, in three parts for float32,
            and ``tf32``, in one for bfloat16.
        windows: Warps for the windows of pools, in multiples of those of ``stage``: more than one where a thread of
            that has more numbers than a window lets it have.
        sums: The same for the sums over them, which take fewer instructions where a thread has several pixels.
        registers: The most that a thread of a kernel may have, for kernels (``stage 3``: with three edges a program)
            in which the target's compiler, left alone or with the usual limit, would keep numbers in memory.
        abreast_of_filters: Pixels that lie side by side and share what the gradient of a filter reads, at stride 1.
        halves: Of the undilated second halves of separable convolutions, going forward: stretches of a program, and
            pixels of a stretch, which share what they read. The channels and warps are those of ``stage``.
    """

    stage: Tile
    pointwise: Tile
    filters: Tile
    elementwise: Tile
    halves: tuple[int, int]
    edges: int = 4
    splits: int = 32
    precision: str = "ieee"
    windows: int = 1
    sums: int = 1
    registers: tuple[tuple[str, int], ...] = ()
    abreast_of_filters: int = 1

    @property
    def kernels(self) -> Mapping[str, Tile]:
        """All tiles by their names."""
        return {name: getattr(self, name) for name in KERNELS}

    @cached_property
    def states(self) -> Tile:
        """Of the pools: the pixels of ``stage``, beside whose sums theirs lie, and no more than eight numbers for each
        of a warp's 32 threads (four for AMD's 64), as windows take registers as well."""
        warps = self.windows * self.stage.warps
        most = 8 * 32 * warps // self.stage.pixels
        return replace(self.stage, channels=min(self.stage.channels, most), warps=warps)

    @cached_property
    def sums_of_states(self) -> Tile:
        """Of the sums over what :attr:`states` takes a pixel of."""
        return replace(self.states, warps=self.sums * self.stage.warps)

    @cached_property
    def stage_of_halves(self) -> Tile:
        """``stage`` for these."""
        return replace(self.stage, pixels=self.halves[0])

    @cached_property
    def gradients(self) -> Tile:
        """Of the gradients of what filters read: no more than 16 numbers for each thread."""
        few = self.stage.pixels * self.stage.channels <= 16 * 32 * self.stage.warps
        return self.stage if self.windows > 1 and few else self.states

    @cached_property
    def stretches(self) -> Tile:
        """Of the gradient of what an undilated second half reads, in stretches of pixels that lie side by side: no more
        than 32 numbers for each thread."""
        most = 32 * 32 * self.stage.warps // self.stage.channels
        return replace(self.stage, pixels=min(2 * self.stage.pixels, most))

    def abreast(self, dtype: torch.dtype) -> int:
        """Pixels of a stretch: as many as leave a thread 128 bits of each, but eight at most, or sums would spill."""
        tile = self.stretches
        return max(1, min(8, tile.pixels * tile.channels * dtype.itemsize // (32 * tile.warps * 16)))

    def gradient_of_state(self, num_bytes: int, stride: int, pools: bool) -> Tile:
        """The same of a state with so many bytes a pixel: elsewhere several pixels a thread would spill."""
        return self.gradients if num_bytes >= 32 and stride == 1 and pools else self.states

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
#
# States in bfloat16 have 8 bits, and eager bfloat16 rounds both factors to them. One `tf32` product rounds them to 11.


def tiles_from_json(entry: Mapping[str, Any]) -> Tiles:
    """A whole entry of the table: tiles as lists ``[pixels, channels, warps]``."""
    kernels = {name: Tile(*entry[name]) for name in KERNELS}
    numbers = {name: entry[name] for name in ("edges", "splits", "precision")}
    windows, registers = entry.get("windows", 1), tuple(entry.get("registers", {}).items())
    sums, halves = entry.get("sums", windows), tuple(entry.get("halves", (entry["stage"][0], 1)))
    return Tiles(**kernels, **numbers, halves=halves, windows=windows, sums=sums, registers=registers)


@cache
def shipped_table() -> list[dict[str, Any]]:
    """The entries of ``tiles.json``, by rising ``channels``: the most that each is for. An entry with a ``dtype`` is
    for that one only; the first that fits serves. One with a ``target`` says what is different there."""
    return json.loads(files("fastnas_kernels.mixed_op").joinpath("tiles.json").read_text())


def whole_entry(channels: int, dtype: str, target: str) -> dict[str, Any]:
    """The entry that serves so many ``channels``, with what is different on a ``target``."""
    table = [entry for entry in shipped_table() if entry.get("dtype") in (None, dtype)]
    found = next(entry for entry in table if "target" not in entry and channels <= entry["channels"])
    there = [entry for entry in table if entry.get("target") == target and entry["channels"] == found["channels"]]
    return {key: value for entry in (found, *there) for key, value in entry.items()}


@lru_cache
def target_of(device: torch.device) -> str:
    """What kernels are compiled for on a device, such as ``sm_90`` or ``gfx942``; without a GPU, ``sm_90``, whose
    entries of the table name no target."""
    if device.type != "cuda":
        return "sm_90"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def is_amd(target: str) -> bool:
    """Whether a target is one of AMD's."""
    return target.startswith("gfx")


def _for_float64(tiles: Tiles) -> Tiles:
    """Half the pixels, as a number takes two registers, but the 16 that a matrix product takes, fewer edges, and no
    limits, which are for float32 and bfloat16."""
    least = {"stage": 16, "pointwise": 16, "filters": 1, "elementwise": 1}
    smaller = {name: replace(tile, pixels=max(least[name], tile.pixels // 2)) for name, tile in tiles.kernels.items()}
    smaller["stage"] = replace(smaller["stage"], warps=tiles.windows * tiles.stage.warps)
    stretches, abreast = tiles.halves
    halves, edges = (max(16, stretches // 2), abreast), min(tiles.edges, 2)
    return replace(tiles, **smaller, halves=halves, edges=edges, windows=1, sums=1, registers=())


@lru_cache(maxsize=64)
def tiles_for(channels: int, dtype: torch.dtype, target: str = "sm_90") -> Tiles:
    """The tiles for candidates that see ``channels`` channels on a ``target``, see :func:`target_of`.

    The table is for NVIDIA's, and its precision for float32. A wavefront of AMD's has the threads of two warps, and its
    matrix units take float32 as it is; ``tf32x3`` does not exist there.

    Raises:
        ValueError: If no entry of the table is wide enough.
    """
    widest = shipped_table()[-1]["channels"]
    if channels > widest:
        remedy = "Use fewer channels, or set FASTNAS_BACKEND=reference."
        raise invalid("mixed_cell", f"candidates must see at most {widest} channels", channels, remedy)
    tiles = tiles_from_json(whole_entry(channels, str(dtype).removeprefix("torch."), target))
    if dtype == torch.float64:
        tiles = _for_float64(tiles)
    if is_amd(target):
        fewer = {name: replace(tile, warps=max(1, tile.warps // 2)) for name, tile in tiles.kernels.items()}
        fewer["stage"] = replace(fewer["stage"], warps=max(1, tiles.windows * tiles.stage.warps // 2))
        return replace(tiles, **fewer, precision="ieee", windows=1, sums=1)
    precision = {torch.float64: "ieee", torch.bfloat16: "tf32"}.get(dtype, tiles.precision)
    abreast = 1 if target == "sm_100" else 2  # more would spill: there is a sum for each tap, and sm_100 pairs them
    return replace(tiles, precision=precision, abreast_of_filters=abreast)
