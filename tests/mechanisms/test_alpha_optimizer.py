"""Optimisers of alpha and what follows a step, against worked numbers."""

import math
from copy import deepcopy

import pytest
import torch

from fastnas.mechanisms.alpha_optimizer import (
    AlphaSettings,
    ApgNag,
    adam,
    apg_nag,
    clip_to_box,
    keep_pair_probability,
)


def move(x, optimizer, gradient):
    x.grad = gradient.clone()
    optimizer.step()


def test_the_accelerated_proximal_gradient_of_dso_nas_step_by_step():
    x = torch.tensor([1.0, 0.04, 0.5], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([0.2, 0.1, -0.3], dtype=torch.float64)
    optimizer = ApgNag([x], lr=0.1, momentum=0.9, gamma=0.5)
    for expected, velocity in (
        ((0.867, 0, 0.462), (-0.07, -0.04, -0.02)),
        ((0.6773, 0, 0.4078), (-0.133, -0.036, -0.038)),
    ):
        move(x, optimizer, g)
        torch.testing.assert_close(x.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        found = optimizer.state[x]["velocity"]
        torch.testing.assert_close(found, torch.tensor(velocity, dtype=torch.float64), rtol=0, atol=1e-12)
    assert x[1].item() == 0


def test_without_penalty_and_momentum_it_is_projected_gradient_descent():
    x = torch.rand(5, requires_grad=True)
    g = torch.randn(5)
    expected = (x.detach() - 0.3 * g).clamp(min=0)
    move(x, ApgNag([x], lr=0.3, momentum=0.0, gamma=0.0), g)
    assert torch.equal(x.detach(), expected)


def test_a_variable_without_a_gradient_stays_where_it_is():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = ApgNag([x, y], lr=0.1, gamma=1.0)
    move(x, optimizer, torch.ones(2))
    assert torch.equal(y.detach(), torch.ones(2))
    assert y not in optimizer.state
    with pytest.raises(ValueError, match="ApgNag: gamma must not be negative, got -1"):
        ApgNag([x], lr=0.1, gamma=-1)


def test_its_state_survives_a_checkpoint():
    x, y = (torch.tensor([0.5, 0.7], requires_grad=True) for _ in range(2))
    first, second = (ApgNag([z], lr=0.1, gamma=0.1) for z in (x, y))
    move(x, first, torch.ones(2))
    with torch.no_grad():
        y.copy_(x)
    second.load_state_dict(deepcopy(first.state_dict()))  # as from a file: optimisers share what they are handed
    for z, optimizer in ((x, first), (y, second)):
        move(z, optimizer, torch.ones(2))
    assert torch.equal(x, y)


def test_settings_reach_the_optimisers():
    settings = AlphaSettings(0.02, (0.5, 0.9), 0.1, 0.8)
    x = [torch.zeros(2, requires_grad=True)]
    assert (adam(x, settings).defaults["betas"], adam(x, settings).defaults["weight_decay"]) == ((0.5, 0.9), 0.1)
    made = apg_nag(1e-3)(x, settings).defaults
    assert (made["lr"], made["momentum"], made["gamma"]) == (0.02, 0.8, 1e-3)


def test_the_box_of_nasp_clips():
    x = torch.tensor([-0.2, 1.3, 0.5])
    assert clip_to_box(x, x, None).tolist() == [0, 1, 0.5]


def test_a_step_of_two_paths_leaves_the_probability_of_the_third_alone():
    before = torch.tensor([[0.0, math.log(2), math.log(3)]], dtype=torch.float64)
    stepped = before + torch.tensor([[-0.1, 5.0, 0.1]], dtype=torch.float64)  # momentum moved the third one, too
    after = keep_pair_probability(before, stepped, torch.tensor([[True, False, True]]))
    expected = torch.tensor([[-0.153624, 0.693147, 1.144989]], dtype=torch.float64)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)
    p = torch.tensor([[0.142932, 1 / 3, 0.523734]], dtype=torch.float64)
    torch.testing.assert_close(after.softmax(-1), p, rtol=0, atol=1e-6)
    assert abs(after.softmax(-1)[0, 1] - 1 / 3) < 1e-9
    assert torch.equal(keep_pair_probability(before, stepped, None), stepped)
