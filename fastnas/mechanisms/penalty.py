"""Terms that are added to a loss (axis K): functions of the coefficients ``[E, K]`` of every cell type, or of all
weights, to a scalar. How much a term counts, and when, is the method's to say."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Penalty = Callable[[Mapping[str, Tensor]], Tensor]
Objective = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From the loss that alpha sees and the coefficients ``[E, K]`` of every cell type to what alpha descends on."""

Reward = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""From the accuracy of a sampled network on a batch and its one-hot coefficients to what the sample is worth."""


def loss_alone(loss: Tensor, mix: Mapping[str, Tensor]) -> Tensor:
    """Descend on the loss, whatever an architecture costs."""
    return loss


def accuracy_alone(accuracy: Tensor, mix: Mapping[str, Tensor]) -> Tensor:
    """A sample is worth the share of images that it classifies rightly, whatever it costs."""
    return accuracy


def undecided(mix: Mapping[str, Tensor]) -> Tensor:
    """The mean entropy of an edge's coefficients, in nats: adding it to a loss rewards decided edges."""
    rows_EK = torch.cat([mix_EK.clamp(min=0) for mix_EK in mix.values()])
    rows_EK = rows_EK / rows_EK.sum(-1, keepdim=True).clamp(min=torch.finfo(rows_EK.dtype).tiny)
    return torch.special.entr(rows_EK).sum(-1).mean()


def l1(variables: Mapping[str, Tensor]) -> Tensor:
    """The sum of magnitudes of all variables."""
    return torch.stack([x.abs().sum() for x in variables.values()]).sum()
