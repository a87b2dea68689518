"""Convolution that saves only what the gradients asked for will need.

PyTorch's own convolution saves input and weight whenever either needs a gradient. A search alternates between
two phases that each need one of them: the alpha step asks for no weight gradient and can forget every input,
which is most of what a supernet saves. ``C(x, w)`` is bilinear, so each gradient is linear in the output's
gradient and in the one saved argument, and PyTorch's differentiable ``convolution_backward`` closes the family
under differentiation of any order.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from fastnas_kernels.check import require


class Geometry(NamedTuple):
    """Stride, padding and dilation (pixels, the same in both directions) and the number of channel groups."""

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        x, weight, _, ctx.geometry = inputs  # type: ignore[attr-defined]
        x_needed, weight_needed, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        ctx.save_for_backward(x if weight_needed else None, weight if x_needed else None)  # type: ignore[arg-type]
        ctx.shapes = x.shape, weight.shape  # type: ignore[attr-defined]
        ctx.channels_last = x.is_contiguous(memory_format=torch.channels_last)  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        x_shape, weight_shape = ctx.shapes  # type: ignore[attr-defined]
        needed = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        stride, padding, dilation, groups = ctx.geometry  # type: ignore[attr-defined]
        if x is None:  # of an argument that was not saved, convolution_backward reads shape and layout alone
            x = _unwritten(dy, x_shape, ctx.channels_last)  # type: ignore[attr-defined]
        if weight is None:
            weight = dy.new_empty(1).expand(weight_shape)
        dx, dweight, dbias = torch.ops.aten.convolution_backward(
            dy,
            x,
            weight,
            [weight_shape[0]] if needed[2] else None,
            [stride, stride],
            [padding, padding],
            [dilation, dilation],
            False,
            [0, 0],
            groups,
            needed,
        )
        return dx, dweight, dbias, None


def _unwritten(like: Tensor, shape: torch.Size, channels_last: bool) -> Tensor:
    if not channels_last:
        return like.new_empty(shape)
    n, channels, height, width = shape
    return like.new_empty(n, height, width, channels).permute(0, 3, 1, 2)


class _DualConvolution(_Convolution):
    """The same with forward mode: a convolution is linear in either argument. It stands apart because what forward
    mode may need is kept beside what backward needs, and because ``torch.compile`` knows no forward mode."""

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: Tensor) -> None:
        _Convolution.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def jvp(ctx: FunctionCtx, tx: Tensor | None, tweight: Tensor | None, tbias: Tensor | None, _: None) -> Tensor:  # type: ignore[override]
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        parts = [] if tx is None else [conv2d(tx, weight, None, ctx.geometry)]  # type: ignore[attr-defined]
        parts += [] if tweight is None else [conv2d(x, tweight, None, ctx.geometry)]  # type: ignore[attr-defined]
        parts += [] if tbias is None else [tbias[:, None, None]]
        return sum(parts[1:], parts[0])


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, geometry: Geometry = Geometry()) -> Tensor:  # noqa: B008
    """Two-dimensional convolution; differentiable to any order, saving only what those gradients need.

    Under autocast the arguments are cast as PyTorch's own convolution casts them.

    Args:
        x: Images, shape ``[N, C, H, W]``.
        weight: Filters, shape ``[D, C / groups, k, k]``.
        bias: One number for each output channel, shape ``[D]``, or ``None``.
        geometry: Stride, padding, dilation and groups.

    Returns:
        Shape ``[N, D, H', W']``, in the memory format that PyTorch chooses.

    Raises:
        ValueError: If the channels of ``x`` are not those that ``weight`` reads.
    """
    channels = weight.shape[1] * geometry.groups
    require(x.ndim == 4 and x.shape[1] == channels, "conv2d", f"x must have shape [N, {channels}, H, W]", list(x.shape))
    can_cast = x.is_floating_point() and x.dtype != torch.float64 and not x.is_meta  # autocast knows no such device
    if can_cast and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    function = _Convolution if torch.compiler.is_compiling() else _DualConvolution
    return function.apply(x, weight, bias, geometry)  # type: ignore[return-value]
