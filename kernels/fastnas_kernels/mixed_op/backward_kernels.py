"""Backward kernels. The raw outputs of a state's branches are computed again first; nothing of them was saved.

Normalisation sends a gradient ``dy`` of ``(z - mean) / std`` to ``(dy - mean(dy) - zhat mean(dy zhat)) / std``
(Ioffe and Szegedy, 2015, arXiv:1502.03167, section 3). All candidates of a node share ``dy`` up to their
coefficient, and ``sum(dy zhat)`` is at the same time the gradient of that coefficient.
"""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.forward_kernels import depthwise_taps, window_maximum
from fastnas_kernels.mixed_op.pixels import (
    AVG_POOL,
    AVG_POOL_ROW,
    BRANCH_FIELDS,
    COEFFICIENT,
    DEPTHWISE,
    DILATION,
    EDGE_FIELDS,
    KERNEL,
    MAX_POOL,
    MAX_POOL_ROW,
    MEAN,
    NODE,
    ORIGIN,
    POINTWISE,
    READ_BY,
    READS,
    RSTD,
    SKIP,
    TARGET,
    load_pixels,
    locate,
    pool,
    rectify,
)


@triton.jit
def shared_sums_kernel(
    state_ptr,
    dy_ptr,
    stats_ptr,
    edges_ptr,
    leaving_ptr,
    partial_ptr,
    M,
    H,
    W,
    HO,
    WO,
    pitch,
    dy_pitch,
    first_leaving,
    num_tiles,
    C: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sums over one tile for one edge, ``[edge, tile, 4, C]``: of ``dy``, and of ``dy`` times normalised max-pool,
    normalised avg-pool and the state itself."""
    tile = tl.program_id(0)
    edge = edges_ptr + tl.load(leaving_ptr + first_leaving + tl.program_id(1)) * EDGE_FIELDS
    m = tile * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    c = tl.program_id(2) * B + tl.arange(0, B)
    channel = c < C
    inside = live[:, None] & channel[None, :]
    at = m.to(tl.int64)[:, None] * dy_pitch + tl.load(edge + NODE) * (K * C) + c[None, :]
    dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(ACC)
    out = partial_ptr + (tl.program_id(1) * num_tiles + tile) * 4 * C + c
    tl.store(out, tl.sum(dy, 0), mask=channel)
    highest, _, average, _ = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, P, B, ACC)
    for kind in tl.static_range(2):
        row = stats_ptr + tl.load(edge + (MAX_POOL_ROW if kind == 0 else AVG_POOL_ROW)) * 3 * C + c
        present = channel & (tl.load(edge + (MAX_POOL if kind == 0 else AVG_POOL)) >= 0)
        mean = tl.load(row + MEAN * C, mask=present, other=0.0)
        rstd = tl.load(row + RSTD * C, mask=present, other=0.0)
        v = tl.where(inside & present[None, :], (highest if kind == 0 else average) - mean[None, :], 0.0)
        tl.store(out + (1 + kind) * C, tl.sum(dy * v * rstd[None, :], 0), mask=channel)
    identity = live & (tl.load(edge + SKIP) >= 0)
    x = load_pixels(state_ptr, n, h, w, H, W, pitch, c, identity, channel, ACC)
    tl.store(out + 3 * C, tl.sum(dy * x, 0), mask=channel)


@triton.jit
def pointwise_backward_kernel(
    src_ptr,
    z_ptr,
    dt_ptr,
    dy_ptr,
    packed_ptr,
    stats_ptr,
    sums_ptr,
    inner_sums_ptr,
    mix_ptr,
    branches_ptr,
    dpacked_ptr,
    M,
    H,
    W,
    HO,
    WO,
    pitch,
    dy_pitch,
    first,
    launched,
    num_tiles,
    packed_length,
    per_pixel,
    C: tl.constexpr,
    K: tl.constexpr,
    CO: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr,
    WEIGHTS: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """From the gradient of a normalised output to that of the depthwise output, ``dt``, and of the 1x1 filter.

    One program takes every ``num_programs(0)``-th tile of one branch and one block of input channels and keeps the
    filter's gradient in registers; the few partial results are added up in a fixed order afterwards.
    ``per_pixel`` is ``1 / M``, or 0 where the statistics did not come from this batch.
    """
    split = tl.program_id(0)
    b = launched + tl.program_id(1)
    c = tl.program_id(2) * B + tl.arange(0, B)
    channel = c < C
    o = tl.arange(0, CO)
    out_channel = o < C
    e = tl.arange(0, 1)
    table = branches_ptr + b * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    taps = tl.multiple_of(tl.load(table + DEPTHWISE + e), 4)
    products = tl.multiple_of(tl.load(table + POINTWISE), 4)
    reads = tl.load(table + READS)
    coefficient = tl.load(table + COEFFICIENT)
    read_by = tl.load(table + READ_BY)
    plane = tl.cast(M, tl.int64) * C

    row = stats_ptr + b * 3 * C + o
    mean = tl.load(row + MEAN * C, mask=out_channel, other=0.0)
    rstd = tl.load(row + RSTD * C, mask=out_channel, other=0.0)
    if coefficient >= 0:
        sums = sums_ptr + b * 2 * C + o
        scale = rstd * tl.load(mix_ptr + coefficient).to(ACC)
        upstream = dy_ptr + tl.load(table + TARGET) * (K * C)
        upstream_pitch = dy_pitch + 0
    else:
        # The gradient of a separable convolution's first half took the place of its second half's raw output
        sums = inner_sums_ptr + read_by * 2 * C + o
        scale = rstd
        upstream = z_ptr + (read_by - first) * plane
        upstream_pitch = C
    sum_dy = tl.load(sums, mask=out_channel, other=0.0) * per_pixel
    sum_dyz = tl.load(sums + C, mask=out_channel, other=0.0) * per_pixel
    filters = packed_ptr + products + c[:, None] * C + o[None, :]
    both = channel[:, None] & out_channel[None, :]
    weight = tl.load(filters, mask=both, other=0.0)
    if NORMALISED:
        src_ptr += (reads - first) * plane
        row = stats_ptr + reads * 3 * C + c
        src_mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
        src_rstd = tl.load(row + RSTD * C, mask=channel, other=0.0)
    else:
        src_mean = tl.zeros((B,), ACC)
        src_rstd = src_mean
    dweight = tl.zeros((B, CO), ACC)
    for tile in range(split, num_tiles, tl.num_programs(0)):
        m = tile * P + tl.arange(0, P)
        live = m < M
        pixel = m.to(tl.int64)[:, None]
        inside = live[:, None] & out_channel[None, :]
        dy = tl.load(upstream + pixel * upstream_pitch + o[None, :], mask=inside, other=0.0).to(ACC)
        z = tl.load(z_ptr + (b - first) * plane + pixel * C + o[None, :], mask=inside, other=0.0).to(ACC)
        normalised = (z - mean[None, :]) * rstd[None, :]
        dz = scale[None, :] * (dy - sum_dy[None, :] - normalised * sum_dyz[None, :])
        dz = tl.where(inside, dz, 0.0)
        dt = tl.dot(dz, tl.trans(weight), input_precision=PRECISION)
        at = dt_ptr + (b - first) * plane + pixel * C + c[None, :]
        tl.store(at, dt.to(dt_ptr.dtype.element_ty), mask=live[:, None] & channel[None, :])
        if WEIGHTS:
            n, h, w = locate(m, HO, WO)
            t = depthwise_taps(
                src_ptr, packed_ptr, taps, e == 0, kernel, dilation, origin, src_mean, src_rstd, n, h, w, live, H, W,
                pitch, c, channel, C, STRIDE, NORMALISED, 1, P, B, ACC,
            )  # fmt: skip
            dweight += tl.dot(tl.trans(tl.reshape(t, (P, B))), dz, input_precision=PRECISION)
    if WEIGHTS:
        at = dpacked_ptr + split * packed_length + products + c[:, None] * C + o[None, :]
        tl.store(at, dweight, mask=both)


@triton.jit
def _transposed_taps(
    dt_ptr, packed_ptr, table, n, y, x, live, HO, WO, c, channel,
    C: tl.constexpr, STRIDE: tl.constexpr, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a depthwise convolution's input at the pixels ``(n, y, x)``, ``[P, B]``."""
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    taps = packed_ptr + tl.multiple_of(tl.load(table + DEPTHWISE), 4) + c
    dx = tl.zeros((P, B), ACC)
    for i in range(kernel):
        h = y - origin - (i - kernel // 2) * dilation
        row_inside = live & (h >= 0) & (h % STRIDE == 0) & (h // STRIDE < HO)
        for j in range(kernel):
            w = x - origin - (j - kernel // 2) * dilation
            inside = row_inside & (w >= 0) & (w % STRIDE == 0) & (w // STRIDE < WO)
            dt = load_pixels(dt_ptr, n, h // STRIDE, w // STRIDE, HO, WO, C, c, inside, channel, ACC)
            dx += dt * tl.load(taps + (i * kernel + j) * C, mask=channel, other=0.0)[None, :]
    return dx


@triton.jit
def depthwise_backward_kernel(
    z_ptr,
    dt_ptr,
    packed_ptr,
    stats_ptr,
    branches_ptr,
    partial_ptr,
    M,
    HO,
    WO,
    first,
    launched,
    num_tiles,
    C: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient of what the second half of a separable convolution reads, through its ReLU, and its two sums over a
    tile, ``[branch, tile, 2, C]``. The gradient takes the place of the second half's raw output."""
    tile = tl.program_id(0)
    b = launched + tl.program_id(1)
    c = tl.program_id(2) * B + tl.arange(0, B)
    channel = c < C
    table = branches_ptr + b * BRANCH_FIELDS
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * C
    m = tile * P + tl.arange(0, P)
    live = m < M
    n, y, x = locate(m, HO, WO)
    du = _transposed_taps(
        dt_ptr + (b - first) * plane, packed_ptr, table, n, y, x, live, HO, WO, c, channel, C, 1, P, B, ACC
    )
    row = stats_ptr + reads * 3 * C + c
    mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
    rstd = tl.load(row + RSTD * C, mask=channel, other=0.0)
    inside = live[:, None] & channel[None, :]
    at = m.to(tl.int64)[:, None] * C + c[None, :]
    z = tl.load(z_ptr + (reads - first) * plane + at, mask=inside, other=0.0).to(ACC)
    normalised = (z - mean[None, :]) * rstd[None, :]
    du = tl.where(inside & (normalised > 0), du, 0.0)
    tl.store(z_ptr + (b - first) * plane + at, du.to(z_ptr.dtype.element_ty), mask=inside)
    out = partial_ptr + (tl.program_id(1) * num_tiles + tile) * 2 * C + c
    tl.store(out, tl.sum(du, 0), mask=channel)
    tl.store(out + C, tl.sum(tl.where(inside, du * normalised, 0.0), 0), mask=channel)


@triton.jit
def depthwise_weights_kernel(
    src_ptr,
    dt_ptr,
    stats_ptr,
    branches_ptr,
    dpacked_ptr,
    M,
    H,
    W,
    HO,
    WO,
    pitch,
    first,
    launched,
    num_tiles,
    packed_length,
    C: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient of one row of a depthwise filter over every ``num_programs(0)``-th tile, kept in registers."""
    split = tl.program_id(0)
    b = launched + tl.program_id(1) // ROWS
    i = tl.program_id(1) % ROWS
    c = tl.program_id(2) * B + tl.arange(0, B)
    channel = c < C
    table = branches_ptr + b * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    if i < kernel:
        dilation = tl.load(table + DILATION)
        origin = tl.load(table + ORIGIN)
        reads = tl.load(table + READS)
        plane = tl.cast(M, tl.int64) * C
        mean = tl.zeros((B,), ACC)
        rstd = tl.zeros((B,), ACC)
        if NORMALISED:
            src_ptr += (reads - first) * plane
            row = stats_ptr + reads * 3 * C + c
            mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
            rstd = tl.load(row + RSTD * C, mask=channel, other=0.0)
        j = tl.arange(0, COLUMNS)
        total = tl.zeros((COLUMNS, P, B), ACC)
        for tile in range(split, num_tiles, tl.num_programs(0)):
            m = tile * P + tl.arange(0, P)
            live = m < M
            n, h, w = locate(m, HO, WO)
            mask = live[:, None] & channel[None, :]
            at = (b - first) * plane + m.to(tl.int64)[:, None] * C + c[None, :]
            dt = tl.load(dt_ptr + at, mask=mask, other=0.0).to(ACC)
            y = h * STRIDE + origin + (i - kernel // 2) * dilation
            x = w[None, :] * STRIDE + origin + (j - kernel // 2)[:, None] * dilation
            inside = (live & (y >= 0) & (y < H))[None, :] & (x >= 0) & (x < W) & (j < kernel)[:, None]
            pixel = ((n.to(tl.int64) * H + y) * W)[None, :] + x
            v = tl.load(
                src_ptr + pixel[:, :, None] * pitch + c[None, None, :],
                mask=inside[:, :, None] & channel[None, None, :],
                other=0.0,
            ).to(ACC)
            if NORMALISED:
                v = tl.where(inside[:, :, None], (v - mean[None, None, :]) * rstd[None, None, :], 0.0)
            total += rectify(v) * dt[None, :, :]
        out = (
            dpacked_ptr
            + split * packed_length
            + tl.load(table + DEPTHWISE)
            + (i * kernel + j)[:, None] * C
            + c[None, :]
        )
        tl.store(out, tl.sum(total, 1), mask=(j < kernel)[:, None] & channel[None, :])


@triton.jit
def pool_backward_kernel(
    state_ptr,
    dy_ptr,
    stats_ptr,
    sums_ptr,
    mix_ptr,
    edges_ptr,
    leaving_ptr,
    dmax_ptr,
    position_ptr,
    daverage_ptr,
    M,
    H,
    W,
    HO,
    WO,
    pitch,
    dy_pitch,
    first_leaving,
    last_leaving,
    per_pixel,
    C: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradients of both raw pools of a state, of all its edges together, and where the maximum was; ``[M, C]``."""
    m = tl.program_id(0) * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    c = tl.program_id(1) * B + tl.arange(0, B)
    channel = c < C
    inside = live[:, None] & channel[None, :]
    highest, position, average, count = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, P, B, ACC)
    dmax = tl.zeros((P, B), ACC)
    daverage = tl.zeros((P, B), ACC)
    pixel = m.to(tl.int64)[:, None]
    for q in range(first_leaving, last_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
        dy = tl.load(
            dy_ptr + pixel * dy_pitch + tl.load(edge + NODE) * (K * C) + c[None, :], mask=inside, other=0.0
        ).to(ACC)
        sums = sums_ptr + q * 4 * C + c
        dy -= (tl.load(sums, mask=channel, other=0.0) * per_pixel)[None, :]
        for kind in tl.static_range(2):
            coefficient = tl.load(edge + (MAX_POOL if kind == 0 else AVG_POOL))
            if coefficient >= 0:
                row = stats_ptr + tl.load(edge + (MAX_POOL_ROW if kind == 0 else AVG_POOL_ROW)) * 3 * C + c
                mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
                rstd = tl.load(row + RSTD * C, mask=channel, other=0.0)
                correlation = tl.load(sums + (1 + kind) * C, mask=channel, other=0.0) * per_pixel
                v = tl.where(inside, (highest if kind == 0 else average) - mean[None, :], 0.0) * rstd[None, :]
                scale = rstd * tl.load(mix_ptr + coefficient).to(ACC)
                d = scale[None, :] * (dy - v * correlation[None, :])
                if kind == 0:
                    dmax += d
                else:
                    daverage += d
    at = pixel * C + c[None, :]
    tl.store(dmax_ptr + at, dmax.to(dmax_ptr.dtype.element_ty), mask=inside)
    tl.store(position_ptr + at, position.to(tl.int8), mask=inside)
    tl.store(daverage_ptr + at, (daverage / count[:, None]).to(daverage_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _add_to_state(out_ptr, v, p, q, mask, pitch, column, ACC: tl.constexpr, ACCUMULATE: tl.constexpr):
    at = out_ptr + p.to(tl.int64)[:, None] * pitch + column + q[None, :]
    if ACCUMULATE:
        v += tl.load(at, mask=mask, other=0.0).to(ACC)
    tl.store(at, v.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def gather_kernel(
    state_ptr,
    dt_ptr,
    dy_ptr,
    dmax_ptr,
    position_ptr,
    daverage_ptr,
    packed_ptr,
    mix_ptr,
    branches_ptr,
    edges_ptr,
    leaving_ptr,
    out_ptr,
    M,
    M_STATE,
    H,
    W,
    HO,
    WO,
    pitch,
    dy_pitch,
    out_pitch,
    column,
    first,
    middle,
    first_leaving,
    last_leaving,
    C: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    POOLS: tl.constexpr,
    NODE_STATE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient of a state's mixed channels: everything that its edges send back, collected and stored once.

    A node's gradient is kept in the order before the shuffle, mixed channels first, and is added to.
    """
    p = tl.program_id(0) * P + tl.arange(0, P)
    live = p < M_STATE
    n, y, x = locate(p, H, W)
    c = tl.program_id(1) * B + tl.arange(0, B)
    channel = c < C
    inside = live[:, None] & channel[None, :]
    plane = tl.cast(M, tl.int64) * C
    dx = tl.zeros((P, B), ACC)
    for b in range(first, middle):
        table = branches_ptr + b * BRANCH_FIELDS
        dx += _transposed_taps(
            dt_ptr + (b - first) * plane, packed_ptr, table, n, y, x, live, HO, WO, c, channel, C, STRIDE, P, B, ACC
        )
    state = load_pixels(state_ptr, n, y, x, H, W, pitch, c, live, channel, ACC)
    dx = tl.where(state > 0, dx, 0.0)
    for q in range(first_leaving, last_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
        skip = tl.load(edge + SKIP)
        if skip >= 0:
            at = p.to(tl.int64)[:, None] * dy_pitch + tl.load(edge + NODE) * (K * C) + c[None, :]
            dx += tl.load(mix_ptr + skip).to(ACC) * tl.load(dy_ptr + at, mask=inside, other=0.0).to(ACC)
    if POOLS:
        for i in range(3):
            h = y - i + 1
            row_inside = live & (h >= 0) & (h % STRIDE == 0) & (h // STRIDE < HO)
            for j in range(3):
                w = x - j + 1
                ok = row_inside & (w >= 0) & (w % STRIDE == 0) & (w // STRIDE < WO)
                pixel = (n.to(tl.int64) * HO + h // STRIDE) * WO + w // STRIDE
                at = pixel[:, None] * C + c[None, :]
                mask = ok[:, None] & channel[None, :]
                dx += tl.load(daverage_ptr + at, mask=mask, other=0.0).to(ACC)
                first_here = tl.load(position_ptr + at, mask=mask, other=-1).to(tl.int32) == i * 3 + j
                dx += tl.where(first_here, tl.load(dmax_ptr + at, mask=mask, other=0.0).to(ACC), 0.0)
    unshuffled = (c % K) * C + c // K if NODE_STATE else c
    _add_to_state(out_ptr, dx, p, unshuffled, inside, out_pitch, column, ACC, NODE_STATE)


@triton.jit
def bypass_backward_kernel(
    state_ptr,
    dy_ptr,
    edge_mix_ptr,
    edges_ptr,
    leaving_ptr,
    out_ptr,
    partial_ptr,
    M_STATE,
    H,
    W,
    HO,
    WO,
    pitch,
    dy_pitch,
    out_pitch,
    column,
    first_leaving,
    last_leaving,
    num_tiles,
    C: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    NODE_STATE: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient of a state's channels that pass by, and of the weights of its edges, ``[edge, tile, C (K - 1)]``."""
    tile = tl.program_id(0)
    p = tile * P + tl.arange(0, P)
    live = p < M_STATE
    n, y, x = locate(p, H, W)
    q = C + tl.program_id(1) * B + tl.arange(0, B)
    channel = q < K * C
    inside = live[:, None] & channel[None, :]
    v = load_pixels(state_ptr, n, y, x, H, W, pitch, q, live, channel, ACC)
    h = y // STRIDE
    w = x // STRIDE
    if STRIDE == 2:
        _, position = window_maximum(state_ptr, n, h, w, H, W, pitch, q, live, channel, P, B, ACC)
        passes = inside & (position == ((y % 2) * 2 + x % 2)[:, None])
    else:
        passes = inside
    pixel = (n.to(tl.int64) * HO + h) * WO + w
    dx = tl.zeros((P, B), ACC)
    for number in range(first_leaving, last_leaving):
        e = tl.load(leaving_ptr + number)
        at = pixel[:, None] * dy_pitch + tl.load(edges_ptr + e * EDGE_FIELDS + NODE) * (K * C) + q[None, :]
        dy = tl.load(dy_ptr + at, mask=passes, other=0.0).to(ACC)
        dx += tl.load(edge_mix_ptr + e).to(ACC) * dy
        out = partial_ptr + ((number - first_leaving) * num_tiles + tile) * ((K - 1) * C) + q - C
        tl.store(out, tl.sum(dy * v, 0), mask=channel)
    unshuffled = (q % K) * C + q // K if NODE_STATE else q
    _add_to_state(out_ptr, dx, p, unshuffled, inside, out_pitch, column, ACC, NODE_STATE)
