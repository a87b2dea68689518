# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Gradients of the branches of one state: of their weights, and of what their filters read.

The raw outputs of a state's branches are computed again first; nothing of them was saved.

Normalisation sends a gradient ``dy`` of ``(z - mean) / std`` to ``(dy - mean(dy) - zhat mean(dy zhat)) / std``
(Ioffe and Szegedy, 2015, arXiv:1502.03167, section 3). All candidates of a node share ``dy`` up to their
coefficient, and ``sum(dy zhat)`` is at the same time the gradient of that coefficient.
"""

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
    FAR,
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
    RUN_TIME,
    TARGET,
    aligned,
    channels_of,
    column_inside,
    is_channel,
    is_within,
    limits,
    load_pixels,
    load_tap,
    located,
    normalisation,
    pixels_of,
    pool,
    store_row,
    widened,
    widened_filter,
    window,
)


@triton.jit(do_not_specialize=(*RUN_TIME, "GROUPS"))
def shared_sums_kernel(
    state_ptr, dy_ptr, stats_ptr, edges_ptr, leaving_ptr, partial_ptr, M, H, W, HO, WO, pitch, dy_pitch, first_leaving,
    last_leaving, num_tiles, GROUPS,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums over one tile for each edge that leaves a state, two rows ``[tile, 2, C]``: of ``dy`` and of ``dy`` times
    normalised max-pool, then of ``dy`` times normalised avg-pool and times the state itself."""
    tile = tl.program_id(0)
    m, live, n, h, w = pixels_of(tile, M, HO, WO, P)
    c, channel = channels_of(tl.program_id(1), C, B)
    inside = live[:, None] & channel[None, :]
    pitch = aligned(pitch, C)
    highest, _, average, _ = pool(state_ptr, n, h, w, H, W, pitch, c, live, channel, STRIDE, False, P, B, ACC)
    x = load_pixels(state_ptr, n, h, w, H, W, pitch, c, live, channel, ACC)
    at = dy_ptr + m.to(tl.int64)[:, None] * aligned(dy_pitch, C) + c[None, :]
    for rank in range(last_leaving - first_leaving):
        edge = edges_ptr + tl.load(leaving_ptr + first_leaving + rank) * EDGE_FIELDS
        dy = tl.load(at + tl.load(edge + NODE) * (GROUPS * C), mask=inside, other=0.0).to(ACC)
        out = partial_ptr + (2 * rank * num_tiles + tile.to(tl.int64)) * 2 * C
        second = out + num_tiles * 2 * C
        store_row(out, tl.sum(dy, 0), c, channel, B)
        for kind in tl.static_range(2):
            row = stats_ptr + tl.load(edge + (MAX_POOL_ROW if kind == 0 else AVG_POOL_ROW)) * 3 * C + c
            present = channel & (tl.load(edge + (MAX_POOL if kind == 0 else AVG_POOL)) >= 0)
            mean = tl.load(row + MEAN * C, mask=present, other=0.0)
            rstd = tl.load(row + RSTD * C, mask=present, other=0.0)
            v = (highest if kind == 0 else average) - mean[None, :]
            store_row(out + C if kind == 0 else second, rstd * tl.sum(dy * v, 0), c, channel, B)
        store_row(second + C, tl.sum(dy * x, 0), c, channel, B)


@triton.jit(do_not_specialize=(*RUN_TIME, "GROUPS"))
def pointwise_backward_kernel(
    z_ptr, dt_ptr, dy_ptr, packed_ptr, stats_ptr, sums_ptr, inner_sums_ptr, mix_ptr, branches_ptr, dpacked_ptr, M,
    dy_pitch, first, launched, inner_first, num_tiles, packed_length, per_pixel, GROUPS,
    C: tl.constexpr, CO: tl.constexpr, B: tl.constexpr, P: tl.constexpr, WEIGHTS: tl.constexpr, AGAIN: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the gradient of a normalised output to that of the depthwise output, ``dt``, and of the 1x1 filter.

    One program takes every ``num_programs(0)``-th tile of one branch and one block of input channels and keeps the
    filter's gradient in registers; the few partial results are added up in a fixed order afterwards.
    ``per_pixel`` is ``1 / M``, or 0 where the statistics did not come from this batch. The filter's gradient needs the
    depthwise output, whose place ``dt`` takes; with ``AGAIN`` the raw output is computed from that and not read.
    """
    split = tl.program_id(0)
    b = launched + tl.program_id(1)
    c, channel = channels_of(tl.program_id(2), C, B)
    o = tl.arange(0, CO)
    out_channel = is_channel(o, C, CO)
    table = branches_ptr + b * BRANCH_FIELDS
    products = tl.multiple_of(tl.load(table + POINTWISE), 4)
    coefficient = tl.load(table + COEFFICIENT)
    read_by = tl.load(table + READ_BY)
    plane = tl.cast(M, tl.int64) * C

    row = stats_ptr + b * 3 * C + o
    mean = tl.load(row + MEAN * C, mask=out_channel, other=0.0)
    rstd = tl.load(row + RSTD * C, mask=out_channel, other=0.0)
    if coefficient >= 0:
        sums = sums_ptr + (b - first) * 2 * C + o
        scale = rstd * tl.load(mix_ptr + coefficient).to(ACC)
        upstream = dy_ptr + tl.load(table + TARGET) * (GROUPS * C)
        upstream_pitch = aligned(dy_pitch, C)
    else:
        # The gradient of a separable convolution's first half took the place of its second half's raw output
        sums = inner_sums_ptr + (read_by - inner_first) * 2 * C + o
        scale = rstd
        upstream = z_ptr + (read_by - first) * plane
        upstream_pitch = aligned(dy_pitch * 0 + C, C)
    slope = scale * rstd * tl.load(sums + C, mask=out_channel, other=0.0) * per_pixel
    shift = mean * slope - scale * tl.load(sums, mask=out_channel, other=0.0) * per_pixel
    filters = packed_ptr + products + c[:, None] * C + o[None, :]
    both = channel[:, None] & out_channel[None, :]
    weight = tl.load(filters, mask=both, other=0.0)
    dt_ptr += (b - first) * plane
    # Without matrix units, a warp adds up its own pixels: it reads less from shared memory for each product
    PARTS: tl.constexpr = tl.constexpr(4 if PRECISION == "ieee" and P >= 64 else 1)
    dweight = tl.zeros((B, CO) if PARTS == 1 else (PARTS, B, CO), ACC)
    tl.static_assert(not AGAIN or (WEIGHTS and C <= B), "a raw output is a sum over all channels of the depthwise one")
    for tile in range(split, num_tiles, tl.num_programs(0)):
        m = tile * P + tl.arange(0, P)
        live = m < M
        pixel = m.to(tl.int64)[:, None]
        inside = live[:, None] & out_channel[None, :]
        at = dt_ptr + pixel * C + c[None, :]
        own = live[:, None] & channel[None, :]
        if AGAIN:
            t = tl.load(at, mask=own, other=0.0).to(ACC)
            z = tl.dot(widened(t, B), widened_filter(weight, B), input_precision=PRECISION)
        else:
            z = tl.load(z_ptr + (b - first) * plane + pixel * C + o[None, :], mask=inside, other=0.0).to(ACC)
        dy = tl.load(upstream + pixel * upstream_pitch + o[None, :], mask=inside, other=0.0).to(ACC)
        dz = scale[None, :] * dy - slope[None, :] * z + shift[None, :]
        dz = tl.where(inside, dz, 0.0)
        dt = tl.dot(widened(dz, CO), widened_filter(tl.trans(weight), CO), input_precision=PRECISION)
        if WEIGHTS:
            if not AGAIN:  # as late as can be: before the product it would take registers that this needs
                t = tl.load(at, mask=own, other=0.0).to(ACC)
            tl.debug_barrier()  # other threads of the program may write where one has read
        tl.store(at, dt.to(dt_ptr.dtype.element_ty), mask=own)
        if WEIGHTS:
            if PARTS == 1:
                dweight += tl.dot(tl.trans(t), dz, input_precision=PRECISION)
            else:
                parts = tl.reshape(t, (PARTS, P // PARTS, B))
                of_parts = tl.reshape(dz, (PARTS, P // PARTS, CO))
                dweight += tl.dot(tl.trans(parts, (0, 2, 1)), of_parts, input_precision=PRECISION)
    if WEIGHTS:
        dweight = dweight if PARTS == 1 else tl.sum(dweight, 0)
        at = dpacked_ptr + split.to(tl.int64) * aligned(packed_length, 4) + products + c[:, None] * C + o[None, :]
        tl.store(at, dweight, mask=both)


@triton.jit
def _further(n, y, x, by, H, W):
    """Images, rows and columns ``by`` as many further, which are less than ``H`` and ``W``."""
    n_further, y_further, x_further = by
    x += x_further
    y += y_further + (x >= W).to(tl.int32)
    n += n_further + (y >= H).to(tl.int32)
    return n, tl.where(y >= H, y - H, y), tl.where(x >= W, x - W, x)


@triton.jit
def _filter_gradient(
    src_ptr, dt_ptr, out_ptr, dilation, down, right, scale, shift, M, H, W, HO, WO, pitch, num_tiles, c, channel,
    C: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, NORMALISED: tl.constexpr,
    P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """All taps of a filter whose middle is ``down`` and ``right``: each tile of one factor is read once for them.

    That is ``dt`` at stride 2. At stride 1 it is what the filter read, which is then normalised and rectified once, and
    ``dt`` is read at the places that the taps lead from. Where a pixel is follows from where the last one was: that
    takes additions alone.
    """
    split = tl.program_id(0)
    totals = (tl.zeros((P, B), ACC),) * (SIZE * SIZE)
    m, _, n, h, w = pixels_of(split, M, HO, WO, P)
    further = tl.num_programs(0) * P
    by = located(further, HO, WO)
    for _ in range(split, num_tiles, tl.num_programs(0)):
        live = m < M
        pixel = m.to(tl.int64)[:, None]
        if STRIDE == 1:
            once = load_tap(src_ptr + pixel * pitch + c[None, :], live, channel, scale, shift, NORMALISED, ACC)
            y, x = h - down, w - right
            middle = dt_ptr + (pixel - (down * W + right)) * C + c[None, :]
        else:
            once = tl.load(dt_ptr + pixel * C + c[None, :], mask=live[:, None] & channel[None, :], other=0.0).to(ACC)
            y, x = h * STRIDE + down, w * STRIDE + right
            middle = window(src_ptr, n, y, x, H, W, pitch, c)
        y = tl.where(live, y, -FAR)
        # Addresses go from tap to tap, which takes fewer instructions than to each from the middle
        width = C if STRIDE == 1 else pitch
        along = -dilation * C if STRIDE == 1 else dilation * pitch
        added = ()
        for i in tl.static_range(SIZE):
            # A tap that reads further down leads from further up
            row = (i - SIZE // 2) * dilation if STRIDE == 2 else (SIZE // 2 - i) * dilation
            before, after = limits(x, is_within(y + row, H))
            at = middle + row * W * width - SIZE // 2 * along
            for j in tl.static_range(SIZE):
                column = (j - SIZE // 2) * dilation if STRIDE == 2 else (SIZE // 2 - j) * dilation
                inside = column_inside(before, after, column, j - SIZE // 2 if STRIDE == 2 else SIZE // 2 - j, W, SIZE)
                if STRIDE == 1:
                    v = tl.load(at, mask=inside[:, None] & channel[None, :], other=0.0).to(ACC)
                else:
                    v = load_tap(at, inside, channel, scale, shift, NORMALISED, ACC)
                at += along
                added = added + (totals[i * SIZE + j] + v * once,)  # noqa: RUF005
        totals = added
        m += further
        n, h, w = _further(n, h, w, by, HO, WO)
    for tap in tl.static_range(SIZE * SIZE):
        tl.store(out_ptr + tap * C + c, tl.sum(totals[tap], 0), mask=channel)


@triton.jit
def _filter_gradient_abreast(
    src_ptr, dt_ptr, out_ptr, scale, shift, M, HO, WO, pitch, stretch_tiles, more_tiles, c, channel,
    C: tl.constexpr, SIZE: tl.constexpr, DILATION: tl.constexpr, ABREAST: tl.constexpr, NORMALISED: tl.constexpr,
    P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """All taps of a filter at stride 1, over stretches of ``ABREAST`` pixels of a row, ``P`` in a tile. The pixels of a
    stretch are as far apart as the filter is dilated, and stretches lie in one another.

    What the filter read there is normalised and rectified once. The gradient of its output is read at the places that
    the taps lead from, once for all of a stretch. Where a stretch is follows from where the last one was.
    """
    split = tl.program_id(0)
    totals = (tl.zeros((P, B), ACC),) * (SIZE * SIZE)
    stretches = tl.cdiv(WO, ABREAST * DILATION) * DILATION
    n, y, x = located(split * P + tl.arange(0, P), HO, stretches)
    by = located(tl.num_programs(0) * P, HO, stretches)
    for _ in range(split, stretch_tiles + (DILATION - 1) * more_tiles, tl.num_programs(0)):
        first = x * ABREAST if DILATION == 1 else x // DILATION * (ABREAST * DILATION) + x % DILATION
        m = (n * HO + y) * WO + first
        live = m < M if DILATION == 1 else (m < M) & (first < WO)
        pixel = m.to(tl.int64)[:, None]
        read = src_ptr + pixel * pitch + c[None, :]
        once = ()
        for s in tl.static_range(ABREAST):
            there = live & (first + s * DILATION < WO)
            v = load_tap(read + s * DILATION * pitch, there, channel, scale, shift, NORMALISED, ACC)
            once = once + (v,)  # noqa: RUF005
        # A tap that reads further down and right leads from further up and left
        row = y + SIZE // 2 * DILATION
        row = tl.where(live, row, -FAR)
        at = dt_ptr + (pixel + SIZE // 2 * DILATION * (WO - 1)) * C + c[None, :]
        added = ()
        for i in tl.static_range(SIZE):
            before, after = limits(first, is_within(row - i * DILATION, HO))
            of_row = totals[i * SIZE : (i + 1) * SIZE]
            for place in tl.static_range(ABREAST + SIZE - 1):
                side = place - SIZE // 2
                inside = column_inside(before, after, side * DILATION, side, WO, SIZE)
                dt = tl.load(at + place * DILATION * C, mask=inside[:, None] & channel[None, :], other=0.0).to(ACC)
                more = ()
                for j in tl.static_range(SIZE):
                    if (place + j >= SIZE - 1) and (place + j < SIZE - 1 + ABREAST):
                        more = more + (of_row[j] + dt * once[place + j + 1 - SIZE],)  # noqa: RUF005
                    else:
                        more = more + (of_row[j],)  # noqa: RUF005
                of_row = more
            added = added + of_row
            at -= DILATION * WO * C
        totals = added
        n, y, x = _further(n, y, x, by, HO, stretches)
    for tap in tl.static_range(SIZE * SIZE):
        tl.store(out_ptr + tap * C + c, tl.sum(totals[tap], 0), mask=channel)


@triton.jit
def _filter_gradient_of_size(
    src_ptr, dt_ptr, out_ptr, dilation, origin, scale, shift, M, H, W, HO, WO, pitch, num_tiles, stretch_tiles,
    more_tiles, c, channel,
    C: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, NORMALISED: tl.constexpr, ABREAST: tl.constexpr,
    P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """All taps at once; with ``ABREAST``, which knows dilations of 1 and 2, of pixels that share what they read."""
    if ABREAST == 1:
        _filter_gradient(
            src_ptr, dt_ptr, out_ptr, dilation, origin, origin, scale, shift, M, H, W, HO, WO, pitch, num_tiles, c,
            channel, C, SIZE, STRIDE, NORMALISED, P, B, ACC,
        )  # fmt: skip
    else:
        if dilation == 1:
            _filter_gradient_abreast(
                src_ptr, dt_ptr, out_ptr, scale, shift, M, HO, WO, pitch, stretch_tiles, more_tiles, c, channel,
                C, SIZE, 1, ABREAST, NORMALISED, P, B, ACC,
            )  # fmt: skip
        if dilation == 2:
            _filter_gradient_abreast(
                src_ptr, dt_ptr, out_ptr, scale, shift, M, HO, WO, pitch, stretch_tiles, more_tiles, c, channel,
                C, SIZE, 2, ABREAST, NORMALISED, P, B, ACC,
            )  # fmt: skip


@triton.jit(do_not_specialize=RUN_TIME)
def depthwise_weights_kernel(
    src_ptr, dt_ptr, stats_ptr, branches_ptr, dpacked_ptr, M, H, W, HO, WO, pitch, first, launched, num_tiles,
    stretch_tiles, more_tiles, packed_length,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr, NORMALISED: tl.constexpr,
    DENSE: tl.constexpr, ABREAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a depthwise filter over every ``num_programs(0)``-th tile, kept in registers.

    Filters of 3 and 5 rows have all their taps there; for another size, every tap passes over the tiles by itself.
    With ``DENSE``, no filter is dilated. Stretches of pixels abreast fill ``stretch_tiles``; if dilated by 2,
    ``more_tiles`` in addition.
    """
    split = tl.program_id(0)
    b = launched + tl.program_id(1)
    c, channel = channels_of(tl.program_id(2), C, B)
    table = branches_ptr + b * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    dilation = 1 if DENSE else tl.load(table + DILATION)
    origin = 0 if NORMALISED else tl.load(table + ORIGIN)
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * C
    pitch = C if NORMALISED else aligned(pitch, C)
    scale = tl.zeros((B,), ACC)
    shift = scale
    if NORMALISED:
        src_ptr += (reads - first) * plane
        scale, shift = normalisation(stats_ptr, reads, c, channel, C)
    dt_ptr += (b - first) * plane
    out = dpacked_ptr + split.to(tl.int64) * aligned(packed_length, 4) + tl.load(table + DEPTHWISE)
    if kernel == 3:
        _filter_gradient_of_size(
            src_ptr, dt_ptr, out, dilation, origin, scale, shift, M, H, W, HO, WO, pitch, num_tiles, stretch_tiles,
            more_tiles, c, channel, C, 3, STRIDE, NORMALISED, ABREAST, P, B, ACC,
        )  # fmt: skip
    elif kernel == 5:
        _filter_gradient_of_size(
            src_ptr, dt_ptr, out, dilation, origin, scale, shift, M, H, W, HO, WO, pitch, num_tiles, stretch_tiles,
            more_tiles, c, channel, C, 5, STRIDE, NORMALISED, ABREAST, P, B, ACC,
        )  # fmt: skip
    else:
        for i in range(kernel):
            for j in range(kernel):  # as a filter of one tap that reads from another origin
                _filter_gradient(
                    src_ptr, dt_ptr, out + (i * kernel + j) * C, dilation, origin + (i - kernel // 2) * dilation,
                    origin + (j - kernel // 2) * dilation, scale, shift, M, H, W, HO, WO, pitch, num_tiles, c, channel,
                    C, 1, STRIDE, NORMALISED, P, B, ACC,
                )  # fmt: skip
