"""Forward kernels: convolutions of all edges that leave a state, their statistics, and the sum at a node."""

import triton
import triton.language as tl

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
    ORIGIN,
    POINTWISE,
    READS,
    RSTD,
    SKIP,
    SLOT,
    SOURCE,
    TARGET,
    VARIANCE,
    load_pixels,
    locate,
    pool,
    rectify,
)


@triton.jit
def depthwise_taps(
    src_ptr,
    packed_ptr,
    taps_B,
    member,
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
    """ReLU and depthwise convolution of one block of channels for several edges: ``[EDGES, P, B]``.

    Each pixel is read once for all edges. The taps are a run-time loop, so one compiled kernel serves every filter
    size, and the compiler cannot stage each tap through shared memory on its way to the matrix product.
    """
    t = tl.zeros((EDGES, P, B), ACC)
    for i in range(kernel):
        y = h * STRIDE + origin + (i - kernel // 2) * dilation
        row_inside = live & (y >= 0) & (y < H)
        for j in range(kernel):
            x = w * STRIDE + origin + (j - kernel // 2) * dilation
            inside = row_inside & (x >= 0) & (x < W)
            v = load_pixels(src_ptr, n, y, x, H, W, pitch, c, inside, channel, ACC)
            if NORMALISED:  # the padding is added after normalisation
                v = tl.where(inside[:, None], (v - mean[None, :]) * rstd[None, :], 0.0)
            taps = packed_ptr + taps_B[:, None] + (i * kernel + j) * C + c[None, :]
            weight = tl.load(taps, mask=member[:, None] & channel[None, :], other=0.0)
            t += rectify(v)[None, :, :] * weight[:, None, :]
    return t


@triton.jit
def stage_kernel(
    src_ptr,
    z_ptr,
    packed_ptr,
    stats_ptr,
    branches_ptr,
    groups_ptr,
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
    first_group,
    num_tiles,
    C: tl.constexpr,
    K: tl.constexpr,
    CO: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    EDGES: tl.constexpr,
    STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr,
    BACKWARD: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``z = pointwise(depthwise(relu(src)))`` for one group of branches and one tile of pixels, and one partial
    reduction over the tile.

    Forward, the reduction is mean and sum of squared deviations of ``z``, written as ``[branch, tile, 2, C]``, so
    that a fixed-order merge (Chan et al., 1979) gives the statistics without a second pass and without atomics.
    Backward, ``z`` is computed again, and the reductions are the sums of ``dy`` and of ``dy`` times the normalised
    ``z``, which both alpha's gradient and the normalisation's need.

    With ``NORMALISED``, ``src_ptr`` holds raw outputs of other branches, which are normalised while they are read.
    """
    tile = tl.program_id(0)
    group = groups_ptr + 2 * (first_group + tl.program_id(1))
    start = tl.load(group)
    number = tl.load(group + 1)
    e = tl.arange(0, EDGES)
    member = e < number
    table = branches_ptr + start * BRANCH_FIELDS
    tables = branches_ptr + (start + tl.where(member, e, 0)) * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    # Every filter begins at a multiple of 16 bytes (`lowering`), which lets the compiler read it 128 bits at a time
    taps = tl.multiple_of(tl.load(tables + DEPTHWISE), 4)
    products = tl.multiple_of(tl.load(tables + POINTWISE), 4)
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * C

    m = tile * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    if NORMALISED:
        slot = reads - first if BACKWARD else tl.load(branches_ptr + reads * BRANCH_FIELDS + SLOT)
        src_ptr += slot * plane
    o = tl.arange(0, CO)
    z = tl.zeros((EDGES, P, CO), ACC)
    for c0 in range(0, C, B):
        c = c0 + tl.arange(0, B)
        channel = c < C
        mean = tl.zeros((B,), ACC)
        rstd = tl.zeros((B,), ACC)
        if NORMALISED:
            row = stats_ptr + reads * 3 * C + c
            mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
            rstd = tl.load(row + RSTD * C, mask=channel, other=0.0)
        t = depthwise_taps(
            src_ptr, packed_ptr, taps, member, kernel, dilation, origin, mean, rstd, n, h, w, live, H, W, pitch, c, channel,
            C, STRIDE, NORMALISED, EDGES, P, B, ACC,
        )  # fmt: skip
        filters = packed_ptr + products[:, None, None] + c[None, :, None] * C + o[None, None, :]
        mask = member[:, None, None] & channel[None, :, None] & (o < C)[None, None, :]
        weight = tl.load(filters, mask=mask, other=0.0)
        if EDGES == 1:
            product = tl.dot(tl.reshape(t, (P, B)), tl.reshape(weight, (B, CO)), input_precision=PRECISION)
            z += product[None, :, :]
        else:
            z += tl.dot(t, weight, input_precision=PRECISION)

    branch = start + e
    slots = (branch - first).to(tl.int64) if BACKWARD else tl.load(tables + SLOT).to(tl.int64)
    at = slots[:, None, None] * plane + m.to(tl.int64)[None, :, None] * C + o[None, None, :]
    inside = live[:, None] & (o < C)[None, :]
    tl.store(z_ptr + at, z.to(z_ptr.dtype.element_ty), mask=member[:, None, None] & inside[None, :, :])

    place = branch - tl.load(groups_ptr + 2 * first_group)  # among the branches of this launch
    partial = partial_ptr + (place[:, None] * num_tiles + tile) * 2 * C + o[None, :]
    mask = member[:, None] & (o < C)[None, :]
    if BACKWARD:
        if tl.load(table + COEFFICIENT) >= 0:
            column = tl.load(tables + TARGET) * (K * C)
            gradient = dy_ptr + column[:, None, None] + m.to(tl.int64)[None, :, None] * dy_pitch + o[None, None, :]
            dy = tl.load(gradient, mask=member[:, None, None] & inside[None, :, :], other=0.0).to(ACC)
            rows = stats_ptr + branch[:, None] * 3 * C + o[None, :]
            mean = tl.load(rows + MEAN * C, mask=mask, other=0.0)
            rstd = tl.load(rows + RSTD * C, mask=mask, other=0.0)
            tl.store(partial, tl.sum(dy, 1), mask=mask)
            tl.store(partial + C, tl.sum(dy * (z - mean[:, None, :]) * rstd[:, None, :], 1), mask=mask)
    else:
        count = tl.minimum(P, M - tile * P).to(ACC)
        mean = tl.sum(tl.where(live[None, :, None], z, 0.0), 1) / count
        deviation = tl.where(live[None, :, None], z - mean[:, None, :], 0.0)
        tl.store(partial, mean, mask=mask)
        tl.store(partial + C, tl.sum(deviation * deviation, 1), mask=mask)


@triton.jit
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
    highest, _, average, _ = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, P, B, ACC)
    count = tl.minimum(P, M - tile * P).to(ACC)
    for kind in tl.static_range(2):
        v = tl.where(live[:, None], highest if kind == 0 else average, 0.0)
        mean = tl.sum(v, 0) / count
        deviation = tl.where(live[:, None], v - mean[None, :], 0.0)
        partial = partial_ptr + (kind * num_tiles + tile) * 2 * C + c
        tl.store(partial, mean, mask=channel)
        tl.store(partial + C, tl.sum(deviation * deviation, 0), mask=channel)


@triton.jit
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
    partial = partial_ptr + tl.program_id(0) * num_tiles * 2 * C
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
    out = stats_ptr + row * 3 * C + c
    tl.store(out + MEAN * C, centre, mask=channel)
    tl.store(out + RSTD * C, 1.0 / tl.sqrt(variance + eps), mask=channel)
    tl.store(out + VARIANCE * C, variance, mask=channel)


@triton.jit
def _shared_candidates(
    state_ptr,
    edge,
    stats_ptr,
    mix_ptr,
    n,
    h,
    w,
    H,
    W,
    pitch,
    c,
    live,
    channel,
    C: tl.constexpr,
    STRIDE: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    ACC: tl.constexpr,
):
    """What an edge adds to its node besides convolutions: identity and pools, weighted, ``[P, B]``."""
    y = tl.zeros((P, B), ACC)
    skip = tl.load(edge + SKIP)
    if skip >= 0:
        x = load_pixels(state_ptr, n, h, w, H, W, pitch, c, live, channel, ACC)
        y += tl.load(mix_ptr + skip).to(ACC) * x
    highest_at = tl.load(edge + MAX_POOL)
    average_at = tl.load(edge + AVG_POOL)
    if (highest_at >= 0) | (average_at >= 0):
        highest, _, average, _ = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, P, B, ACC)
        if highest_at >= 0:
            row = stats_ptr + tl.load(edge + MAX_POOL_ROW) * 3 * C + c
            scale = tl.load(row + RSTD * C, mask=channel, other=0.0) * tl.load(mix_ptr + highest_at).to(ACC)
            mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
            y += tl.where(live[:, None], (highest - mean[None, :]) * scale[None, :], 0.0)
        if average_at >= 0:
            row = stats_ptr + tl.load(edge + AVG_POOL_ROW) * 3 * C + c
            scale = tl.load(row + RSTD * C, mask=channel, other=0.0) * tl.load(mix_ptr + average_at).to(ACC)
            mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
            y += (average - mean[None, :]) * scale[None, :]
    return y


@triton.jit
def node_kernel(
    inputs_ptr,
    nodes_ptr,
    z_ptr,
    stats_ptr,
    mix_ptr,
    branches_ptr,
    entering_ptr,
    edges_ptr,
    M,
    M_IN,
    H,
    W,
    HO,
    WO,
    first_entering,
    last_entering,
    first_edge,
    last_edge,
    node,
    C: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    NUM_NODES: tl.constexpr,
    ACC: tl.constexpr,
):
    """The weighted sum at a node, normalisation included, stored once, where a shuffle would put it.

    ``C`` are the channels that the candidates see; a state has ``K`` times as many.
    """
    m = tl.program_id(0) * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    c = tl.program_id(1) * B + tl.arange(0, B)
    channel = c < C
    inside = live[:, None] & channel[None, :]
    plane = tl.cast(M, tl.int64) * C
    pixel = m.to(tl.int64)[:, None]
    y = tl.zeros((P, B), ACC)
    for q in range(first_entering, last_entering):
        b = tl.load(entering_ptr + q)
        table = branches_ptr + b * BRANCH_FIELDS
        row = stats_ptr + b * 3 * C + c
        scale = tl.load(row + RSTD * C, mask=channel, other=0.0) * tl.load(mix_ptr + tl.load(table + COEFFICIENT)).to(
            ACC
        )
        mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
        z = tl.load(z_ptr + tl.load(table + SLOT) * plane + pixel * C + c[None, :], mask=inside, other=0.0).to(ACC)
        y += (z - mean[None, :]) * scale[None, :]
    for q in range(first_edge, last_edge):
        edge = edges_ptr + q * EDGE_FIELDS
        source = tl.load(edge + SOURCE)
        if source < NUM_INPUTS:
            state = inputs_ptr + source * tl.cast(M_IN, tl.int64) * (K * C)
            y += _shared_candidates(
                state, edge, stats_ptr, mix_ptr, n, h, w, H, W, K * C, c, live, channel, C, STRIDE, P, B, ACC
            )
        else:
            state = nodes_ptr + (source - NUM_INPUTS) * (K * C)
            y += _shared_candidates(
                state, edge, stats_ptr, mix_ptr, n, h, w, HO, WO, NUM_NODES * K * C, c, live, channel, C, 1, P, B, ACC
            )
    out = nodes_ptr + pixel * (NUM_NODES * K * C) + node * (K * C) + c[None, :] * K
    tl.store(out, y.to(nodes_ptr.dtype.element_ty), mask=inside)


@triton.jit
def window_maximum(ptr, n, h, w, H, W, pitch, c, live, channel, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr):
    """Maximum of a 2x2 window (smaller at an odd border) and the position of the first one (0 to 3); ``[P, B]``."""
    highest = tl.full((P, B), float("-inf"), ACC)
    position = tl.zeros((P, B), tl.int32)
    for i in tl.static_range(4):
        y = 2 * h + i // 2
        x = 2 * w + i % 2
        inside = live & (y < H) & (x < W)
        v = load_pixels(ptr, n, y, x, H, W, pitch, c, inside, channel, ACC)
        higher = inside[:, None] & ((v > highest) | (v != v))
        highest = tl.where(higher, v, highest)
        position = tl.where(higher, i, position)
    return highest, position


@triton.jit
def bypass_kernel(
    inputs_ptr,
    nodes_ptr,
    edge_mix_ptr,
    edges_ptr,
    M,
    M_IN,
    H,
    W,
    HO,
    WO,
    first_edge,
    last_edge,
    node,
    C: tl.constexpr,
    K: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    NUM_NODES: tl.constexpr,
    ACC: tl.constexpr,
):
    """The channels that pass by a node's candidates, weighted and stored where a shuffle in ``K`` groups puts them."""
    m = tl.program_id(0) * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    q = C + tl.program_id(1) * B + tl.arange(0, B)  # the channel of a state
    channel = q < K * C
    y = tl.zeros((P, B), ACC)
    for number in range(first_edge, last_edge):
        source = tl.load(edges_ptr + number * EDGE_FIELDS + SOURCE)
        coefficient = tl.load(edge_mix_ptr + number).to(ACC)
        if source < NUM_INPUTS:
            state = inputs_ptr + source * tl.cast(M_IN, tl.int64) * (K * C)
            if STRIDE == 2:
                v, _ = window_maximum(state, n, h, w, H, W, K * C, q, live, channel, P, B, ACC)
                v = tl.where(live[:, None], v, 0.0)
            else:
                v = load_pixels(state, n, h, w, H, W, K * C, q, live, channel, ACC)
            y += coefficient * v
        else:
            state = nodes_ptr + (source - NUM_INPUTS) * (K * C)
            y += coefficient * load_pixels(state, n, h, w, HO, WO, NUM_NODES * K * C, q, live, channel, ACC)
    shuffled = (q % C) * K + q // C
    out = nodes_ptr + m.to(tl.int64)[:, None] * (NUM_NODES * K * C) + node * (K * C) + shuffled[None, :]
    tl.store(out, y.to(nodes_ptr.dtype.element_ty), mask=live[:, None] & channel[None, :])
