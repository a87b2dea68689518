"""The weighted sum and its two partial contractions in plain PyTorch: the specification of the kernels.

Shape suffixes: K candidates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnas_kernels.tensors import accumulator


def reference_weighted_sum(xs: Sequence[Tensor], mix_K: Tensor) -> Tensor:
    """``sum_k mix_K[k] xs[k]``."""
    # torch.compile of torch 2.11 takes a result that was written in place, or that `to` gave back as it was, for one
    # without a gradient
    add = torch.addcmul if torch.compiler.is_compiling() else Tensor.addcmul_
    exact = accumulator(xs[0].dtype)
    coefficients = _in(exact, mix_K).unbind()
    y = _in(exact, xs[0]) * coefficients[0]
    for x, coefficient in zip(xs[1:], coefficients[1:], strict=True):
        y = add(y, _in(exact, x), coefficient)
    return _in(xs[0].dtype, y)


def _in(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x if x.dtype == dtype else x.to(dtype)


def reference_row_dot(xs: Sequence[Tensor], g: Tensor) -> Tensor:
    """``<xs[k], g>`` for every k, in float32 (float64 for float64)."""
    wide = g.to(accumulator(g.dtype))
    return torch.stack([(x * wide).sum() for x in xs])


def reference_scaled_copies(mix_K: Tensor, g: Tensor) -> list[Tensor]:
    """``mix_K[k] g`` for every k."""
    wide = g.to(accumulator(g.dtype))
    return [(coefficient * wide).to(g.dtype) for coefficient in mix_K.to(wide.dtype).unbind()]
