# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Tangents of what goes forward: of the convolutions that leave a state, of statistics, and of the nodes.

The values of nodes and statistics are there already. With ``r = 1 / std`` and the normalised output ``y``, the tangent
of a mean is the mean of the tangents ``z'``, and that of ``r`` is ``-r r mean(y z')``: sums over pixels, as the
gradient of a normalisation needs them.
"""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.dual.pixels import (
    ALONG,
    DUAL_RUN_TIME,
    ROW,
    depthwise,
    load_coefficient,
    load_dual,
    load_statistics,
    normalised,
    pools,
    statistics_of_source,
    window_pair,
)
from fastnas_kernels.mixed_op.pixels import (
    AVG_POOL,
    AVG_POOL_ROW,
    BRANCH_FIELDS,
    COEFFICIENT,
    EDGE_FIELDS,
    MAX_POOL,
    MAX_POOL_ROW,
    MEAN,
    NODE,
    POINTWISE,
    READS,
    RSTD,
    SKIP,
    TARGET,
    aligned,
    channels_of,
    filter_at,
    pixels_of,
    store_row,
    window,
)


@triton.jit(do_not_specialize=(*DUAL_RUN_TIME, "GROUPS"))
def dual_stage_kernel(
    src_ptr, z_ptr, packed_ptr, stats_ptr, branches_ptr, dy_ptr, partial_ptr, M, H, W, HO, WO, pitch, dy_pitch, first,
    launched, num_tiles, packed_length, GROUPS,
    C: tl.constexpr, CO: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr, BACKWARD: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``z = pointwise(depthwise(relu(src)))`` and its tangent for one branch and one tile of pixels, and sums.

    Forward these are ``[branch, tile, 2, C]``: of the tangent, and of its product with the normalised output.
    Backward, ``[branch, tile, 2, 2, C]``: of ``dy`` and of ``dy`` times the normalised output, then their tangents, for
    branches that enter a node.

    With ``NORMALISED``, ``src_ptr`` holds raw outputs of other branches, which are normalised while they are read.
    """
    tile = tl.program_id(0)
    b = launched + tl.program_id(1)
    table = branches_ptr + b * BRANCH_FIELDS
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * (2 * C)
    pitch = 2 * C if NORMALISED else aligned(pitch, C)
    packed_length = aligned(packed_length, 4)
    apart = C if NORMALISED else GROUPS * C
    m, live, n, h, w = pixels_of(tile, M, HO, WO, P)
    if NORMALISED:
        src_ptr += (reads - first) * plane
    o = tl.arange(0, CO)
    out = o < C
    z = tl.zeros((P, CO), ACC)
    along_z = tl.zeros((P, CO), ACC)
    for c0 in tl.range(0, C, B):
        c = c0 + tl.arange(0, B)
        channel = c < C
        mean, rstd, along_mean, along_rstd = statistics_of_source(stats_ptr, reads, c, channel, C, NORMALISED, B, ACC)
        t, along_t = depthwise(
            src_ptr, packed_ptr, table, mean, rstd, along_mean, along_rstd, n, h, w, live, H, W, pitch, c, channel,
            packed_length, apart, C, STRIDE, NORMALISED, P, B, ACC,
        )  # fmt: skip
        at = filter_at(packed_ptr, table, POINTWISE) + c[:, None] * C + o[None, :]
        both = channel[:, None] & out[None, :]
        weight = tl.load(at, mask=both, other=0.0)
        z += tl.dot(t, weight, input_precision=PRECISION)
        along_z += tl.dot(along_t, weight, input_precision=PRECISION)
        along_weight = tl.load(at + packed_length, mask=both, other=0.0)
        along_z += tl.dot(t, along_weight, input_precision=PRECISION)
    inside = live[:, None] & out[None, :]
    pixel = m.to(tl.int64)[:, None]
    at = z_ptr + (b - first) * plane + pixel * (2 * C) + o[None, :]
    tl.store(at, z, mask=inside)
    tl.store(at + C, along_z, mask=inside)
    mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, b, o, out, C)
    y, along_y = normalised(z, along_z, mean, rstd, along_mean, along_rstd)
    if BACKWARD:
        if tl.load(table + COEFFICIENT) >= 0:
            at = dy_ptr + tl.load(table + TARGET) * (2 * GROUPS * C) + pixel * aligned(dy_pitch, C) + o[None, :]
            dy, along_dy = load_dual(at, inside, GROUPS * C)
            partial = partial_ptr + (tl.program_id(1).to(tl.int64) * num_tiles + tile) * (4 * C)
            store_row(partial, tl.sum(dy, 0), o, out, CO)
            store_row(partial + C, tl.sum(dy * y, 0), o, out, CO)
            store_row(partial + 2 * C, tl.sum(along_dy, 0), o, out, CO)
            store_row(partial + 3 * C, tl.sum(along_dy * y + dy * along_y, 0), o, out, CO)
    else:
        partial = partial_ptr + (tl.program_id(1).to(tl.int64) * num_tiles + tile) * (2 * C)
        store_row(partial, tl.sum(along_z, 0), o, out, CO)  # nothing is read outside of the tile: zero there
        store_row(partial + C, tl.sum(along_z * y, 0), o, out, CO)


@triton.jit(do_not_specialize=(*DUAL_RUN_TIME, "GROUPS"))
def dual_pool_sums_kernel(
    state_ptr, partial_ptr, stats_ptr, rows_ptr, M, H, W, HO, WO, pitch, first_row, num_tiles, GROUPS,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The sums of :func:`dual_stage_kernel` forward of both pools of one state, ``[2, tile, 2, C]``; ``first_row`` is
    where the rows of both stand."""
    tile = tl.program_id(0)
    _, live, n, h, w = pixels_of(tile, M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    highest, along_highest, _, average, along_average, _ = pools(
        state_ptr, n, h, w, H, W, aligned(pitch, C), c, live, channel, STRIDE, GROUPS * C, P, B, ACC
    )
    for kind in tl.static_range(2):
        row = tl.load(rows_ptr + first_row + kind)
        mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, row, c, channel, C)
        along = tl.where(live[:, None], along_highest if kind == 0 else along_average, 0.0)
        y, _ = normalised(highest if kind == 0 else average, along, mean, rstd, along_mean, along_rstd)
        partial = partial_ptr + (kind * tl.cast(num_tiles, tl.int64) + tile) * (2 * C)
        store_row(partial, tl.sum(along, 0), c, channel, B)
        store_row(partial + C, tl.sum(along * y, 0), c, channel, B)


@triton.jit(do_not_specialize=DUAL_RUN_TIME)
def dual_statistics_kernel(
    partial_ptr, rows_ptr, stats_ptr, first_row, M, num_tiles,
    C: tl.constexpr, B: tl.constexpr, TILES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Tangents of mean and ``1 / std`` of one row of statistics, from the sums of all tiles."""
    row = tl.load(rows_ptr + first_row + tl.program_id(0))
    c, channel = channels_of(tl.program_id(1), C, B)
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * num_tiles * (2 * C)
    total = tl.zeros((B,), ACC)
    product = tl.zeros((B,), ACC)
    for t0 in range(0, num_tiles, TILES):
        t = t0 + tl.arange(0, TILES)
        mask = (t < num_tiles)[:, None] & channel[None, :]
        along, times = load_dual(partial + t[:, None] * (2 * C) + c[None, :], mask, C)
        total += tl.sum(along, 0)
        product += tl.sum(times, 0)
    out = stats_ptr + row * (ROW * C)
    rstd = tl.load(out + RSTD * C + c, mask=channel, other=0.0)
    store_row(out + (ALONG + MEAN) * C, total / M, c, channel, B)
    store_row(out + (ALONG + RSTD) * C, -rstd * rstd * (product / M), c, channel, B)


@triton.jit(do_not_specialize=DUAL_RUN_TIME)
def dual_nodes_kernel(
    state_ptr, nodes_ptr, z_ptr, stats_ptr, mix_ptr, branches_ptr, edges_ptr, leaving_ptr, M, H, W, HO, WO, pitch,
    first, last, first_leaving, last_leaving, first_node,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NUM_NODES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What the candidates on the edges from a state add to the tangent of one node, where a shuffle puts it."""
    m, live, n, h, w = pixels_of(tl.program_id(0), M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B, False)  # or it spills
    node = first_node + tl.program_id(2)
    inside = live[:, None] & channel[None, :]
    pixel = m.to(tl.int64)[:, None]
    pitch = aligned(pitch, C)
    plane = tl.cast(M, tl.int64) * (2 * C)
    added = tl.zeros((P, B), ACC)
    for b in range(first, last):
        table = branches_ptr + b * BRANCH_FIELDS
        coefficient = tl.load(table + COEFFICIENT)
        if (coefficient >= 0) & (tl.load(table + TARGET) == node):
            mix, along_mix = load_coefficient(mix_ptr, coefficient)
            mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, b, c, channel, C)
            v, d = load_dual(z_ptr + (b - first) * plane + pixel * (2 * C) + c[None, :], inside, C)
            v, d = normalised(v, d, mean, rstd, along_mean, along_rstd)
            added += along_mix * v + mix * d
    for q in range(first_leaving, last_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
        if tl.load(edge + NODE) == node:
            skip = tl.load(edge + SKIP)
            if skip >= 0:
                mix, along_mix = load_coefficient(mix_ptr, skip)
                v, d = load_dual(window(state_ptr, n, h, w, H, W, pitch, c), inside, GROUPS * C)
                added += along_mix * v + mix * d
            highest_at = tl.load(edge + MAX_POOL)
            average_at = tl.load(edge + AVG_POOL)
            if (highest_at >= 0) | (average_at >= 0):
                highest, along_highest, _, average, along_average, _ = pools(
                    state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, GROUPS * C, P, B, ACC
                )
                if highest_at >= 0:
                    mix, along_mix = load_coefficient(mix_ptr, highest_at)
                    row = tl.load(edge + MAX_POOL_ROW)
                    mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, row, c, channel, C)
                    v, d = normalised(highest, along_highest, mean, rstd, along_mean, along_rstd)
                    added += along_mix * v + mix * d
                if average_at >= 0:
                    mix, along_mix = load_coefficient(mix_ptr, average_at)
                    row = tl.load(edge + AVG_POOL_ROW)
                    mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, row, c, channel, C)
                    v, d = normalised(average, along_average, mean, rstd, along_mean, along_rstd)
                    added += along_mix * v + mix * d
    S: tl.constexpr = GROUPS * C
    at = nodes_ptr + pixel * (NUM_NODES * 2 * S) + (node * (2 * S) + S) + c[None, :] * GROUPS
    tl.store(at, tl.load(at, mask=inside, other=0.0) + added, mask=inside)


@triton.jit(do_not_specialize=DUAL_RUN_TIME)
def dual_bypass_kernel(
    state_ptr, nodes_ptr, edge_mix_ptr, edges_ptr, leaving_ptr, M, H, W, HO, WO, pitch, first_leaving, last_leaving,
    first_node,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NUM_NODES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """What the channels that pass by the candidates on the edges from a state add to the tangent of one node."""
    m, live, n, h, w = pixels_of(tl.program_id(0), M, HO, WO, P)
    q = C + tl.program_id(1) * B + tl.arange(0, B)  # the channel of a state
    channel = q < GROUPS * C
    node = first_node + tl.program_id(2)
    inside = live[:, None] & channel[None, :]
    pitch = aligned(pitch, C)
    S: tl.constexpr = GROUPS * C
    if STRIDE == 2:
        v, d, _ = window_pair(state_ptr, n, h, w, H, W, pitch, q, live, channel, S, P, B, ACC)
    else:
        v, d = load_dual(window(state_ptr, n, h, w, H, W, pitch, q), inside, S)
    added = tl.zeros((P, B), ACC)
    for number in range(first_leaving, last_leaving):
        e = tl.load(leaving_ptr + number)
        if tl.load(edges_ptr + e * EDGE_FIELDS + NODE) == node:
            weight, along_weight = load_coefficient(edge_mix_ptr, e)
            added += along_weight * v + weight * d
    shuffled = (q % C) * GROUPS + q // C
    at = nodes_ptr + m.to(tl.int64)[:, None] * (NUM_NODES * 2 * S) + (node * (2 * S) + S) + shuffled[None, :]
    tl.store(at, tl.load(at, mask=inside, other=0.0) + added, mask=inside)
