"""The bytes that a cell's kernels must move: each operand of a launch once, without tables and partial sums."""

from collections import Counter

import torch

from fastnas_kernels.mixed_op import launch
from fastnas_kernels.mixed_op.plan import CellPlan, EdgePlan


def floors(
    plan: CellPlan, pixels: int, dtype: torch.dtype = torch.float32, weights: bool = True, in_pixels: int | None = None
) -> Counter[str]:
    """Bytes by kernel, forward and backward together.

    Args:
        plan: The cell.
        pixels: Of the output.
        dtype: Of states in memory; filters are float32.
        weights: Whether gradients of filters are asked for.
        in_pixels: Of the input states, if the cell has a stride.
    """
    lowered, width, channels = launch.lower(plan), dtype.itemsize, plan.mixed_channels
    again = weights and launch.tiles_for(channels, dtype).compute_again(channels)
    plane, flags = pixels * channels * width, pixels * channels
    wide = plane if in_pixels is None else in_pixels * channels * width
    found: Counter[str] = Counter()

    def pooled(edge: EdgePlan) -> bool:
        return any(candidate.kind in ("max_pool", "avg_pool") for candidate in edge.candidates)

    def skipped(edge: EdgePlan) -> bool:
        return any(candidate.kind == "skip" for candidate in edge.candidates)

    for source, (first, middle, last) in enumerate(lowered.ranges):
        outer, inner = lowered.branches[first:middle], lowered.branches[middle:last]
        edges = [plan.edges[number] for number in plan.leaving(source)]
        is_node, pools = source >= plan.num_inputs, any(map(pooled, edges))
        state = plane if is_node else wide
        n, m = len(outer), len(inner)
        kept_n, kept_m = (sum(b.coefficient < 0 for b in of) if again else len(of) for of in (outer, inner))
        read_n, read_m = (0, 0) if again else (n, m)
        targets, inner_targets = ({b.target for b in of if b.coefficient >= 0} for of in (outer, inner))
        filters = sum(channels * (b.kernel**2 + channels) * 4 for b in (*outer, *inner))
        dense = channels**2 * 4 * (n + m)
        identities = 0 if state != plane else sum(map(skipped, edges))
        found["stage_kernel"] += state + plane * (n + 2 * m) + filters
        found["stage_kernel"] += state + plane * (kept_n + len(targets) + m + kept_m + len(inner_targets)) + filters
        found["pool_statistics_kernel"] += pools * state
        found["shared_sums_kernel"] += state + plane * len(edges)
        found["pointwise_backward_kernel"] += plane * (m + read_m + len(inner_targets) + n + read_n + len(targets))
        found["pointwise_backward_kernel"] += plane * sum(b.coefficient < 0 for b in outer) + dense
        found["depthwise_backward_kernel"] += 3 * m * plane
        if weights:
            found["stage_kernel"] += (n + m) * plane
            found["pointwise_backward_kernel"] += (n + m) * plane
            found["depthwise_weights_kernel"] += state + (2 * m + n) * plane + filters - dense
        found["pool_backward_kernel"] += pools * (state + plane * (sum(map(pooled, edges)) + 2) + flags)
        found["gather_kernel"] += state * (2 + is_node) + plane * (n + identities) + pools * (2 * plane + flags)
        found["bypass_backward_kernel"] += (plan.k - 1) * (state * (2 + is_node) + plane * len(edges))
        found["bypass_backward_kernel"] += 2 * plane * (is_node and plan.k > 1)  # parts the mixed channels as well
    for target in range(plan.num_inputs, plan.num_states):
        entering = [plan.edges[number] for number in plan.entering(target)]
        passing = plan.k - 1  # which another kernel serves unless there are two or four groups
        for edge in entering:
            state = plane if edge.source >= plan.num_inputs else wide
            used = pooled(edge) or (skipped(edge) and state == plane)
            found["node_kernel"] += state * (used + passing)
        found["node_kernel"] += plane * (len(lowered.entering(target)) + 1 + passing)
    return +found
