# pyright: reportArgumentType=false
# (Triton's annotations do not describe what a launch accepts)
"""Runs the gradient of a lowered cell on numbers with a tangent, state by state from the last to the first.

Shape suffixes as in ``launch``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas_kernels.mixed_op.dual import branch_gradient_kernels, state_gradient_kernels
from fastnas_kernels.mixed_op.dual.launch import DualCell, dual_cell
from fastnas_kernels.mixed_op.launch import State
from fastnas_kernels.mixed_op.launch_backward import Needs
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.tables import Span, ceil_div, mix_gradient


@dataclass(frozen=True)
class DualBackward:
    """The gradient of one cell, and its tangent.

    Args:
        cell: At its point and along its direction.
        dy: The gradients of all nodes, ``[M, num_nodes, 2, S]``, each in the order before the shuffle; what the nodes
            send each other is added.
        needs: What to compute.
    """

    cell: DualCell
    dy: Tensor
    needs: Needs

    def __call__(self) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
        """Gradients of the input states ``[I, M, 2, S]`` and of the packed weights ``[2, weights]``, ``None`` where
        nobody needs them, the sums of :class:`Lowered.sum_spans`, ``[rows, 2, 2, C]``, and the gradients of the weights
        of the edges, ``[E, 2]``."""
        cell, run = self.cell, self.cell.run
        dinputs = torch.zeros_like(cell.inputs) if self.needs.states else None
        sums = run.empty(run.tables.sum_spans[-1].last + 1, 2, 2, run.channels)
        passed = run.empty(len(cell.plan.edges), 2)
        dpacked = None
        if self.needs.weights:  # zero where a launch has fewer splits than another
            dpacked = torch.zeros((run.most_splits, *cell.packed.shape), dtype=run.exact, device=run.device)
        for source in reversed(range(len(run.lowered.ranges))):
            if len(run.tables.leaving_spans[source]):
                self._source(source, dinputs, sums, passed, dpacked)
        return dinputs, None if dpacked is None else dpacked.sum(0), sums, passed[run.tables.edge_ranks]

    def _source(
        self, source: int, dinputs: Tensor | None, all_sums: Tensor, passed: Tensor, dpacked: Tensor | None
    ) -> None:
        cell, run = self.cell, self.cell.run
        state, rows, leaving = cell.state(source), run.tables.sum_spans[source], run.tables.leaving_spans[source]
        of_state, of_branches = cell.branches(source)
        first, middle = of_state.first, of_branches.first
        z = run.empty(of_branches.last - first, run.size.out_pixels, 2, run.channels)
        sums = all_sums[rows.first : rows.last]
        partial = run.empty(len(sums), run.num_tiles(run.tiles.stage), 2, 2, run.channels)
        cell.stage(state, z, first, of_state, partial, self.dy)
        cell.stage(None, z, first, of_branches, partial[middle - first :], self.dy)
        self._shared_sums(state, leaving, partial[of_branches.last - first :])
        torch.sum(partial, 1, out=sums)
        inner, dt = run.empty(len(of_branches), 2, 2, run.channels), z
        for read, branches in ((None, of_branches), (state, of_state)):
            if not len(branches):
                continue
            del dt  # of the second halves, while that of the first ones is filled
            dt = run.empty(len(branches), *z.shape[1:])
            self._pointwise(read, z, dt, sums, inner, first, middle, branches, dpacked)
            if read is None:
                self._inner(z, dt, first, branches, inner)
            if dpacked is not None:
                self._depthwise_weights(read, z, dt, first, branches, dpacked)
        self._state(source, state, dt, sums[of_branches.last - first :], leaving, dinputs, passed)

    def _shared_sums(self, state: State, leaving: Span, partial: Tensor) -> None:
        cell, run, tile = self.cell, self.cell.run, self.cell.tile
        run.start(
            state_gradient_kernels.dual_shared_sums_kernel,
            (run.num_tiles(tile), run.channel_blocks(tile)),
            {"STRIDE": state.stride},
            state_ptr=state.tensor,
            dy_ptr=self.dy,
            stats_ptr=cell.stats,
            edges_ptr=run.tables.edges,
            leaving_ptr=run.tables.leaving,
            partial_ptr=partial,
            **cell.sizes(state),
            pitch=state.pitch,
            dy_pitch=cell.nodes_pitch,
            first_leaving=leaving.first,
            last_leaving=leaving.last,
            num_tiles=run.num_tiles(tile),
            GROUPS=cell.plan.k,
            **run.block(tile),
        )

    def _pointwise(
        self, state: State | None, z: Tensor, dt: Tensor, sums: Tensor, inner: Tensor, first: int, inner_first: int,
        branches: Span, dpacked: Tensor | None,
    ) -> None:  # fmt: skip
        cell, run, tile = self.cell, self.cell.run, self.cell.run.tiles.pointwise
        splits = run.num_tiles(tile) if dpacked is None else run.splits(len(branches))
        run.start(
            branch_gradient_kernels.dual_pointwise_backward_kernel,
            (splits, len(branches), run.channel_blocks(tile)),
            {
                "STRIDE": 1 if state is None else state.stride,
                "NORMALISED": state is None,
                "WEIGHTS": dpacked is not None,
            },
            src_ptr=z if state is None else state.tensor,
            z_ptr=z,
            dt_ptr=dt,
            dy_ptr=self.dy,
            packed_ptr=cell.packed,
            stats_ptr=cell.stats,
            sums_ptr=sums,
            inner_sums_ptr=inner,
            mix_ptr=cell.mix,
            branches_ptr=run.tables.branches,
            dpacked_ptr=cell.packed if dpacked is None else dpacked,
            **cell.sizes(state),
            pitch=2 * run.channels if state is None else state.pitch,
            dy_pitch=cell.nodes_pitch,
            first=first,
            launched=branches.first,
            inner_first=inner_first,
            num_tiles=run.num_tiles(tile),
            packed_length=cell.packed.shape[1],
            per_pixel=run.per_pixel,
            GROUPS=cell.plan.k,
            **run.block(tile),
            **run.product,
        )

    def _inner(self, z: Tensor, dt: Tensor, first: int, branches: Span, inner: Tensor) -> None:
        """Gradients of what the second halves of separable convolutions read, and their sums."""
        cell, run, tile = self.cell, self.cell.run, self.cell.tile
        partial = run.empty(len(branches), run.num_tiles(tile), 2, 2, run.channels)
        run.start(
            branch_gradient_kernels.dual_depthwise_backward_kernel,
            (run.num_tiles(tile), len(branches), run.channel_blocks(tile)),
            {},
            z_ptr=z,
            dt_ptr=dt,
            packed_ptr=cell.packed,
            stats_ptr=cell.stats,
            branches_ptr=run.tables.branches,
            partial_ptr=partial,
            M=run.size.out_pixels,
            HO=run.size.out_height,
            WO=run.size.out_width,
            first=first,
            launched=branches.first,
            num_tiles=run.num_tiles(tile),
            packed_length=cell.packed.shape[1],
            **run.block(tile),
        )
        torch.sum(partial, 1, out=inner)

    def _depthwise_weights(
        self, state: State | None, z: Tensor, dt: Tensor, first: int, branches: Span, dpacked: Tensor
    ) -> None:
        cell, run, tile = self.cell, self.cell.run, self.cell.run.tiles.filters
        run.start(
            branch_gradient_kernels.dual_depthwise_weights_kernel,
            (run.splits(len(branches)), len(branches), run.channel_blocks(tile)),
            {"STRIDE": 1 if state is None else state.stride, "NORMALISED": state is None},
            src_ptr=z if state is None else state.tensor,
            dt_ptr=dt,
            stats_ptr=cell.stats,
            branches_ptr=run.tables.branches,
            dpacked_ptr=dpacked,
            **cell.sizes(state),
            pitch=2 * run.channels if state is None else state.pitch,
            first=first,
            launched=branches.first,
            num_tiles=run.num_tiles(tile),
            packed_length=cell.packed.shape[1],
            GROUPS=cell.plan.k,
            **run.block(tile),
        )

    def _state(
        self, source: int, state: State, dt: Tensor, edge_sums: Tensor, leaving: Span, dinputs: Tensor | None,
        passed: Tensor,
    ) -> None:  # fmt: skip
        """Gradients of a state, unless it is an input and nobody asked, and of the weights of its edges."""
        cell, run, plan, tile = self.cell, self.cell.run, self.cell.plan, self.cell.tile
        is_node = source >= plan.num_inputs
        out = cell.of_node(self.dy, source) if is_node else None if dinputs is None else dinputs[source]
        pixels = run.size.images * state.height * state.width
        where = {
            "state_ptr": state.tensor,
            "dy_ptr": self.dy,
            "edges_ptr": run.tables.edges,
            "leaving_ptr": run.tables.leaving,
            "out_ptr": out,
            **{name: size for name, size in cell.sizes(state).items() if name != "M"},
            "M_STATE": pixels,
            "pitch": state.pitch,
            "dy_pitch": cell.nodes_pitch,
            "out_pitch": cell.nodes_pitch if is_node else 2 * plan.channels,
            "first_leaving": leaving.first,
            "last_leaving": leaving.last,
            "GROUPS": plan.k,
            **run.block(tile),
        }
        form = {"STRIDE": state.stride, "NODE_STATE": is_node}
        num_tiles = ceil_div(pixels, tile.pixels)
        if out is not None:
            self._gather(source, state, dt, edge_sums, leaving, form, where, num_tiles)
        if plan.k > 1 and (out is not None or self.needs.edge_mix):
            others = (plan.k - 1) * run.channels
            partial = run.empty(len(leaving), num_tiles, 2, others)
            run.start(
                state_gradient_kernels.dual_bypass_backward_kernel,
                (num_tiles, ceil_div(others, tile.channels)),
                form,
                edge_mix_ptr=cell.edge_mix,
                partial_ptr=partial,
                num_tiles=num_tiles,
                **where,
            )
            torch.sum(partial, (1, 3), out=passed[leaving.first : leaving.last])

    def _gather(
        self, source: int, state: State, dt: Tensor, edge_sums: Tensor, leaving: Span, form: dict, where: dict,
        num_tiles: int,
    ) -> None:  # fmt: skip
        cell, run, tile = self.cell, self.cell.run, self.cell.tile
        of_state, _ = cell.branches(source)
        # Left alone, these spill
        limited = state.stride == 2 or (run.dtype == torch.float64 and run.channels <= 16)
        pools = bool(run.lowered.pool_rows(source))
        dmax, daverage, position = dt, dt, dt
        if pools:
            dmax = run.empty(run.size.out_pixels, 2, run.channels)
            daverage = torch.empty_like(dmax)
            position = torch.empty_like(dmax[:, 0], dtype=torch.int8)
            run.start(
                state_gradient_kernels.dual_pool_backward_kernel,
                (run.num_tiles(tile), run.channel_blocks(tile)),
                {"STRIDE": state.stride},
                state_ptr=state.tensor,
                dy_ptr=self.dy,
                stats_ptr=cell.stats,
                sums_ptr=edge_sums,
                mix_ptr=cell.mix,
                edges_ptr=run.tables.edges,
                leaving_ptr=run.tables.leaving,
                dmax_ptr=dmax,
                position_ptr=position,
                daverage_ptr=daverage,
                **cell.sizes(state),
                pitch=state.pitch,
                dy_pitch=cell.nodes_pitch,
                first_leaving=leaving.first,
                last_leaving=leaving.last,
                per_pixel=run.per_pixel,
                GROUPS=cell.plan.k,
                **run.block(tile),
            )
        run.start(
            state_gradient_kernels.dual_gather_kernel,
            (num_tiles, run.channel_blocks(tile)),
            form | {"POOLS": pools},
            dt_ptr=dt,
            dmax_ptr=dmax,
            position_ptr=position,
            daverage_ptr=daverage,
            packed_ptr=cell.packed,
            mix_ptr=cell.mix,
            branches_ptr=run.tables.branches,
            M=run.size.out_pixels,
            first=of_state.first,
            middle=of_state.last,
            packed_length=cell.packed.shape[1],
            **where,
            **run.registers("dual_gather", 128 if limited else None),
        )


def run_dual_backward(
    dnodes_NHWD: Sequence[Tensor], inputs_INHWS: Sequence[Tensor], nodes_NHWD: Sequence[Tensor], packed: Tensor,
    mix: Sequence[Tensor], edge_mix: Sequence[Tensor], stats: Tensor, frozen: bool, needs: Sequence[bool],
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The four gradients of :func:`fastnas_kernels.mixed_op.launch_backward.run_backward`, then their tangents."""
    both = packed.t().contiguous(), stats.permute(0, 3, 1, 2).contiguous()
    cell = dual_cell(inputs_INHWS, nodes_NHWD, both[0], mix, edge_mix, both[1], frozen, plan)
    run, like = cell.run, inputs_INHWS[0]
    parted = [x.reshape(-1, plan.num_nodes, plan.mixed_channels, plan.k).transpose(2, 3) for x in dnodes_NHWD]
    dy = torch.stack(parted, 2).to(run.exact).flatten(3).contiguous()
    dinputs, dpacked, sums, passed = DualBackward(cell, dy, Needs(*needs))()
    found = []
    for part in range(2):
        found += [
            like.new_empty(0) if dinputs is None else like.new_empty(like.shape),
            like.new_empty(0) if dpacked is None else dpacked[part][run.tables.unpacking],
            mix_gradient(run.lowered, run.tables, sums[:, part]) if needs[2] else like.new_empty(0),
            passed[:, part].clone() if needs[3] else like.new_empty(0),
        ]
        if dinputs is not None:
            found[-4].view(dinputs[:, :, part].shape).copy_(dinputs[:, :, part])
    return tuple(found)
