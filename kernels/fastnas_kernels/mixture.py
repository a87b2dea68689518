"""Weighted sum of candidate outputs that lie in memory of their own: the relaxed edge and the node.

``y = sum_k mix[k] x_k``. Its gradients are ``dx_k = mix[k] dy`` and ``dmix[k] = <x_k, dy>``: the first needs the
coefficients, the second the candidates, so a step that holds the coefficients fixed saves no candidate at all.
The backward is written in differentiable operations, which closes it under differentiation of any order.

Shape suffixes: K candidates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from fastnas_kernels.check import require, require_shape


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, mix_K: Tensor, *candidates: Tensor) -> Tensor:
        mix_needed, *needed = ctx.needs_input_grad  # type: ignore[attr-defined]
        ctx.save_for_backward(mix_K if any(needed) else None, *(candidates if mix_needed else ()))  # type: ignore[arg-type]
        ctx.dtype = mix_K.dtype  # type: ignore[attr-defined]
        dtype = candidates[0].dtype
        coefficients = mix_K.to(_accumulator(dtype)).unbind()
        y = candidates[0].to(_accumulator(dtype)) * coefficients[0]
        for x, coefficient in zip(candidates[1:], coefficients[1:], strict=True):
            y.addcmul_(x.to(y.dtype), coefficient)
        return y.to(dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        mix_K, *candidates = ctx.saved_tensors  # type: ignore[attr-defined]
        mix_needed, *needed = ctx.needs_input_grad  # type: ignore[attr-defined]
        dmix_K = None
        if mix_needed:
            wide = dy.to(_accumulator(dy.dtype))
            dmix_K = torch.stack([(x * wide).sum() for x in candidates]).to(ctx.dtype)  # type: ignore[attr-defined]
        dxs = [(mix_K[k] * dy).to(dy.dtype) if need else None for k, need in enumerate(needed)]
        return dmix_K, *dxs


def mixed_sum(candidates: Sequence[Tensor], mix: Tensor) -> Tensor:
    """Weighted sum of K tensors of one shape; differentiable to any order.

    Computes ``y = sum_k mix[k] * candidates[k]`` (Liu et al., 2019, arXiv:1806.09055, eq. 2) without stacking,
    accumulated in float32, or in float64 for float64 input. What is saved for the backward pass depends on the
    gradients asked for: the candidates only if ``mix`` needs one.

    Args:
        candidates: K tensors of the same shape and dtype.
        mix: Coefficients (dimensionless; they need not sum to one), shape ``[K]``.

    Returns:
        A tensor of the candidates' shape and dtype.

    Raises:
        ValueError: If there is no candidate, or ``mix`` does not have one coefficient for each.
    """
    require(len(candidates) > 0, "mixed_sum", "candidates must not be empty", "none")
    require_shape("mixed_sum", "mix", mix, [len(candidates)], "one coefficient for each candidate")
    shapes = {tuple(x.shape) for x in candidates}
    require(len(shapes) == 1, "mixed_sum", "candidates must have one shape", sorted(shapes))
    return _MixedSum.apply(mix, *candidates)  # type: ignore[return-value]
