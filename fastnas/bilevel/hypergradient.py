"""Gradients of the outer loss for the outer variables (axes D and E)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas.bilevel.problem import Bilevel, Tensors, detached, gradients_of
from fastnas_kernels.check import require

Hypergradient = Callable[[Bilevel, Tensors, Tensors], tuple[Tensor, dict[str, Tensor]]]
"""From a problem, ``w`` and ``alpha`` to the outer loss and its gradient for every entry of ``alpha``."""


def first_order(problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Treat ``w`` as constant: the ``xi = 0`` case of DARTS (Liu et al., 2019, arXiv:1806.09055, section 2.3).

    The weights enter detached, so no gradient is computed or prepared for them.
    """
    loss = problem.outer(detached(w), alpha, 0)
    return loss.detach(), gradients_of(loss, alpha)


def unrolled(problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Differentiate exactly through one inner step, reverse over reverse.

    The gradient of ``outer(w'(alpha), alpha)`` with ``w' = inner_step(w, d inner / d w)`` (Liu et al., 2019,
    arXiv:1806.09055, eq. 6; momentum and weight decay enter w' as in the published code). Holds the graph of the
    inner gradient until the outer one is done.
    """
    inner_gradients = gradients_of(problem.inner(w, alpha, 0), w, create_graph=True)
    stepped = problem.inner_step(detached(w), inner_gradients)
    loss = problem.outer(stepped, alpha, 0)
    return loss.detach(), gradients_of(loss, alpha)


@dataclass(frozen=True)
class UnrolledByDifferences:
    """Differentiate through one inner step with a central difference for the mixed second derivative.

    ``d outer(w', alpha) - lr (d inner(w + R v, alpha) - d inner(w - R v, alpha)) / (2 R)`` with ``d`` the gradient
    for alpha, ``v`` the gradient of the outer loss for w' and ``R = radius / |v|`` (Liu et al., 2019,
    arXiv:1806.09055, eq. 8). Exact where the inner gradient for alpha is affine in the weights. Four gradients of
    first order, no graph of second order.

    Args:
        radius: Length of the step in weight space to both sides, dimensionless (paper and code: 0.01).
    """

    radius: float = 0.01

    def __post_init__(self) -> None:
        require(self.radius > 0, "UnrolledByDifferences", "radius must be positive", self.radius)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        inner_gradients = gradients_of(problem.inner(w, detached(alpha), 0), w)
        stepped = {name: p.requires_grad_() for name, p in problem.inner_step(detached(w), inner_gradients).items()}
        loss = problem.outer(stepped, alpha, 0)
        both = gradients_of(loss, {**stepped, **alpha})
        v = {name: both[name] for name in stepped}
        norm = torch.sqrt(sum(((x * x).sum() for x in v.values()), torch.zeros_like(loss))).detach()
        scale = self.radius / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        forward, backward = (self._inner(problem, w, v, sign * scale, alpha) for sign in (1, -1))
        # d w' / d gradient is -lr, or -lr (1 + momentum) where SGD looks ahead
        step = problem.inner_step
        rate = step.lr * (1 + step.momentum if step.nesterov else 1)
        return loss.detach(), {
            name: both[name] - rate * (forward[name] - backward[name]) / (2 * scale) for name in alpha
        }

    @staticmethod
    def _inner(problem: Bilevel, w: Tensors, v: Tensors, scale: Tensor, alpha: Tensors) -> dict[str, Tensor]:
        moved = {name: p.detach() + scale * v[name] for name, p in w.items()}
        return gradients_of(problem.inner(moved, alpha, 0), alpha)


@dataclass(frozen=True)
class ImportanceWeighted:
    """Score-function gradient with every draw weighted by how likely it makes the data.

    ``-sum_k omega_k d log p(A_k | alpha)`` over draws ``A_1 ... A_K``, where ``l_k`` is the log-likelihood of the
    batch under ``A_k`` (Casale et al., 2019, arXiv:1902.05116). Self-normalised, ``omega`` is the softmax of
    ``l / temperature``: a consistent but, for finite K, biased estimate of the gradient of the log-evidence; with
    K = 1 its expectation is zero. Otherwise ``omega_k = exp(l_k / temperature) / K``: unbiased, but for the
    gradient of the evidence itself. Only the losses of the draws are needed, so nothing is saved for a backward
    pass of the network.

    Args:
        draws: K (paper: 16 in the DARTS space).
        temperature: What the summed log-likelihood is divided by: 1 for the likelihood of the whole batch, under
            which one draw takes nearly all the weight; ``None`` for the batch size, the likelihood of a mean example.
        self_normalised: Which of the two forms.
    """

    draws: int = 16
    temperature: float | None = None
    self_normalised: bool = True

    def __post_init__(self) -> None:
        where, minimum = "ImportanceWeighted", 2 if self.self_normalised else 1
        remedy = "The expected gradient of one self-normalised draw is zero." if self.self_normalised else ""
        require(self.draws >= minimum, where, f"draws must be at least {minimum}", self.draws, remedy)
        require(
            self.temperature is None or self.temperature > 0, where, "temperature must be positive", self.temperature
        )

    def weights(self, losses_K: Tensor, num_examples: int) -> Tensor:
        """The weight of each draw, ``[K]``, from the mean losses of the draws over ``num_examples``."""
        temperature = num_examples if self.temperature is None else self.temperature
        log_likelihood_K = -losses_K.detach() * (num_examples / temperature)
        return log_likelihood_K.softmax(0) if self.self_normalised else log_likelihood_K.exp() / len(losses_K)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert problem.log_probability is not None, "a method refuses this estimator without a discrete draw"
        with torch.no_grad():
            losses_K = torch.stack([problem.outer(w, alpha, draw) for draw in range(self.draws)])
        weights_K = self.weights(losses_K, problem.outer_size)
        log_probabilities_K = torch.stack([problem.log_probability(alpha, draw) for draw in range(self.draws)])
        return losses_K.mean(), gradients_of(-(weights_K * log_probabilities_K).sum(), alpha)
