# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""The convolutions of all edges that leave a state, and the statistics of what is normalised: partial ones of every
tile, of the pools as well, and their merge."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.pixels import (
    BRANCH_FIELDS,
    COEFFICIENT,
    DEPTHWISE,
    DILATION,
    KERNEL,
    MEAN,
    ORIGIN,
    POINTWISE,
    READS,
    RSTD,
    RUN_TIME,
    SLOT,
    TARGET,
    VARIANCE,
    aligned,
    load_pixels,
    locate,
    pool,
    rectify,
    store_row,
)


@triton.jit
def depthwise_taps(
    src_ptr,
    taps_ptrs,
    kernel,
    dilation,
    origin,
    mean,
    rstd,
    n,
    h,
    w,
    live,
    H,
    W,
    pitch,
    c,
    channel,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr,
    EDGES: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """ReLU and depthwise convolution of one block of channels for several edges: a tuple of ``EDGES`` tiles ``[P, B]``.

    Each pixel is read once for all edges. The taps are a run-time loop, so one compiled kernel serves every filter
    size, and the compiler cannot stage each tap through shared memory on its way to the matrix product.
    """
    t = (tl.zeros((P, B), ACC),) * EDGES
    for i in range(kernel):
        y = h * STRIDE + origin + (i - kernel // 2) * dilation
        row_inside = live & (y >= 0) & (y < H)
        for j in range(kernel):
            x = w * STRIDE + origin + (j - kernel // 2) * dilation
            inside = row_inside & (x >= 0) & (x < W)
            v = load_pixels(src_ptr, n, y, x, H, W, pitch, c, inside, channel, ACC)
            if NORMALISED:  # the padding is added after normalisation
                v = tl.where(inside[:, None], (v - mean[None, :]) * rstd[None, :], 0.0)
            v = rectify(v)
            added = ()
            for e in tl.static_range(EDGES):
                weight = tl.load(taps_ptrs[e] + (i * kernel + j) * C + c, mask=channel, other=0.0)
                added = added + (t[e] + v * weight[None, :],)  # noqa: RUF005  (Triton knows no unpacking)
            t = added
    return t


@triton.jit
def filter_at(packed_ptr, table, FIELD: tl.constexpr):
    """Where a branch's filter begins: a multiple of 16 bytes (see ``lowering``), so 128 bits are read at a time."""
    return packed_ptr + tl.multiple_of(tl.load(table + FIELD), 4)


@triton.jit
def finish_branch(
    z, table, branch, place, z_ptr, stats_ptr, dy_ptr, partial_ptr, tile, m, live, M, dy_pitch, first, num_tiles,
    GROUPS, C: tl.constexpr, CO: tl.constexpr, P: tl.constexpr, BACKWARD: tl.constexpr, KEEP: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Store a tile ``[P, CO]`` of raw output and its partial reductions; see :func:`stage_kernel`."""
    o = tl.arange(0, CO)
    out = o < C
    inside = live[:, None] & out[None, :]
    pixel = m.to(tl.int64)[:, None]
    slot = branch - first if BACKWARD else tl.load(table + SLOT)
    at = z_ptr + slot * (tl.cast(M, tl.int64) * C) + pixel * C + o[None, :]
    kept = inside if KEEP else inside & (tl.load(table + COEFFICIENT) < 0)
    tl.store(at, z.to(z_ptr.dtype.element_ty), mask=kept)
    partial = partial_ptr + (place * num_tiles + tile.to(tl.int64)) * 2 * C
    if BACKWARD:
        if tl.load(table + COEFFICIENT) >= 0:
            at = dy_ptr + tl.load(table + TARGET) * (GROUPS * C) + pixel * dy_pitch + o[None, :]
            dy = tl.load(at, mask=inside, other=0.0).to(ACC)
            row = stats_ptr + branch * 3 * C
            mean = tl.load(row + MEAN * C + o, mask=out, other=0.0)
            store_row(partial, tl.sum(dy, 0), o, out, CO)
            store_row(partial + C, tl.sum(dy * (z - mean[None, :]), 0), o, out, CO, row + RSTD * C)
    else:
        count = tl.minimum(P, M - tile * P).to(ACC)
        mean = tl.sum(tl.where(live[:, None], z, 0.0), 0) / count
        deviation = tl.where(live[:, None], z - mean[None, :], 0.0)
        store_row(partial, mean, o, out, CO)
        store_row(partial + C, tl.sum(deviation * deviation, 0), o, out, CO)


@triton.jit(do_not_specialize=(*RUN_TIME, "GROUPS"))
def stage_kernel(
    src_ptr,
    z_ptr,
    packed_ptr,
    stats_ptr,
    branches_ptr,
    bundles_ptr,
    dy_ptr,
    partial_ptr,
    M,
    H,
    W,
    HO,
    WO,
    pitch,
    dy_pitch,
    first,
    first_bundle,
    num_tiles,
    GROUPS,
    C: tl.constexpr,
    CO: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    EDGES: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr,
    BACKWARD: tl.constexpr,
    KEEP: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``z = pointwise(depthwise(relu(src)))`` for one bundle of branches and one tile of pixels, and one partial
    reduction over the tile.

    Forward, the reduction is mean and sum of squared deviations of ``z``, written as ``[branch, tile, 2, C]``, so
    that a fixed-order merge (Chan et al., 1979) gives the statistics without a second pass and without atomics.
    Backward, ``z`` is computed again, and the reductions are the sums of ``dy`` and of ``dy`` times the normalised
    ``z``, which both alpha's gradient and the normalisation's need. Without ``KEEP``, a ``z`` that enters a node is not
    stored.

    With ``NORMALISED``, ``src_ptr`` holds raw outputs of other branches, which are normalised while they are read.
    """
    tile = tl.program_id(0)
    bundle = bundles_ptr + 2 * (first_bundle + tl.program_id(1))
    start = tl.load(bundle)
    number = tl.load(bundle + 1)
    table = branches_ptr + start * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * C
    pitch = C if NORMALISED else aligned(pitch, C)
    dy_pitch = aligned(dy_pitch, C)
    taps = ()
    for e in tl.static_range(EDGES):  # a bundle that is not full repeats its last branch and does not store it
        taps = taps + (filter_at(packed_ptr, table + tl.minimum(e, number - 1) * BRANCH_FIELDS, DEPTHWISE),)  # noqa: RUF005

    m = tile * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    if NORMALISED:
        slot = reads - first if BACKWARD else tl.load(branches_ptr + reads * BRANCH_FIELDS + SLOT)
        src_ptr += slot * plane
    o = tl.arange(0, CO)
    place = start - tl.load(bundles_ptr + 2 * first_bundle)  # among the branches of this launch
    tl.static_assert(EDGES == 1 or C <= B, "several edges at once need all channels in one block")
    z = tl.zeros((P, CO), ACC)
    for c0 in tl.range(0, C, B):
        c = c0 + tl.arange(0, B)
        channel = c < C
        mean = tl.zeros((B,), ACC)
        rstd = tl.zeros((B,), ACC)
        if NORMALISED:
            row = stats_ptr + reads * 3 * C + c
            mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
            rstd = tl.load(row + RSTD * C, mask=channel, other=0.0)
        t = depthwise_taps(
            src_ptr, taps, kernel, dilation, origin, mean, rstd, n, h, w, live, H, W, pitch, c, channel,
            C, STRIDE, NORMALISED, EDGES, P, B, ACC,
        )  # fmt: skip
        for e in tl.static_range(EDGES):
            if e < number:
                own = table + e * BRANCH_FIELDS
                at = filter_at(packed_ptr, own, POINTWISE) + c[:, None] * C + o[None, :]
                weight = tl.load(at, mask=channel[:, None] & (o < C)[None, :], other=0.0)
                if EDGES == 1:
                    z += tl.dot(t[e], weight, input_precision=PRECISION)
                else:  # finished one by one, or all would be alive at once
                    finish_branch(
                        tl.dot(t[e], weight, input_precision=PRECISION), own, start + e, place + e, z_ptr, stats_ptr,
                        dy_ptr, partial_ptr, tile, m, live, M, dy_pitch, first, num_tiles, GROUPS, C, CO, P, BACKWARD,
                        KEEP, ACC,
                    )  # fmt: skip
    if EDGES == 1:
        finish_branch(
            z, table, start, place, z_ptr, stats_ptr, dy_ptr, partial_ptr, tile, m, live, M, dy_pitch, first, num_tiles,
            GROUPS, C, CO, P, BACKWARD, KEEP, ACC,
        )  # fmt: skip


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
