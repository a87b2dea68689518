"""Terms that are added to a loss: functions of the coefficients ``[E, K]`` of every cell type, or of all
weights, to a scalar. How much a term counts, and when, is the method's to say."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Penalty = Callable[[Mapping[str, Tensor]], Tensor]
Objective = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From the loss that alpha sees and the coefficients ``[E, K]`` of every cell type to what alpha descends on."""

Reward = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From the accuracy of a sampled network on a batch and its one-hot coefficients to what the sample is worth."""


def mean_logsumexp(logits: Mapping[str, Tensor]) -> Tensor:
    """The mean over all edges of ``log sum_k exp(alpha_k)``: the beta-decay of logits (Ye et al., 2022,
    arXiv:2203.01665, eq. 12).

    Example:
        >>> round(float(mean_logsumexp({"normal": torch.zeros(14, 8)})), 4)
        2.0794
    """
    return torch.cat([x.logsumexp(-1) for x in logits.values()]).mean()


def zero_one(mix: Mapping[str, Tensor]) -> Tensor:
    """Minus the mean squared distance of all coefficients from one half, which drives each to zero or to one (Chu et
    al., 2020, arXiv:1911.12126, eq. 6).

    Example:
        >>> float(zero_one({"normal": torch.tensor([[0.0, 1.0]])}))
        -0.25
    """
    return -torch.cat([((x - 0.5) ** 2).flatten() for x in mix.values()]).mean()


def l1(variables: Mapping[str, Tensor]) -> Tensor:
    """The sum of magnitudes of all variables.

    Example:
        >>> float(l1({"weight": torch.tensor([1.0, -2.0])}))
        3.0
    """
    return torch.stack([x.abs().sum() for x in variables.values()]).sum()
