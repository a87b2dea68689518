"""Weighted sum of candidate outputs that lie in memory of their own: the relaxed edge and the node.

``y = sum_k mix[k] x_k``. The form ``T(x, mix, g) = sum_km mix[k] x_k[m] g[m]`` is linear in each argument, so every
derivative of every order is one of three partial contractions: the weighted sum (over k), the dot products
``r[k] = <x_k, g>`` (over m), and the scaled copies ``mix[k] g``. Each is differentiated by the other two.

``dx_k = mix[k] dy`` needs the coefficients and ``dmix[k] = <x_k, dy>`` the candidates: a step that holds the
coefficients fixed saves no candidate at all.

Shape suffixes: K candidates.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastnas_kernels.backend import backend_for
from fastnas_kernels.check import invalid, require_shape
from fastnas_kernels.mixture.definition import reference_row_dot, reference_scaled_copies, reference_weighted_sum
from fastnas_kernels.operators import signed
from fastnas_kernels.tensors import accumulator, common_strides

# The kernels as operators of PyTorch, which tracers see from the outside. Triton is imported when the first kernel
# runs: it exists on Linux only, and the eager definitions do without it.


@torch.library.custom_op("fastnas::weighted_sum", mutates_args=())
def _weighted_sum_op(xs: list[Tensor], mix_K: Tensor) -> Tensor:
    from fastnas_kernels.mixture import kernel  # noqa: PLC0415

    return kernel.weighted_sum(xs, mix_K)


@torch.library.custom_op("fastnas::row_dot", mutates_args=())
def _row_dot_op(xs: list[Tensor], g: Tensor) -> Tensor:
    from fastnas_kernels.mixture import kernel  # noqa: PLC0415

    return kernel.row_dot(xs, g)


@torch.library.custom_op("fastnas::scaled_copies", mutates_args=())
def _scaled_copies_op(mix_K: Tensor, g: Tensor) -> list[Tensor]:
    from fastnas_kernels.mixture import kernel  # noqa: PLC0415

    return kernel.scaled_copies(mix_K, g)


@_weighted_sum_op.register_fake
def _(xs: list[Tensor], mix_K: Tensor) -> Tensor:
    return xs[0].new_empty_strided(xs[0].shape, common_strides(xs))


@_row_dot_op.register_fake
def _(xs: list[Tensor], g: Tensor) -> Tensor:
    return g.new_empty(len(xs), dtype=accumulator(g.dtype))


@_scaled_copies_op.register_fake
def _(mix_K: Tensor, g: Tensor) -> list[Tensor]:
    return [g.new_empty_strided(g.shape, common_strides([g])) for _ in range(mix_K.shape[0])]


def _raw_weighted_sum(mix_K: Tensor, xs: Sequence[Tensor]) -> Tensor:
    is_triton = backend_for(mix_K.device) == "triton"
    return _weighted_sum_op(list(xs), mix_K) if is_triton else reference_weighted_sum(xs, mix_K)


def _raw_row_dot(g: Tensor, xs: Sequence[Tensor]) -> Tensor:
    is_triton = backend_for(g.device) == "triton"
    return _row_dot_op(list(xs), g) if is_triton else reference_row_dot(xs, g)


def _raw_scaled_copies(mix_K: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    is_triton = backend_for(g.device) == "triton"
    return tuple(_scaled_copies_op(mix_K, g) if is_triton else reference_scaled_copies(mix_K, g))


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    @signed
    def forward(mix_K: Tensor, *xs: Tensor) -> Tensor:
        return _raw_weighted_sum(mix_K, xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        mix_K, *xs = inputs
        mix_needed, *needed = ctx.needs_input_grad
        ctx.save_for_backward(mix_K if any(needed) else None, *(xs if mix_needed else ()))
        ctx.dtype = mix_K.dtype

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        mix_K, *xs = ctx.saved_tensors
        mix_needed, *needed = ctx.needs_input_grad
        dmix_K = _row_dot(dy, xs).to(ctx.dtype) if mix_needed else None
        return dmix_K, *_scaled_copies_where(needed, mix_K, dy)


class _WeightedSumForwardMode(_WeightedSum):
    """Apart, because torch.compile refuses a Function that has a ``jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _WeightedSum.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)  # until the call returns

    @staticmethod
    def jvp(ctx: Any, tmix_K: Tensor | None, *txs: Tensor | None) -> Tensor:  # type: ignore[override]
        mix_K, *xs = ctx.saved_tensors
        known = [k for k, tx in enumerate(txs) if tx is not None]
        terms = [_weighted_sum(_pick(mix_K, known), [tx for tx in txs if tx is not None])] if known else []
        terms += [_weighted_sum(tmix_K, xs)] if tmix_K is not None else []
        return sum(terms[1:], start=terms[0])


class _RowDot(torch.autograd.Function):
    @staticmethod
    @signed
    def forward(g: Tensor, *xs: Tensor) -> Tensor:
        return _raw_row_dot(g, xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        g, *xs = inputs
        g_needed, *needed = ctx.needs_input_grad
        ctx.save_for_backward(g if any(needed) else None, *(xs if g_needed else ()))
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, dr_K: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        g, *xs = ctx.saved_tensors
        g_needed, *needed = ctx.needs_input_grad
        dg = _weighted_sum(dr_K, xs) if g_needed else None
        return dg, *_scaled_copies_where(needed, dr_K, g)

    @staticmethod
    def jvp(ctx: Any, tg: Tensor | None, *txs: Tensor | None) -> Tensor:  # type: ignore[override]
        g, *xs = ctx.saved_tensors
        tr_K = _row_dot(g, [torch.zeros_like(x) if tx is None else tx for x, tx in zip(xs, txs, strict=True)])
        return tr_K if tg is None else tr_K + _row_dot(tg, xs)


class _ScaledCopies(torch.autograd.Function):
    @staticmethod
    @signed
    def forward(mix_K: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        return _raw_scaled_copies(mix_K, g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        mix_K, g = inputs
        mix_needed, g_needed = ctx.needs_input_grad
        ctx.save_for_backward(mix_K if g_needed else None, g if mix_needed else None)
        ctx.save_for_forward(*inputs)
        ctx.dtype = mix_K.dtype

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        mix_K, g = ctx.saved_tensors
        mix_needed, g_needed = ctx.needs_input_grad
        dmix_K = _row_dot(g, dys).to(ctx.dtype) if mix_needed else None
        return dmix_K, _weighted_sum(mix_K, dys) if g_needed else None

    @staticmethod
    def jvp(ctx: Any, tmix_K: Tensor | None, tg: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        mix_K, g = ctx.saved_tensors
        tys = [torch.zeros_like(g)] * len(mix_K) if tg is None else _scaled_copies(mix_K, tg)
        return tuple(tys) if tmix_K is None else tuple(map(torch.add, tys, _scaled_copies(tmix_K, g)))


def _weighted_sum(mix_K: Tensor, xs: Sequence[Tensor]) -> Tensor:
    function = _WeightedSum if torch.compiler.is_compiling() else _WeightedSumForwardMode
    return function.apply(mix_K, *xs)  # type: ignore[return-value]


# torch.compile differentiates once: the backward that it traces is made of the raw operations


def _row_dot(g: Tensor, xs: Sequence[Tensor]) -> Tensor:
    if torch.compiler.is_compiling():
        return _raw_row_dot(g, xs)
    return _RowDot.apply(g, *xs)  # type: ignore[return-value]


def _scaled_copies(mix_K: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    if torch.compiler.is_compiling():
        return _raw_scaled_copies(mix_K, g)
    return _ScaledCopies.apply(mix_K, g)  # type: ignore[return-value]


def _scaled_copies_where(needed: Sequence[bool], mix_K: Tensor, g: Tensor) -> list[Tensor | None]:
    """``mix_K[k] g`` for every k that is needed, ``None`` for the others."""
    known = [k for k, need in enumerate(needed) if need]
    copies = iter(_scaled_copies(_pick(mix_K, known), g) if known else ())
    return [next(copies) if need else None for need in needed]


def _pick(mix_K: Tensor, known: Sequence[int]) -> Tensor:
    # Of views: an index list would have to travel to the device
    return mix_K if len(known) == len(mix_K) else torch.stack([mix_K[k] for k in known])


def mixed_sum(candidates: Sequence[Tensor], mix: Tensor) -> Tensor:
    """Weighted sum of K tensors of one shape; differentiable to any order, in reverse and in forward mode.

    Computes ``y = sum_k mix[k] * candidates[k]`` (Liu et al., 2019, arXiv:1806.09055, eq. 2) without stacking, in
    one pass, accumulated in float32, or in float64 for float64 input, and rounded once. Coefficients keep their own
    precision, also under autocast. What is saved for the backward pass depends on the gradients asked for: the
    candidates only if ``mix`` needs one.

    A coefficient of exactly zero contributes exactly zero as long as its candidate is finite. Zero times infinity or
    NaN is NaN, as everywhere: a candidate that blew up stays visible. To switch one off, leave it out.

    Args:
        candidates: K tensors of the same shape, in any memory layout. Kernels read them where they lie if they
            share a dense layout; those that are in another one than most are copied.
        mix: Coefficients (dimensionless; they need not sum to one), shape ``[K]``.

    Returns:
        A tensor of the candidates' shape and (if they differ: promoted) dtype.

    Raises:
        ValueError: If there is no candidate, shapes or devices differ, or ``mix`` does not have one coefficient for
            each candidate.
        Unavailable: If the backend that ``FASTNAS_BACKEND`` forces cannot serve the device.
    """
    if not candidates:
        raise invalid("mixed_sum", "candidates must not be empty", "none")
    require_shape("mixed_sum", "mix", mix, [len(candidates)], "one coefficient for each candidate")
    first = candidates[0]
    if any(x.shape != first.shape for x in candidates):
        raise invalid("mixed_sum", "candidates must have one shape", sorted({tuple(x.shape) for x in candidates}))
    if any(x.device != mix.device for x in candidates):
        devices = sorted({str(x.device) for x in candidates})
        raise invalid("mixed_sum", f"candidates must be on the device of mix, {mix.device}", devices)
    if any(x.dtype != first.dtype for x in candidates):
        dtype = functools.reduce(torch.promote_types, [x.dtype for x in candidates])
        candidates = [x.to(dtype) for x in candidates]
    return _weighted_sum(mix, candidates)
