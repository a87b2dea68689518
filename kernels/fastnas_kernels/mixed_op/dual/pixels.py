# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Numbers with a tangent, as the kernels of second derivatives read them.

Images lie as ``[M, 2, C]``: the values of a pixel's channels, then their tangents along one direction, so that one
address serves both. Filters lie as ``[2, packed]``, statistics as ``[row, 2, 3, C]``, coefficients as ``[number, 2]``.
A product is ``(a b, a' b + a b')``; comparisons look at values alone, so that ReLU and maxima take their branch.
Everything is in the accumulator's precision.

Names: ``v`` is a value and ``d`` its tangent; other tangents begin with ``along_``. Shape suffixes as in ``pixels``.
"""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.pixels import (
    DEPTHWISE,
    DILATION,
    KERNEL,
    MEAN,
    ORIGIN,
    RSTD,
    RUN_TIME,
    filter_at,
    is_within,
    window,
)

DUAL_RUN_TIME = (*RUN_TIME, "last", "first_node")
ROW = tl.constexpr(6)
"""Lengths ``C`` of a row of statistics."""
ALONG = tl.constexpr(3)
"""Lengths ``C`` from a statistic to its tangent."""


@triton.jit
def load_dual(at, mask, apart):
    """Values at ``at`` and tangents ``apart`` further, zeros where not ``mask``."""
    return tl.load(at, mask=mask, other=0.0), tl.load(at + apart, mask=mask, other=0.0)


@triton.jit
def load_coefficient(ptr, number):
    """A coefficient and its tangent."""
    return tl.load(ptr + 2 * number), tl.load(ptr + 2 * number + 1)


@triton.jit
def load_statistics(stats_ptr, row, c, channel, C: tl.constexpr):
    """Mean and ``1 / std`` in a row of statistics, and the tangents of both."""
    at = stats_ptr + row * (ROW * C) + c
    mean = tl.load(at + MEAN * C, mask=channel, other=0.0)
    rstd = tl.load(at + RSTD * C, mask=channel, other=0.0)
    along_mean = tl.load(at + (ALONG + MEAN) * C, mask=channel, other=0.0)
    along_rstd = tl.load(at + (ALONG + RSTD) * C, mask=channel, other=0.0)
    return mean, rstd, along_mean, along_rstd


@triton.jit
def statistics_of_source(
    stats_ptr, reads, c, channel, C: tl.constexpr, NORMALISED: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr
):  # fmt: skip
    """Those of the branch that is read; zeros, which nothing uses, where the state is."""
    mean = tl.zeros((B,), ACC)
    rstd = mean
    along_mean = mean
    along_rstd = mean
    if NORMALISED:
        mean, rstd, along_mean, along_rstd = load_statistics(stats_ptr, reads, c, channel, C)
    return mean, rstd, along_mean, along_rstd


@triton.jit
def normalised(v, d, mean, rstd, along_mean, along_rstd):
    """``(v - mean) / std`` and its tangent."""
    centred = v - mean[None, :]
    return centred * rstd[None, :], (d - along_mean[None, :]) * rstd[None, :] + centred * along_rstd[None, :]


@triton.jit
def rectified_tap(
    at, inside, channel, mean, rstd, along_mean, along_rstd, apart, NORMALISED: tl.constexpr
):  # fmt: skip
    """``[P, B]``: what a filter reads at ``at`` after its ReLU, and the tangent of that; zero where not ``inside``."""
    mask = inside[:, None] & channel[None, :]
    v, d = load_dual(at, mask, apart)
    if NORMALISED:
        v, d = normalised(v, d, mean, rstd, along_mean, along_rstd)
    kept = mask & ((v > 0) | (v != v))  # noqa: PLR0124  (NaN)
    return tl.where(kept, v, 0.0), tl.where(kept, d, 0.0)


@triton.jit
def depthwise(
    src_ptr, packed_ptr, table, mean, rstd, along_mean, along_rstd, n, h, w, live, H, W, pitch, c, channel,
    packed_length, apart, C: tl.constexpr, STRIDE: tl.constexpr, NORMALISED: tl.constexpr,
    P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """ReLU and depthwise convolution of one block of channels, ``[P, B]``, and its tangent."""
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    taps = filter_at(packed_ptr, table, DEPTHWISE) + c
    t = tl.zeros((P, B), ACC)
    along_t = tl.zeros((P, B), ACC)
    y = h * STRIDE + origin - kernel // 2 * dilation
    x = w * STRIDE + origin - kernel // 2 * dilation
    at = window(src_ptr, n, y, x, H, W, pitch, c)
    step = dilation * pitch
    for _ in range(kernel):
        row_inside = live & is_within(y, H)
        for j in range(kernel):
            v, d = rectified_tap(
                at + j * step, row_inside & is_within(x + j * dilation, W), channel, mean, rstd, along_mean, along_rstd,
                apart, NORMALISED,
            )  # fmt: skip
            weight = tl.load(taps + j * C, mask=channel, other=0.0)
            along_weight = tl.load(taps + packed_length + j * C, mask=channel, other=0.0)
            t += v * weight[None, :]
            along_t += d * weight[None, :] + v * along_weight[None, :]
        at += W * step
        y += dilation
        taps += kernel * C
    return t, along_t


@triton.jit
def depthwise_transposed(
    dt_ptr, packed_ptr, table, n, y, x, live, HO, WO, c, channel, packed_length,
    C: tl.constexpr, STRIDE: tl.constexpr, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of what a depthwise convolution reads at the pixels ``(n, y, x)``, ``[P, B]``, and its tangent."""
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    origin = tl.load(table + ORIGIN)
    taps = filter_at(packed_ptr, table, DEPTHWISE) + c
    dx = tl.zeros((P, B), ACC)
    along_dx = tl.zeros((P, B), ACC)
    h = y - origin + kernel // 2 * dilation
    right = x - origin + kernel // 2 * dilation
    image = dt_ptr + (n.to(tl.int64) * HO * WO * (2 * C))[:, None] + c[None, :]
    for _ in range(kernel):
        row_inside = live & is_within(h, STRIDE * HO)
        if STRIDE == 2:
            row_inside = row_inside & (h % 2 == 0)
        for j in range(kernel):
            w = right - j * dilation
            inside = row_inside & is_within(w, STRIDE * WO)
            if STRIDE == 2:
                inside = inside & (w % 2 == 0)
            at = image + ((h // STRIDE * WO + w // STRIDE) * (2 * C))[:, None]
            v, d = load_dual(at, inside[:, None] & channel[None, :], C)
            weight = tl.load(taps + j * C, mask=channel, other=0.0)
            along_weight = tl.load(taps + packed_length + j * C, mask=channel, other=0.0)
            dx += v * weight[None, :]
            along_dx += d * weight[None, :] + v * along_weight[None, :]
        h -= dilation
        taps += kernel * C
    return dx, along_dx


@triton.jit
def pools(
    ptr, n, h, w, H, W, pitch, c, live, channel, stride, apart,
    P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Maximum of a 3x3 window without its padding, its tangent and its position (0 to 8, the first one, row by row),
    the mean and its tangent, each ``[P, B]``, and one over the number of pixels in the window ``[P]``.

    In place of the padding the nearest pixel is read, as in ``pixels.pool``.
    """
    y, x = h * stride, w * stride
    middle = window(ptr, tl.where(live, n, 0), y, x, H, W, pitch, c)
    highest = tl.full((P, B), float("-inf"), ACC)
    along_highest = tl.zeros((P, B), ACC)
    position = tl.zeros((P, B), tl.int32)
    total = tl.zeros((P, B), ACC)
    along_total = tl.zeros((P, B), ACC)
    count = tl.zeros((P,), ACC)
    for i in tl.static_range(3):
        row_inside = is_within(y + (i - 1), H)
        row = middle + (tl.where(row_inside, i - 1, 0) * (W * pitch))[:, None]
        for j in tl.static_range(3):
            column_inside = is_within(x + (j - 1), W)
            at = row + (tl.where(column_inside, j - 1, 0) * pitch)[:, None]
            v = tl.load(at, mask=channel[None, :], other=0.0)
            d = tl.load(at + apart, mask=channel[None, :], other=0.0)
            inside = (row_inside & column_inside)[:, None]
            higher = inside & ((v > highest) | (v != v))  # noqa: PLR0124  (NaN)
            highest = tl.where(higher, v, highest)
            along_highest = tl.where(higher, d, along_highest)
            position = tl.where(higher, i * 3 + j, position)
            total += tl.where(inside, v, 0.0)
            along_total += tl.where(inside, d, 0.0)
            count += (row_inside & column_inside).to(ACC)
    share = 1.0 / count
    return highest, along_highest, position, total * share[:, None], along_total * share[:, None], share


@triton.jit
def window_pair(
    ptr, n, h, w, H, W, pitch, q, live, channel, apart, P: tl.constexpr, B: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Maximum of a 2x2 window (smaller at an odd border), its tangent, and the position of the first one (0 to 3);
    zeros where a pixel is not ``live``."""
    highest = tl.full((P, B), float("-inf"), ACC)
    along = tl.zeros((P, B), ACC)
    position = tl.zeros((P, B), tl.int32)
    for i in tl.static_range(4):
        y = 2 * h + i // 2
        x = 2 * w + i % 2
        inside = (live & (y < H) & (x < W))[:, None] & channel[None, :]
        v, d = load_dual(window(ptr, n, y, x, H, W, pitch, q), inside, apart)
        higher = inside & ((v > highest) | (v != v))  # noqa: PLR0124  (NaN)
        highest = tl.where(higher, v, highest)
        along = tl.where(higher, d, along)
        position = tl.where(higher, i, position)
    return tl.where(live[:, None] & channel[None, :], highest, 0.0), along, position
