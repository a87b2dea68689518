# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Triton kernels that merge two tensors into reordered channels, and split them again, in one pass.

An element of an image tensor is at ``(outer * C + channel) * INNER + inner``: channels last has INNER = 1, the
contiguous format has INNER = H W. The general kernels look every channel up. The interleaving ones serve the shuffle
in two or four groups in channels last, where channel ``k * j + g`` of the result is channel ``j`` of group ``g``:
they read each group and write the result in 128-bit accesses.

Shape suffixes as in ``partial_channels``; M elements of the result, Q elements of one group.
"""

import triton
import triton.language as tl
from torch import Tensor

from fastnas_kernels.backend import on_device_of
from fastnas_kernels.tensors import common_image_format, empty_images

LOOKUP_BLOCK_M = 1024  # elements of a program of four warps that looks every channel up
BLOCK_BYTES = 8192  # of a program of four warps that interleaves: four 128-bit accesses a thread


@triton.jit
def _place(m, order_ptr, inside, INNER, C: tl.constexpr, GROUPS: tl.constexpr):
    """Where element ``m`` of the result comes from: whether from mixed, and its offset there and in bypass."""
    position = m // INNER
    inner = m % INNER
    outer = position // (C * GROUPS)
    channel = position % (C * GROUPS)
    if order_ptr is None:
        source = (channel % GROUPS) * C + channel // GROUPS
    else:
        source = tl.load(order_ptr + channel, mask=inside, other=0).to(tl.int64)
    in_mixed = (outer * C + source) * INNER + inner
    in_bypass = (outer * (C * (GROUPS - 1)) + source - C) * INNER + inner
    return source < C, in_mixed, in_bypass


@triton.jit
def merge_kernel(
    mixed_ptr,
    bypass_ptr,
    order_ptr,
    y_ptr,
    M,
    INNER,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < M
    is_mixed, in_mixed, in_bypass = _place(m, order_ptr, inside, INNER, C, GROUPS)
    mixed = tl.load(mixed_ptr + in_mixed, mask=inside & is_mixed, other=0)
    bypass = tl.load(bypass_ptr + in_bypass, mask=inside & (is_mixed == 0), other=0)
    tl.store(y_ptr + m, tl.where(is_mixed, mixed, bypass), mask=inside)


@triton.jit
def split_kernel(
    y_ptr,
    order_ptr,
    mixed_ptr,
    bypass_ptr,
    M,
    INNER,
    C: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < M
    is_mixed, in_mixed, in_bypass = _place(m, order_ptr, inside, INNER, C, GROUPS)
    y = tl.load(y_ptr + m, mask=inside, other=0)
    tl.store(mixed_ptr + in_mixed, y, mask=inside & is_mixed)
    tl.store(bypass_ptr + in_bypass, y, mask=inside & (is_mixed == 0))


@triton.jit
def interleave_kernel(mixed_ptr, bypass_ptr, y_ptr, Q, C: tl.constexpr, GROUPS: tl.constexpr, BLOCK_Q: tl.constexpr):
    pid = tl.program_id(0).to(tl.int64)
    q = pid * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = q < Q
    bypass_ptrs = bypass_ptr + ((q // C) * ((GROUPS - 1) * C) + q % C)
    g0 = tl.load(mixed_ptr + q, mask=inside, other=0)
    g1 = tl.load(bypass_ptrs, mask=inside, other=0)
    if GROUPS == 2:
        y = tl.interleave(g0, g1)
    else:
        g2 = tl.load(bypass_ptrs + C, mask=inside, other=0)
        g3 = tl.load(bypass_ptrs + 2 * C, mask=inside, other=0)
        y = tl.interleave(tl.interleave(g0, g2), tl.interleave(g1, g3))
    m = pid * (BLOCK_Q * GROUPS) + tl.arange(0, BLOCK_Q * GROUPS)
    tl.store(y_ptr + m, y, mask=m < Q * GROUPS)


@triton.jit
def deinterleave_kernel(y_ptr, mixed_ptr, bypass_ptr, Q, C: tl.constexpr, GROUPS: tl.constexpr, BLOCK_Q: tl.constexpr):
    pid = tl.program_id(0).to(tl.int64)
    m = pid * (BLOCK_Q * GROUPS) + tl.arange(0, BLOCK_Q * GROUPS)
    y = tl.load(y_ptr + m, mask=m < Q * GROUPS, other=0)
    q = pid * BLOCK_Q + tl.arange(0, BLOCK_Q)
    inside = q < Q
    bypass_ptrs = bypass_ptr + ((q // C) * ((GROUPS - 1) * C) + q % C)
    even, odd = tl.split(tl.reshape(y, (BLOCK_Q * GROUPS // 2, 2)))
    if GROUPS == 2:
        tl.store(mixed_ptr + q, even, mask=inside)
        tl.store(bypass_ptrs, odd, mask=inside)
    else:
        g0, g2 = tl.split(tl.reshape(even, (BLOCK_Q, 2)))
        g1, g3 = tl.split(tl.reshape(odd, (BLOCK_Q, 2)))
        tl.store(mixed_ptr + q, g0, mask=inside)
        tl.store(bypass_ptrs, g1, mask=inside)
        tl.store(bypass_ptrs + C, g2, mask=inside)
        tl.store(bypass_ptrs + 2 * C, g3, mask=inside)


def merge(mixed: Tensor, bypass: Tensor, k: int, order_C: Tensor | None) -> Tensor:
    """The channels of ``mixed`` and ``bypass`` in their new order, in the memory format of both or channels last."""
    memory_format = common_image_format(mixed, bypass)
    mixed, bypass = (x.contiguous(memory_format=memory_format) for x in (mixed, bypass))
    y = empty_images(mixed, mixed.shape[1] + bypass.shape[1], memory_format)
    with on_device_of(y):
        _launch(y, mixed, bypass, k, order_C, is_merge=True)
    return y


def split(y: Tensor, k: int, order_C: Tensor | None) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`merge`."""
    memory_format = common_image_format(y)
    y = y.contiguous(memory_format=memory_format)
    width = y.shape[1] // k
    mixed, bypass = (empty_images(y, channels, memory_format) for channels in (width, y.shape[1] - width))
    with on_device_of(y):
        _launch(y, mixed, bypass, k, order_C, is_merge=False)
    return mixed, bypass


def _launch(y: Tensor, mixed: Tensor, bypass: Tensor, k: int, order_C: Tensor | None, is_merge: bool) -> None:
    H, W = y.shape[2:]
    width = mixed.shape[1]
    if y.numel() == 0:
        return
    inner = H * W if y.is_contiguous() else 1
    if inner == 1 and order_C is None and k in (2, 4):
        num_elements, block = mixed.numel(), BLOCK_BYTES // y.itemsize // k
        grid = (triton.cdiv(num_elements, block),)
        if is_merge:
            interleave_kernel[grid](mixed, bypass, y, num_elements, C=width, GROUPS=k, BLOCK_Q=block)
        else:
            deinterleave_kernel[grid](y, mixed, bypass, num_elements, C=width, GROUPS=k, BLOCK_Q=block)
        return
    order_C = None if order_C is None else order_C.contiguous()
    grid, constants = (triton.cdiv(y.numel(), LOOKUP_BLOCK_M),), {"C": width, "GROUPS": k}
    if is_merge:
        merge_kernel[grid](mixed, bypass, order_C, y, y.numel(), inner, **constants, BLOCK_M=LOOKUP_BLOCK_M)
    else:
        split_kernel[grid](y, order_C, mixed, bypass, y.numel(), inner, **constants, BLOCK_M=LOOKUP_BLOCK_M)
