# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Statistics of normalisation: partial ones of the pools, and the merge of all partial ones."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.pixels import (
    MEAN,
    RSTD,
    RUN_TIME,
    VARIANCE,
    aligned,
    locate,
    pool,
    store_row,
)


@triton.jit(do_not_specialize=RUN_TIME)
def pool_statistics_kernel(
    state_ptr,
    partial_ptr,
    M,
    H,
    W,
    HO,
    WO,
    pitch,
    num_tiles,
    C: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Partial statistics of both pools of one state, ``[2, tile, 2, C]``; see :func:`stage_kernel`."""
    tile = tl.program_id(0)
    m = tile * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    c = tl.program_id(1) * B + tl.arange(0, B)
    channel = c < C
    pitch = aligned(pitch, C)
    highest, _, average, _ = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, P, B, ACC)
    count = tl.minimum(P, M - tile * P).to(ACC)
    for kind in tl.static_range(2):
        v = tl.where(live[:, None], highest if kind == 0 else average, 0.0)
        mean = tl.sum(v, 0) / count
        deviation = tl.where(live[:, None], v - mean[None, :], 0.0)
        partial = partial_ptr + (kind * num_tiles + tile) * 2 * C
        store_row(partial, mean, c, channel, B)
        store_row(partial + C, tl.sum(deviation * deviation, 0), c, channel, B)


@triton.jit(do_not_specialize=RUN_TIME)
def finalise_kernel(
    partial_ptr,
    rows_ptr,
    stats_ptr,
    first_row,
    M,
    num_tiles,
    eps,
    C: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    TILES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Merge partial statistics in a fixed order: mean, ``1 / sqrt(variance + eps)`` and variance of one row."""
    row = tl.load(rows_ptr + first_row + tl.program_id(0))
    c = tl.program_id(1) * B + tl.arange(0, B)
    channel = c < C
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * num_tiles * 2 * C
    total = tl.zeros((B,), ACC)
    for t0 in range(0, num_tiles, TILES):
        t = t0 + tl.arange(0, TILES)
        mask = (t < num_tiles)[:, None] & channel[None, :]
        mean = tl.load(partial + t[:, None] * 2 * C + c[None, :], mask=mask, other=0.0)
        count = tl.minimum(P, M - t * P).to(ACC)
        total += tl.sum(mean * count[:, None], 0)
    centre = total / M
    squares = tl.zeros((B,), ACC)
    for t0 in range(0, num_tiles, TILES):
        t = t0 + tl.arange(0, TILES)
        mask = (t < num_tiles)[:, None] & channel[None, :]
        at = partial + t[:, None] * 2 * C + c[None, :]
        mean = tl.load(at, mask=mask, other=0.0)
        within = tl.load(at + C, mask=mask, other=0.0)
        count = tl.minimum(P, M - t * P).to(ACC)
        between = tl.where(mask, mean - centre[None, :], 0.0)
        squares += tl.sum(within + between * between * count[:, None], 0)
    variance = squares / M
    out = stats_ptr + row * 3 * C
    store_row(out + MEAN * C, centre, c, channel, B)
    store_row(out + RSTD * C, 1.0 / tl.sqrt(variance + eps), c, channel, B)
    store_row(out + VARIANCE * C, variance, c, channel, B)
