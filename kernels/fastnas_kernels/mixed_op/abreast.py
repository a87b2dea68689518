# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Stretches of pixels that lie side by side in a row, of which a thread takes each as a whole: what several of them
read, it reads once. The last stretch of a row may be shorter than the others."""

import triton
import triton.language as tl

from fastnas_kernels.mixed_op.pixels import FAR, column_inside, is_within, limits, load_tap, located, pixels_of


@triton.jit
def stretches_of(tile, M, H, W, P: tl.constexpr, ABREAST: tl.constexpr):
    """Numbers of the first pixels of a tile's ``P`` stretches, which of them there are, and their image, row and
    column."""
    if ABREAST == 1:
        m, live, n, h, w = pixels_of(tile, M, H, W, P)
    else:
        n, h, w = located(tile * P + tl.arange(0, P), H, tl.cdiv(W, ABREAST))
        w *= ABREAST
        m = (n * H + h) * W + w
        live = m < M
    return m, live, n, h, w


@triton.jit
def is_in_row(live, x, place, W, ABREAST: tl.constexpr):
    """Which pixels there are at a ``place`` of stretches that begin at the columns ``x``."""
    return live & (x + place < W) if ABREAST > 1 else live


@triton.jit
def _pixels_before(stretch, M, W, ABREAST: tl.constexpr):
    if ABREAST == 1:
        before = stretch
    else:
        stretches = tl.cdiv(W, ABREAST)
        row = (stretch.to(tl.uint32) // stretches.to(tl.uint32)).to(tl.int32)
        before = row * W + tl.minimum((stretch - row * stretches) * ABREAST, W)
    return tl.minimum(before, M)


@triton.jit
def pixels_in(tile, M, W, P: tl.constexpr, ABREAST: tl.constexpr):
    """How many pixels a tile of ``P`` stretches has."""
    return _pixels_before((tile + 1) * P, M, W, ABREAST) - _pixels_before(tile * P, M, W, ABREAST)


@triton.jit
def _row(
    totals, at, taps, row_inside, x, W, c, channel, scale, shift,
    C: tl.constexpr, SIZE: tl.constexpr, ABREAST: tl.constexpr, TRANSPOSED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``totals`` and what one row of a filter adds to them; ``at`` is the first pixel's middle column."""
    weights = ()
    for j in tl.static_range(SIZE):
        weight = tl.load(taps + (-j * C if TRANSPOSED else j * C) + c, mask=channel, other=0.0)
        weights = weights + (weight[None, :],)  # noqa: RUF005  (Triton knows no unpacking)
    left, right = limits(x, row_inside)
    for place in tl.static_range(ABREAST + SIZE - 1):
        column = place - SIZE // 2
        inside = column_inside(left, right, column, column, W, SIZE)
        if TRANSPOSED:
            v = tl.load(at + column * C, mask=inside[:, None] & channel[None, :], other=0.0).to(ACC)
        else:
            v = load_tap(at + column * C, inside, channel, scale, shift, True, ACC)
        added = ()
        for s in tl.static_range(ABREAST):
            if (place >= s) and (place - s < SIZE):
                added = added + (totals[s] + v * weights[place - s],)  # noqa: RUF005
            else:
                added = added + (totals[s],)  # noqa: RUF005
        totals = added
    return totals


@triton.jit
def depthwise_abreast(
    src_ptr, taps, kernel, scale, shift, n, h, w, live, H, W, c, channel,
    C: tl.constexpr, ABREAST: tl.constexpr, TRANSPOSED: tl.constexpr, P: tl.constexpr, B: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """Normalisation, ReLU and a depthwise convolution that is not dilated, with stride 1, at ``ABREAST`` pixels side by
    side from ``(n, h, w)`` on: as many tiles ``[P, B]``. Beyond the end of a row they mean nothing.

    With ``TRANSPOSED``, the gradient of what such a convolution reads, without those two: ``src_ptr`` is that of its
    output, and the filter goes back to front.
    """
    totals = (tl.zeros((P, B), ACC),) * ABREAST
    if TRANSPOSED:
        taps += (kernel * kernel - 1) * C
    step = -C if TRANSPOSED else C
    y = h - kernel // 2
    at = src_ptr + ((n.to(tl.int64) * H + y) * W + w)[:, None] * C + c[None, :]
    y = tl.where(live, y, -FAR)
    for _ in range(kernel):
        row_inside = is_within(y, H)
        if kernel == 3:
            totals = _row(totals, at, taps, row_inside, w, W, c, channel, scale, shift, C, 3, ABREAST, TRANSPOSED, ACC)
        elif kernel == 5:
            totals = _row(totals, at, taps, row_inside, w, W, c, channel, scale, shift, C, 5, ABREAST, TRANSPOSED, ACC)
        else:
            for j in range(kernel):
                column = j - kernel // 2
                totals = _row(
                    totals, at + column * C, taps + j * step, row_inside, w + column, W, c, channel, scale, shift,
                    C, 1, ABREAST, TRANSPOSED, ACC,
                )  # fmt: skip
        y += 1
        at += W * C
        taps += kernel * step
    return totals
