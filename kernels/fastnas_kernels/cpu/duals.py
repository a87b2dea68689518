"""Runs a lowered cell on numbers with a tangent: the derivatives of the nodes, and of the gradients, along a direction.

Shapes are those of :mod:`fastnas_kernels.cpu.launch`. Inside, numbers and tangents of images are two tensors, of all
else one of pairs, ``[..., 2]``.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnas_kernels.cpu import launch
from fastnas_kernels.mixed_op.lowering import lower
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.rows import mix_gradient, pack


def run_dual_forward(
    inputs_INHWS: Sequence[Tensor],
    weights: Sequence[Tensor],
    tangents: Sequence[Tensor],
    mix: Sequence[Tensor],
    edge_mix: Sequence[Tensor],
    statistics: Tensor | None,
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nodes ``[N, H', W', D]``, their tangent, statistics ``[R, 3, C, 2]``, packed weights ``[weights, 2]``, and the
    statistics of the plan's normalisations; no ``tangents`` stand for zeros."""
    dtype, tables = inputs_INHWS[0].dtype, launch.tables_for(plan, statistics is not None)
    values = pack(weights, tables, dtype)
    packed = torch.stack([values, pack(tangents, tables, dtype, False) if tangents else torch.zeros_like(values)], -1)
    nodes, stats = launch.forward(inputs_INHWS, packed, _pair(mix, dtype), _pair(edge_mix, dtype), statistics, plan)
    return *nodes, stats, packed, launch.noted(stats[..., 0], plan, statistics is not None)


def run_dual_backward(
    dnodes_NHWD: Sequence[Tensor],
    inputs_INHWS: Sequence[Tensor],
    nodes_NHWD: Sequence[Tensor],
    packed: Tensor,
    mix: Sequence[Tensor],
    edge_mix: Sequence[Tensor],
    stats: Tensor,
    frozen: bool,
    needs: Sequence[bool],
    plan: CellPlan,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The four gradients of :func:`fastnas_kernels.cpu.launch.run_backward`, then their tangents."""
    dtype, tables = inputs_INHWS[0].dtype, launch.tables_for(plan, frozen)
    images = {"dnodes": dnodes_NHWD, "inputs": inputs_INHWS, "nodes": nodes_NHWD}
    given = {"packed": packed, "mix": _pair(mix, dtype), "edge_mix": _pair(edge_mix, dtype), "stats": stats}
    dinputs, dpacked, sums, passed = launch.backward(images, given, frozen, needs, plan)
    nothing = stats.new_empty(0, 2)
    found = (
        dinputs or _parted(nothing),
        _parted(nothing if dpacked is None else dpacked.index_select(0, tables.unpacking)),
        [mix_gradient(lower(plan), tables, part) for part in _parted(sums)] if needs[2] else _parted(nothing),
        _parted(nothing if passed is None else passed),
    )
    return (*(values for values, _ in found), *(tangents for _, tangents in found))  # type: ignore[return-value]


def _pair(both: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack([x.to(dtype) for x in both], -1)


def _parted(pairs: Tensor) -> tuple[Tensor, Tensor]:
    values, tangents = (x.clone(memory_format=torch.contiguous_format) for x in pairs.unbind(-1))
    return values, tangents
