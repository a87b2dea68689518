# pyright: reportArgumentType=false
# (Triton's annotations do not describe what a launch accepts)
"""Runs a lowered cell, forward and backward, as a sequence of kernels.

Shape suffixes: I input states, M pixels of an input state or of the output, S channels of a state, D channels of
all nodes, R rows of statistics, C channels that the candidates see.
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from fastnas_kernels.mixed_op import forward_kernels
from fastnas_kernels.mixed_op.forms import Forms, Start
from fastnas_kernels.mixed_op.lowering import Lowered, lower
from fastnas_kernels.mixed_op.plan import CellPlan, Size
from fastnas_kernels.mixed_op.shares import Shares, shares_of
from fastnas_kernels.mixed_op.tables import (
    MOST_SPLITS,
    Span,
    Tables,
    Tile,
    Tiles,
    ceil_div,
    is_amd,
    noted_statistics,
    pack,
    power_of_2,
    spread_statistics,
    tables_of,
    target_of,
    tiles_for,
)  # fmt: skip
from fastnas_kernels.tensors import accumulator

PROGRAMS = 2
"""Of filters' gradients, at least, for each multiprocessor."""
TILES_A_PROGRAM = 4
"""Of the gradient through a 1x1 filter alone: what a program reads before its first tile takes longer than a tile."""


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many a device has; 0 where there is none to fill."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 0


@lru_cache(maxsize=256)
def _block(channels: int, dtype: torch.dtype, tile: Tile) -> dict[str, Any]:
    accumulate = tl.float64 if dtype == torch.float64 else tl.float32
    return {"C": channels, "B": tile.channels, "P": tile.pixels, "ACC": accumulate, "num_warps": tile.warps}


class State(NamedTuple):
    """Where a state lies and how the edges that leave it read it."""

    tensor: Tensor
    height: int
    width: int
    pitch: int
    stride: int


@dataclass(frozen=True)
class Launcher:
    """A lowered cell at one size, ready to run. What does not depend on data is worked out once.

    Args:
        lowered: The cell.
        size: Of its states.
        dtype: Of states and raw outputs in memory; sums are kept in at least float32.
        tiles: How much work a program does.
        frozen: Whether normalisation uses given statistics instead of the batch's.
    """

    lowered: Lowered
    size: Size
    dtype: torch.dtype
    device: torch.device
    tiles: Tiles
    frozen: bool

    @cached_property
    def tables(self) -> Tables:
        return tables_of(self.lowered, self.device, not self.frozen, self.tiles.edges)

    def picked(self, tables: Mapping[str, Tensor]) -> "Launcher":
        """The same with some other ``tables``; what Triton has compiled serves both."""
        _ = self.start, self._splits
        other = copy(self)
        other.__dict__["tables"] = replace(self.tables, **tables)  # type: ignore[arg-type]
        return other

    @cached_property
    def channels(self) -> int:
        """Channels that the candidates see."""
        return self.lowered.plan.mixed_channels

    @property
    def per_pixel(self) -> float:
        """One over the pixels of the output, 0 where statistics did not come from these."""
        return 0.0 if self.frozen else 1.0 / self.size.out_pixels

    @cached_property
    def weaves(self) -> bool:
        """Whether what a shuffle puts side by side is woven in registers, and a state read and written in order."""
        return self.lowered.plan.k in (2, 4) and self.channels % self.lowered.plan.k == 0

    def parting(self, tile: Tile) -> Tile:
        """``tile`` for a kernel that stores each of the plan's groups by itself, 128 bits a thread."""
        plan, width = self.lowered.plan, self.dtype.itemsize
        channels = max(tile.channels, min(plan.k * 16 // width, power_of_2(plan.channels)))
        return replace(tile, pixels=plan.k * tile.pixels * tile.channels // channels, channels=channels)

    @cached_property
    def start(self) -> Start:
        """Launches a kernel on a grid, in a form: the constants in which launches of it differ."""
        return Forms().start

    def num_tiles(self, tile: Tile) -> int:
        """Tiles of the output."""
        return ceil_div(self.size.out_pixels, tile.pixels)

    @cached_property
    def shares(self) -> Shares:
        return shares_of(self.lowered, self.size, self.tiles, self.dtype, self.channels)

    @cached_property
    def _splits(self) -> dict[int, int]:
        return {}

    def splits(self, branches: int) -> int:
        """Programs that share the tiles of one filter's gradient, in a launch for a number of ``branches``: enough to
        give every multiprocessor some, but partial sums for no more than :data:`MOST_SPLITS` times as many as usual."""
        if branches not in self._splits:
            blocks = self.channel_blocks(self.tiles.filters)
            wanted = ceil_div(PROGRAMS * multiprocessors(self.device), branches * blocks)
            wanted = max(self.tiles.splits, min(wanted, MOST_SPLITS * self.tiles.splits))
            most = min(self.num_tiles(self.tiles.pointwise), self.num_tiles(self.tiles.filters))
            self._splits[branches] = min(wanted, most)
        return self._splits[branches]

    def few_tiles(self, branches: int) -> int:
        """The same of a gradient through a 1x1 filter, where that of the filter is not wanted and nothing is shared."""
        return max(self.splits(branches), ceil_div(self.num_tiles(self.tiles.pointwise), TILES_A_PROGRAM))

    @cached_property
    def most_splits(self) -> int:
        """Of all launches of the cell."""
        numbers = [n for first, middle, last in self.lowered.ranges for n in (middle - first, last - middle) if n]
        return max(map(self.splits, numbers), default=1)

    def channel_blocks(self, tile: Tile) -> int:
        """Blocks of the channels that the candidates see."""
        return ceil_div(self.channels, tile.channels)

    def empty(self, *shape: int, exact: bool = False) -> Tensor:
        """Uninitialised memory; ``exact`` for what is summed up in."""
        return torch.empty(shape, dtype=self.exact if exact else self.dtype, device=self.device)

    @cached_property
    def exact(self) -> torch.dtype:
        """The dtype of sums."""
        return accumulator(self.dtype)

    def block(self, tile: Tile) -> dict:
        """The constants that all kernels share."""
        return _block(self.channels, self.dtype, tile)

    def registers(self, kernel: str, most: int | None = None) -> dict:
        """Lets NVIDIA's compiler use up to ``most`` registers a thread, or what the table says of a ``kernel``. Left
        alone, it first decides how many programs shall share a multiprocessor, and for a few kernels it then keeps an
        address or two in memory."""
        most = dict(self.tiles.registers).get(kernel, most)
        return {} if most is None or is_amd(target_of(self.device)) else {"maxnreg": most}

    @cached_property
    def product(self) -> dict:
        """The constants of kernels that multiply matrices."""
        least = min(16, self.tiles.stage.channels)
        return {"CO": max(least, power_of_2(self.channels)), "PRECISION": self.tiles.precision}

    @cached_property
    def sizes(self) -> dict:
        return {
            "M": self.size.out_pixels,
            "H": self.size.height,
            "W": self.size.width,
            "HO": self.size.out_height,
            "WO": self.size.out_width,
        }

    def state(self, number: int, inputs_IMS: Tensor, nodes_MD: Tensor) -> State:
        """Input state or node ``number``."""
        plan, size = self.lowered.plan, self.size
        if number < plan.num_inputs:
            return State(inputs_IMS[number], size.height, size.width, plan.channels, plan.stride)
        first = (number - plan.num_inputs) * plan.channels
        return State(nodes_MD[:, first:], size.out_height, size.out_width, nodes_MD.shape[1], 1)

    def stage(self, state: State | None, z: Tensor, packed: Tensor, stats: Tensor, span: Span, first: int,
              partial: Tensor, dy: Tensor | None, keep: bool = True, t: Tensor | None = None) -> None:  # fmt: skip
        """Evaluate the bundles of ``span``: of ``state``, or of other branches if that is ``None``; ``keep`` also what
        no other branch reads, and depthwise outputs at ``t``, if given. ``partial`` may have room for more tiles."""
        if not len(span):
            return
        normalised, stride = state is None, 1 if state is None else state.stride
        height, width = (self.size.out_height, self.size.out_width) if state is None else state[1:3]
        tile, abreast, num_tiles = self.shares.forward[normalised]
        edges = max(self.tables.bundle_sizes[span.first : span.last])
        most = 168 if self.dtype == torch.bfloat16 and (self.channels > 16 or abreast > 1) else None  # or some spill
        form = {"EDGES": edges, "STRIDE": stride, "NORMALISED": normalised, "BACKWARD": dy is not None}
        form |= {"DENSE": normalised and self.lowered.dense, "ABREAST": abreast}
        self.start(
            forward_kernels.stage_kernel,
            (num_tiles, len(span)),
            form | {"KEEP": keep, "KEEP_T": t is not None},
            src_ptr=z if state is None else state.tensor,
            z_ptr=z,
            t_ptr=z if t is None else t,
            packed_ptr=packed,
            stats_ptr=stats,
            branches_ptr=self.tables.branches,
            bundles_ptr=self.tables.bundles,
            dy_ptr=z if dy is None else dy,
            partial_ptr=partial,
            **(self.sizes | {"H": height, "W": width}),
            pitch=self.channels if state is None else state.pitch,
            dy_pitch=0 if dy is None else dy.shape[1],
            first=first,
            first_bundle=span.first,
            num_tiles=partial.shape[1],
            GROUPS=self.lowered.plan.k,
            **self.block(tile),
            **self.product,
            **self.registers("halves" if abreast > 1 else f"stage {edges}", most),
        )

    def finalise(self, partial: Tensor, stats: Tensor, span: Span, deeper: int) -> None:
        """Merge the partial statistics of the rows of ``span``, of branches that read others if ``deeper``."""
        tile, abreast, num_tiles = self.shares.forward[deeper]
        self.start(
            forward_kernels.finalise_kernel,
            (len(span), self.channel_blocks(tile)),
            {"ABREAST": abreast},
            partial_ptr=partial,
            rows_ptr=self.tables.rows,
            stats_ptr=stats,
            first_row=span.first,
            M=self.size.out_pixels,
            WO=self.size.out_width,
            num_tiles=num_tiles,
            eps=self.lowered.plan.eps,
            TILES=max(64, 512 // tile.channels),
            **self.block(tile),
            **self.registers("finalise", 128),
        )

    def forward(self, inputs_IMS: Tensor, packed: Tensor, mix: Tensor, edge_mix: Tensor, stats_R3C: Tensor) -> Tensor:
        """All nodes ``[M, D]``; fills ``stats_R3C`` unless they are frozen."""
        plan, tables = self.lowered.plan, self.tables
        nodes_MD = self.empty(self.size.out_pixels, plan.num_nodes * plan.channels)
        z = self.empty(self.lowered.num_slots, self.size.out_pixels, self.channels)
        for source in range(plan.num_states):
            if source >= plan.num_inputs:
                self._node(source, inputs_IMS, nodes_MD, z, mix, edge_mix, stats_R3C)
            if source < len(self.lowered.ranges) and len(tables.leaving_spans[source]):
                self._expand(source, self.state(source, inputs_IMS, nodes_MD), z, packed, stats_R3C)
        return nodes_MD

    def _expand(self, source: int, state: State, z: Tensor, packed: Tensor, stats: Tensor) -> None:
        first = self.lowered.ranges[source].first
        for deeper, (bundles, rows) in enumerate(
            zip(self.tables.bundle_spans[source], self.tables.row_spans[source], strict=True)
        ):
            if not len(rows):
                continue
            num_tiles = self.shares.forward[deeper].tiles
            partial = self.empty(len(rows), num_tiles, 2, self.channels, exact=True)
            self.stage(None if deeper else state, z, packed, stats, bundles, first, partial, None)
            if self.frozen:
                continue
            if not deeper and self.lowered.pool_rows(source):
                self.start(
                    forward_kernels.pool_statistics_kernel,
                    (num_tiles, self.channel_blocks(self.tiles.sums_of_states)),
                    {"STRIDE": state.stride},
                    state_ptr=state.tensor,
                    partial_ptr=partial[-2:],
                    **(self.sizes | {"H": state.height, "W": state.width}),
                    pitch=state.pitch,
                    num_tiles=num_tiles,
                    **self.block(self.tiles.sums_of_states),
                    **self.registers("pool_statistics"),
                )
            self.finalise(partial, stats, rows, deeper)

    def _node(
        self, target: int, inputs: Tensor, nodes: Tensor, z: Tensor, mix: Tensor, edge_mix: Tensor, stats: Tensor
    ) -> None:
        plan, tables = self.lowered.plan, self.tables
        node, entering = target - plan.num_inputs, plan.entering(target)
        span, tile = tables.entering_spans[node], self.tiles.elementwise
        common = {
            "inputs_ptr": inputs,
            "nodes_ptr": nodes,
            "edge_mix_ptr": edge_mix,
            "edges_ptr": tables.edges,
            **self.sizes,
            "M_IN": self.size.pixels,
            "first_edge": entering[0],
            "last_edge": entering[-1] + 1,
            "node": node,
            "GROUPS": plan.k,
            "STRIDE": plan.stride,
            "NUM_INPUTS": plan.num_inputs,
            "NUM_NODES": plan.num_nodes,
            **self.block(tile),
        }
        self.start(
            forward_kernels.node_kernel,
            (self.num_tiles(tile), self.channel_blocks(tile)),
            {},
            z_ptr=z,
            stats_ptr=stats,
            mix_ptr=mix,
            branches_ptr=tables.branches,
            entering_ptr=tables.entering,
            first_entering=span.first,
            last_entering=span.last,
            WOVEN=self.weaves,
            **common,
            **self.registers("node", 168 if self.weaves else None),
        )
        if plan.k > 1 and not self.weaves:
            blocks = ceil_div((plan.k - 1) * self.channels, tile.channels)
            self.start(forward_kernels.bypass_kernel, (self.num_tiles(tile), blocks), {}, **common)


def launcher(inputs_INHWS: Tensor, plan: CellPlan, frozen: bool) -> Launcher:
    """The cell at the size of its input states."""
    return launcher_of(inputs_INHWS, lower(plan), frozen)


def launcher_of(inputs_INHWS: Tensor, lowered: Lowered, frozen: bool = False) -> Launcher:
    """The same of a lowered plan."""
    _, images, height, width, _ = inputs_INHWS.shape
    size = Size(images, height, width, *lowered.plan.size_after(height, width))
    dtype, device = inputs_INHWS.dtype, inputs_INHWS.device
    tiles = tiles_for(lowered.plan.mixed_channels, dtype, target_of(device))
    return _launcher(lowered, size, dtype, device, tiles, frozen)


_launcher = lru_cache(maxsize=256)(Launcher)


def run_forward(
    inputs_INHWS: Tensor, weights: Sequence[Tensor], mix: Tensor, edge_mix: Tensor, statistics: Tensor | None,
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Nodes ``[N, H', W', D]``, statistics ``[rows, 3, C]``, packed weights, and the statistics of the plan's
    normalisations, ``[norms, 2, C]``, empty if they were given."""
    launch = launcher(inputs_INHWS, plan, statistics is not None)
    return forward_by(launch, inputs_INHWS, weights, mix, edge_mix, statistics)


def forward_by(
    launch: Launcher, inputs_INHWS: Tensor, weights: Sequence[Tensor], mix: Tensor, edge_mix: Tensor,
    statistics: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """:func:`run_forward` by a launcher."""
    plan, exact = launch.lowered.plan, launch.exact
    packed = pack(weights, launch.tables, exact)
    # Rows that nothing fills, the last one among them, are zero
    stats = torch.zeros(launch.lowered.num_rows + 2, 3, launch.channels, dtype=exact, device=launch.device)
    if statistics is not None:
        spread_statistics(statistics, launch.tables, plan.eps, stats)
    inputs_IMS = inputs_INHWS.contiguous().view(plan.num_inputs, -1, plan.channels)
    nodes = launch.forward(inputs_IMS, packed, mix.to(exact).contiguous(), edge_mix.to(exact).contiguous(), stats)
    size = launch.size
    noted = (
        stats.new_empty(0, 2, launch.channels)
        if launch.frozen
        else noted_statistics(launch.lowered, launch.tables, stats)
    )
    return nodes.view(size.images, size.out_height, size.out_width, -1), stats, packed, noted
