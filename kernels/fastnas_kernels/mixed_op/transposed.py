# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""What the gradient of a depthwise convolution's output sends back to its input."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.pixels import DEPTHWISE, DILATION, KERNEL, filter_at, is_within


@triton.jit
def _transposed_row(
    dx, row, taps, row_inside, w, dilation, WO, c, channel,
    C: tl.constexpr, SIZE: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``dx`` and what one row of a filter adds to it."""
    if STRIDE == 1:
        row += (w * C)[:, None]
    for j in tl.static_range(SIZE):
        column = w - j * dilation
        inside = row_inside & is_within(column, STRIDE * WO)
        if STRIDE == 1:
            at = row
            row -= dilation * C
        else:
            inside = inside & (column % 2 == 0)
            at = row + (column // 2 * C)[:, None]
        dt = tl.load(at, mask=inside[:, None] & channel[None, :], other=0.0).to(ACC)
        dx += dt * tl.load(taps + j * C + c, mask=channel, other=0.0)[None, :]
    return dx


@triton.jit
def _transposed_columns(
    dx, row, taps, row_inside, w, kernel, dilation, WO, c, channel,
    C: tl.constexpr, STRIDE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The same for any number of columns, one after another."""
    for j in range(kernel):
        dx = _transposed_row(
            dx, row, taps + j * C, row_inside, w - j * dilation, dilation, WO, c, channel, C, 1, STRIDE, ACC
        )
    return dx


@triton.jit
def transposed_taps(
    dt_ptr, packed_ptr, table, n, y, x, live, HO, WO, c, channel, origin,
    C: tl.constexpr, STRIDE: tl.constexpr, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of a depthwise convolution's input at the pixels ``(n, y, x)``, ``[P, B]``."""
    kernel = tl.load(table + KERNEL)
    dilation = tl.load(table + DILATION)
    taps = filter_at(packed_ptr, table, DEPTHWISE)
    h = y - origin + kernel // 2 * dilation
    w = x - origin + kernel // 2 * dilation
    image = dt_ptr + (n.to(tl.int64) * HO * WO * C)[:, None] + c[None, :]
    dx = tl.zeros((P, B), ACC)
    for _ in range(kernel):
        row_inside = live & is_within(h, STRIDE * HO)
        if STRIDE == 2:
            row_inside = row_inside & (h % 2 == 0)
        row = image + (h // STRIDE * (WO * C))[:, None]
        if kernel == 3:
            dx = _transposed_row(dx, row, taps, row_inside, w, dilation, WO, c, channel, C, 3, STRIDE, ACC)
        elif kernel == 5:
            dx = _transposed_row(dx, row, taps, row_inside, w, dilation, WO, c, channel, C, 5, STRIDE, ACC)
        else:
            dx = _transposed_columns(dx, row, taps, row_inside, w, kernel, dilation, WO, c, channel, C, STRIDE, ACC)
        h -= dilation
        taps += kernel * C
    return dx
