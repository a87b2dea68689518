# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Gradients of the branches of one state and their tangents: of their weights, and of what their filters read.

With ``e = dy - mean(dy) - y mean(dy y)`` a normalisation sends the gradient ``dy`` of its output ``y`` to ``e / std``
(see ``branch_gradient_kernels``). The tangent is ``e (1 / std)' + e' / std``, where ``e'`` follows from the tangents of
``dy``, of ``y`` and of both means, one product after another.
"""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.dual.pixels import (
    DUAL_RUN_TIME,
    depthwise,
    depthwise_transposed,
    load_coefficient,
    load_dual,
    load_statistics,
    normalised,
    rectified_tap,
    statistics_of_source,
)
from fastnas_kernels.mixed_op.pixels import (
    BRANCH_FIELDS,
    COEFFICIENT,
    DEPTHWISE,
    DILATION,
    KERNEL,
    ORIGIN,
    POINTWISE,
    READ_BY,
    READS,
    TARGET,
    aligned,
    channels_of,
    filter_at,
    is_within,
    pixels_of,
    store_row,
    window,
)


@triton.jit
def load_sums(ptr, c, channel, per_pixel, C: tl.constexpr):
    """Means of ``dy`` and of ``dy`` times the normalised output, and their tangents, from ``[2, 2, C]`` sums."""
    mean_dy = tl.load(ptr + c, mask=channel, other=0.0) * per_pixel
    mean_dyy = tl.load(ptr + C + c, mask=channel, other=0.0) * per_pixel
    along_mean_dy = tl.load(ptr + 2 * C + c, mask=channel, other=0.0) * per_pixel
    along_mean_dyy = tl.load(ptr + 3 * C + c, mask=channel, other=0.0) * per_pixel
    return mean_dy, mean_dyy, along_mean_dy, along_mean_dyy


@triton.jit
def through_normalisation(
    dy, along_dy, y, along_y, mean_dy, mean_dyy, along_mean_dy, along_mean_dyy, scale, along_scale
):  # fmt: skip
    """The gradient of what was normalised, and its tangent; ``scale`` is the coefficient over the deviation."""
    e = dy - mean_dy[None, :] - y * mean_dyy[None, :]
    along_e = along_dy - along_mean_dy[None, :] - along_y * mean_dyy[None, :] - y * along_mean_dyy[None, :]
    return scale[None, :] * e, along_scale[None, :] * e + scale[None, :] * along_e


@triton.jit(do_not_specialize=(*DUAL_RUN_TIME, "GROUPS"))
def dual_pointwise_backward_kernel(
    src_ptr, z_ptr, dt_ptr, dy_ptr, packed_ptr, stats_ptr, sums_ptr, inner_sums_ptr, mix_ptr, branches_ptr,
    dpacked_ptr, M, H, W, HO, WO, pitch, dy_pitch, first, launched, inner_first, num_tiles, packed_length, per_pixel,
    GROUPS,
    C: tl.constexpr, CO: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr, WEIGHTS: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the gradient of a normalised output to that of the depthwise output, ``dt``, and of the 1x1 filter, each
    with its tangent; see ``branch_gradient_kernels.pointwise_backward_kernel``. ``dt`` is that of the branches of this
    launch alone."""
    split = tl.program_id(0)
    b = launched + tl.program_id(1)
    c, channel = channels_of(tl.program_id(2), C, B, False)  # or accesses are narrower
    o = tl.arange(0, CO)
    out = o < C
    table = branches_ptr + b * BRANCH_FIELDS
    reads = tl.load(table + READS)
    coefficient = tl.load(table + COEFFICIENT)
    read_by = tl.load(table + READ_BY)
    plane = tl.cast(M, tl.int64) * (2 * C)
    packed_length = aligned(packed_length, 4)
    apart = C if NORMALISED else GROUPS * C

    mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, b, o, out, C)
    if coefficient >= 0:
        sums = sums_ptr + (b - first) * (4 * C)
        mix, along_mix = load_coefficient(mix_ptr, coefficient)
        scale = rstd * mix
        along_scale = along_rstd * mix + rstd * along_mix
        upstream = dy_ptr + tl.load(table + TARGET) * (2 * GROUPS * C)
        upstream_pitch = aligned(dy_pitch, C)
        upstream_apart = dy_pitch * 0 + GROUPS * C
    else:
        # The gradient of a separable convolution's first half took the place of its second half's raw output
        sums = inner_sums_ptr + (read_by - inner_first) * (4 * C)
        scale = rstd
        along_scale = along_rstd
        upstream = z_ptr + (read_by - first) * plane
        upstream_pitch = aligned(dy_pitch * 0 + 2 * C, C)
        upstream_apart = dy_pitch * 0 + C
    mean_dy, mean_dyy, along_mean_dy, along_mean_dyy = load_sums(sums, o, out, per_pixel, C)
    both = channel[:, None] & out[None, :]
    filters = filter_at(packed_ptr, table, POINTWISE) + c[:, None] * C + o[None, :]
    weight = tl.load(filters, mask=both, other=0.0)
    along_weight = tl.load(filters + packed_length, mask=both, other=0.0)
    pitch = 2 * C if NORMALISED else aligned(pitch, C)
    if NORMALISED:
        src_ptr += (reads - first) * plane
    src_mean, src_rstd, along_src_mean, along_src_rstd = statistics_of_source(
        stats_ptr, reads, c, channel, C, NORMALISED, B, ACC
    )
    dweight = tl.zeros((B, CO), ACC)
    along_dweight = tl.zeros((B, CO), ACC)
    for tile in range(split, num_tiles, tl.num_programs(0)):
        m, live, n, h, w = pixels_of(tile, M, HO, WO, P)
        pixel = m.to(tl.int64)[:, None]
        inside = live[:, None] & out[None, :]
        z, along_z = load_dual(z_ptr + (b - first) * plane + pixel * (2 * C) + o[None, :], inside, C)
        y, along_y = normalised(z, along_z, mean, rstd, along_mean, along_rstd)
        at = upstream + pixel * upstream_pitch + o[None, :]
        dy = tl.load(at, mask=inside, other=0.0)
        along_dy = tl.load(at + upstream_apart, mask=inside, other=0.0)
        dz, along_dz = through_normalisation(
            dy, along_dy, y, along_y, mean_dy, mean_dyy, along_mean_dy, along_mean_dyy, scale, along_scale
        )
        dz = tl.where(inside, dz, 0.0)
        along_dz = tl.where(inside, along_dz, 0.0)
        dt = tl.dot(dz, tl.trans(weight), input_precision=PRECISION)
        along_dt = tl.dot(along_dz, tl.trans(weight), input_precision=PRECISION)
        along_dt += tl.dot(dz, tl.trans(along_weight), input_precision=PRECISION)
        at = dt_ptr + (b - launched) * plane + pixel * (2 * C) + c[None, :]
        mask = live[:, None] & channel[None, :]
        tl.store(at, dt, mask=mask)
        tl.store(at + C, along_dt, mask=mask)
        if WEIGHTS:
            t, along_t = depthwise(
                src_ptr, packed_ptr, table, src_mean, src_rstd, along_src_mean, along_src_rstd, n, h, w, live, H, W,
                pitch, c, channel, packed_length, apart, C, STRIDE, NORMALISED, P, B, ACC,
            )  # fmt: skip
            dweight += tl.dot(tl.trans(t), dz, input_precision=PRECISION)
            along_dweight += tl.dot(tl.trans(along_t), dz, input_precision=PRECISION)
            along_dweight += tl.dot(tl.trans(t), along_dz, input_precision=PRECISION)
    if WEIGHTS:
        at = filter_at(dpacked_ptr, table, POINTWISE) + split.to(tl.int64) * (2 * packed_length)
        at += c[:, None] * C + o[None, :]
        tl.store(at, dweight, mask=both)
        tl.store(at + packed_length, along_dweight, mask=both)


@triton.jit
def _row_of_filter(
    src_ptr, dt_ptr, out, down, right, dilation, mean, rstd, along_mean, along_rstd, M, H, W, HO, WO, pitch, num_tiles,
    c, channel, packed_length, apart, C: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of one row of a filter, whose middle is ``down`` and ``right``, and its tangent."""
    sums = (tl.zeros((P, B), ACC),) * SIZE
    along_sums = (tl.zeros((P, B), ACC),) * SIZE
    split = tl.program_id(0)
    for tile in range(split, num_tiles, tl.num_programs(0)):
        m, live, n, h, w = pixels_of(tile, M, HO, WO, P)
        at = dt_ptr + m.to(tl.int64)[:, None] * (2 * C) + c[None, :]
        dt, along_dt = load_dual(at, live[:, None] & channel[None, :], C)
        y, x = h * STRIDE + down, w * STRIDE + right
        row_inside = live & is_within(y, H)
        middle = window(src_ptr, n, y, x, H, W, pitch, c)
        added = ()
        along_added = ()
        for j in tl.static_range(SIZE):
            column = (j - SIZE // 2) * dilation
            v, d = rectified_tap(
                middle + column * pitch, row_inside & is_within(x + column, W), channel, mean, rstd, along_mean,
                along_rstd, apart, NORMALISED,
            )  # fmt: skip
            added = added + (sums[j] + v * dt,)  # noqa: RUF005  (Triton knows no unpacking)
            along_added = along_added + (along_sums[j] + (d * dt + v * along_dt),)  # noqa: RUF005
        sums = added
        along_sums = along_added
    for j in tl.static_range(SIZE):
        store_row(out + j * C, tl.sum(sums[j], 0), c, channel, B)
        store_row(out + packed_length + j * C, tl.sum(along_sums[j], 0), c, channel, B)


@triton.jit(do_not_specialize=(*DUAL_RUN_TIME, "GROUPS"))
def dual_depthwise_weights_kernel(
    src_ptr, dt_ptr, stats_ptr, branches_ptr, dpacked_ptr, M, H, W, HO, WO, pitch, first, launched, num_tiles,
    packed_length, GROUPS,
    C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, STRIDE: tl.constexpr,
    NORMALISED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a depthwise filter over every ``num_programs(0)``-th tile and its tangent, row by row: all taps of
    both would not fit into registers. For rows of other than 3 or 5, every tap passes over the tiles by itself."""
    b = launched + tl.program_id(1)
    c, channel = channels_of(tl.program_id(2), C, B)
    table = branches_ptr + b * BRANCH_FIELDS
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * (2 * C)
    pitch = 2 * C if NORMALISED else aligned(pitch, C)
    packed_length = aligned(packed_length, 4)
    apart = C if NORMALISED else GROUPS * C
    if NORMALISED:
        src_ptr += (reads - first) * plane
    mean, rstd, along_mean, along_rstd = statistics_of_source(stats_ptr, reads, c, channel, C, NORMALISED, B, ACC)
    dt_ptr += (b - launched) * plane
    out = filter_at(dpacked_ptr, table, DEPTHWISE) + tl.program_id(0).to(tl.int64) * (2 * packed_length)
    down = origin - kernel // 2 * dilation
    for _ in range(kernel):
        if kernel == 3:
            _row_of_filter(
                src_ptr, dt_ptr, out, down, origin, dilation, mean, rstd, along_mean, along_rstd, M, H, W, HO, WO,
                pitch, num_tiles, c, channel, packed_length, apart, C, 3, STRIDE, NORMALISED, P, B, ACC,
            )  # fmt: skip
        elif kernel == 5:
            _row_of_filter(
                src_ptr, dt_ptr, out, down, origin, dilation, mean, rstd, along_mean, along_rstd, M, H, W, HO, WO,
                pitch, num_tiles, c, channel, packed_length, apart, C, 5, STRIDE, NORMALISED, P, B, ACC,
            )  # fmt: skip
        else:
            for j in range(kernel):
                right = origin + (j - kernel // 2) * dilation
                _row_of_filter(
                    src_ptr, dt_ptr, out + j * C, down, right, dilation, mean, rstd, along_mean, along_rstd, M, H, W,
                    HO, WO, pitch, num_tiles, c, channel, packed_length, apart, C, 1, STRIDE, NORMALISED, P, B, ACC,
                )  # fmt: skip
        out += kernel * C
        down += dilation


@triton.jit(do_not_specialize=DUAL_RUN_TIME)
def dual_depthwise_backward_kernel(
    z_ptr, dt_ptr, packed_ptr, stats_ptr, branches_ptr, partial_ptr, M, HO, WO, first, launched, num_tiles,
    packed_length, C: tl.constexpr, B: tl.constexpr, P: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of what the second half of a separable convolution reads, through its ReLU, its two sums over a tile,
    and the tangents of all, ``[branch, tile, 2, 2, C]``. It takes the place of the second half's raw output."""
    tile = tl.program_id(0)
    b = launched + tl.program_id(1)
    c, channel = channels_of(tl.program_id(2), C, B)
    table = branches_ptr + b * BRANCH_FIELDS
    reads = tl.load(table + READS)
    plane = tl.cast(M, tl.int64) * (2 * C)
    m, live, n, y, x = pixels_of(tile, M, HO, WO, P)
    du, along_du = depthwise_transposed(
        dt_ptr + (b - launched) * plane, packed_ptr, table, n, y, x, live, HO, WO, c, channel,
        aligned(packed_length, 4), C, 1, P, B, ACC,
    )  # fmt: skip
    inside = live[:, None] & channel[None, :]
    at = m.to(tl.int64)[:, None] * (2 * C) + c[None, :]
    z, along_z = load_dual(z_ptr + (reads - first) * plane + at, inside, C)
    mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, reads, c, channel, C)
    u, along_u = normalised(z, along_z, mean, rstd, along_mean, along_rstd)
    kept = inside & (u > 0)
    du = tl.where(kept, du, 0.0)
    along_du = tl.where(kept, along_du, 0.0)
    out = z_ptr + (b - first) * plane + at
    tl.store(out, du, mask=inside)
    tl.store(out + C, along_du, mask=inside)
    partial = partial_ptr + (tl.program_id(1).to(tl.int64) * num_tiles + tile) * (4 * C)
    store_row(partial, tl.sum(du, 0), c, channel, B)
    store_row(partial + C, tl.sum(tl.where(inside, du * u, 0.0), 0), c, channel, B)
    store_row(partial + 2 * C, tl.sum(along_du, 0), c, channel, B)
    store_row(partial + 3 * C, tl.sum(tl.where(inside, along_du * u + du * along_u, 0.0), 0), c, channel, B)
