# pyright: reportArgumentType=false
# (Triton's annotations do not describe what a launch accepts)
"""Runs a lowered cell on numbers with a tangent: what everything of second order needs.

Forward, the kernels of ``launch`` give the values, and those of tangents follow, state by state; what the branches of
one state leave is added to the nodes before the next state's are computed. How pairs lie is said in ``dual/pixels.py``.

Shape suffixes as in ``launch``; a 2 stands for a number and its tangent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from fastnas_kernels.mixed_op.dual import forward_kernels as kernels
from fastnas_kernels.mixed_op.launch import Launcher, State, launcher, run_forward
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.tables import Span, Tile, ceil_div, pack
from fastnas_kernels.tensors import accumulator


@dataclass(frozen=True)
class DualCell:
    """A cell at a point and along a direction.

    Args:
        run: The cell at its size, in the accumulator's precision.
        inputs: Input states, ``[I, M, 2, S]``.
        nodes: All nodes, ``[M, num_nodes, 2, S]``.
        packed: Packed weights, ``[2, weights]``.
        mix: Coefficients of all candidates, ``[coefficients, 2]``.
        edge_mix: Weights of the edges, ``[E, 2]``.
        stats: Statistics, ``[R, 2, 3, C]``.
    """

    run: Launcher
    inputs: Tensor
    nodes: Tensor
    packed: Tensor
    mix: Tensor
    edge_mix: Tensor
    stats: Tensor

    @property
    def plan(self) -> CellPlan:
        return self.run.lowered.plan

    @property
    def nodes_pitch(self) -> int:
        """Numbers of all nodes at one pixel."""
        return 2 * self.plan.num_nodes * self.plan.channels

    def of_node(self, all_nodes: Tensor, source: int) -> Tensor:
        """The part of ``all_nodes``, ``[M, num_nodes, 2, S]``, that belongs to a state, and what follows it."""
        return all_nodes[:, source - self.plan.num_inputs :]

    def state(self, number: int) -> State:
        """Input state or node ``number``."""
        plan, size = self.plan, self.run.size
        if number < plan.num_inputs:
            return State(self.inputs[number], size.height, size.width, 2 * plan.channels, plan.stride)
        return State(self.of_node(self.nodes, number), size.out_height, size.out_width, self.nodes_pitch, 1)

    def sizes(self, state: State | None) -> dict:
        """Those of the output, and of what is read: ``state``, or other branches if that is ``None``."""
        size = self.run.size
        read = (size.out_height, size.out_width) if state is None else state[1:3]
        return self.run.sizes | dict(zip("HW", read, strict=True))

    def branches(self, source: int) -> tuple[Span, Span]:
        """Those that read the state, and those that read these."""
        first, middle, last = self.run.lowered.ranges[source]
        return Span(first, middle), Span(middle, last)

    @cached_property
    def tile(self) -> Tile:
        """Of what reads pools and channels that pass by."""
        return self.run.tiles.states

    def stage(self, state: State | None, z: Tensor, first: int, span: Span, partial: Tensor, dy: Tensor | None) -> None:
        """Raw outputs of the branches of ``span`` and sums over their pixels, with ``dy`` those of the backward pass;
        they read ``state``, or other branches if that is ``None``."""
        if not len(span):
            return
        run, tile = self.run, self.run.tiles.stage
        run.start(
            kernels.dual_stage_kernel,
            (run.num_tiles(tile), len(span)),
            {
                "STRIDE": 1 if state is None else state.stride,
                "NORMALISED": state is None,
                "BACKWARD": dy is not None,
            },
            src_ptr=z if state is None else state.tensor,
            z_ptr=z,
            packed_ptr=self.packed,
            stats_ptr=self.stats,
            branches_ptr=run.tables.branches,
            dy_ptr=z if dy is None else dy,
            partial_ptr=partial,
            **self.sizes(state),
            pitch=2 * run.channels if state is None else state.pitch,
            dy_pitch=self.nodes_pitch,
            first=first,
            launched=span.first,
            num_tiles=run.num_tiles(tile),
            packed_length=self.packed.shape[1],
            GROUPS=self.plan.k,
            **run.block(tile),
            **run.product,
        )

    def find_tangents(self) -> None:
        """Fill the tangents of all nodes and, unless they are given, of the statistics."""
        for source in range(len(self.run.lowered.ranges)):
            if len(self.run.tables.leaving_spans[source]):
                self._leave(source)

    def _leave(self, source: int) -> None:
        run, state, tile = self.run, self.state(source), self.run.tiles.stage
        of_state, of_branches = self.branches(source)
        z = run.empty(of_branches.last - of_state.first, run.size.out_pixels, 2, run.channels)
        for read, branches, rows in zip(
            (state, None), (of_state, of_branches), run.tables.row_spans[source], strict=True
        ):
            if not len(rows):
                continue
            partial = run.empty(len(rows), run.num_tiles(tile), 2, run.channels)
            self.stage(read, z, of_state.first, branches, partial, None)
            if run.frozen:
                continue
            if len(rows) > len(branches):
                self._pool_sums(state, partial[-2:], rows.last - 2)
            run.start(
                kernels.dual_statistics_kernel,
                (len(rows), run.channel_blocks(tile)),
                {},
                partial_ptr=partial,
                rows_ptr=run.tables.rows,
                stats_ptr=self.stats,
                first_row=rows.first,
                M=run.size.out_pixels,
                num_tiles=run.num_tiles(tile),
                TILES=32,
                **{name: value for name, value in run.block(tile).items() if name != "P"},
            )
        self._add_to_nodes(source, state, z)

    def _pool_sums(self, state: State, partial: Tensor, first_row: int) -> None:
        run = self.run
        run.start(
            kernels.dual_pool_sums_kernel,
            (run.num_tiles(self.tile), run.channel_blocks(self.tile)),
            {"STRIDE": state.stride},
            state_ptr=state.tensor,
            partial_ptr=partial,
            stats_ptr=self.stats,
            rows_ptr=run.tables.rows,
            **self.sizes(state),
            pitch=state.pitch,
            first_row=first_row,
            num_tiles=run.num_tiles(self.tile),
            GROUPS=self.plan.k,
            **run.block(self.tile),
        )

    def _add_to_nodes(self, source: int, state: State, z: Tensor) -> None:
        run, plan, tile = self.run, self.plan, self.tile
        of_state, of_branches = self.branches(source)
        leaving, first_node = run.tables.leaving_spans[source], max(0, source - plan.num_inputs + 1)
        common = {
            "state_ptr": state.tensor,
            "nodes_ptr": self.nodes,
            "edges_ptr": run.tables.edges,
            "leaving_ptr": run.tables.leaving,
            **self.sizes(state),
            "pitch": state.pitch,
            "first_leaving": leaving.first,
            "last_leaving": leaving.last,
            "first_node": first_node,
            "GROUPS": plan.k,
            "NUM_NODES": plan.num_nodes,
            **run.block(tile),
        }
        later = plan.num_nodes - first_node
        run.start(
            kernels.dual_nodes_kernel,
            (run.num_tiles(tile), run.channel_blocks(tile), later),
            {"STRIDE": state.stride},
            z_ptr=z,
            stats_ptr=self.stats,
            mix_ptr=self.mix,
            branches_ptr=run.tables.branches,
            first=of_state.first,
            last=of_branches.last,
            **common,
        )
        if plan.k > 1:
            blocks = ceil_div((plan.k - 1) * run.channels, tile.channels)
            grid = (run.num_tiles(tile), blocks, later)
            run.start(kernels.dual_bypass_kernel, grid, {"STRIDE": state.stride}, edge_mix_ptr=self.edge_mix, **common)


@lru_cache(maxsize=256)
def _smaller(run: Launcher) -> Launcher:
    """A launcher whose programs do half the work, as a pair takes twice the registers, and give a thread no more than
    four numbers of a product, but no matrix product of fewer than the 16 rows and columns that it needs. Filters'
    gradients have half the sums already: those of a row."""
    wide = {name: _wide(tile) for name, tile in run.tiles.kernels.items()}
    halves = {name: replace(wide[name], pixels=max(16, wide[name].pixels // 2)) for name in wide if name != "filters"}
    stage, warps = halves["stage"], run.tiles.states.warps
    halves["stage"] = replace(stage, pixels=max(16, min(stage.pixels, 4 * 32 * warps // stage.channels)), warps=warps)
    halves["pointwise"] = replace(halves["pointwise"], channels=min(16, halves["pointwise"].channels))
    return replace(run, tiles=replace(run.tiles, **(wide | halves), windows=1))


def _wide(tile: Tile) -> Tile:
    """``tile`` with the 16 channels that a matrix product needs."""
    return replace(tile, pixels=tile.pixels * tile.channels // max(16, tile.channels), channels=max(16, tile.channels))


def dual_cell(
    inputs: Sequence[Tensor], nodes: Sequence[Tensor | None], packed: Tensor, mix: Sequence[Tensor],
    edge_mix: Sequence[Tensor], stats: Tensor, frozen: bool, plan: CellPlan,
) -> DualCell:  # fmt: skip
    """A cell from tensors as its operators take them, a number and its tangent in a list; a tangent of the nodes that
    is ``None`` is still to be found."""
    exact = accumulator(inputs[0].dtype)
    states = torch.stack([x.to(exact) for x in inputs], -2)
    run = _smaller(launcher(states[..., 0, :], plan, frozen))
    values, along = (x if x is None else x.reshape(run.size.out_pixels, plan.num_nodes, -1) for x in nodes)
    assert values is not None
    pairs = torch.stack([values, torch.zeros_like(values) if along is None else along], 2).to(exact).contiguous()
    of_candidates, of_edges = (torch.stack([x.to(exact) for x in both], -1) for both in (mix, edge_mix))
    return DualCell(run, states.flatten(1, 3), pairs, packed, of_candidates, of_edges, stats)


def run_dual_forward(
    inputs_INHWS: Sequence[Tensor], weights: Sequence[Tensor], tangents: Sequence[Tensor], mix: Sequence[Tensor],
    edge_mix: Sequence[Tensor], statistics: Tensor | None, plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Nodes ``[N, H', W', D]``, their tangent, statistics ``[R, 3, C, 2]``, packed weights ``[weights, 2]``, and the
    statistics of the plan's normalisations; no ``tangents`` stand for zeros."""
    nodes, stats, packed, noted = run_forward(inputs_INHWS[0], weights, mix[0], edge_mix[0], statistics, plan)
    frozen, tables = statistics is not None, launcher(inputs_INHWS[0], plan, statistics is not None).tables
    along = pack(tangents, tables, packed.dtype, False) if tangents else torch.zeros_like(packed)
    both = torch.stack([packed, along]), torch.stack([stats, torch.zeros_like(stats)], 1)
    cell = dual_cell(inputs_INHWS, (nodes, None), both[0], mix, edge_mix, both[1], frozen, plan)
    cell.find_tangents()
    tangent = torch.empty_like(nodes)
    tangent.view(-1, plan.num_nodes, plan.channels).copy_(cell.nodes[:, :, 1])
    return nodes, tangent, cell.stats.permute(0, 2, 3, 1).contiguous(), cell.packed.t().contiguous(), noted
