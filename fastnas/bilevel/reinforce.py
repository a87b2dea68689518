"""A gradient for the outer variables from what draws are worth, where that has no slope."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastnas.bilevel.problem import Bilevel, Tensors, gradients_of
from fastnas_kernels.check import require


@dataclass(frozen=True)
class Reinforce:
    """Score-function gradient of an expected reward: alpha moves towards the draws that were worth more than others.

    ``-1/M sum_m (R_m - b_m) d log p(A_m | alpha)`` over draws ``A_1 ... A_M`` worth ``R_m`` (Williams, 1992; Cai et
    al., 2019, arXiv:1812.00332, eq. 8-10), to be descended along. The baseline ``b_m`` is the mean reward of the other
    draws, which leaves the expectation what it is: ``-d E[R] / d alpha``, for any M. (The published code takes off a
    running mean that holds the draw's own reward, so its gradient is shorter in expectation, by a share of 0.99 / M.)
    Only values are needed, so nothing is saved for a backward pass of the network.

    Args:
        draws: M (published code: 10).
        baseline: Whether anything is taken off; without it the variance is that of the whole reward.
    """

    draws: int = 10
    baseline: bool = True

    def __post_init__(self) -> None:
        minimum = 2 if self.baseline else 1
        remedy = "One draw has no others to be compared with." if self.baseline else ""
        require(self.draws >= minimum, "Reinforce", f"draws must be at least {minimum}", self.draws, remedy)

    def weights(self, rewards_K: Tensor) -> Tensor:
        """How far each draw is moved towards, ``[K]``; they sum to zero where there is a baseline."""
        rewards_K = rewards_K.detach()
        if not self.baseline:
            return rewards_K / len(rewards_K)
        others_K = (rewards_K.sum() - rewards_K) / (len(rewards_K) - 1)
        return (rewards_K - others_K) / len(rewards_K)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        assert problem.judge is not None, "a search has rewards"
        assert problem.log_probability is not None, "a method refuses this estimator without a discrete draw"
        with torch.no_grad():
            judged = [problem.judge(w, alpha, draw) for draw in range(self.draws)]
        losses_K, rewards_K = (torch.stack(x) for x in zip(*judged, strict=True))
        log_probabilities_K = torch.stack([problem.log_probability(alpha, draw) for draw in range(self.draws)])
        return losses_K.mean(), gradients_of(-(self.weights(rewards_K) * log_probabilities_K).sum(), alpha)
