# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Gradients of what is read: of a state, of its pools, and of the middle of a separable convolution."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.abreast import depthwise_abreast, is_in_row, stretches_of
from fastnas_kernels.mixed_op.pixels import (
    AVG_POOL,
    AVG_POOL_ROW,
    BRANCH_FIELDS,
    DEPTHWISE,
    EDGE_FIELDS,
    KERNEL,
    MAX_POOL,
    MAX_POOL_ROW,
    MEAN,
    NODE,
    ORIGIN,
    READS,
    RSTD,
    RUN_TIME,
    SKIP,
    aligned,
    channels_of,
    filter_at,
    is_within,
    load_pixels,
    locate,
    normalisation,
    pixels_of,
    pool,
    store_row,
    window,
    window_maximum,
)
from fastnas_kernels.mixed_op.transposed import transposed_taps


@triton.jit(do_not_specialize=RUN_TIME)
def depthwise_backward_kernel(
    z_ptr, dt_ptr, packed_ptr, stats_ptr, branches_ptr, partial_ptr, M, HO, WO, first, launched, num_tiles,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, DENSE: tl.constexpr, ABREAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of what the second half of a separable convolution reads, through its ReLU, and its two sums over a
    tile, ``[branch, tile, 2, C]``. The gradient takes the place of the second half's raw output. With ``DENSE``, no
    filter is dilated, and ``ABREAST`` pixels of a row share what they read."""
    tile = tl.program_id(0)
    b = launched + tl.program_id(1)
    c, channel = channels_of(tl.program_id(2), C, B)
    table = branches_ptr + b * BRANCH_FIELDS
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * C
    m, live, n, y, x = stretches_of(tile, M, HO, WO, P // ABREAST, ABREAST)
    dt_ptr += (b - first) * plane
    if DENSE:
        totals = depthwise_abreast(
            dt_ptr, filter_at(packed_ptr, table, DEPTHWISE), tl.load(table + KERNEL), None, None, n, y, x, live, HO, WO,
            c, channel, C, ABREAST, True, P // ABREAST, B, ACC,
        )  # fmt: skip
    else:
        tl.static_assert(ABREAST == 1, "pixels abreast of a dilated filter read others")
        totals = (
            transposed_taps(
                dt_ptr, packed_ptr, table, n, y, x, live, HO, WO, c, channel, 0, C, 1, P, B, ACC
            ),
        )  # fmt: skip
    scale, shift = normalisation(stats_ptr, reads, c, channel, C)
    at = m.to(tl.int64)[:, None] * C + c[None, :]
    total = tl.zeros((P // ABREAST, B), ACC)
    correlation = total
    for s in tl.static_range(ABREAST):
        inside = is_in_row(live, x, s, WO, ABREAST)[:, None] & channel[None, :]
        z = tl.load(z_ptr + (reads - first) * plane + at + s * C, mask=inside, other=0.0).to(ACC)
        normalised = z * scale[None, :] + shift[None, :]
        du = tl.where(inside & (normalised > 0), totals[s], 0.0)
        tl.store(z_ptr + (b - first) * plane + at + s * C, du.to(z_ptr.dtype.element_ty), mask=inside)
        total += du
        correlation += tl.where(inside, du * normalised, 0.0)
    out = partial_ptr + (tl.program_id(1) * num_tiles + tile.to(tl.int64)) * 2 * C
    store_row(out, tl.sum(total, 0), c, channel, B)
    store_row(out + C, tl.sum(correlation, 0), c, channel, B)


@triton.jit(do_not_specialize=(*RUN_TIME, "GROUPS"))
def pool_backward_kernel(
    state_ptr, dy_ptr, stats_ptr, sums_ptr, mix_ptr, edges_ptr, leaving_ptr, dmax_ptr, position_ptr, daverage_ptr, M,
    H, W, HO, WO, pitch, dy_pitch, first_leaving, last_leaving, per_pixel, GROUPS,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradients of both raw pools of a state, of all its edges together, and where the maximum was; ``[M, C]``."""
    m, live, n, h, w = pixels_of(tl.program_id(0), M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    inside = live[:, None] & channel[None, :]
    pitch = aligned(pitch, C)
    dy_pitch = aligned(dy_pitch, C)
    highest, position, average, share = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, True, P, B, ACC)
    dmax = tl.zeros((P, B), ACC)
    daverage = tl.zeros((P, B), ACC)
    pixel = m.to(tl.int64)[:, None]
    for q in range(first_leaving, last_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
        dy = tl.load(
            dy_ptr + pixel * dy_pitch + tl.load(edge + NODE) * (GROUPS * C) + c[None, :], mask=inside, other=0.0
        ).to(ACC)
        sums = sums_ptr + (q - first_leaving) * 4 * C + c
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
    tl.store(daverage_ptr + at, (daverage * share[:, None]).to(daverage_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _from_outside(dnodes_ptr, row, q, mask, ACC: tl.constexpr):
    """What came from outside of the cell for the channels ``q`` of a node."""
    return tl.load(dnodes_ptr + row + q[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def _store_parted(out, v, live, block, C: tl.constexpr, GROUPS: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """Store a block ``[P, B]`` of all channels of a node in the order before the shuffle, in which every ``GROUPS``-th
    one belongs to the same group."""
    r = block * (B // GROUPS) + tl.arange(0, B // GROUPS)
    mask = live[:, None] & (r < C)[None, :]
    out += r[None, :]
    even, odd = tl.split(tl.reshape(v, (P, B // 2, 2)))
    if GROUPS == 2:
        tl.store(out, even, mask=mask)
        tl.store(out + C, odd, mask=mask)
    else:
        group_0, group_2 = tl.split(tl.reshape(even, (P, B // 4, 2)))
        group_1, group_3 = tl.split(tl.reshape(odd, (P, B // 4, 2)))
        tl.store(out, group_0, mask=mask)
        tl.store(out + C, group_1, mask=mask)
        tl.store(out + 2 * C, group_2, mask=mask)
        tl.store(out + 3 * C, group_3, mask=mask)


@triton.jit(do_not_specialize=RUN_TIME)
def gather_kernel(
    state_ptr, dt_ptr, dy_ptr, dmax_ptr, position_ptr, daverage_ptr, packed_ptr, mix_ptr, branches_ptr, edges_ptr,
    leaving_ptr, dnodes_ptr, out_ptr, mixed_ptr, M, M_STATE, H, W, HO, WO, pitch, dy_pitch, out_pitch, column, first,
    middle, first_leaving, last_leaving,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, POOLS: tl.constexpr,
    NODE_STATE: tl.constexpr, WOVEN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a state's mixed channels: everything that its edges send back, collected and stored once.

    A node's gradient is kept in the order before the shuffle, mixed channels first; what came from outside of the cell
    is added, ``dnodes_ptr``. If ``WOVEN``, that of a node goes to ``mixed_ptr``, ``[M_STATE, C]``, in the order after
    the shuffle, and :func:`bypass_backward_kernel` parts it along with the other channels: alone it would be stored in
    runs of ``C // GROUPS`` numbers.
    """
    p, live, n, y, x = pixels_of(tl.program_id(0), M_STATE, H, W, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    inside = live[:, None] & channel[None, :]
    plane = tl.cast(M, tl.int64) * C
    pitch = aligned(pitch, C)
    dy_pitch = aligned(dy_pitch, C)
    out_pitch = aligned(out_pitch, C)
    column = aligned(column, C)
    dx = tl.zeros((P, B), ACC)
    for b in range(first, middle):
        table = branches_ptr + b * BRANCH_FIELDS
        dx += transposed_taps(
            dt_ptr + (b - first) * plane, packed_ptr, table, n, y, x, live, HO, WO, c, channel,
            tl.load(table + ORIGIN), C, STRIDE, P, B, ACC,
        )  # fmt: skip
    state = load_pixels(state_ptr, n, y, x, H, W, pitch, c, live, channel, ACC)
    dx = tl.where(state > 0, dx, 0.0)
    for q in range(first_leaving, last_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + q) * EDGE_FIELDS
        skip = tl.load(edge + SKIP)
        if skip >= 0:
            at = p.to(tl.int64)[:, None] * dy_pitch + tl.load(edge + NODE) * (GROUPS * C) + c[None, :]
            dx += tl.load(mix_ptr + skip).to(ACC) * tl.load(dy_ptr + at, mask=inside, other=0.0).to(ACC)
    if POOLS:
        h, w = y // STRIDE, x // STRIDE
        average = window(daverage_ptr, n, h, w, HO, WO, C, c)
        highest = window(dmax_ptr, n, h, w, HO, WO, C, c)
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
                step = (down * WO + right) * C
                dx += tl.load(average + step, mask=mask, other=0.0).to(ACC)
                first_here = tl.load(position + step, mask=mask, other=-1).to(tl.int32) == i * 3 + j
                dx += tl.where(first_here, tl.load(highest + step, mask=mask, other=0.0).to(ACC), 0.0)
    pixel = p.to(tl.int64)[:, None]
    row = pixel * out_pitch + column
    if NODE_STATE:
        dx += _from_outside(dnodes_ptr, row, c, inside, ACC)
    if NODE_STATE and WOVEN:
        tl.store(mixed_ptr + pixel * C + c[None, :], dx.to(mixed_ptr.dtype.element_ty), mask=inside)
    else:
        at = (c % GROUPS) * C + c // GROUPS if NODE_STATE else c
        tl.store(out_ptr + row + at[None, :], dx.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=RUN_TIME)
def bypass_backward_kernel(
    state_ptr, dy_ptr, edge_mix_ptr, edges_ptr, leaving_ptr, dnodes_ptr, out_ptr, mixed_ptr, partial_ptr, M_STATE, H,
    W, HO, WO, pitch, dy_pitch, out_pitch, column, first_leaving, last_leaving, num_tiles,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NODE_STATE: tl.constexpr, WOVEN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a state's channels that pass by, and of the weights of its edges, ``[edge, tile, C (GROUPS - 1)]``;
    only the latter if ``out_ptr`` is ``None``. Blocks are of all channels of a node whose gradient is parted, and of
    those that pass by otherwise."""
    tile = tl.program_id(0)
    p = tile * P + tl.arange(0, P)
    live = p < M_STATE
    n, y, x = locate(p, H, W)
    block = tl.program_id(1)
    PARTED: tl.constexpr = NODE_STATE and WOVEN
    q = (0 if PARTED else C) + block * B + tl.arange(0, B)
    channel = (q >= C) & (q < GROUPS * C)
    inside = live[:, None] & channel[None, :]
    pitch = aligned(pitch, C)
    dy_pitch = aligned(dy_pitch, C)
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
        at = pixel[:, None] * dy_pitch + tl.load(edges_ptr + e * EDGE_FIELDS + NODE) * (GROUPS * C) + q[None, :]
        # Masked like a pixel, not like the choice of each channel: that would be one access for each of them
        dy = tl.where(passes, tl.load(dy_ptr + at, mask=inside, other=0.0).to(ACC), 0.0)
        dx += tl.load(edge_mix_ptr + e).to(ACC) * dy
        out = partial_ptr + ((number - first_leaving) * num_tiles + tile.to(tl.int64)) * ((GROUPS - 1) * C)
        store_row(out, tl.sum(dy * v, 0), q - C, channel, B)
    if out_ptr is not None:
        out_pitch = aligned(out_pitch, C)
        column = aligned(column, C)
        row = p.to(tl.int64)[:, None] * out_pitch + column
        if NODE_STATE:
            dx += _from_outside(dnodes_ptr, row, q, inside, ACC)
        if PARTED:
            at = mixed_ptr + p.to(tl.int64)[:, None] * C + q[None, :]
            dx += tl.load(at, mask=live[:, None] & (q < C)[None, :], other=0.0).to(ACC)
            _store_parted(out_ptr + row, dx.to(out_ptr.dtype.element_ty), live, block, C, GROUPS, P, B)
        else:
            at = (q % GROUPS) * C + q // GROUPS if NODE_STATE else q
            tl.store(out_ptr + row + at[None, :], dx.to(out_ptr.dtype.element_ty), mask=inside)
