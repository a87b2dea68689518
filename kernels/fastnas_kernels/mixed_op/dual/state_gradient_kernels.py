# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Gradients of a state and of its pools, of the coefficients of what has no weights, and the tangents of all."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.dual.branch_gradient_kernels import load_sums, through_normalisation
from fastnas_kernels.mixed_op.dual.pixels import (
    DUAL_RUN_TIME,
    depthwise_transposed,
    load_coefficient,
    load_dual,
    load_statistics,
    normalised,
    pools,
    window_pair,
)
from fastnas_kernels.mixed_op.pixels import (
    AVG_POOL,
    AVG_POOL_ROW,
    BRANCH_FIELDS,
    EDGE_FIELDS,
    MAX_POOL,
    MAX_POOL_ROW,
    NODE,
    SKIP,
    aligned,
    channels_of,
    is_within,
    pixels_of,
    store_row,
    window,
)


@triton.jit(do_not_specialize=(*DUAL_RUN_TIME, "GROUPS"))
def dual_shared_sums_kernel(
    state_ptr, dy_ptr, stats_ptr, edges_ptr, leaving_ptr, partial_ptr, M, H, W, HO, WO, pitch, dy_pitch, first_leaving,
    last_leaving, num_tiles, GROUPS,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums over one tile for each edge that leaves a state, two rows ``[tile, 2, 2, C]``: of ``dy`` and of ``dy`` times
    normalised max-pool, and their tangents; then of ``dy`` times normalised avg-pool and times the state itself."""
    tile = tl.program_id(0)
    m, live, n, h, w = pixels_of(tile, M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    inside = live[:, None] & channel[None, :]
    pitch = aligned(pitch, C)
    highest, along_highest, _, average, along_average, _ = pools(
        state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, GROUPS * C, P, B, ACC
    )
    x, along_x = load_dual(window(state_ptr, n, h, w, H, W, pitch, c), inside, GROUPS * C)
    at = dy_ptr + m.to(tl.int64)[:, None] * aligned(dy_pitch, C) + c[None, :]
    for rank in range(last_leaving - first_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + first_leaving + rank) * EDGE_FIELDS
        dy, along_dy = load_dual(at + tl.load(edge + NODE) * (2 * GROUPS * C), inside, GROUPS * C)
        out = partial_ptr + (2 * rank * tl.cast(num_tiles, tl.int64) + tile) * (4 * C)
        second = out + tl.cast(num_tiles, tl.int64) * (4 * C)
        store_row(out, tl.sum(dy, 0), c, channel, B)
        store_row(out + 2 * C, tl.sum(along_dy, 0), c, channel, B)
        for kind in tl.static_range(2):
            row = tl.load(edge + (MAX_POOL_ROW if kind == 0 else AVG_POOL_ROW))
            present = channel & (tl.load(edge + (MAX_POOL if kind == 0 else AVG_POOL)) >= 0)
            mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, row, c, present, C)
            y, along_y = normalised(
                highest if kind == 0 else average, along_highest if kind == 0 else along_average,
                mean, rstd, along_mean, along_rstd,
            )  # fmt: skip
            to = out + C if kind == 0 else second
            store_row(to, tl.sum(dy * y, 0), c, channel, B)
            store_row(to + 2 * C, tl.sum(along_dy * y + dy * along_y, 0), c, channel, B)
        store_row(second + C, tl.sum(dy * x, 0), c, channel, B)
        store_row(second + 3 * C, tl.sum(along_dy * x + dy * along_x, 0), c, channel, B)


@triton.jit(do_not_specialize=(*DUAL_RUN_TIME, "GROUPS"))
def dual_pool_backward_kernel(
    state_ptr, dy_ptr, stats_ptr, sums_ptr, mix_ptr, edges_ptr, leaving_ptr, dmax_ptr, position_ptr, daverage_ptr, M,
    H, W, HO, WO, pitch, dy_pitch, first_leaving, last_leaving, per_pixel, GROUPS,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of both raw pools of a state, of all its edges together, with their tangents, ``[M, 2, C]``, and where
    the maximum was, ``[M, C]``."""
    m, live, n, h, w = pixels_of(tl.program_id(0), M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    inside = live[:, None] & channel[None, :]
    pixel = m.to(tl.int64)[:, None]
    dy_at = dy_ptr + pixel * aligned(dy_pitch, C) + c[None, :]
    highest, along_highest, position, average, along_average, share = pools(
        state_ptr, n, h, w, H, W, aligned(pitch, C), c, live, channel, STRIDE, GROUPS * C, P, B, ACC
    )
    for kind in tl.static_range(2):
        total = tl.zeros((P, B), ACC)
        along_total = tl.zeros((P, B), ACC)
        for q in range(first_leaving, last_leaving):
            edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
            coefficient = tl.load(edge + (MAX_POOL if kind == 0 else AVG_POOL))
            if coefficient >= 0:
                mix, along_mix = load_coefficient(mix_ptr, coefficient)
                row = tl.load(edge + (MAX_POOL_ROW if kind == 0 else AVG_POOL_ROW))
                mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, row, c, channel, C)
                y, along_y = normalised(
                    highest if kind == 0 else average, along_highest if kind == 0 else along_average,
                    mean, rstd, along_mean, along_rstd,
                )  # fmt: skip
                # The sums of dy stand in the first row of the edge, those of dy times the average in the second
                sums = sums_ptr + (q - first_leaving) * (8 * C)
                mean_dy, mean_dyy, along_mean_dy, along_mean_dyy = load_sums(sums, c, channel, per_pixel, C)
                if kind == 1:
                    mean_dyy = tl.load(sums + 4 * C + c, mask=channel, other=0.0) * per_pixel
                    along_mean_dyy = tl.load(sums + 6 * C + c, mask=channel, other=0.0) * per_pixel
                dy, along_dy = load_dual(dy_at + tl.load(edge + NODE) * (2 * GROUPS * C), inside, GROUPS * C)
                v, d = through_normalisation(
                    dy, along_dy, y, along_y, mean_dy, mean_dyy, along_mean_dy, along_mean_dyy, rstd * mix,
                    along_rstd * mix + rstd * along_mix,
                )  # fmt: skip
                total += v
                along_total += d
        if kind == 1:
            total *= share[:, None]
            along_total *= share[:, None]
        at = (dmax_ptr if kind == 0 else daverage_ptr) + pixel * (2 * C) + c[None, :]
        tl.store(at, total, mask=inside)
        tl.store(at + C, along_total, mask=inside)
    tl.store(position_ptr + pixel * C + c[None, :], position.to(tl.int8), mask=inside)


@triton.jit
def _in_order(q, C: tl.constexpr, GROUPS: tl.constexpr, NODE_STATE: tl.constexpr):
    """Where the gradient of a state's channel ``q`` belongs: that of a node is kept in the order before the shuffle."""
    if NODE_STATE:
        return (q % GROUPS) * C + q // GROUPS
    return q


@triton.jit
def _add_dual(at, v, d, inside, apart):
    """Add to what stands in memory."""
    before, along_before = load_dual(at, inside, apart)
    tl.store(at, before + v, mask=inside)
    tl.store(at + apart, along_before + d, mask=inside)


@triton.jit(do_not_specialize=DUAL_RUN_TIME)
def dual_gather_kernel(
    state_ptr, dt_ptr, dy_ptr, dmax_ptr, position_ptr, daverage_ptr, packed_ptr, mix_ptr, branches_ptr, edges_ptr,
    leaving_ptr, out_ptr, M, M_STATE, H, W, HO, WO, pitch, dy_pitch, out_pitch, first, middle, first_leaving,
    last_leaving, packed_length,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, POOLS: tl.constexpr,
    NODE_STATE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add what the edges from a state send back to the gradient of its mixed channels, and to the tangent of that."""
    p, live, n, y, x = pixels_of(tl.program_id(0), M_STATE, H, W, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    inside = live[:, None] & channel[None, :]
    plane = tl.cast(M, tl.int64) * (2 * C)
    pixel = p.to(tl.int64)[:, None]
    dx = tl.zeros((P, B), ACC)
    along_dx = tl.zeros((P, B), ACC)
    for b in range(first, middle):
        v, d = depthwise_transposed(
            dt_ptr + (b - first) * plane, packed_ptr, branches_ptr + b * BRANCH_FIELDS, n, y, x, live, HO, WO, c,
            channel, aligned(packed_length, 4), C, STRIDE, P, B, ACC,
        )  # fmt: skip
        dx += v
        along_dx += d
    state = tl.load(state_ptr + pixel * aligned(pitch, C) + c[None, :], mask=inside, other=0.0)
    dx = tl.where(state > 0, dx, 0.0)
    along_dx = tl.where(state > 0, along_dx, 0.0)
    for q in range(first_leaving, last_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
        skip = tl.load(edge + SKIP)
        if skip >= 0:
            at = dy_ptr + pixel * aligned(dy_pitch, C) + tl.load(edge + NODE) * (2 * GROUPS * C) + c[None, :]
            v, d = load_dual(at, inside, GROUPS * C)
            mix, along_mix = load_coefficient(mix_ptr, skip)
            dx += mix * v
            along_dx += along_mix * v + mix * d
    if POOLS:
        h, w = y // STRIDE, x // STRIDE
        average = window(daverage_ptr, n, h, w, HO, WO, 2 * C, c)
        highest = window(dmax_ptr, n, h, w, HO, WO, 2 * C, c)
        position = window(position_ptr, n, h, w, HO, WO, C, c)
        for i in tl.static_range(3):
            down = 1 - i if STRIDE == 1 else (1 - i + 1) // 2
            row_inside = live & is_within(y + (1 - i), STRIDE * HO)
            if STRIDE == 2:
                row_inside = row_inside & ((y + (1 - i)) % 2 == 0)
            for j in tl.static_range(3):
                right = 1 - j if STRIDE == 1 else (1 - j + 1) // 2
                inside_of = row_inside & is_within(x + (1 - j), STRIDE * WO)
                if STRIDE == 2:
                    inside_of = inside_of & ((x + (1 - j)) % 2 == 0)
                mask = inside_of[:, None] & channel[None, :]
                step = down * WO + right
                v, d = load_dual(average + step * (2 * C), mask, C)
                dx += v
                along_dx += d
                first_here = tl.load(position + step * C, mask=mask, other=-1).to(tl.int32) == i * 3 + j
                v, d = load_dual(highest + step * (2 * C), mask, C)
                dx += tl.where(first_here, v, 0.0)
                along_dx += tl.where(first_here, d, 0.0)
    at = out_ptr + pixel * aligned(out_pitch, C) + _in_order(c, C, GROUPS, NODE_STATE)[None, :]
    _add_dual(at, dx, along_dx, inside, GROUPS * C)


@triton.jit(do_not_specialize=DUAL_RUN_TIME)
def dual_bypass_backward_kernel(
    state_ptr, dy_ptr, edge_mix_ptr, edges_ptr, leaving_ptr, out_ptr, partial_ptr, M_STATE, H, W, HO, WO, pitch,
    dy_pitch, out_pitch, first_leaving, last_leaving, num_tiles,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NODE_STATE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The same for a state's channels that pass by, and the gradients of the weights of its edges,
    ``[edge, tile, 2, C (GROUPS - 1)]``; only the latter if ``out_ptr`` is ``None``."""
    tile = tl.program_id(0)
    p, live, n, y, x = pixels_of(tile, M_STATE, H, W, P)
    q = C + tl.program_id(1) * B + tl.arange(0, B)
    channel = q < GROUPS * C
    inside = live[:, None] & channel[None, :]
    pitch = aligned(pitch, C)
    S: tl.constexpr = GROUPS * C
    v, d = load_dual(state_ptr + p.to(tl.int64)[:, None] * pitch + q[None, :], inside, S)
    h = y // STRIDE
    w = x // STRIDE
    passes = inside
    if STRIDE == 2:
        _, _, position = window_pair(state_ptr, n, h, w, H, W, pitch, q, live, channel, S, P, B, ACC)
        passes = inside & (position == ((y % 2) * 2 + x % 2)[:, None])
    dy_at = window(dy_ptr, n, h, w, HO, WO, aligned(dy_pitch, C), q)
    dx = tl.zeros((P, B), ACC)
    along_dx = tl.zeros((P, B), ACC)
    for number in range(first_leaving, last_leaving):
        e = tl.load(leaving_ptr + number)
        dy, along_dy = load_dual(dy_at + tl.load(edges_ptr + e * EDGE_FIELDS + NODE) * (2 * S), passes, S)
        weight, along_weight = load_coefficient(edge_mix_ptr, e)
        dx += weight * dy
        along_dx += along_weight * dy + weight * along_dy
        out = partial_ptr + ((number - first_leaving) * tl.cast(num_tiles, tl.int64) + tile) * (2 * (S - C))
        store_row(out, tl.sum(dy * v, 0), q - C, channel, B)
        store_row(out + (S - C), tl.sum(along_dy * v + dy * d, 0), q - C, channel, B)
    if out_ptr is not None:
        at = out_ptr + p.to(tl.int64)[:, None] * aligned(out_pitch, C) + _in_order(q, C, GROUPS, NODE_STATE)[None, :]
        _add_dual(at, dx, along_dx, inside, S)
