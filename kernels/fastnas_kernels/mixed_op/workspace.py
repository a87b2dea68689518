"""What the kernels of a cell hold in memory while they run, beside their arguments and results."""

from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from fastnas_kernels.mixed_op.lowering import lower
from fastnas_kernels.mixed_op.plan import CellPlan, plan_from_text
from fastnas_kernels.mixed_op.tiles import tiles_for


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
        return _of_triton(plan, inputs.shape, inputs.element_size(), needs)
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
    splits = tiles_for(channels, torch.float32).splits + 2  # and their sum, twice
    return int(1.1 * maps * pixels * width) + splits * lowered.packing.size * max(width, 4)
