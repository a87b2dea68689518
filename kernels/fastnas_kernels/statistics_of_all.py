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

from fastnas_kernels.check import require
from fastnas_kernels.collectives import summed
from fastnas_kernels.normalisation import normalise
from fastnas_kernels.precision import accumulator

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


def by_batch(x: Tensor, eps: float) -> Normalised:
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
            y = by_batch(input, self.eps).y
        else:
            rule = "images and pixels must be more than one"
            require(input.numel() > input.shape[1], "BatchNorm2d", rule, list(input.shape), "Use more images.")
            y = normalise(input, self.eps)[0]
        return y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]
