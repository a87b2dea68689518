"""The merge of partial channels in plain PyTorch: the specification of the kernels.

Shape suffixes: C channels.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from fastnas_kernels.check import invalid


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave ``groups`` blocks of channels (Zhang et al., 2018, arXiv:1707.01083): eight channels in four
    groups come out in the order 0, 2, 4, 6, 1, 3, 5, 7.

    Args:
        x: Images, shape ``[N, C, H, W]``.
        groups: Number of blocks; divides ``C``.
    """
    channels = x.shape[1]
    if groups < 1 or channels % groups != 0:
        raise invalid("channel_shuffle", f"groups must divide the {channels} channels", groups)
    return F.channel_shuffle(x, groups)


def reference_merge(mixed: Tensor, bypass: Tensor, k: int, order_C: Tensor | None) -> Tensor:
    """Concatenate, then shuffle in ``k`` groups or take the channels in the given order."""
    x = torch.cat([mixed, bypass], dim=1)
    return channel_shuffle(x, k) if order_C is None else x.index_select(1, order_C)


def require_partial(where: str, channels: int, k: int, even: bool) -> None:
    """Raise unless the mixture can take exactly 1/k of ``channels``, an even number of them if ``even``."""
    if k < 1:
        raise invalid(where, "partial channels k must be at least 1", k)
    if channels % k != 0 or (channels // k % 2 != 0 and even):
        remedy = f"Choose channels as a multiple of {2 * k if even else k}, or another k."
        rule = f"channels / k must be {'an even' if even else 'a whole'} number (k = {k})"
        raise invalid(where, rule, f"{channels} channels", remedy)
