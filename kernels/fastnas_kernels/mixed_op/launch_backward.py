# pyright: reportArgumentType=false
# (Triton's annotations do not describe what a launch accepts)
"""Runs the gradient of a lowered cell: state by state from the last to the first, computing each state's branches
again. Shape suffixes as in ``launch``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas_kernels.mixed_op import branch_gradient_kernels, state_gradient_kernels
from fastnas_kernels.mixed_op.launch import Launcher, State, launcher
from fastnas_kernels.mixed_op.lowering import SourceRange
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.shares import zeros
from fastnas_kernels.mixed_op.tables import Span, begun_gradients, ceil_div, mix_gradient


class Needs(NamedTuple):
    """Which gradients anybody asked for."""

    states: bool
    weights: bool
    mix: bool
    edge_mix: bool


class Gradients(NamedTuple):
    """Of the input states ``[I, M, S]``, packed weights, mix and weights of edges; ``None`` if not asked for."""

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
        dnodes_MD: The gradient of all nodes, without what they send each other.
        needs: What to compute.
    """

    run: Launcher
    inputs_IMS: Tensor
    nodes_MD: Tensor
    packed: Tensor
    mix: Tensor
    edge_mix: Tensor
    stats: Tensor
    dnodes_MD: Tensor
    needs: Needs

    def __call__(self) -> Gradients:
        """The gradients of everything else."""
        run, plan = self.run, self.run.lowered.plan
        dy = begun_gradients(self.dnodes_MD, plan)
        dinputs = torch.empty_like(self.inputs_IMS) if self.needs.states else None
        if dinputs is not None:
            for source in (i for i in range(plan.num_inputs) if not plan.leaving(i)):
                dinputs[source] = 0
        sums = run.empty(run.tables.sum_spans[-1].last + 1, 2, run.channels, exact=True)
        passed = run.empty(len(plan.edges), exact=True)
        # Zero where a launch has fewer splits, or fewer tiles, than another
        shapes = [*[(run.most_splits, self.packed.numel())] * self.needs.weights, *run.shares.uneven_sums]
        memory = zeros(shapes, run.exact, run.device) if shapes else []
        dpacked = memory.pop(0) if self.needs.weights else None
        for source in reversed(range(len(run.lowered.ranges))):
            self._source(source, dy, dinputs, sums, passed, dpacked, memory[source] if memory else None)
        return Gradients(
            dinputs,
            None if dpacked is None else dpacked.sum(0),
            mix_gradient(run.lowered, run.tables, sums) if self.needs.mix else None,
            passed[run.tables.edge_ranks] if self.needs.edge_mix else None,
        )

    @property
    def _again(self) -> bool:
        """Whether raw outputs are computed along with the gradients of the filters and need not lie in memory."""
        return self.needs.weights and self.run.tiles.compute_again(self.run.channels)

    def _source(
        self, source: int, dy: Tensor, dinputs: Tensor | None, all_sums: Tensor, passed: Tensor,
        dpacked: Tensor | None, partial: Tensor | None,
    ) -> None:  # fmt: skip
        run, bounds = self.run, self.run.lowered.ranges[source]
        first, middle, last = bounds
        leaving, rows = run.tables.leaving_spans[source], run.tables.sum_spans[source]
        sums, inner = all_sums[rows.first : rows.last], run.empty(last - middle, 2, run.channels, exact=True)
        if not len(leaving):
            return
        state = run.state(source, self.inputs_IMS, self.nodes_MD)
        z = run.empty(last - first, run.size.out_pixels, run.channels)
        dt = torch.empty_like(z)
        self._recompute(source, state, z, dt if self.needs.weights else None, dy, sums, partial)
        if last > middle:
            self._pointwise(z, dt, dy, sums, inner, bounds, Span(middle, last), dpacked)
            self._depthwise(z, dt, inner, first, Span(middle, last))
            if dpacked is not None:
                self._depthwise_weights(None, z, dt, first, Span(middle, last), dpacked)
        if middle > first:
            self._pointwise(z, dt, dy, sums, inner, bounds, Span(first, middle), dpacked)
            if dpacked is not None:
                self._depthwise_weights(state, z, dt, first, Span(first, middle), dpacked)
        self._state(source, state, dt, dy, sums[last - first :], leaving, dinputs, passed)

    def _recompute(
        self, source: int, state: State, z: Tensor, t: Tensor | None, dy: Tensor, sums: Tensor, partial: Tensor | None
    ) -> None:
        """Raw outputs once more, those that are read again, and all sums over pixels that the gradient needs; depthwise
        outputs at ``t``, if that is given."""
        run, (first, middle, last) = self.run, self.run.lowered.ranges[source]
        of_state, of_branches = run.tables.bundle_spans[source]
        if partial is None:
            partial = run.empty(len(sums), run.shares.forward[0].tiles, 2, run.channels, exact=True)
        run.stage(state, z, self.packed, self.stats, of_state, first, partial, dy, not self._again, t)
        keep, halves = not self._again, partial[middle - first :]
        run.stage(None, z, self.packed, self.stats, of_branches, first, halves, dy, keep, t)
        self._shared_sums(state, dy, run.tables.leaving_spans[source], partial[last - first :])
        torch.sum(partial, 1, out=sums)

    def _sizes(self, state: State | None) -> dict:
        return self.run.sizes | dict(zip("HW", self.run.size[3:] if state is None else state[1:3], strict=True))

    def _shared_sums(self, state: State, dy: Tensor, leaving: Span, partial: Tensor) -> None:
        run, tile = self.run, self.run.tiles.sums_of_states
        run.start(
            branch_gradient_kernels.shared_sums_kernel,
            (run.num_tiles(tile), run.channel_blocks(tile)),
            {"STRIDE": state.stride},
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
            last_leaving=leaving.last,
            num_tiles=partial.shape[1],
            GROUPS=run.lowered.plan.k,
            **run.block(tile),
            **run.registers("shared_sums", 168 if run.channels > 32 else None),
        )

    def _pointwise(
        self, z: Tensor, dt: Tensor, dy: Tensor, sums: Tensor, inner: Tensor,
        bounds: SourceRange, branches: Span, dpacked: Tensor | None,
    ) -> None:  # fmt: skip
        run, tile = self.run, self.run.tiles.pointwise
        splits = (run.splits if dpacked is not None else run.few_tiles)(len(branches))
        run.start(
            branch_gradient_kernels.pointwise_backward_kernel,
            (splits, len(branches), run.channel_blocks(tile)),
            {"WEIGHTS": dpacked is not None, "AGAIN": self._again},
            z_ptr=z,
            dt_ptr=dt,
            dy_ptr=dy,
            packed_ptr=self.packed,
            stats_ptr=self.stats,
            sums_ptr=sums,
            inner_sums_ptr=inner,
            mix_ptr=self.mix,
            branches_ptr=run.tables.branches,
            dpacked_ptr=self.packed if dpacked is None else dpacked,
            M=run.size.out_pixels,
            dy_pitch=dy.shape[1],
            first=bounds.first,
            launched=branches.first,
            inner_first=bounds.middle,
            num_tiles=run.num_tiles(tile),
            packed_length=self.packed.numel(),
            per_pixel=run.per_pixel,
            GROUPS=run.lowered.plan.k,
            **run.block(tile),
            **run.product,
            **run.registers("pointwise_backward", 168 if dpacked is not None else 128 if run.channels <= 8 else None),
        )

    def _depthwise(self, z: Tensor, dt: Tensor, sums: Tensor, first: int, branches: Span) -> None:
        """Gradients of what second halves read, and their ``sums``."""
        run, (tile, abreast, num_tiles) = self.run, self.run.shares.inner_gradient
        partial = run.empty(len(branches), num_tiles, 2, run.channels, exact=True)
        run.start(
            state_gradient_kernels.depthwise_backward_kernel,
            (num_tiles, len(branches), run.channel_blocks(tile)),
            {"DENSE": run.lowered.dense, "ABREAST": abreast},
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
            launched=branches.first,
            num_tiles=num_tiles,
            **run.block(tile),
            **run.registers("depthwise_backward"),
        )
        torch.sum(partial, 1, out=sums)

    def _depthwise_weights(
        self, state: State | None, z: Tensor, dt: Tensor, first: int, branches: Span, dpacked: Tensor
    ) -> None:
        run, tile, stride = self.run, self.run.tiles.filters, 1 if state is None else state.stride
        abreast = run.tiles.abreast_of_filters if stride == 1 and run.lowered.most_dilated <= 2 else 1
        free = run.dtype == torch.float64 or (run.dtype == torch.float32 and stride == abreast == 1)
        form = {"STRIDE": stride, "NORMALISED": state is None, "ABREAST": abreast}
        stretch_tiles, more_tiles = run.shares.filters
        run.start(
            branch_gradient_kernels.depthwise_weights_kernel,
            (run.splits(len(branches)), len(branches), run.channel_blocks(tile)),
            form | {"DENSE": state is None and run.lowered.dense},
            src_ptr=z if state is None else state.tensor,
            dt_ptr=dt,
            stats_ptr=self.stats,
            branches_ptr=run.tables.branches,
            dpacked_ptr=dpacked,
            **self._sizes(state),
            pitch=run.channels if state is None else state.pitch,
            first=first,
            launched=branches.first,
            num_tiles=run.num_tiles(tile),
            stretch_tiles=stretch_tiles,
            more_tiles=more_tiles,
            packed_length=self.packed.numel(),
            **run.block(tile),
            **run.registers(f"depthwise_weights {stride}", None if free else 168),
        )

    def _state(
        self, source: int, state: State, dt: Tensor, dy: Tensor,
        edge_sums: Tensor, leaving: Span, dinputs: Tensor | None, passed: Tensor,
    ) -> None:  # fmt: skip
        """Gradients of a state, unless it is an input and nobody asked, and of the weights of its edges."""
        run, plan, tables = self.run, self.run.lowered.plan, self.run.tables
        is_node = source >= plan.num_inputs
        wanted = is_node or dinputs is not None
        column = (source - plan.num_inputs) * plan.channels if is_node else 0
        out = dy if is_node else dinputs[source] if dinputs is not None else None
        pixels = run.size.images * state.height * state.width
        parted = is_node and run.weaves
        where = {
            "state_ptr": state.tensor,
            "dy_ptr": dy,
            "edges_ptr": tables.edges,
            "leaving_ptr": tables.leaving,
            "dnodes_ptr": self.dnodes_MD,
            "out_ptr": out,
            "mixed_ptr": run.empty(pixels, run.channels) if parted else out,
            "M_STATE": pixels,
            "H": state.height,
            "W": state.width,
            "HO": run.size.out_height,
            "WO": run.size.out_width,
            "pitch": state.pitch,
            "dy_pitch": dy.shape[1],
            "out_pitch": 0 if out is None else out.shape[1],
            "column": column,
            "first_leaving": leaving.first,
            "last_leaving": leaving.last,
            "GROUPS": plan.k,
            "WOVEN": run.weaves,
        }
        form = {"STRIDE": state.stride, "NODE_STATE": is_node}
        if wanted:
            self._gather(source, state, dt, dy, edge_sums, leaving, form, where)
        if plan.k > 1 and (wanted or self.needs.edge_mix):
            others = (plan.k - 1) * run.channels
            tile, handled, limit = run.tiles.elementwise, others, None
            if parted:  # it stores each of GROUPS groups by itself: enough numbers for 128 bits a thread
                tile, handled, limit = run.parting(tile), plan.channels, 168
            num_tiles = ceil_div(pixels, tile.pixels)
            partial = run.empty(len(leaving), num_tiles, others, exact=True)
            where |= {"num_tiles": num_tiles, **run.block(tile)}
            run.start(
                state_gradient_kernels.bypass_backward_kernel,
                (num_tiles, ceil_div(handled, tile.channels)),
                form,
                edge_mix_ptr=self.edge_mix,
                partial_ptr=partial,
                **where,
                **run.registers("bypass_backward", limit),
            )
            torch.sum(partial, (1, 2), out=passed[leaving.first : leaving.last])

    def _gather(
        self, source: int, state: State, dt: Tensor, dy: Tensor, edge_sums: Tensor, leaving: Span,
        form: dict, where: dict,
    ) -> None:  # fmt: skip
        run, plan, tables = self.run, self.run.lowered.plan, self.run.tables
        (first, middle, _), width = run.lowered.ranges[source], run.dtype.itemsize
        pools = bool(run.lowered.pool_rows(source))
        # Left alone, these spill, and the others do with a limit
        limited = 8 < run.channels < 16 or width == 8 or (width == 2 and (state.stride == 2 or run.channels <= 8))
        limit = 128 if limited else 168 if width == 2 or not pools else None
        tile = run.tiles.gradient_of_state(run.channels * width, state.stride, pools)
        dmax, daverage, position = dt, dt, dt
        if pools:
            windows = run.tiles.states
            dmax = run.empty(run.size.out_pixels, run.channels)
            daverage, position = torch.empty_like(dmax), torch.empty_like(dmax, dtype=torch.int8)
            run.start(
                state_gradient_kernels.pool_backward_kernel,
                (run.num_tiles(windows), run.channel_blocks(windows)),
                {"STRIDE": state.stride},
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
                per_pixel=run.per_pixel,
                GROUPS=plan.k,
                **run.block(windows),
            )
        num_tiles = ceil_div(where["M_STATE"], tile.pixels)
        run.start(
            state_gradient_kernels.gather_kernel,
            (num_tiles, run.channel_blocks(tile)),
            form | {"POOLS": pools},
            dt_ptr=dt,
            dmax_ptr=dmax,
            position_ptr=position,
            daverage_ptr=daverage,
            packed_ptr=self.packed,
            mix_ptr=self.mix,
            branches_ptr=tables.branches,
            M=run.size.out_pixels,
            first=first,
            middle=middle,
            **(where | run.block(tile)),
            **run.registers("gather", limit),
        )


def run_backward(
    dnodes_NHWD: Tensor, inputs_INHWS: Tensor, nodes_NHWD: Tensor, packed: Tensor, mix: Tensor, edge_mix: Tensor,
    stats: Tensor, frozen: bool, needs: Sequence[bool], plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the input states, of all weights one after another, of the mix and of the weights of the edges;
    empty where not needed."""
    launch = launcher(inputs_INHWS, plan, frozen)
    return backward_by(launch, dnodes_NHWD, inputs_INHWS, nodes_NHWD, packed, mix, edge_mix, stats, needs)


def backward_by(
    launch: Launcher, dnodes_NHWD: Tensor, inputs_INHWS: Tensor, nodes_NHWD: Tensor, packed: Tensor, mix: Tensor,
    edge_mix: Tensor, stats: Tensor, needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """:func:`run_backward` by a launcher."""
    exact = launch.exact
    gradient = Backward(
        launch,
        inputs_INHWS.contiguous().view(len(inputs_INHWS), -1, inputs_INHWS.shape[-1]),
        nodes_NHWD.contiguous().view(launch.size.out_pixels, -1),
        packed,
        mix.to(exact).contiguous(),
        edge_mix.to(exact).contiguous(),
        stats,
        dnodes_NHWD.contiguous().view(launch.size.out_pixels, -1),
        Needs(*needs),
    )
    found = gradient()
    return (
        _or_empty(None if found.states is None else found.states.view(inputs_INHWS.shape), inputs_INHWS),
        _or_empty(None if found.packed is None else found.packed[launch.tables.unpacking], inputs_INHWS),
        _or_empty(found.mix, inputs_INHWS),
        _or_empty(found.edge_mix, inputs_INHWS),
    )


def _or_empty(gradient: Tensor | None, like: Tensor) -> Tensor:
    """An empty tensor, each time another, in place of none: what an operator returns may not alias."""
    return like.new_empty(0) if gradient is None else gradient
