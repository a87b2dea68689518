"""Perturbations of the coefficients in the weight step: the loss of the weights around the coefficients.

A perturbation is called with the coefficients of every cell type, which of them are alive, the loss as a function
of coefficients, a radius and a seed. It moves coefficients, never logits.

Shape suffixes: E edges of a cell, K candidates of an edge.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas_kernels.check import invalid

Coefficients = Mapping[str, Tensor]
Perturbation = Callable[[Coefficients, Coefficients, Callable[[Coefficients], Tensor], float, int], Coefficients]
"""From ``(mix, alive, loss, radius, seed)`` to coefficients; ``alive`` is empty where all candidates are."""


def onto_simplex(mix_EK: Tensor, alive_EK: Tensor | None = None) -> Tensor:
    """Clamp each row to [0, 1] and divide it by its sum; a row without a positive entry becomes the one-hot of its
    largest living one first (the published code of SmoothDARTS).

    Example:
        >>> onto_simplex(torch.tensor([[0.25, -0.25, 0.75]])).tolist()
        [[0.25, 0.0, 0.75]]
    """
    clamped_EK = mix_EK.clamp(0, 1)
    living_EK = mix_EK if alive_EK is None else mix_EK.masked_fill(~alive_EK, -torch.inf)
    leader_EK = torch.zeros_like(mix_EK).scatter_(-1, living_EK.argmax(-1, keepdim=True), 1.0)
    clamped_EK = torch.where(clamped_EK.sum(-1, keepdim=True) > 0, clamped_EK, leader_EK)
    return clamped_EK / clamped_EK.sum(-1, keepdim=True)


def _jump(mix: Coefficients, alive: Coefficients, radius: float, seed: int) -> dict[str, Tensor]:
    """Uniform noise on every living coefficient, then back onto the simplex."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, mix_EK in mix.items():
        noise_EK = torch.empty(mix_EK.shape).uniform_(-radius, radius, generator=generator).to(mix_EK)
        noise_EK = noise_EK * alive[name] if name in alive else noise_EK
        moved[name] = onto_simplex(mix_EK + noise_EK, alive.get(name))
    return moved


def random_smoothing(
    mix: Coefficients, alive: Coefficients, loss: Callable[[Coefficients], Tensor], radius: float, seed: int
) -> Coefficients:
    """Uniform noise in ``[-radius, radius]`` on every coefficient: SDARTS-RS (Chen and Hsieh, 2020, arXiv:2002.05283,
    eq. 8). A radius of zero changes no bit."""
    return mix if radius == 0 else _jump(mix, alive, radius, seed)


@dataclass(frozen=True)
class Adversarial:
    """The worst coefficients within ``radius``: SDARTS-ADV (Chen and Hsieh, 2020, arXiv:2002.05283, eq. 9).

    Projected gradient ascent on the weights' loss from a random start, in steps of ``2 radius / steps`` along the
    gradient's sign; the coefficients stay as they were if that did not raise the loss. The loss normalises by the
    statistics of the batch, where the published code takes running ones.

    Args:
        steps: Steps of the ascent (paper and code: 7).
    """

    steps: int = 7

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise invalid("Adversarial", "steps must be at least 1", self.steps)

    def __call__(
        self,
        mix: Coefficients,
        alive: Coefficients,
        loss: Callable[[Coefficients], Tensor],
        radius: float,
        seed: int,
    ) -> Coefficients:
        if radius == 0:
            return mix
        moved = _jump(mix, alive, radius, seed)
        for _ in range(self.steps):
            moved = {name: x.detach().requires_grad_() for name, x in moved.items()}
            grads = torch.autograd.grad(loss(moved), list(moved.values()), allow_unused=True)
            moved = {
                name: self._ascend(x, mix[name], grad, alive.get(name), radius)
                for (name, x), grad in zip(moved.items(), grads, strict=True)
            }
        with torch.no_grad():
            raised = loss(moved) > loss(mix)
            return {name: torch.where(raised, x, mix[name]) for name, x in moved.items()}

    def _ascend(
        self, x_EK: Tensor, centre_EK: Tensor, gradient_EK: Tensor | None, alive_EK: Tensor | None, radius: float
    ) -> Tensor:
        if gradient_EK is None:
            return x_EK.detach()
        step_EK = 2 * radius / self.steps * gradient_EK.sign()
        step_EK = step_EK if alive_EK is None else step_EK * alive_EK
        near_EK = torch.clamp(x_EK.detach() + step_EK, centre_EK - radius, centre_EK + radius)
        near_EK = near_EK if alive_EK is None else near_EK * alive_EK
        return onto_simplex(near_EK, alive_EK)
