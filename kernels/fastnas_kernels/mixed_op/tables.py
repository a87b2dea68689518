"""The integer tables of a lowered plan on a device, and where the part of each state begins in them."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastnas_kernels.mixed_op.lowering import Lowered


@dataclass(frozen=True)
class Span:
    """Entries ``[first, last)`` of a table."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first


@dataclass(frozen=True, eq=False)
class Tables:
    """All integers that the kernels of one plan read."""

    branches: Tensor
    """``[B, 10]`` int32, the fields of :class:`Branch`."""
    edges: Tensor
    """``[E, 7]`` int32, see :meth:`Lowered.edge_table`."""
    entering: Tensor
    """Branches that are summed at a node, node by node."""
    entering_spans: tuple[Span, ...]
    leaving: Tensor
    """Edges, source by source."""
    leaving_spans: tuple[Span, ...]
    groups: Tensor
    """``[G, 2]`` int32: first branch and number of branches that one program evaluates."""
    group_sizes: tuple[int, ...]
    """The number of branches of each group, for the host."""
    group_spans: tuple[tuple[Span, Span], ...]
    """For each source, the groups that read the state and those that read other branches."""
    rows: Tensor
    """Rows of the statistics in the order in which they are made: branches that read the state, max-pool, avg-pool,
    branches that read other branches; source by source."""
    row_spans: tuple[tuple[Span, Span], ...]
    packing: Tensor
    constants: Tensor
    """Zero and one, float32, which the packing takes beside the weights."""
    unpacking: Tensor
    norm_rows: Tensor
    """``[2, R]``: the two rows whose sum is each normalisation of the plan; the last row is zero."""
    mix_rows: Tensor
    """``[2, coefficients]``, see :meth:`Lowered.mix_rows`."""
    sum_spans: tuple[Span, ...]
    """For each source, its rows of the sums that backward needs: one for each branch, two for each edge."""
    edge_ranks: Tensor
    """``[E]``: where each edge stands in ``leaving``."""
    live_channels: Tensor
    """``[rows, C]``: 1 where a channel of a row of statistics is not identically zero."""


class _Spans:
    """Appends lists and remembers where each lies."""

    def __init__(self) -> None:
        self.items: list = []

    def add(self, items: list) -> Span:
        first = len(self.items)
        self.items += items
        return Span(first, len(self.items))


@lru_cache(maxsize=256)
def tables_of(lowered: Lowered, device: torch.device, shared: bool, edges_a_program: int) -> Tables:
    """``shared``: pools keep one row of statistics for all edges that leave a state."""
    plan = lowered.plan
    entering, leaving, groups, rows = _Spans(), _Spans(), _Spans(), _Spans()
    unused = lowered.num_rows  # receives the statistics of pools that no edge has
    group_spans, row_spans, leaving_spans = [], [], []
    for source, (first, middle, last) in enumerate(lowered.ranges):
        leaving_spans.append(leaving.add(plan.leaving(source)))
        of_state = groups.add(lowered.groups(source, edges_a_program))
        group_spans.append((of_state, groups.add([(b, 1) for b in range(middle, last)])))
        shared_rows = lowered.pool_rows(source)
        pools = [shared_rows.get(kind, unused) for kind in ("max_pool", "avg_pool")] if shared_rows else []
        of_state = rows.add([*range(first, middle), *pools])
        row_spans.append((of_state, rows.add(list(range(middle, last)))))
    nodes = range(plan.num_inputs, plan.num_states)
    entering_spans = tuple(entering.add(lowered.entering(target)) for target in nodes)

    def put(values: object, dtype: torch.dtype = torch.int32) -> Tensor:
        # An empty table still needs an address
        array = np.array(values if len(values) else [0])  # type: ignore[arg-type]
        return torch.from_numpy(array).to(device, dtype)

    return Tables(
        branches=put(lowered.branches),
        edges=put(lowered.edge_table(shared)),
        entering=put(entering.items),
        entering_spans=entering_spans,
        leaving=put(leaving.items),
        leaving_spans=tuple(leaving_spans),
        groups=put(groups.items),
        group_sizes=tuple(number for _, number in groups.items),
        group_spans=tuple(group_spans),
        rows=put(rows.items),
        row_spans=tuple(row_spans),
        packing=put(lowered.packing, torch.int64),
        constants=put([0, 1], torch.float32),
        unpacking=put(lowered.unpacking, torch.int64),
        norm_rows=put(lowered.norm_rows(shared), torch.int64),
        mix_rows=put(lowered.mix_rows(), torch.int64),
        sum_spans=tuple(Span(*span) for span in lowered.sum_spans),
        edge_ranks=put(np.argsort(lowered.leaving), torch.int64),
        live_channels=put(lowered.live_channels(), torch.bool),
    )
