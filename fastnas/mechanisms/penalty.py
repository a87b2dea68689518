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


def l1(variables: Mapping[str, Tensor]) -> Tensor:
    """The sum of magnitudes of all variables."""
    return torch.stack([x.abs().sum() for x in variables.values()]).sum()
