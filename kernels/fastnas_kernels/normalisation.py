"""Normalisation by the statistics of the batch, with derivatives of second order in a few passes, and synchronised
batch normalisation.

``y = s (z - m)`` with mean ``m`` and ``s = (var + eps)^(-1/2)`` of each channel. Its derivative is symmetric,

    ``P t = s (t - <t> - y <t y>)``,  ``<.>`` the mean over a channel,

so that the gradient is ``P dy``, the tangent is ``P tz``, and the derivative of ``P dy`` for ``z`` along ``u`` is

    ``B(u, dy) = -s^2 (b (u - <u>) + a (dy - <dy>) + (q - 2ab) y)``,
    ``a = <u y>``,  ``b = <dy y>``,  ``q = <u dy> - <u> <dy> - ab``,

symmetric in ``u`` and ``dy``, and its own transpose: one formula serves a backward pass through the backward pass as
it serves dual numbers. PyTorch's own kernel computes ``P t`` with ``<t>`` and ``<t y>`` at one go; what PyTorch
composes second derivatives of takes about twenty passes over memory instead of five.

With statistics of the own part of a batch, nothing is exchanged, and the network is another function for each number of
processes. With synchronised ones, N processes with B images each compute what one process with N B images does, at the
price of one transfer of two numbers a channel for each normalisation, forward and backward.

Shape suffixes: N images, C channels, H W pixels.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastnas_kernels.check import invalid
from fastnas_kernels.collectives import summed
from fastnas_kernels.operators import signed
from fastnas_kernels.tensors import accumulator

_depth = 0


def _applied(t: Tensor, z: Tensor, mean_C: Tensor, rstd_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``P t``, ``<t y>`` and ``<t>``."""
    count = z.numel() // z.shape[1]
    pt, of_y_C, total_C = torch.ops.aten.native_batch_norm_backward(
        t, z, None, None, None, mean_C, rstd_C, True, eps, [True, True, True]
    )
    return pt, of_y_C.to(mean_C.dtype) / count, total_C.to(mean_C.dtype) / count


def _bent(u: Tensor, dy: Tensor, z: Tensor, mean_C: Tensor, rstd_C: Tensor, means_C: tuple[Tensor, ...]) -> Tensor:
    """``B(u, dy)``; the means are ``<u y>, <u>, <dy y>, <dy>``."""
    a_C, u_C, b_C, dy_C = means_C
    zero_C, one_C = torch.zeros_like(mean_C), torch.ones_like(rstd_C)
    # With mean 0 and deviation 1 the kernel's second result is the sum of products
    products_C = torch.ops.aten.native_batch_norm_backward(
        u, dy, None, None, None, zero_C, one_C, True, 0.0, [False, True, False]
    )[1]
    q_C = products_C.to(mean_C.dtype) * (z.shape[1] / z.numel()) - u_C * dy_C - a_C * b_C
    square_C, of_y_C = rstd_C**2, -(rstd_C**3) * (q_C - 2 * a_C * b_C)
    constant_C = square_C * (b_C * u_C + a_C * dy_C) - of_y_C * mean_C

    def shaped(x_C: Tensor) -> Tensor:
        return x_C.view(1, -1, 1, 1)

    total = torch.addcmul(shaped(constant_C), u, shaped(-square_C * b_C))
    return total.addcmul_(dy, shaped(-square_C * a_C)).addcmul_(z, shaped(of_y_C)).to(z.dtype)


def _mean(x: Tensor) -> Tensor:
    return x.mean((0, 2, 3), keepdim=True)


def _in_full(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``y`` and ``s`` from ``z`` alone, of which PyTorch knows derivatives of every order."""
    wide = z.to(accumulator(z.dtype))
    centred = wide - _mean(wide)
    rstd = (_mean(centred.square()) + eps).rsqrt()
    return centred * rstd, rstd


def _applied_in_full(t: Tensor, z: Tensor, eps: float) -> Tensor:
    (y, rstd), t = _in_full(z, eps), t.to(accumulator(t.dtype))
    return (rstd * (t - _mean(t) - y * _mean(t * y))).to(z.dtype)


def _bent_in_full(u: Tensor, dy: Tensor, z: Tensor, eps: float) -> Tensor:
    (y, rstd), u, dy = _in_full(z, eps), u.to(accumulator(u.dtype)), dy.to(accumulator(dy.dtype))
    a, b = _mean(u * y), _mean(dy * y)
    q = _mean(u * dy) - _mean(u) * _mean(dy) - a * b
    return (-(rstd**2) * (b * (u - _mean(u)) + a * (dy - _mean(dy)) + (q - 2 * a * b) * y)).to(z.dtype)


class _Gradient(torch.autograd.Function):
    """``P dy`` as a function of ``dy`` and ``z``; mean and deviation are functions of ``z``."""

    @staticmethod
    @signed
    def forward(dy: Tensor, z: Tensor, mean_C: Tensor, rstd_C: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return _applied(dy, z, mean_C, rstd_C, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        *tensors, ctx.eps = inputs
        _, b_C, dy_C = output
        ctx.mark_non_differentiable(b_C, dy_C)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, b_C, dy_C)
        ctx.save_for_forward(*tensors, b_C, dy_C)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        dy, z, mean_C, rstd_C, b_C, dy_C = ctx.saved_tensors
        dy_needed, z_needed = ctx.needs_input_grad[:2]
        if u is None:
            return None, None, None, None, None
        if torch.is_grad_enabled():
            ddy = _applied_in_full(u, z, ctx.eps) if dy_needed else None
            return ddy, _bent_in_full(u, dy, z, ctx.eps) if z_needed else None, None, None, None
        pu, a_C, u_C = _applied(u, z, mean_C, rstd_C, ctx.eps)
        dz = _bent(u, dy, z, mean_C, rstd_C, (a_C, u_C, b_C, dy_C)) if z_needed else None
        return pu, dz, None, None, None

    @staticmethod
    def jvp(ctx: Any, tdy: Tensor | None, tz: Tensor | None, *_: Any) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        dy, z, mean_C, rstd_C, b_C, dy_C = ctx.saved_tensors
        tangent = torch.zeros_like(z) if tdy is None else _gradient(tdy, z, mean_C, rstd_C, ctx.eps)
        if tz is None:
            return tangent, None, None
        if torch.is_grad_enabled():
            return tangent + _bent_in_full(tz, dy, z, ctx.eps), None, None
        a_C, tz_C = _applied(tz, z, mean_C, rstd_C, ctx.eps)[1:]
        return tangent + _bent(tz, dy, z, mean_C, rstd_C, (a_C, tz_C, b_C, dy_C)), None, None


def _gradient(dy: Tensor, z: Tensor, mean_C: Tensor, rstd_C: Tensor, eps: float) -> Tensor:
    if torch.compiler.is_compiling():  # it differentiates once
        return _applied(dy, z, mean_C, rstd_C, eps)[0]
    return _Gradient.apply(dy, z, mean_C, rstd_C, eps)[0]  # type: ignore[index]


class _Normalise(torch.autograd.Function):
    @staticmethod
    @signed
    def forward(z: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return torch.native_batch_norm(z, None, None, None, None, True, 0.0, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
        z, ctx.eps = inputs
        _, mean_C, rstd_C = output
        ctx.mark_non_differentiable(mean_C, rstd_C)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(z, mean_C, rstd_C)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, None]:  # type: ignore[override]
        z, mean_C, rstd_C = ctx.saved_tensors
        return None if dy is None else _gradient(dy, z, mean_C, rstd_C, ctx.eps), None


class _DualNormalise(_Normalise):
    """The same with forward mode, which ``torch.compile`` does not know."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
        _Normalise.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], *output[1:])

    @staticmethod
    def jvp(ctx: Any, tz: Tensor, _: None) -> tuple[Tensor, None, None]:  # type: ignore[override]
        z, mean_C, rstd_C = ctx.saved_tensors
        return _gradient(tz, z, mean_C, rstd_C, ctx.eps), None, None


def normalise(z: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise every channel by the mean and the biased variance of the batch (Ioffe and Szegedy, 2015,
    arXiv:1502.03167, algorithm 1 without scale and shift); differentiable to any order.

    Args:
        z: Images, ``[N, C, H, W]``.
        eps: Added to the variance.

    Returns:
        The normalised images, and the mean and the reciprocal deviation of each channel, ``[C]``, which carry no
        gradient.
    """
    function = _Normalise if torch.compiler.is_compiling() else _DualNormalise
    return function.apply(z, eps)  # type: ignore[return-value]


@contextmanager
def synchronised_statistics() -> Generator[None, None, None]:
    """Inside the block, and in backward passes of what is computed there, normalise by the batch of all processes."""
    global _depth  # noqa: PLW0603  (one process has one answer; it is not a thread's)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def is_synchronised() -> bool:
    """Whether normalisation takes the statistics of all processes."""
    return _depth > 0


class Normalised(NamedTuple):
    """The normalised map and the statistics that it was normalised by, ``[C]``: mean and biased variance."""

    y: Tensor
    mean: Tensor
    var: Tensor


def normalise_by_batch(x: Tensor, eps: float) -> Normalised:
    """Normalise every channel of ``x``, ``[N, C, H, W]``, by its mean and variance over images and pixels.

    Args:
        x: A map.
        eps: Added to the variance.

    Returns:
        The map and the statistics, which carry no gradient.
    """
    if not is_synchronised():
        y, mean, rstd = normalise(x, eps)
        return Normalised(y, mean.detach(), (rstd.detach() ** -2 - eps).clamp_min(0))
    wide = accumulator(x.dtype)
    own_var, own_mean = torch.var_mean(x.to(wide), (0, 2, 3), correction=0)
    # Every process has as many images. In float64, the difference of squares loses nothing that float32 would keep
    own_mean, own_var = own_mean.double(), own_var.double()
    mean, square = summed(torch.stack([own_mean, own_var + own_mean**2]), dist.get_world_size())
    var = (square - mean**2).clamp_min(0)
    rstd = (var + eps).rsqrt()
    y = x.to(wide) * rstd.to(wide)[:, None, None] - (mean * rstd).to(wide)[:, None, None]
    return Normalised(y.to(x.dtype), mean.detach().to(wide), var.detach().to(wide))


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's; where it keeps no running statistics, it also knows the batch of all processes, and without scale and
    shift its second derivatives are cheap."""

    def forward(self, input: Tensor) -> Tensor:
        if self.track_running_stats or (self.affine and not is_synchronised()):
            return super().forward(input)
        if is_synchronised():
            y = normalise_by_batch(input, self.eps).y
        else:
            if input.numel() <= input.shape[1]:
                rule = "images and pixels must be more than one"
                raise invalid("BatchNorm2d", rule, list(input.shape), "Use more images.")
            y = normalise(input, self.eps)[0]
        return y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]
