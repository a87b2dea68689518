"""How alpha moves along its gradient, and onto what it is projected after a step.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fastnas_kernels.check import invalid


@dataclass(frozen=True)
class AlphaSettings:
    """The settings of a run that an optimiser of alpha may read.

    Args:
        lr: Learning rate.
        betas: Adam's decay rates of mean and variance.
        weight_decay: L2 penalty.
        momentum: Momentum of the optimisers that have one; the weights' own.
    """

    lr: float
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    momentum: float = 0.9


MakeOptimizer = Callable[[list[Tensor], AlphaSettings], torch.optim.Optimizer]
"""From the logits and the settings to an optimiser that owns them."""
Projection = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A post-step projection: from logits ``[E, K]`` before and after a step, and the candidates that the gradient reached
(``None`` for all), to the logits that take their place."""


def adam(alpha: list[Tensor], settings: AlphaSettings) -> torch.optim.Optimizer:
    """Adam at a constant rate, as DARTS and most of its family (Liu et al., 2019, arXiv:1806.09055)."""
    on_gpu = alpha[0].is_cuda  # there its count of steps lies on the device, where a CUDA graph can move it
    betas, decay = settings.betas, settings.weight_decay
    return torch.optim.Adam(alpha, settings.lr, betas=betas, weight_decay=decay, capturable=on_gpu)


def gradient_descent(alpha: list[Tensor], settings: AlphaSettings) -> torch.optim.Optimizer:
    """Plain gradient descent at a constant rate, without momentum or weight decay."""
    return torch.optim.SGD(alpha, settings.lr)


class ApgNag(torch.optim.Optimizer):
    """Accelerated proximal gradient in Nesterov's form with a soft threshold: DSO-NAS's search for exact zeros.

    ``z = S(lambda - lr g)``, ``v <- z - lambda + momentum v``, ``lambda <- max(0, z + momentum v)``, with
    ``S(x) = sign(x) max(0, |x| - lr gamma)`` (Zhang et al., 2018, arXiv:1811.01567, eq. 9-11; Huang and Wang, 2018,
    arXiv:1707.01213). The threshold comes last, so zeros are exact.

    Args:
        params: Non-negative variables.
        lr: Learning rate.
        momentum: Momentum.
        gamma: Strength of the L1 penalty, per unit of the variables.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.9, gamma: float = 0.0) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("gamma", gamma)):
            if not value >= 0:
                raise invalid("ApgNag", f"{name} must not be negative", value)
        super().__init__(params, {"lr": lr, "momentum": momentum, "gamma": gamma})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every variable that has a gradient."""
        for group in self.param_groups:
            for x in group["params"]:
                if x.grad is None:
                    continue
                velocity = self.state[x].setdefault("velocity", torch.zeros_like(x))
                moved = x - group["lr"] * x.grad
                z = moved.sign() * (moved.abs() - group["lr"] * group["gamma"]).clamp(min=0)
                velocity.copy_(z - x + group["momentum"] * velocity)  # in place, as a CUDA graph needs it
                x.copy_((z + group["momentum"] * velocity).clamp(min=0))


def _apg_nag(gamma: float, alpha: list[Tensor], settings: AlphaSettings) -> torch.optim.Optimizer:
    return ApgNag(alpha, settings.lr, settings.momentum, gamma)


def find_unread(make: MakeOptimizer) -> tuple[str, ...]:
    """The settings that an optimiser of this module does not read; those of any other one are not known.

    Example:
        >>> find_unread(gradient_descent), find_unread(adam)
        (('betas', 'weight_decay'), ())
    """
    return ("betas", "weight_decay") if getattr(make, "func", make) in (gradient_descent, _apg_nag) else ()


def apg_nag(gamma: float) -> MakeOptimizer:
    """Makes :class:`ApgNag` of strength ``gamma``; alpha has no weight decay under it."""
    return partial(_apg_nag, gamma)


def clip_to_box(before_EK: Tensor, after_EK: Tensor, reached_EK: Tensor | None) -> Tensor:
    """Clip to [0, 1]: the projection of NASP (Yao et al., 2020, arXiv:1905.13577, algorithm 2)."""
    return after_EK.clamp(0, 1)


def keep_pair_probability(before_EK: Tensor, after_EK: Tensor, reached_EK: Tensor | None) -> Tensor:
    """Move only the logits that were reached, and shift them together so that the others' probabilities stay.

    Subtracts ``log(sum exp alpha' / sum exp alpha)`` over the reached ones of each edge (Cai et al., 2019,
    arXiv:1812.00332, section 3.2.1).
    """
    if reached_EK is None:
        return after_EK
    before, after = (x.masked_fill(~reached_EK, -torch.inf).logsumexp(-1, keepdim=True) for x in (before_EK, after_EK))
    return torch.where(reached_EK, after_EK - (after - before), before_EK)
