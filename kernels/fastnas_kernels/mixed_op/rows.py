"""Between the plan's own order of weights and statistics and the rows that compiled kernels read and write.

Shape suffixes: R rows of statistics, C channels that the candidates see, M pixels, D channels of all nodes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnas_kernels.mixed_op.lowering import Lowered
from fastnas_kernels.mixed_op.plan import CellPlan
from fastnas_kernels.mixed_op.tables import Tables


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
