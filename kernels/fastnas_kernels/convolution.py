"""Convolution that saves only what the gradients asked for will need.

PyTorch's own convolution saves input and weight whenever either needs a gradient. A search alternates between
two phases that each need one of them: the alpha step asks for no weight gradient and can forget every input,
which is most of what a supernet saves. ``C(x, w)`` is bilinear, so each gradient is linear in the output's
gradient and in the one saved argument, and the family of these is closed under differentiation of any order.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from fastnas_kernels.check import invalid
from fastnas_kernels.operators import signed

NARROW = 16
"""On a CPU, with fewer input channels, oneDNN's gradient of strided 1x1 filters writes behind its memory (torch 2.14.1,
float32, channels_last maps of 56 x 56 pixels or more): the process dies later, anywhere. It is never asked for."""


class Geometry(NamedTuple):
    """Stride, padding and dilation (pixels, the same in both directions) and the number of channel groups."""

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1


class _Kind(NamedTuple):
    """What decides about the gradients of a convolution beside the tensors.

    Args:
        geometry: Of the convolution.
        x_shape: Of its input.
        weight_shape: Of its filters.
        channels_last: Whether its input is in channels-last memory.
        needed: Which gradients are asked for: of the input, the filters, the bias.
    """

    geometry: Geometry
    x_shape: torch.Size
    weight_shape: torch.Size
    channels_last: bool
    needed: tuple[bool, bool, bool]


_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def _raw_gradients(dy: Tensor, x: Tensor | None, weight: Tensor | None, kind: _Kind) -> _Gradients:
    """Gradients of input, filters and bias; ``x`` counts for the second alone and ``weight`` for the first."""
    (stride, padding, dilation, groups), x_shape, weight_shape, channels_last, needed = kind
    is_strided = stride > 1 and padding == 0 and weight_shape[2:] == (1, 1) and math.prod(x_shape[2:]) > 32 * 32
    if needed[1] and is_strided and x_shape[1] < NARROW and not dy.is_cuda and x is not None:
        read = x[:, :, ::stride, ::stride]  # the pixels that the filters see, one by one
        alone = kind._replace(geometry=Geometry(groups=groups), x_shape=read.shape, needed=(False, *needed[1:]))
        dx = _raw_gradients(dy, None, weight, kind._replace(needed=(True, False, False)))[0] if needed[0] else None
        return dx, *_raw_gradients(dy, read, None, alone)[1:]
    if x is None:  # of an argument that was not saved, convolution_backward reads shape and layout alone
        x = _unwritten(dy, x_shape, channels_last)
    if weight is None:
        weight = dy.new_empty(1).expand(weight_shape)
    return torch.ops.aten.convolution_backward(
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


class _ConvolutionGradients(torch.autograd.Function):
    """The gradients as functions of ``dy``, ``x`` and ``weight``.

    ``<C(x, w), dy>`` is linear in each of the three, so one set of gradients is differentiated by convolutions and
    another set. PyTorch's own second derivative runs a convolution for every group, which of a depthwise one are many.
    """

    @staticmethod
    @signed
    def forward(dy: Tensor, x: Tensor | None, weight: Tensor | None, kind: _Kind) -> _Gradients:
        return _raw_gradients(dy, x, weight, kind)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple, output: _Gradients) -> None:
        dy, x, weight, ctx.kind = inputs  # type: ignore[attr-defined]
        ctx.shape = dy.shape  # type: ignore[attr-defined]
        dy_needed, x_needed, weight_needed, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        others = (x, weight) if dy_needed else (None, None)
        ctx.save_for_backward(dy if x_needed or weight_needed else None, *others)  # type: ignore[arg-type]
        ctx.save_for_forward(dy, x, weight)  # type: ignore[arg-type]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: FunctionCtx, ux: Tensor | None, uweight: Tensor | None, ubias: Tensor | None) -> tuple:  # type: ignore[override]
        dy, x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        dy_needed, x_needed, weight_needed, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        kind: _Kind = ctx.kind  # type: ignore[attr-defined]
        terms = []
        if dy_needed:
            terms += [conv2d(ux, weight, None, kind.geometry)] if ux is not None else []
            terms += [conv2d(x, uweight, None, kind.geometry)] if uweight is not None else []
            terms += [ubias[:, None, None].expand(ctx.shape)] if ubias is not None else []  # type: ignore[attr-defined]
        needed = (x_needed and uweight is not None, weight_needed and ux is not None, False)
        dx, dweight, _ = _gradients(dy, ux, uweight, kind._replace(needed=needed)) if any(needed) else (None,) * 3
        return sum(terms[1:], terms[0]) if terms else None, dx, dweight, None

    @staticmethod
    def jvp(ctx: FunctionCtx, tdy: Tensor | None, tx: Tensor | None, tweight: Tensor | None, _: None) -> tuple:  # type: ignore[override]
        dy, x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        kind: _Kind = ctx.kind  # type: ignore[attr-defined]
        of_x, of_weight, of_bias = kind.needed
        parts = [] if tdy is None else [_gradients(tdy, x, weight, kind)]
        others = (of_x and tweight is not None, of_weight and tx is not None, False)
        parts += [_gradients(dy, tx, tweight, kind._replace(needed=others))] if any(others) else []
        sums = [_sum([part[i] for part in parts]) for i in range(3)]
        like = (kind.x_shape, kind.weight_shape, kind.weight_shape[:1])
        return tuple(
            (dy.new_zeros(shape) if total is None else total) if need else None
            for need, shape, total in zip((of_x, of_weight, of_bias), like, sums, strict=True)
        )


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    known = [term for term in terms if term is not None]
    return sum(known[1:], known[0]) if known else None


def _gradients(dy: Tensor, x: Tensor | None, weight: Tensor | None, kind: _Kind) -> _Gradients:
    if torch.compiler.is_compiling():  # it differentiates once
        return _raw_gradients(dy, x, weight, kind)
    return _ConvolutionGradients.apply(dy, x, weight, kind)  # type: ignore[return-value]


class _Convolution(torch.autograd.Function):
    @staticmethod
    @signed
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
        needed = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        return *_gradients(dy, x, weight, _Kind(ctx.geometry, *ctx.shapes, ctx.channels_last, needed)), None  # type: ignore[attr-defined]


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
    if x.ndim != 4 or x.shape[1] != channels:
        raise invalid("conv2d", f"x must have shape [N, {channels}, H, W]", list(x.shape))
    can_cast = x.is_floating_point() and x.dtype != torch.float64 and not x.is_meta  # autocast knows no such device
    if can_cast and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    function = _Convolution if torch.compiler.is_compiling() else _DualConvolution
    return function.apply(x, weight, bias, geometry)  # type: ignore[return-value]
