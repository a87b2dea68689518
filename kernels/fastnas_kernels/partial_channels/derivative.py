"""Partial channels: the mixture sees 1/k of the channels, the rest passes by, and a shuffle interleaves both.

Merging is a permutation of channels, so it is linear, its derivative is the inverse permutation, and the derivative
of that one is the merge again.

Shape suffixes: C channels.
"""

from typing import Any

import torch
from torch import Tensor

from fastnas_kernels.backend import backend_for
from fastnas_kernels.check import invalid, require_shape
from fastnas_kernels.partial_channels.definition import reference_merge
from fastnas_kernels.tensors import common_image_format, empty_images


@torch.library.custom_op("fastnas::merge_channels", mutates_args=())
def _merge_op(mixed: Tensor, bypass: Tensor, k: int, order_C: Tensor | None) -> Tensor:
    from fastnas_kernels.partial_channels import kernel  # noqa: PLC0415  (exists on Linux only)

    return kernel.merge(mixed, bypass, k, order_C)


@torch.library.custom_op("fastnas::split_channels", mutates_args=())
def _split_op(y: Tensor, k: int, order_C: Tensor | None) -> tuple[Tensor, Tensor]:
    from fastnas_kernels.partial_channels import kernel  # noqa: PLC0415

    return kernel.split(y, k, order_C)


@_merge_op.register_fake
def _(mixed: Tensor, bypass: Tensor, k: int, order_C: Tensor | None) -> Tensor:
    return empty_images(mixed, mixed.shape[1] + bypass.shape[1], common_image_format(mixed, bypass))


@_split_op.register_fake
def _(y: Tensor, k: int, order_C: Tensor | None) -> tuple[Tensor, Tensor]:
    width, memory_format = y.shape[1] // k, common_image_format(y)
    return empty_images(y, width, memory_format), empty_images(y, y.shape[1] - width, memory_format)


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(mixed: Tensor, bypass: Tensor, k: int, order_C: Tensor | None) -> Tensor:
        return _merge_op(mixed, bypass, k, order_C)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *_, ctx.k, order_C = inputs
        ctx.save_for_backward(order_C)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        (order_C,) = ctx.saved_tensors
        # torch.compile differentiates once: the backward that it traces is made of the raw operations
        split = _split_op if torch.compiler.is_compiling() else _Split.apply
        dmixed, dbypass = split(dy, ctx.k, order_C)  # type: ignore[misc]
        return dmixed, dbypass, None, None


class _MergeForwardMode(_Merge):
    """Apart, because torch.compile refuses a Function that has a ``jvp``."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Merge.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2], inputs[3])  # until the call returns

    @staticmethod
    def jvp(ctx: Any, tmixed: Tensor | None, tbypass: Tensor | None, *_: None) -> Tensor:  # type: ignore[override]
        mixed, bypass, order_C = ctx.saved_tensors
        tmixed = torch.zeros_like(mixed) if tmixed is None else tmixed
        tbypass = torch.zeros_like(bypass) if tbypass is None else tbypass
        return _MergeForwardMode.apply(tmixed, tbypass, ctx.k, order_C)  # type: ignore[return-value]


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(y: Tensor, k: int, order_C: Tensor | None) -> tuple[Tensor, Tensor]:
        return _split_op(y, k, order_C)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, ctx.k, order_C = inputs
        ctx.save_for_backward(order_C)
        ctx.save_for_forward(order_C)

    @staticmethod
    def backward(ctx: Any, dmixed: Tensor, dbypass: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (order_C,) = ctx.saved_tensors
        return _MergeForwardMode.apply(dmixed, dbypass, ctx.k, order_C), None, None  # type: ignore[return-value]

    @staticmethod
    def jvp(ctx: Any, ty: Tensor, *_: None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        (order_C,) = ctx.saved_tensors
        return _Split.apply(ty, ctx.k, order_C)  # type: ignore[return-value]


def merge_channels(mixed: Tensor, bypass: Tensor, k: int, order: Tensor | None = None) -> Tensor:
    """The output of a partially connected node (Xu et al., 2020, arXiv:1907.05737, eq. 3); exact to any order.

    Concatenates the mixed and the passed-by channels and shuffles them in ``k`` groups, so that the next mixture
    sees other channels: ``y[:, c] = concat[:, (c mod k) C / k + floor(c / k)]``. With ``order``, a permutation,
    ``y[:, c] = concat[:, order[c]]``. On GPUs it takes one pass over memory, as does its derivative.

    Args:
        mixed: Mixed channels, shape ``[N, C/k, H, W]``.
        bypass: The other channels, shape ``[N, C - C/k, H, W]``.
        k: The reciprocal of the mixed share of the channels.
        order: Instead of the shuffle, a permutation of the channels, for example a random one: shape ``[C]``, int64.

    Returns:
        Shape ``[N, C, H, W]``; in the memory format of both if it is the same, otherwise in channels last (on the
        CPU, in the format that PyTorch chooses).

    Raises:
        ValueError: If shapes do not fit each other or ``k``; for tensors on the CPU also if ``order`` is no
            permutation (on a GPU the check would wait for the device, and the result is undefined instead).
    """
    where = "merge_channels"
    if mixed.ndim != 4:
        raise invalid(where, "mixed must have shape [N, C/k, H, W]", list(mixed.shape))
    N, width, H, W = mixed.shape
    if k < 1:
        raise invalid(where, "k must be at least 1", k)
    require_shape(where, "bypass", bypass, [N, (k - 1) * width, H, W], f"the other channels of k = {k} times mixed")
    if order is not None:
        require_shape(where, "order", order, [k * width], "one index for each channel")
        if order.dtype != torch.int64:
            raise invalid(where, "order must be int64", order.dtype)
        if order.device.type == "cpu" and not torch.compiler.is_compiling():
            is_permutation = torch.equal(order.sort().values, torch.arange(k * width))
            if not is_permutation:
                raise invalid(where, "order must be a permutation of the channels", order.tolist())
    if backend_for(mixed.device) != "triton":
        return reference_merge(mixed, bypass, k, order)
    dtype = torch.promote_types(mixed.dtype, bypass.dtype)
    function = _Merge if torch.compiler.is_compiling() else _MergeForwardMode
    return function.apply(mixed.to(dtype), bypass.to(dtype), k, order)  # type: ignore[return-value]
