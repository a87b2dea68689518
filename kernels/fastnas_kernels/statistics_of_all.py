"""Normalisation by the statistics of a batch, of this process's part of it or of all parts together.

By the own part alone nothing is exchanged, and the network is another function for each number of processes. By all
parts together, N processes with B images each compute what one process with N B images does, at the price of one
transfer of two numbers a channel for each normalisation, forward and backward.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastnas_kernels.collectives import summed

_depth = 0


@contextmanager
def statistics_of_all_processes() -> Iterator[None]:
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


def by_batch(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Normalised:
    """Normalise every channel of ``x``, ``[N, C, H, W]``, by its mean and variance over images and pixels.

    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1.

    Args:
        x: A map.
        eps: Added to the variance.
        weight: Scale of every channel, ``[C]``; ``None`` for 1.
        bias: Shift of every channel, ``[C]``; ``None`` for 0.

    Returns:
        The map and the statistics, which carry no gradient.
    """
    if not is_synchronised():
        y, mean, rstd = torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)
        return Normalised(y, mean.detach(), (rstd.detach() ** -2 - eps).clamp_min(0))
    own_var, own_mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), (0, 2, 3), correction=0)
    # Every process has as many images. In float64, the difference of squares loses nothing that float32 would keep
    own_mean, own_var = own_mean.double(), own_var.double()
    mean, square = summed(torch.stack([own_mean, own_var + own_mean**2]), dist.get_world_size())
    var = (square - mean**2).clamp_min(0)
    scale = (var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    scale, shift = (s.to(own_mean.dtype if x.dtype == torch.float64 else torch.float32) for s in (scale, shift))
    y = (x * scale[:, None, None] + shift[:, None, None]).to(x.dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    return Normalised(y, mean.detach().to(wide), var.detach().to(wide))


class BatchNorm2d(nn.BatchNorm2d):
    """PyTorch's, which also knows the batch of all processes where it keeps no running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        if is_synchronised() and not self.track_running_stats:
            return by_batch(input, self.eps, self.weight, self.bias).y
        return super().forward(input)
