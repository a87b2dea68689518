"""A cell in kernels as raw operators, which tracers and counters see from the outside: forward and backward, and both
for numbers with a tangent, which serve everything of second order.

Shape suffixes: I input states, N H W images and pixels, S channels of a state, D channels of all nodes. A list of two
tensors is a number and its tangent along one direction.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from fastnas_kernels.backend import backend_for, on_device_of
from fastnas_kernels.mixed_op.lowering import lower
from fastnas_kernels.mixed_op.plan import CellPlan, plan_from_text
from fastnas_kernels.mixed_op.tables import MOST_SPLITS, tiles_for
from fastnas_kernels.operators import operator
from fastnas_kernels.tensors import accumulator


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


def _launch_dual(images: Tensor) -> ModuleType:
    """The module whose ``run_dual_forward`` serves numbers with tangents."""
    if backend_for(images.device) == "cpu":
        return _launch(images)
    from fastnas_kernels.mixed_op.dual import launch as launch_dual  # noqa: PLC0415

    return launch_dual


def _launch_dual_backward(images: Tensor) -> ModuleType:
    """The module whose ``run_dual_backward`` serves them."""
    if backend_for(images.device) == "cpu":
        return _launch(images)
    from fastnas_kernels.mixed_op.dual import launch_backward as launch_dual_backward  # noqa: PLC0415

    return launch_dual_backward


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
    with on_device_of(inputs_INHWS[0]):
        return _launch_dual(inputs_INHWS[0]).run_dual_forward(
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
    with on_device_of(inputs_INHWS[0]):
        return _launch_dual_backward(inputs_INHWS[0]).run_dual_backward(
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


def workspace_bytes(operator: OpOverload, arguments: Sequence[Any], on_gpu: bool) -> int:
    """The bytes that a call holds inside itself; nothing for an operator other than those of a cell.

    Args:
        operator: As a dispatch mode sees it.
        arguments: Of the call; tensors without memory will do.
        on_gpu: Whether Triton's kernels would run, of whose memory this is an upper bound, or compiled code of the
            CPU, which says it itself.
    """
    family, _, name = operator.name().partition("::")
    if family != "fastnas" or not name.startswith("mixed_cell"):
        return 0
    dual, backward = "dual" in name, "backward" in name
    inputs = arguments[1 if backward else 0]
    inputs = inputs[0] if dual else inputs  # a number and its tangent
    *_, given, text = arguments
    frozen, needs = (arguments[-3], given) if backward else (given is not None, None)
    plan = plan_from_text(text)
    if on_gpu:
        found = _of_triton(plan, inputs.shape, inputs.element_size(), needs if backward else None)
        if not dual:
            return found
        of_pairs = _of_pairs(plan, inputs.shape, max(4, inputs.element_size()), needs)
        return of_pairs if backward else max(found, of_pairs)
    from fastnas_kernels.cpu import launch  # noqa: PLC0415  (a compiler is needed only where its code would run)

    return launch.workspace_bytes(inputs.shape, inputs.dtype, plan, frozen, needs, dual)


def _of_triton(plan: CellPlan, shape: torch.Size, width: int, needs: Sequence[bool] | None) -> int:
    """Forward the raw outputs of all branches; backward those of the branches of one state, their gradients, those of
    the nodes in another order, three maps of the pools, one of a state, and the gradients of all weights, split among
    programs. What sums are first left in, by program, is at most a tenth of the maps."""
    _, images, height, pixels_wide, _ = shape
    out_height, out_width = plan.size_after(height, pixels_wide)
    pixels = images * out_height * out_width
    lowered, channels = lower(plan), plan.mixed_channels
    if needs is None:
        return int(1.1 * lowered.num_slots * channels * pixels * width)
    branches = max(last - first for first, _, last in lowered.ranges)
    maps = (2 * branches + 3 + (plan.k > 1)) * channels + plan.num_nodes * plan.channels
    tiles = tiles_for(channels, torch.float32)
    splits = min(MOST_SPLITS * tiles.splits, -(-pixels // tiles.filters.pixels)) + 2  # and their sum, twice
    return int(1.1 * maps * pixels * width) + splits * lowered.packing.size * max(width, 4)


def _of_pairs(plan: CellPlan, shape: torch.Size, width: int, needs: Sequence[bool] | None) -> int:
    """The same of numbers with a tangent: all states, and the raw outputs of the branches of one; backward the
    gradients of states as well, those of as many branches as read one, two maps of its pools, and the gradients of all
    weights, split among programs."""
    inputs, images, height, pixels_wide, _ = shape
    out_height, out_width = plan.size_after(height, pixels_wide)
    pixels, channels, lowered = images * out_height * out_width, plan.mixed_channels, lower(plan)
    of_inputs = inputs * images * height * pixels_wide * plan.channels
    of_nodes = plan.num_nodes * plan.channels * pixels
    raw, read = (channels * pixels * max(x[i] - x[0] for x in lowered.ranges) for i in (2, 1))
    if needs is None:
        return int(2.2 * (of_inputs + of_nodes + raw) * width)
    numbers = (1 + needs[0]) * of_inputs + 2 * of_nodes + raw + read + 2.5 * channels * pixels
    tiles = tiles_for(channels, torch.float32)
    splits = min(MOST_SPLITS * tiles.splits, -(-pixels // tiles.filters.pixels)) + 2
    return int(2.2 * numbers * width) + needs[1] * 2 * splits * lowered.packing.size * width
