"""A cell in kernels as raw operators, which tracers and counters see from the outside: forward and backward, and both
for numbers with a tangent, which serve everything of second order.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes. A list of two
tensors is a number and its tangent along one direction.
"""

from types import ModuleType

import torch
from torch import Tensor

from fastnas_kernels.backend import backend_for, on_device_of
from fastnas_kernels.mixed_op.lowering import lower
from fastnas_kernels.mixed_op.plan import plan_from_text
from fastnas_kernels.operator import operator
from fastnas_kernels.precision import accumulator


def _launch(images: Tensor) -> ModuleType:
    """The module whose ``run_forward`` serves ``images``."""
    if backend_for(images.device) == "cpu":
        from fastnas_kernels.cpu import launch  # noqa: PLC0415
    else:
        from fastnas_kernels.mixed_op import launch  # noqa: PLC0415  (Triton, which exists on Linux only)
    return launch


def _launch_backward(images: Tensor) -> ModuleType:
    """The module whose ``run_backward`` serves ``images``."""
    if backend_for(images.device) == "cpu":
        return _launch(images)
    from fastnas_kernels.mixed_op import launch_backward  # noqa: PLC0415

    return launch_backward


def _launch_duals() -> ModuleType:
    """The module whose ``run_dual_forward`` and ``run_dual_backward`` serve numbers with tangents."""
    from fastnas_kernels.cpu import duals  # noqa: PLC0415

    return duals


@operator("mixed_cell")
def forward(
    inputs_INHWS: Tensor, weights: list[Tensor], mix: Tensor, edge_mix: Tensor, statistics: Tensor | None, plan: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Nodes ``[N, H', W', D]``, rows of statistics, packed weights, and the statistics of the plan's normalisations."""
    with on_device_of(inputs_INHWS):
        run_forward = _launch(inputs_INHWS).run_forward
        return run_forward(inputs_INHWS, weights, mix, edge_mix, statistics, plan_from_text(plan))


@torch.library.register_fake("fastnas::mixed_cell")
def _(
    inputs_INHWS: Tensor, weights: list[Tensor], mix: Tensor, edge_mix: Tensor, statistics: Tensor | None, plan: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    stats, packed = _rows(inputs_INHWS, plan)
    return _nodes(inputs_INHWS, plan), stats, packed, _noted(stats, statistics, plan)


def _noted(stats: Tensor, statistics: Tensor | None, plan: str) -> Tensor:
    cell = plan_from_text(plan)
    return stats.new_empty(len(cell.norms) if statistics is None else 0, 2, cell.mixed_channels)


def _nodes(inputs_INHWS: Tensor, plan: str) -> Tensor:
    cell = plan_from_text(plan)
    _, images, height, width, _ = inputs_INHWS.shape
    return inputs_INHWS.new_empty(images, *cell.size_after(height, width), cell.num_nodes * cell.channels)


def _rows(inputs_INHWS: Tensor, plan: str, *pair: int) -> tuple[Tensor, Tensor]:
    """Rows of statistics and packed weights, of numbers or of pairs."""
    cell = plan_from_text(plan)
    lowered, dtype = lower(cell), accumulator(inputs_INHWS.dtype)
    stats = inputs_INHWS.new_empty(lowered.num_rows + 2, 3, cell.mixed_channels, *pair, dtype=dtype)
    return stats, stats.new_empty(lowered.packing.size, *pair)


@operator("mixed_cell_backward")
def backward(
    dnodes_NHWD: Tensor,
    inputs_INHWS: Tensor,
    nodes_NHWD: Tensor,
    packed: Tensor,
    mix: Tensor,
    edge_mix: Tensor,
    stats: Tensor,
    frozen: bool,
    needs: list[bool],
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the input states, of all weights one after another, of the mix and of the weights of the edges;
    empty where ``needs`` says no."""
    with on_device_of(inputs_INHWS):
        return _launch_backward(inputs_INHWS).run_backward(
            dnodes_NHWD, inputs_INHWS, nodes_NHWD, packed, mix, edge_mix, stats, frozen, needs, plan_from_text(plan)
        )


@torch.library.register_fake("fastnas::mixed_cell_backward")
def _(
    dnodes_NHWD: Tensor,
    inputs_INHWS: Tensor,
    nodes_NHWD: Tensor,
    packed: Tensor,
    mix: Tensor,
    edge_mix: Tensor,
    stats: Tensor,
    frozen: bool,
    needs: list[bool],
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _gradients(inputs_INHWS, stats, mix, edge_mix, needs, plan)


def _gradients(
    inputs_INHWS: Tensor, stats: Tensor, mix: Tensor, edge_mix: Tensor, needs: list[bool], plan: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weights = lower(plan_from_text(plan)).unpacking.size
    like = (
        inputs_INHWS.new_empty(inputs_INHWS.shape),
        *(stats.new_empty(n) for n in (weights, *mix.shape, *edge_mix.shape)),
    )
    return tuple(x if need else inputs_INHWS.new_empty(0) for x, need in zip(like, needs, strict=True))  # type: ignore[return-value]


@operator("mixed_cell_dual")
def dual_forward(
    inputs_INHWS: list[Tensor],
    weights: list[Tensor],
    tangents: list[Tensor],
    mix: list[Tensor],
    edge_mix: list[Tensor],
    statistics: Tensor | None,
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nodes, their tangent, rows of statistics and packed weights as pairs ``[..., 2]``, which :func:`dual_backward`
    takes, and the statistics of the plan's normalisations. ``tangents`` are those of the weights; none at all stand for
    zeros."""
    return _launch_duals().run_dual_forward(
        inputs_INHWS, weights, tangents, mix, edge_mix, statistics, plan_from_text(plan)
    )


@torch.library.register_fake("fastnas::mixed_cell_dual")
def _(
    inputs_INHWS: list[Tensor],
    weights: list[Tensor],
    tangents: list[Tensor],
    mix: list[Tensor],
    edge_mix: list[Tensor],
    statistics: Tensor | None,
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    nodes, tangent = (_nodes(inputs_INHWS[0], plan) for _ in range(2))
    stats, packed = _rows(inputs_INHWS[0], plan, 2)
    return nodes, tangent, stats, packed, _noted(stats, statistics, plan)


@operator("mixed_cell_dual_backward")
def dual_backward(
    dnodes_NHWD: list[Tensor],
    inputs_INHWS: list[Tensor],
    nodes_NHWD: list[Tensor],
    packed: Tensor,
    mix: list[Tensor],
    edge_mix: list[Tensor],
    stats: Tensor,
    frozen: bool,
    needs: list[bool],
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The four gradients of :func:`backward`, and their tangents."""
    return _launch_duals().run_dual_backward(
        dnodes_NHWD, inputs_INHWS, nodes_NHWD, packed, mix, edge_mix, stats, frozen, needs, plan_from_text(plan)
    )


@torch.library.register_fake("fastnas::mixed_cell_dual_backward")
def _(
    dnodes_NHWD: list[Tensor],
    inputs_INHWS: list[Tensor],
    nodes_NHWD: list[Tensor],
    packed: Tensor,
    mix: list[Tensor],
    edge_mix: list[Tensor],
    stats: Tensor,
    frozen: bool,
    needs: list[bool],
    plan: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    one, other = (_gradients(inputs_INHWS[0], stats, mix[0], edge_mix[0], needs, plan) for _ in range(2))
    return (*one, *other)
