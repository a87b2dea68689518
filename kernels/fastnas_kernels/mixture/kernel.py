# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportIndexIssue=false
# (Triton's annotations do not describe what its compiler accepts)
"""Triton kernels of the weighted sum: K tensors that lie in memory of their own, each read once.

The tensors are passed as a tuple of pointers, so a launch is specialised for their number, every access to them is
a 128-bit one, and nothing is copied together first. All tensors of a launch share one dense memory layout, in which
a kernel sees flat vectors.

Shape suffixes: K candidates, M elements of one candidate, P programs.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastnas_kernels.backend import on_device_of
from fastnas_kernels.tensors import accumulator, common_strides, laid_out

BLOCK_M = 2048  # elements of a program of four warps
DOT_BLOCK_M = 1024  # elements of a program of row_dot_kernel, a single warp
MAX_TENSORS = 64  # of one launch; a longer list is cut into several


@triton.jit
def weighted_sum_kernel(xs, mix_ptr, start_ptr, y_ptr, M, K: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < M
    y = tl.zeros((BLOCK_M,), ACC)
    if start_ptr is not None:
        y += tl.load(start_ptr + m, mask=inside, other=0)
    for k in tl.static_range(K):
        x = tl.load(xs[k] + m, mask=inside, other=0).to(ACC)
        y += tl.load(mix_ptr + k).to(ACC) * x
        if xs[k].dtype.element_ty.primitive_bitwidth == 16 and k % 16 == 15:
            tl.debug_barrier()  # Without it the compiler moves so many 16-bit loads to the front that it spills
    tl.store(y_ptr + m, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def row_dot_kernel(xs, g_ptr, partial_ptr, M, row, K: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr):
    pid = tl.program_id(0).to(tl.int64)
    m = pid * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < M
    g = tl.load(g_ptr + m, mask=inside, other=0).to(ACC)
    for k in tl.static_range(K):
        x = tl.load(xs[k] + m, mask=inside, other=0).to(ACC)
        tl.store(partial_ptr + pid * row + k, tl.sum(x * g))


@triton.jit
def scaled_copies_kernel(mix_ptr, g_ptr, ys, M, K: tl.constexpr, ACC: tl.constexpr, BLOCK_M: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = m < M
    g = tl.load(g_ptr + m, mask=inside, other=0).to(ACC)
    for k in tl.static_range(K):
        y = tl.load(mix_ptr + k).to(ACC) * g
        tl.store(ys[k] + m, y.to(g_ptr.dtype.element_ty), mask=inside)


def weighted_sum(xs: Sequence[Tensor], mix_K: Tensor) -> Tensor:
    """``sum_k mix_K[k] xs[k]``, in the memory layout that most of ``xs`` are in."""
    strides = common_strides(xs)
    xs, mix_K = [laid_out(x, strides) for x in xs], mix_K.contiguous()
    like, y = xs[0], None
    for part in _parts(len(xs)):
        is_last = part.stop == len(xs)
        dtype = like.dtype if is_last else accumulator(like.dtype)
        start, y = y, torch.empty_strided(like.shape, strides, dtype=dtype, device=like.device)
        constants = {"K": len(xs[part]), "ACC": _accumulator(like), "BLOCK_M": BLOCK_M}
        if like.numel() > 0:
            grid = (triton.cdiv(like.numel(), BLOCK_M),)
            with on_device_of(like):
                weighted_sum_kernel[grid](tuple(xs[part]), mix_K[part], start, y, like.numel(), **constants)
    assert y is not None, "there is a candidate"
    return y


def row_dot(xs: Sequence[Tensor], g: Tensor) -> Tensor:
    """``<xs[k], g>`` for every k, in float32 (float64 for float64), in one pass over ``xs`` and without atomics."""
    strides = common_strides([*xs, g])
    xs, g = [laid_out(x, strides) for x in xs], laid_out(g, strides)
    num_programs = triton.cdiv(g.numel(), DOT_BLOCK_M)
    dtype = accumulator(g.dtype)
    partial_PK = torch.empty(num_programs, len(xs), dtype=dtype, device=g.device)
    for part in _parts(len(xs)):
        constants = {"K": len(xs[part]), "ACC": _accumulator(g), "BLOCK_M": DOT_BLOCK_M}
        if num_programs > 0:  # one warp reduces by shuffles alone, without a barrier for every candidate
            with on_device_of(g):
                row_dot_kernel[(num_programs,)](
                    tuple(xs[part]), g, partial_PK[:, part], g.numel(), len(xs), **constants, num_warps=1
                )
    return partial_PK.sum(0)  # the second stage, in a fixed order: bitwise reproducible


def scaled_copies(mix_K: Tensor, g: Tensor) -> list[Tensor]:
    """``mix_K[k] g`` for every k, reading ``g`` once."""
    strides = common_strides([g])
    mix_K, g = mix_K.contiguous(), laid_out(g, strides)
    ys = [torch.empty_strided(g.shape, strides, dtype=g.dtype, device=g.device) for _ in range(len(mix_K))]
    for part in _parts(len(ys)):
        constants = {"K": len(ys[part]), "ACC": _accumulator(g), "BLOCK_M": BLOCK_M}
        if g.numel() > 0:
            grid = (triton.cdiv(g.numel(), BLOCK_M),)
            with on_device_of(g):
                scaled_copies_kernel[grid](mix_K[part], g, tuple(ys[part]), g.numel(), **constants)
    return ys


def _parts(num_tensors: int) -> list[slice]:
    return [slice(i, min(i + MAX_TENSORS, num_tensors)) for i in range(0, num_tensors, MAX_TENSORS)]


def _accumulator(x: Tensor) -> tl.dtype:
    return tl.float64 if x.dtype == torch.float64 else tl.float32
