# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""What goes forward: the convolutions of all edges that leave a state, the statistics of what is normalised (partial
ones of every tile, of the pools as well, and their merge), the sum at a node, and the channels that pass it by."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.abreast import depthwise_abreast, is_in_row, pixels_in, stretches_of
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
    RUN_TIME,
    SKIP,
    SLOT,
    SOURCE,
    TARGET,
    VARIANCE,
    aligned,
    channels_of,
    depthwise_taps,
    filter_at,
    is_channel,
    load_pixels,
    normalisation,
    passing,
    pixels_of,
    pool,
    store_row,
    widened,
    widened_filter,
)


@triton.jit
def finish_branch(
    z, table, branch, place, z_ptr, stats_ptr, dy_ptr, partial_ptr, tile, m, live, x, M, WO, dy_pitch, first, num_tiles,
    GROUPS, C: tl.constexpr, CO: tl.constexpr, P: tl.constexpr, ABREAST: tl.constexpr, BACKWARD: tl.constexpr,
    KEEP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Store a tile of raw output, ``ABREAST`` times ``[P, CO]``, and its partial reductions; see
    :func:`stage_kernel`."""
    o = tl.arange(0, CO)
    out = is_channel(o, C, CO)
    pixel = m.to(tl.int64)[:, None]
    slot = branch - first if BACKWARD else tl.load(table + SLOT)
    at = z_ptr + slot * (tl.cast(M, tl.int64) * C) + pixel * C + o[None, :]
    kept = KEEP or tl.load(table + COEFFICIENT) < 0
    for s in tl.static_range(ABREAST):
        inside = is_in_row(live, x, s, WO, ABREAST)[:, None] & out[None, :]
        tl.store(at + s * C, z[s].to(z_ptr.dtype.element_ty), mask=inside & kept)
    partial = partial_ptr + (place * num_tiles + tile.to(tl.int64)) * 2 * C
    total = tl.zeros((P, CO), ACC)
    second = total
    if BACKWARD:
        if tl.load(table + COEFFICIENT) >= 0:
            at = dy_ptr + tl.load(table + TARGET) * (GROUPS * C) + pixel * dy_pitch + o[None, :]
            row = stats_ptr + branch * 3 * C
            mean = tl.load(row + MEAN * C + o, mask=out, other=0.0)
            for s in tl.static_range(ABREAST):
                inside = is_in_row(live, x, s, WO, ABREAST)[:, None] & out[None, :]
                dy = tl.load(at + s * dy_pitch, mask=inside, other=0.0).to(ACC)
                total += dy
                second += dy * (z[s] - mean[None, :])
            store_row(partial, tl.sum(total, 0), o, out, CO)
            store_row(partial + C, tl.sum(second, 0), o, out, CO, row + RSTD * C)
    else:
        for s in tl.static_range(ABREAST):  # nothing is read outside of the tile, so z is zero there
            total += z[s] if s == 0 else tl.where((x + s < WO)[:, None], z[s], 0.0)
        mean = tl.sum(total, 0) * (1.0 / pixels_in(tile, M, WO, P, ABREAST).to(ACC))
        for s in tl.static_range(ABREAST):
            there = is_in_row(live, x, s, WO, ABREAST)[:, None]
            deviation = tl.where(there, z[s] - mean[None, :], 0.0)
            second += deviation * deviation
        store_row(partial, mean, o, out, CO)
        store_row(partial + C, tl.sum(second, 0), o, out, CO)


@triton.jit(do_not_specialize=(*RUN_TIME, "GROUPS"))
def stage_kernel(
    src_ptr, z_ptr, t_ptr, packed_ptr, stats_ptr, branches_ptr, bundles_ptr, dy_ptr, partial_ptr, M, H, W, HO, WO,
    pitch, dy_pitch, first, first_bundle, num_tiles, GROUPS,
    C: tl.constexpr, CO: tl.constexpr, B: tl.constexpr, P: tl.constexpr, EDGES: tl.constexpr, STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr, DENSE: tl.constexpr, ABREAST: tl.constexpr, BACKWARD: tl.constexpr, KEEP: tl.constexpr,
    KEEP_T: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``z = pointwise(depthwise(relu(src)))`` for one bundle of branches and one tile of pixels, and one partial
    reduction over the tile.

    Forward, the reduction is mean and sum of squared deviations of ``z``, written as ``[branch, tile, 2, C]``, so
    that a fixed-order merge (Chan et al., 1979) gives the statistics without a second pass and without atomics.
    Backward, ``z`` is computed again, and the reductions are the sums of ``dy`` and of ``dy`` times the normalised
    ``z``, which both alpha's gradient and the normalisation's need. Without ``KEEP``, a ``z`` that enters a node is not
    stored; with ``KEEP_T``, what the depthwise filter returned is, at ``t_ptr``.

    With ``NORMALISED``, ``src_ptr`` holds raw outputs of other branches, which are normalised while they are read.
    With ``DENSE``, no filter is dilated, and ``ABREAST`` pixels of a row share what they read: a tile has ``P`` such
    stretches.
    """
    tile = tl.program_id(0)
    bundle = bundles_ptr + 2 * (first_bundle + tl.program_id(1))
    start = tl.load(bundle)
    number = tl.load(bundle + 1)
    table = branches_ptr + start * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    dilation = 1 if DENSE else tl.load(table + DILATION)
    origin = 0 if NORMALISED else tl.load(table + ORIGIN)
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * C
    pitch = C if NORMALISED else aligned(pitch, C)
    dy_pitch = aligned(dy_pitch, C)
    taps = ()
    for e in tl.static_range(EDGES):  # a bundle that is not full repeats its last branch and does not store it
        taps = taps + (filter_at(packed_ptr, table + tl.minimum(e, number - 1) * BRANCH_FIELDS, DEPTHWISE),)  # noqa: RUF005

    m, live, n, h, w = stretches_of(tile, M, HO, WO, P, ABREAST)
    if NORMALISED:
        slot = reads - first if BACKWARD else tl.load(branches_ptr + reads * BRANCH_FIELDS + SLOT)
        src_ptr += slot * plane
    o = tl.arange(0, CO)
    place = start - tl.load(bundles_ptr + 2 * first_bundle)  # among the branches of this launch
    tl.static_assert(EDGES == 1 or C <= B, "several edges at once need all channels in one block")
    tl.static_assert(ABREAST == 1 or (DENSE and NORMALISED and EDGES == 1), "pixels abreast are of second halves")
    z = (tl.zeros((P, CO), ACC),) * ABREAST
    for c0 in tl.range(0, C, B):
        c = c0 + tl.arange(0, B)
        channel = is_channel(c, C, B)
        scale = tl.zeros((B,), ACC)
        shift = scale
        if NORMALISED:
            scale, shift = normalisation(stats_ptr, reads, c, channel, C)
        if ABREAST == 1:
            t = depthwise_taps(
                src_ptr, taps, kernel, dilation, origin, scale, shift, n, h, w, live, H, W, pitch, c, channel,
                C, STRIDE, NORMALISED, EDGES, P, B, ACC,
            )  # fmt: skip
        else:
            t = depthwise_abreast(
                src_ptr, taps[0], kernel, scale, shift, n, h, w, live, H, W, c, channel, C, ABREAST, False, P, B, ACC
            )
        for e in tl.static_range(EDGES):
            if e < number:
                own = table + e * BRANCH_FIELDS
                at = filter_at(packed_ptr, own, POINTWISE) + c[:, None] * C + o[None, :]
                weight = tl.load(at, mask=channel[:, None] & is_channel(o, C, CO)[None, :], other=0.0)
                kept = t_ptr + (start + e - first) * plane + m.to(tl.int64)[:, None] * C + c[None, :]
                products = ()
                for s in tl.static_range(ABREAST):
                    if KEEP_T:
                        inside = is_in_row(live, w, s, WO, ABREAST)[:, None] & channel[None, :]
                        tl.store(kept + s * C, tl.cast(t[e + s], t_ptr.dtype.element_ty), mask=inside)
                    product = tl.dot(widened(t[e + s], B), widened_filter(weight, B), input_precision=PRECISION)
                    products = products + (product if EDGES > 1 else z[s] + product,)  # noqa: RUF005
                if EDGES == 1:
                    z = products
                else:  # finished one by one, or all would be alive at once
                    finish_branch(
                        products, own, start + e, place + e, z_ptr, stats_ptr, dy_ptr, partial_ptr, tile, m, live, w, M,
                        WO, dy_pitch, first, num_tiles, GROUPS, C, CO, P, ABREAST, BACKWARD, KEEP, ACC,
                    )  # fmt: skip
    if EDGES == 1:
        finish_branch(
            z, table, start, place, z_ptr, stats_ptr, dy_ptr, partial_ptr, tile, m, live, w, M, WO, dy_pitch, first,
            num_tiles, GROUPS, C, CO, P, ABREAST, BACKWARD, KEEP, ACC,
        )  # fmt: skip


@triton.jit(do_not_specialize=RUN_TIME)
def pool_statistics_kernel(
    state_ptr, partial_ptr, M, H, W, HO, WO, pitch, num_tiles,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Partial statistics of both pools of one state, ``[2, tile, 2, C]``; see :func:`stage_kernel`."""
    tile = tl.program_id(0)
    _, live, n, h, w = pixels_of(tile, M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    pitch = aligned(pitch, C)
    highest, _, average, _ = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, False, P, B, ACC)
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
    partial_ptr, rows_ptr, stats_ptr, first_row, M, WO, num_tiles, eps,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, ABREAST: tl.constexpr, TILES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Merge partial statistics in a fixed order: mean, ``1 / sqrt(variance + eps)`` and variance of one row."""
    row = tl.load(rows_ptr + first_row + tl.program_id(0))
    c, channel = channels_of(tl.program_id(1), C, B)
    partial = partial_ptr + tl.program_id(0).to(tl.int64) * num_tiles * 2 * C
    total = tl.zeros((B,), ACC)
    for t0 in range(0, num_tiles, TILES):
        t = t0 + tl.arange(0, TILES)
        mask = (t < num_tiles)[:, None] & channel[None, :]
        mean = tl.load(partial + t[:, None] * 2 * C + c[None, :], mask=mask, other=0.0)
        count = pixels_in(t, M, WO, P, ABREAST).to(ACC)
        total += tl.sum(mean * count[:, None], 0)
    centre = total / M
    squares = tl.zeros((B,), ACC)
    for t0 in range(0, num_tiles, TILES):
        t = t0 + tl.arange(0, TILES)
        mask = (t < num_tiles)[:, None] & channel[None, :]
        at = partial + t[:, None] * 2 * C + c[None, :]
        mean = tl.load(at, mask=mask, other=0.0)
        within = tl.load(at + C, mask=mask, other=0.0)
        count = pixels_in(t, M, WO, P, ABREAST).to(ACC)
        between = tl.where(mask, mean - centre[None, :], 0.0)
        squares += tl.sum(within + between * between * count[:, None], 0)
    variance = squares / M
    out = stats_ptr + row * 3 * C
    store_row(out + MEAN * C, centre, c, channel, B)
    store_row(out + RSTD * C, 1.0 / tl.sqrt(variance + eps), c, channel, B)
    store_row(out + VARIANCE * C, variance, c, channel, B)


@triton.jit(do_not_specialize=RUN_TIME)
def node_kernel(
    inputs_ptr, nodes_ptr, z_ptr, stats_ptr, mix_ptr, edge_mix_ptr, branches_ptr, entering_ptr, edges_ptr, M, M_IN, H,
    W, HO, WO, first_entering, last_entering, first_edge, last_edge, node,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NUM_INPUTS: tl.constexpr, NUM_NODES: tl.constexpr, WOVEN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The weighted sum at a node, normalisation included, stored once, where a shuffle would put it.

    ``C`` are the channels that the candidates see; a state has ``GROUPS`` times as many. If ``WOVEN``, those that pass
    by are summed up here as well, and what the shuffle puts side by side is woven in registers; otherwise they are
    left to :func:`bypass_kernel`.
    """
    m, live, n, h, w = pixels_of(tl.program_id(0), M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B, False)  # or the loop below is unrolled
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
            highest, _, average, _ = pool(
                state, n, h, w, height, width, pitch, c, live, channel, stride, False, P, B, ACC
            )
            if highest_at >= 0:
                row = stats_ptr + tl.load(edge + MAX_POOL_ROW) * 3 * C + c
                scale = tl.load(row + RSTD * C, mask=channel, other=0.0) * tl.load(mix_ptr + highest_at).to(ACC)
                mean = tl.load(row + MEAN * C, mask=channel, other=0.0)
                y += (highest - mean[None, :]) * scale[None, :]
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
    inputs_ptr, nodes_ptr, edge_mix_ptr, edges_ptr, M, M_IN, H, W, HO, WO, first_edge, last_edge, node,
    C: tl.constexpr, GROUPS: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NUM_INPUTS: tl.constexpr, NUM_NODES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The channels that pass by a node's candidates, weighted and stored where a shuffle puts them.

    For those ``GROUPS`` of which :func:`node_kernel` does not take care.
    """
    m, live, n, h, w = pixels_of(tl.program_id(0), M, HO, WO, P)
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
