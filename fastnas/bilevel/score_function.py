"""Gradients for the outer variables from the log-probabilities of discrete draws, where the loss has no slope."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fastnas.bilevel.problem import Bilevel, Tensors, differentiate, restore_state
from fastnas_kernels.check import invalid


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
    scores: ClassVar[bool] = True
    claim: ClassVar[str] = "importance-weighted scores"

    def __post_init__(self) -> None:
        where, minimum = "ImportanceWeighted", 2 if self.self_normalised else 1
        if self.draws < minimum:
            remedy = "The expected gradient of one self-normalised draw is zero." if self.self_normalised else ""
            raise invalid(where, f"draws must be at least {minimum}", self.draws, remedy)
        if self.temperature is not None and not self.temperature > 0:
            raise invalid(where, "temperature must be positive", self.temperature)

    def weights(self, losses_K: Tensor, num_examples: int) -> Tensor:
        """The weight of each draw, ``[K]``, from the mean losses of the draws over ``num_examples``."""
        temperature = num_examples if self.temperature is None else self.temperature
        log_likelihood_K = -losses_K.detach() * (num_examples / temperature)
        return log_likelihood_K.softmax(0) if self.self_normalised else log_likelihood_K.exp() / len(losses_K)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert problem.log_probability is not None, "a method refuses this estimator without a discrete draw"
        with torch.no_grad(), restore_state(problem.state):
            losses_K = torch.stack([problem.outer(w, alpha, draw) for draw in range(self.draws)])
        weights_K = self.weights(losses_K, problem.outer_size)
        log_probabilities_K = torch.stack([problem.log_probability(alpha, draw) for draw in range(self.draws)])
        gradients = differentiate(-(weights_K * log_probabilities_K).sum(), alpha)
        return losses_K.mean(), problem.average(gradients)


@dataclass(frozen=True)
class Reinforce:
    """Score-function gradient of an expected reward: alpha moves towards the draws that were worth more than others.

    ``-1/M sum_m (R_m - b_m) d log p(A_m | alpha)`` over draws ``A_1 ... A_M`` worth ``R_m`` (Williams, 1992; Cai et
    al., 2019, arXiv:1812.00332, eq. 8-10), to be descended along. The baseline ``b_m`` is the mean reward of the other
    draws, which leaves the expectation what it is: ``-d E[R] / d alpha``, for any M. The published code takes off a
    running mean that holds the draw's own reward, so its gradient is shorter in expectation, by a share of 0.99 / M.
    Only values are needed, so nothing is saved for a backward pass of the network.

    Args:
        draws: M (published code: 10).
        baseline: Whether anything is taken off; without it the variance is that of the whole reward.
    """

    draws: int = 10
    baseline: bool = True
    scores: ClassVar[bool] = True
    reads_reward: ClassVar[bool] = True
    claim: ClassVar[str] = "rewarded scores"

    def __post_init__(self) -> None:
        minimum = 2 if self.baseline else 1
        remedy = "One draw has no others to be compared with." if self.baseline else ""
        if self.draws < minimum:
            raise invalid("Reinforce", f"draws must be at least {minimum}", self.draws, remedy)

    def weights(self, rewards_K: Tensor) -> Tensor:
        """How far each draw is moved towards, ``[K]``; they sum to zero where there is a baseline."""
        rewards_K = rewards_K.detach()
        if not self.baseline:
            return rewards_K / len(rewards_K)
        others_K = (rewards_K.sum() - rewards_K) / (len(rewards_K) - 1)
        return (rewards_K - others_K) / len(rewards_K)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert problem.reward is not None, "a search has rewards"
        assert problem.log_probability is not None, "a method refuses this estimator without a discrete draw"
        with torch.no_grad():
            valued = [problem.reward(w, alpha, draw) for draw in range(self.draws)]
        losses_K, rewards_K = (torch.stack(x) for x in zip(*valued, strict=True))
        log_probabilities_K = torch.stack([problem.log_probability(alpha, draw) for draw in range(self.draws)])
        return losses_K.mean(), differentiate(-(self.weights(rewards_K) * log_probabilities_K).sum(), alpha)
