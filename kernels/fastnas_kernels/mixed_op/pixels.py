# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""What all kernels of the mixed operation share: the columns of their tables, and how pixels are read.

Images lie as ``[M, C]``: pixels in the order image, row, column, with all channels of a pixel side by side. So
every shift of a convolution keeps the alignment of a pixel, and reductions over images are sums over rows.

Shape suffixes: M output pixels (P of them in a tile), C channels (B of them in a block).
"""

import triton
import triton.language as tl

# Columns of the table of branches, in the order of `lowering.Branch`
KERNEL = tl.constexpr(0)
DILATION = tl.constexpr(1)
ORIGIN = tl.constexpr(2)
DEPTHWISE = tl.constexpr(3)
POINTWISE = tl.constexpr(4)
READS = tl.constexpr(5)
COEFFICIENT = tl.constexpr(6)
TARGET = tl.constexpr(7)
SLOT = tl.constexpr(8)
READ_BY = tl.constexpr(9)
BRANCH_FIELDS = tl.constexpr(10)

# Columns of the table of edges, see `lowering.Lowered.edge_table`
SOURCE = tl.constexpr(0)
SKIP = tl.constexpr(1)
MAX_POOL = tl.constexpr(2)
MAX_POOL_ROW = tl.constexpr(3)
AVG_POOL = tl.constexpr(4)
AVG_POOL_ROW = tl.constexpr(5)
NODE = tl.constexpr(6)
EDGE_FIELDS = tl.constexpr(7)

# Beyond the border of any image, and a filter's reach away from where 32 bits end
FAR = tl.constexpr(1 << 30)

# Statistics lie as [row, 3, C]
MEAN = tl.constexpr(0)
RSTD = tl.constexpr(1)
VARIANCE = tl.constexpr(2)

# Integers that differ from launch to launch. Triton would compile a kernel again for each that happens to be 1 or a
# multiple of 16; here the number of channels is what decides over alignment, and that is a constant.
RUN_TIME = (
    "M", "M_IN", "M_STATE", "H", "W", "HO", "WO", "pitch", "dy_pitch", "out_pitch", "column", "node", "first",
    "middle", "launched", "inner_first", "first_bundle", "first_row", "first_edge", "last_edge", "first_entering",
    "last_entering", "first_leaving", "last_leaving", "num_tiles", "stretch_tiles", "more_tiles",
    "packed_length",
)  # fmt: skip


@triton.jit
def locate(m, HO, WO):
    """Image, row and column of pixel ``m``."""
    return m // (HO * WO), (m // WO) % HO, m % WO


@triton.jit
def aligned(pitch, C: tl.constexpr):
    """A state's pitch, which is a multiple of ``C``, as the compiler can make use of it for 128-bit accesses."""
    # It forgets `tl.multiple_of` on the argument of a function, but follows arithmetic
    return pitch // C * C


@triton.jit
def load_pixels(ptr, n, y, x, H, W, pitch, c, inside, channel, ACC: tl.constexpr):
    """``[P, B]``: channels ``c`` of the pixels ``(n, y, x)``, zero where not ``inside``."""
    # 64 bits: an ImageNet batch of states has more than 2^31 elements
    pixel = (n.to(tl.int64) * H + y) * W + x
    mask = inside[:, None] & channel[None, :]
    return tl.load(ptr + pixel[:, None] * pitch + c[None, :], mask=mask, other=0.0).to(ACC)


@triton.jit
def store_row(ptr, row, c, channel, B: tl.constexpr, scale_ptr=None):
    """Store the row ``[B]`` of sums, times the row at ``scale_ptr`` if there is one, at ``ptr + c``.

    It is stored as the first of as many rows as give 128 threads four numbers each. Triton would deal out a row alone
    one number a thread, for which the sums would have to pass through shared memory first.
    """
    ROWS: tl.constexpr = 4 * 128 // B
    first = (tl.arange(0, ROWS) == 0)[:, None] & channel[None, :]
    at = tl.broadcast_to(c[None, :], (ROWS, B))
    v = tl.broadcast_to(row[None, :], (ROWS, B))
    if scale_ptr is not None:
        v *= tl.load(scale_ptr + at, mask=first, other=0.0)
    tl.store(ptr + at, v, mask=first)


@triton.jit
def rectify(v):
    """ReLU that keeps NaN, as PyTorch's does."""
    return tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def pool(
    ptr, n, h, w, H, W, pitch, c, live, channel, stride,
    POSITION: tl.constexpr, P: tl.constexpr, B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Maximum, the position of the first one (0 to 8, row by row) if ``POSITION``, and mean of a 3x3 window without its
    padding; each ``[P, B]``, and one over the number of pixels in the window ``[P]``.

    In place of the padding the nearest pixel is read, which is one of the window: no access needs a mask. What stands
    where a pixel is not ``live`` means nothing.
    """
    y, x = h * stride, w * stride
    middle = window(ptr, tl.where(live, n, 0), y, x, H, W, pitch, c)
    highest = tl.full((P, B), float("-inf"), ACC)
    position = tl.zeros((P, B), tl.int32)
    total = tl.zeros((P, B), ACC)
    count = tl.zeros((P,), ACC)
    for i in tl.static_range(3):
        row_inside = is_within(y + (i - 1), H)
        row = middle + (tl.where(row_inside, i - 1, 0) * (W * pitch))[:, None]
        for j in tl.static_range(3):
            column_inside = is_within(x + (j - 1), W)
            at = row + (tl.where(column_inside, j - 1, 0) * pitch)[:, None]
            v = tl.load(at, mask=channel[None, :], other=0.0).to(ACC)
            inside = row_inside & column_inside
            if POSITION:
                higher = inside[:, None] & ((v > highest) | (v != v))  # noqa: PLR0124  (NaN)
                highest = tl.where(higher, v, highest)
                position = tl.where(higher, i * 3 + j, position)
            else:
                highest = tl.maximum(highest, v, propagate_nan=tl.PropagateNan.ALL)
            total += tl.where(inside[:, None], v, 0.0)
            count += inside.to(ACC)
    share = 1.0 / count
    return highest, position, total * share[:, None], share


@triton.jit
def located(m, HO, WO):
    """As :func:`locate`, with the unsigned divisions and the products that take the fewest instructions."""
    row = (m.to(tl.uint32) // tl.cast(WO, tl.uint32)).to(tl.int32)
    n = (row.to(tl.uint32) // tl.cast(HO, tl.uint32)).to(tl.int32)
    return n, row - n * HO, m - row * WO


@triton.jit
def pixels_of(tile, M, H, W, P: tl.constexpr):
    """Numbers of the pixels of a tile, which of them there are, and the image, row and column of each."""
    m = tile * P + tl.arange(0, P)
    live = m < M
    n, h, w = located(m, H, W)
    return m, live, n, h, w


@triton.jit
def channels_of(block, C: tl.constexpr, B: tl.constexpr, KNOWN: tl.constexpr = True):
    """The channels of a block, and which of them there are: a constant where all are, unless not ``KNOWN``."""
    c = (0 if KNOWN and C <= B else block * B) + tl.arange(0, B)
    return c, is_channel(c, C, B) if KNOWN else c < C


@triton.jit
def is_channel(c, C: tl.constexpr, B: tl.constexpr):
    """Which of the channels ``c`` of a block there are. Where blocks are full, that is a constant, of which masks keep
    nothing."""
    return tl.full((B,), True, tl.int1) if C % B == 0 else c < C


@triton.jit
def is_within(x, size):
    """Whether ``0 <= x < size``, in one comparison: a negative number is a large one without its sign."""
    return x.to(tl.uint32) < tl.cast(size, tl.uint32)


@triton.jit
def limits(x, row_inside):
    """``x`` twice, but what :func:`column_inside` finds beyond the left and beyond the right border where not
    ``row_inside``."""
    return tl.where(row_inside, x, -1), tl.where(row_inside, x, FAR)


@triton.jit
def column_inside(left, right, distance, SIDE: tl.constexpr, W, SIZE: tl.constexpr):
    """Whether the columns at a ``distance`` from the middle of a filter with ``SIZE`` columns are within an image, as
    the middle is: one comparison, as it can only lie beyond the border of its ``SIDE``. (What does not change from row
    to row would take a register for every column and pixel.)"""
    if SIZE == 1:  # the middle may be beyond a border, too
        inside = is_within(right + distance, W)
    elif SIDE < 0:
        inside = left >= -distance
    else:
        inside = right < W - distance
    return inside


@triton.jit
def window(ptr, n, y, x, H, W, pitch, c):
    """Addresses ``[P, B]`` of the channels ``c`` of the pixels ``(n, y, x)``, inside or not.

    What lies around them in the same image is at a distance that is the same for all, in 32 bits.
    """
    pixel = (n.to(tl.int64) * H + y) * W + x
    return ptr + pixel[:, None] * pitch + c[None, :]


@triton.jit
def load_tap(at, inside, channel, scale, shift, NORMALISED: tl.constexpr, ACC: tl.constexpr):
    """``[P, B]``: what a filter reads at ``at``, rectified; zero where not ``inside``."""
    mask = inside[:, None] & channel[None, :]
    if NORMALISED:  # the padding is added after normalisation: what it leaves of -inf, ReLU makes zero
        v = tl.load(at, mask=mask, other=float("-inf")).to(ACC) * scale[None, :] + shift[None, :]
    else:
        v = tl.load(at, mask=mask, other=0.0).to(ACC)
    return rectify(v)


@triton.jit
def normalisation(stats_ptr, row, c, channel, C: tl.constexpr):
    """``scale`` and ``shift`` of the statistics in a row: ``(z - mean) / std`` is ``z * scale + shift``."""
    at = stats_ptr + row * 3 * C + c
    scale = tl.load(at + RSTD * C, mask=channel, other=1.0)  # not 0: see `load_tap`
    return scale, -scale * tl.load(at + MEAN * C, mask=channel, other=0.0)


@triton.jit
def _row_of_taps(
    t, at, taps_ptrs, left, right, step, dilation, W, c, channel, scale, shift,
    C: tl.constexpr, SIZE: tl.constexpr, NORMALISED: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """``t`` and what one row of a filter adds to it."""
    for j in tl.static_range(SIZE):
        column = j - SIZE // 2
        inside = column_inside(left, right, column * dilation, column, W, SIZE)
        v = load_tap(at + column * step, inside, channel, scale, shift, NORMALISED, ACC)
        added = ()
        for e in tl.static_range(EDGES):
            weight = tl.load(taps_ptrs[e] + j * C + c, mask=channel, other=0.0)
            added = added + (t[e] + v * weight[None, :],)  # noqa: RUF005  (Triton knows no unpacking)
        t = added
    return t


@triton.jit
def next_taps(taps_ptrs, step, EDGES: tl.constexpr):
    """The filters of several edges, ``step`` further."""
    moved = ()
    for e in tl.static_range(EDGES):
        moved = moved + (taps_ptrs[e] + step,)  # noqa: RUF005
    return moved


@triton.jit
def _columns(
    t, at, taps_ptrs, right, step, kernel, dilation, W, c, channel, scale, shift,
    C: tl.constexpr, NORMALISED: tl.constexpr, EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The same for any number of columns, one after another."""
    for j in range(kernel):
        column = j - kernel // 2
        t = _row_of_taps(
            t, at + column * step, next_taps(taps_ptrs, j * C, EDGES), right, right + column * dilation, step,
            dilation, W, c, channel, scale, shift, C, 1, NORMALISED, EDGES, ACC,
        )  # fmt: skip
    return t


@triton.jit
def depthwise_taps(
    src_ptr, taps_ptrs, kernel, dilation, origin, scale, shift, n, h, w, live, H, W, pitch, c, channel,
    C: tl.constexpr, STRIDE: tl.constexpr, NORMALISED: tl.constexpr, EDGES: tl.constexpr, P: tl.constexpr,
    B: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """ReLU and depthwise convolution of one block of channels for several edges: a tuple of ``EDGES`` tiles ``[P, B]``.

    Each pixel is read once for all edges. The rows of a filter are a run-time loop, so that the compiler cannot stage
    each tap through shared memory on its way to the matrix product; 3 and 5 columns are not, unless their loads would
    take more registers than there are. From row to row goes a distance of 32 bits: of an address, the compiler would
    keep one for each column and pixel, in two registers.
    """
    t = (tl.zeros((P, B), ACC),) * EDGES
    x = w * STRIDE + origin
    y = h * STRIDE + origin - kernel // 2 * dilation
    step = dilation * pitch
    image = src_ptr + (n.to(tl.int64) * (H * W) * pitch)[:, None] + c[None, :]
    distance = (y * W + x) * pitch
    y = tl.where(live, y, -FAR)
    for _ in range(kernel):
        at = image + distance[:, None]
        left, right = limits(x, is_within(y, H))
        if C > 16:
            t = _columns(
                t, at, taps_ptrs, right, step, kernel, dilation, W, c, channel, scale, shift,
                C, NORMALISED, EDGES, ACC,
            )  # fmt: skip
        elif kernel == 3:
            t = _row_of_taps(
                t, at, taps_ptrs, left, right, step, dilation, W, c, channel, scale, shift,
                C, 3, NORMALISED, EDGES, ACC,
            )  # fmt: skip
        elif kernel == 5:
            t = _row_of_taps(
                t, at, taps_ptrs, left, right, step, dilation, W, c, channel, scale, shift,
                C, 5, NORMALISED, EDGES, ACC,
            )  # fmt: skip
        else:
            t = _columns(
                t, at, taps_ptrs, right, step, kernel, dilation, W, c, channel, scale, shift,
                C, NORMALISED, EDGES, ACC,
            )  # fmt: skip
        distance += W * step
        y += dilation
        taps_ptrs = next_taps(taps_ptrs, kernel * C, EDGES)
    return t


@triton.jit
def filter_at(packed_ptr, table, FIELD: tl.constexpr):
    """Where a branch's filter begins: a multiple of 16 bytes (see ``lowering``), so 128 bits are read at a time."""
    return packed_ptr + tl.multiple_of(tl.load(table + FIELD), 4)


@triton.jit
def widened(t, B: tl.constexpr):
    """A tile ``[P, B]`` whose rows have the 16 numbers that a matrix product takes at least: with fewer channels, zeros
    stand between them. Two pixels in a row would take as many multiplications, and let a NaN spread from one to the
    other."""
    if B < 16:
        t = tl.interleave(t, tl.zeros_like(t))
    if B < 8:
        t = tl.interleave(t, tl.zeros_like(t))
    return t


@triton.jit
def widened_filter(weight, B: tl.constexpr):
    """A 1x1 filter ``[B, C out]`` for what is :func:`widened`."""
    if B < 16:
        weight = tl.trans(widened(tl.trans(weight), B))
    return weight


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
