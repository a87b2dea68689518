"""Runs the gradient of a lowered cell: state by state from the last to the first, computing each state's branches
again.

Shape suffixes as in ``launch``; B branches of a state, Q edges that leave it, E all edges, L length of the packed
weights, X splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fastnas_kernels.mixed_op import backward_kernels
from fastnas_kernels.mixed_op.launch import Launcher, State, accumulator, launcher
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.tables import Span


class Needs(NamedTuple):
    """Which gradients anybody asked for."""

    states: bool
    weights: bool
    mix: bool
    edge_mix: bool


class Gradients(NamedTuple):
    """Gradients of the input states ``[I, M, S]``, of the packed weights, the mix and the weights of the edges; what
    was not asked for is ``None``."""

    states: Tensor | None
    packed: Tensor | None
    mix: Tensor | None
    edge_mix: Tensor | None


@dataclass(frozen=True)
class Backward:
    """The gradient of one cell; all tensors are those of its forward pass.

    Args:
        run: The cell at its size.
        inputs_IMS: Input states.
        nodes_MD: All nodes.
        packed: Packed weights.
        mix: Coefficients of all candidates.
        edge_mix: Weights of the edges.
        stats: Statistics, ``[rows, 3, C]``.
        needs: What to compute.
    """

    run: Launcher
    inputs_IMS: Tensor
    nodes_MD: Tensor
    packed: Tensor
    mix: Tensor
    edge_mix: Tensor
    stats: Tensor
    needs: Needs

    def __call__(self, dnodes_MD: Tensor) -> Gradients:
        """From the gradient of all nodes to those of everything else."""
        run, plan = self.run, self.run.lowered.plan
        # Before a shuffle, a node's mixed channels lie side by side; for k = 1 this is a plain copy
        dy = dnodes_MD.view(-1, plan.num_nodes, run.channels, plan.k).transpose(2, 3).contiguous()
        dy = (dy.clone() if plan.k == 1 else dy).view(dnodes_MD.shape)
        dinputs = torch.zeros_like(self.inputs_IMS) if self.needs.states else None
        num_branches, num_edges = len(run.lowered.branches), len(plan.edges)
        sums = run.empty(num_branches + 1, 2, run.channels, exact=True)
        sums[num_branches] = 0
        inner_sums, edge_sums = torch.empty_like(sums), run.empty(num_edges, 4, run.channels, exact=True)
        passed = run.empty(num_edges, exact=True)
        dpacked = run.empty(run.splits, self.packed.numel(), exact=True) if self.needs.weights else None
        for source in reversed(range(len(run.lowered.ranges))):
            if source < plan.num_inputs and not (self.needs.states or self.needs.weights or self.needs.mix):
                continue
            self._source(source, dy, dinputs, sums, inner_sums, edge_sums, passed, dpacked)
        return Gradients(
            dinputs,
            None if dpacked is None else dpacked.sum(0),
            self._mix_gradient(sums, edge_sums) if self.needs.mix else None,
            passed[run.tables.edge_ranks] if self.needs.edge_mix else None,
        )

    def _mix_gradient(self, sums: Tensor, edge_sums: Tensor) -> Tensor:
        """Sums of ``dy`` times each candidate's output: at most two branches or one entry of the edges each."""
        parts = torch.cat([sums[:, 1], edge_sums[:, 1:].flatten(0, 1)]).sum(-1)
        return parts[self.run.tables.mix_rows].sum(0)

    def _source(
        self,
        source: int,
        dy: Tensor,
        dinputs: Tensor | None,
        sums: Tensor,
        inner_sums: Tensor,
        edge_sums: Tensor,
        passed: Tensor,
        dpacked: Tensor | None,
    ) -> None:
        run = self.run
        first, middle, last = run.lowered.ranges[source]
        leaving = run.tables.leaving_spans[source]
        if not len(leaving):
            return
        state = run.state(source, self.inputs_IMS, self.nodes_MD)
        z = run.empty(last - first, run.size.out_pixels, run.channels)
        dt = torch.empty_like(z)
        self._recompute(source, state, z, dy, sums)
        self._shared_sums(state, dy, leaving, edge_sums)
        if last > middle:
            self._pointwise(None, z, dt, dy, sums, inner_sums, first, Span(middle, last), dpacked)
            partial = run.empty(last - middle, run.num_tiles, 2, run.channels, exact=True)
            backward_kernels.depthwise_backward_kernel[run.num_tiles, last - middle, run.channel_blocks](
                z_ptr=z,
                dt_ptr=dt,
                packed_ptr=self.packed,
                stats_ptr=self.stats,
                branches_ptr=run.tables.branches,
                partial_ptr=partial,
                M=run.size.out_pixels,
                HO=run.size.out_height,
                WO=run.size.out_width,
                first=first,
                launched=middle,
                num_tiles=run.num_tiles,
                **run.block,
            )
            torch.sum(partial, 1, out=inner_sums[middle:last])
            self._depthwise_weights(None, z, dt, first, Span(middle, last), dpacked)
        if middle > first:
            self._pointwise(state, z, dt, dy, sums, inner_sums, first, Span(first, middle), dpacked)
            self._depthwise_weights(state, z, dt, first, Span(first, middle), dpacked)
        if source >= run.lowered.plan.num_inputs or dinputs is not None:
            self._gather(source, state, dt, dy, edge_sums, leaving, dinputs, passed)

    def _recompute(self, source: int, state: State, z: Tensor, dy: Tensor, sums: Tensor) -> None:
        run = self.run
        first, middle, last = run.lowered.ranges[source]
        of_state, of_branches = run.tables.group_spans[source]
        for span, begin, end, read in ((of_state, first, middle, state), (of_branches, middle, last, None)):
            if end > begin:
                partial = run.empty(end - begin, run.num_tiles, 2, run.channels, exact=True)
                run.stage(read, z, self.packed, self.stats, span, first, partial, dy)
                torch.sum(partial, 1, out=sums[begin:end])

    def _sizes(self, state: State | None) -> dict:
        run = self.run
        if state is None:
            return run.sizes | {"H": run.size.out_height, "W": run.size.out_width}
        return run.sizes | {"H": state.height, "W": state.width}

    @property
    def _per_pixel(self) -> float:
        return 0.0 if self.run.frozen else 1.0 / self.run.size.out_pixels

    def _shared_sums(self, state: State, dy: Tensor, leaving: Span, edge_sums: Tensor) -> None:
        run = self.run
        partial = run.empty(len(leaving), run.num_tiles, 4, run.channels, exact=True)
        backward_kernels.shared_sums_kernel[run.num_tiles, len(leaving), run.channel_blocks](
            state_ptr=state.tensor,
            dy_ptr=dy,
            stats_ptr=self.stats,
            edges_ptr=run.tables.edges,
            leaving_ptr=run.tables.leaving,
            partial_ptr=partial,
            **self._sizes(state),
            pitch=state.pitch,
            dy_pitch=dy.shape[1],
            first_leaving=leaving.first,
            num_tiles=run.num_tiles,
            K=run.lowered.plan.k,
            STRIDE=state.stride,
            **run.block,
        )
        torch.sum(partial, 1, out=edge_sums[leaving.first : leaving.last])

    def _pointwise(
        self,
        state: State | None,
        z: Tensor,
        dt: Tensor,
        dy: Tensor,
        sums: Tensor,
        inner_sums: Tensor,
        first: int,
        branches: Span,
        dpacked: Tensor | None,
    ) -> None:
        run = self.run
        splits = run.num_tiles if dpacked is None else run.splits
        backward_kernels.pointwise_backward_kernel[splits, len(branches), run.channel_blocks](
            src_ptr=z if state is None else state.tensor,
            z_ptr=z,
            dt_ptr=dt,
            dy_ptr=dy,
            packed_ptr=self.packed,
            stats_ptr=self.stats,
            sums_ptr=sums,
            inner_sums_ptr=inner_sums,
            mix_ptr=self.mix,
            branches_ptr=run.tables.branches,
            dpacked_ptr=self.packed if dpacked is None else dpacked,
            **self._sizes(state),
            pitch=run.channels if state is None else state.pitch,
            dy_pitch=dy.shape[1],
            first=first,
            launched=branches.first,
            num_tiles=run.num_tiles,
            packed_length=self.packed.numel(),
            per_pixel=self._per_pixel,
            K=run.lowered.plan.k,
            STRIDE=1 if state is None else state.stride,
            NORMALISED=state is None,
            WEIGHTS=dpacked is not None,
            **run.block,
            **run.product,
            num_warps=run.tiles.warps,
        )

    def _depthwise_weights(
        self, state: State | None, z: Tensor, dt: Tensor, first: int, branches: Span, dpacked: Tensor | None
    ) -> None:
        if dpacked is None:
            return
        run = self.run
        rows = max(branch.kernel for branch in run.lowered.branches[branches.first : branches.last])
        backward_kernels.depthwise_weights_kernel[run.splits, len(branches) * rows, run.channel_blocks](
            src_ptr=z if state is None else state.tensor,
            dt_ptr=dt,
            stats_ptr=self.stats,
            branches_ptr=run.tables.branches,
            dpacked_ptr=dpacked,
            **self._sizes(state),
            pitch=run.channels if state is None else state.pitch,
            first=first,
            launched=branches.first,
            num_tiles=run.num_tiles,
            packed_length=self.packed.numel(),
            ROWS=rows,
            COLUMNS=triton.next_power_of_2(rows),
            STRIDE=1 if state is None else state.stride,
            NORMALISED=state is None,
            **run.block,
        )

    def _gather(
        self,
        source: int,
        state: State,
        dt: Tensor,
        dy: Tensor,
        edge_sums: Tensor,
        leaving: Span,
        dinputs: Tensor | None,
        passed: Tensor,
    ) -> None:
        run, plan, tables = self.run, self.run.lowered.plan, self.run.tables
        first, middle, _ = run.lowered.ranges[source]
        pools = bool(run.lowered.pool_rows(source))
        dmax, daverage, position = dt, dt, dt
        if pools:
            dmax = run.empty(run.size.out_pixels, run.channels)
            daverage, position = torch.empty_like(dmax), torch.empty_like(dmax, dtype=torch.int8)
            backward_kernels.pool_backward_kernel[run.num_tiles, run.channel_blocks](
                state_ptr=state.tensor,
                dy_ptr=dy,
                stats_ptr=self.stats,
                sums_ptr=edge_sums,
                mix_ptr=self.mix,
                edges_ptr=tables.edges,
                leaving_ptr=tables.leaving,
                dmax_ptr=dmax,
                position_ptr=position,
                daverage_ptr=daverage,
                **self._sizes(state),
                pitch=state.pitch,
                dy_pitch=dy.shape[1],
                first_leaving=leaving.first,
                last_leaving=leaving.last,
                per_pixel=self._per_pixel,
                K=plan.k,
                STRIDE=state.stride,
                **run.block,
            )
        is_node = source >= plan.num_inputs
        pixels = run.size.images * state.height * state.width
        if is_node:
            out, column = dy, (source - plan.num_inputs) * plan.channels
        else:
            assert dinputs is not None
            out, column = dinputs[source], 0
        tiles = triton.cdiv(pixels, run.tiles.pixels)
        where = {
            "M_STATE": pixels,
            "H": state.height,
            "W": state.width,
            "HO": run.size.out_height,
            "WO": run.size.out_width,
            "pitch": state.pitch,
            "dy_pitch": dy.shape[1],
            "out_pitch": out.shape[1],
            "column": column,
            "first_leaving": leaving.first,
            "last_leaving": leaving.last,
            "K": plan.k,
            "STRIDE": state.stride,
            "NODE_STATE": is_node,
            **run.block,
        }
        backward_kernels.gather_kernel[tiles, run.channel_blocks](
            state_ptr=state.tensor,
            dt_ptr=dt,
            dy_ptr=dy,
            dmax_ptr=dmax,
            position_ptr=position,
            daverage_ptr=daverage,
            packed_ptr=self.packed,
            mix_ptr=self.mix,
            branches_ptr=tables.branches,
            edges_ptr=tables.edges,
            leaving_ptr=tables.leaving,
            out_ptr=out,
            M=run.size.out_pixels,
            first=first,
            middle=middle,
            POOLS=pools,
            **where,
        )
        if plan.k > 1:
            others = (plan.k - 1) * run.channels
            partial = run.empty(len(leaving), tiles, others, exact=True)
            backward_kernels.bypass_backward_kernel[tiles, triton.cdiv(others, run.tiles.channels)](
                state_ptr=state.tensor,
                dy_ptr=dy,
                edge_mix_ptr=self.edge_mix,
                edges_ptr=tables.edges,
                leaving_ptr=tables.leaving,
                out_ptr=out,
                partial_ptr=partial,
                num_tiles=tiles,
                **where,
            )
            passed[leaving.first : leaving.last] = partial.sum((1, 2))


def run_backward(
    dnodes_NHWD: Tensor,
    inputs_INHWS: Tensor,
    nodes_NHWD: Tensor,
    packed: Tensor,
    mix: Tensor,
    edge_mix: Tensor,
    stats: Tensor,
    frozen: bool,
    needs: Sequence[bool],
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input states, of all weights one after another, of the mix and of the weights of the edges;
    empty where not needed."""
    launch = launcher(inputs_INHWS, plan, frozen)
    exact = accumulator(launch.dtype)
    gradient = Backward(
        launch,
        inputs_INHWS.contiguous().view(plan.num_inputs, -1, plan.channels),
        nodes_NHWD.contiguous().view(launch.size.out_pixels, -1),
        packed,
        mix.to(exact).contiguous(),
        edge_mix.to(exact).contiguous(),
        stats,
        Needs(*needs),
    )
    found = gradient(dnodes_NHWD.contiguous().view(launch.size.out_pixels, -1))
    none = inputs_INHWS.new_empty(0)
    return (
        none if found.states is None else found.states.view(inputs_INHWS.shape),
        none if found.packed is None else found.packed[launch.tables.unpacking],
        none if found.mix is None else found.mix,
        none if found.edge_mix is None else found.edge_mix,
    )
