# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""The weighted sum at a node, and the channels that pass it by."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.pixels import (
    AVG_POOL,
    AVG_POOL_ROW,
    BRANCH_FIELDS,
    COEFFICIENT,
    EDGE_FIELDS,
    MAX_POOL,
    MAX_POOL_ROW,
    MEAN,
    RSTD,
    RUN_TIME,
    SKIP,
    SLOT,
    SOURCE,
    aligned,
    load_pixels,
    locate,
    pool,
)


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
        higher = inside[:, None] & ((v > highest) | (v != v))  # noqa: PLR0124  (NaN)
        highest = tl.where(higher, v, highest)
        position = tl.where(higher, i, position)
    return highest, position


@triton.jit
def passing(
    ptr, is_input, n, h, w, H, W, HO, WO, pitch, q, live, channel,
    STRIDE: tl.constexpr, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Channels ``q`` of a state as they pass by the candidates of an edge; ``[P, B]``."""
    if STRIDE == 2:
        if is_input:
            v, _ = window_maximum(ptr, n, h, w, H, W, pitch, q, live, channel, P, B, ACC)
            v = tl.where(live[:, None], v, 0.0)
        else:
            v = load_pixels(ptr, n, h, w, HO, WO, pitch, q, live, channel, ACC)
    else:
        v = load_pixels(ptr, n, h, w, HO, WO, pitch, q, live, channel, ACC)
    return v


@triton.jit(do_not_specialize=RUN_TIME)
def node_kernel(
    inputs_ptr,
    nodes_ptr,
    z_ptr,
    stats_ptr,
    mix_ptr,
    edge_mix_ptr,
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
    GROUPS: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    NUM_NODES: tl.constexpr,
    WOVEN: tl.constexpr,
    ACC: tl.constexpr,
):
    """The weighted sum at a node, normalisation included, stored once, where a shuffle would put it.

    ``C`` are the channels that the candidates see; a state has ``GROUPS`` times as many. If ``WOVEN``, those that pass
    by are summed up here as well, and what the shuffle puts side by side is woven in registers; otherwise they are
    left to :func:`bypass_kernel`.
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
    second = tl.zeros((P, B), ACC)
    third = tl.zeros((P, B), ACC)
    fourth = tl.zeros((P, B), ACC)
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
            state = inputs_ptr + source * tl.cast(M_IN, tl.int64) * (GROUPS * C)
        else:
            state = nodes_ptr + (source - NUM_INPUTS) * (GROUPS * C)
        is_input = source < NUM_INPUTS
        pitch = aligned(tl.where(is_input, GROUPS * C, NUM_NODES * GROUPS * C), C)
        stride = tl.where(is_input, STRIDE, 1)
        height = tl.where(is_input, H, HO)
        width = tl.where(is_input, W, WO)
        skip = tl.load(edge + SKIP)
        if skip >= 0:
            x = load_pixels(state, n, h, w, height, width, pitch, c, live, channel, ACC)
            y += tl.load(mix_ptr + skip).to(ACC) * x
        highest_at = tl.load(edge + MAX_POOL)
        average_at = tl.load(edge + AVG_POOL)
        if (highest_at >= 0) | (average_at >= 0):
            highest, _, average, _ = pool(state, n, h, w, height, width, pitch, c, live, channel, stride, P, B, ACC)
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
        if WOVEN:
            weight = tl.load(edge_mix_ptr + q).to(ACC)
            second += weight * passing(
                state, is_input, n, h, w, H, W, HO, WO, pitch, C + c, live, channel, STRIDE, P, B, ACC
            )
            if GROUPS == 4:
                third += weight * passing(
                    state, is_input, n, h, w, H, W, HO, WO, pitch, 2 * C + c, live, channel, STRIDE, P, B, ACC
                )
                fourth += weight * passing(
                    state, is_input, n, h, w, H, W, HO, WO, pitch, 3 * C + c, live, channel, STRIDE, P, B, ACC
                )
    out = nodes_ptr + pixel * (NUM_NODES * GROUPS * C) + node * (GROUPS * C)
    if WOVEN:
        if GROUPS == 2:
            y = tl.interleave(y, second)
        else:
            y = tl.interleave(tl.interleave(y, third), tl.interleave(second, fourth))
        q = tl.program_id(1) * (B * GROUPS) + tl.arange(0, B * GROUPS)
        tl.store(out + q[None, :], y.to(nodes_ptr.dtype.element_ty), mask=live[:, None] & (q < GROUPS * C)[None, :])
    else:
        tl.store(out + c[None, :] * GROUPS, y.to(nodes_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=RUN_TIME)
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
    GROUPS: tl.constexpr,
    B: tl.constexpr,
    P: tl.constexpr,
    STRIDE: tl.constexpr,
    NUM_INPUTS: tl.constexpr,
    NUM_NODES: tl.constexpr,
    ACC: tl.constexpr,
):
    """The channels that pass by a node's candidates, weighted and stored where a shuffle puts them.

    For those ``GROUPS`` of which :func:`node_kernel` does not take care.
    """
    m = tl.program_id(0) * P + tl.arange(0, P)
    live = m < M
    n, h, w = locate(m, HO, WO)
    q = C + tl.program_id(1) * B + tl.arange(0, B)  # the channel of a state
    channel = q < GROUPS * C
    y = tl.zeros((P, B), ACC)
    for number in range(first_edge, last_edge):
        source = tl.load(edges_ptr + number * EDGE_FIELDS + SOURCE)
        if source < NUM_INPUTS:
            state = inputs_ptr + source * tl.cast(M_IN, tl.int64) * (GROUPS * C)
        else:
            state = nodes_ptr + (source - NUM_INPUTS) * (GROUPS * C)
        is_input = source < NUM_INPUTS
        pitch = tl.where(is_input, GROUPS * C, NUM_NODES * GROUPS * C)
        v = passing(state, is_input, n, h, w, H, W, HO, WO, pitch, q, live, channel, STRIDE, P, B, ACC)
        y += tl.load(edge_mix_ptr + number).to(ACC) * v
    shuffled = (q % C) * GROUPS + q // C
    out = nodes_ptr + m.to(tl.int64)[:, None] * (NUM_NODES * GROUPS * C) + node * (GROUPS * C) + shuffled[None, :]
    tl.store(out, y.to(nodes_ptr.dtype.element_ty), mask=live[:, None] & channel[None, :])
