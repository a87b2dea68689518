"""Checked against expected rewards whose gradient is known: every sequence of draws of a toy is tried."""

from itertools import product
from math import prod

import pytest
import torch

from fastnas.bilevel.problem import Bilevel
from fastnas.bilevel.score_function import Reinforce

REWARDS = torch.tensor([[0.9, 0.2], [0.4, 0.7]], dtype=torch.float64)  # of a choice on each of two edges
ALPHA = torch.tensor([[0.3, -0.1], [0.0, 0.6]], dtype=torch.float64)


def probability(choice):
    p = ALPHA.softmax(-1)
    return float(p[0, choice[0]] * p[1, choice[1]])


def gradient(estimator, choices):
    def reward(w, alpha, draw):
        return torch.tensor(1.0), REWARDS[choices[draw]]

    def log_probability(alpha, draw):
        log_p = alpha["a"].log_softmax(-1)
        return log_p[0, choices[draw][0]] + log_p[1, choices[draw][1]]

    problem = Bilevel(lambda *_: None, lambda *_: None, log_probability=log_probability, reward=reward)
    loss, gradients = estimator(problem, {}, {"a": ALPHA.clone().requires_grad_()})
    assert float(loss) == 1.0
    return gradients["a"]


def exact():
    alpha = ALPHA.clone().requires_grad_()
    p = alpha.softmax(-1)
    expected = (p[0, :, None] * p[1, None, :] * REWARDS).sum()
    return -torch.autograd.grad(expected, alpha)[0]  # alpha descends


@pytest.mark.parametrize("estimator", [Reinforce(1, baseline=False), Reinforce(2), Reinforce(3)], ids=str)
def test_its_expectation_over_all_draws_is_the_gradient_of_the_expected_reward(estimator):
    choices = list(product(range(2), repeat=2))
    mean = torch.zeros_like(ALPHA)
    for drawn in product(choices, repeat=estimator.draws):
        mean += prod(map(probability, drawn)) * gradient(estimator, drawn)
    torch.testing.assert_close(mean, exact(), rtol=1e-12, atol=1e-14)  # float64, 64 summands


def test_a_common_reward_moves_nothing_and_the_best_draw_is_moved_towards():
    assert torch.equal(Reinforce(3).weights(torch.full((3,), 0.5)), torch.zeros(3))
    weights = Reinforce(4).weights(torch.tensor([0.1, 0.9, 0.3, 0.3]))
    torch.testing.assert_close(weights.sum(), torch.tensor(0.0), rtol=0, atol=1e-7)  # rounding of float32
    assert weights.argmax() == 1
    assert weights[1] > 0 > weights[0]


def test_a_baseline_needs_something_to_compare_with():
    with pytest.raises(ValueError, match=r"Reinforce: draws must be at least 2, got 1\. One draw has no others"):
        Reinforce(1)
    with pytest.raises(ValueError, match=r"Reinforce: draws must be at least 1, got 0"):
        Reinforce(0, baseline=False)
