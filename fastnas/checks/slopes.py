"""Slopes of a function from its values alone, so that no graph has to be trusted.

Shape suffix: D directions.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, detach_all
from fastnas.seeds import stream

STEPS = (1e-6, 1e-7, 1e-5)  # tried in turn until one crosses no kink
SMOOTH = 1e-7  # relative uncertainty at which a step is good enough
ROUNDING = 1e-9  # of a loss of order one (2e-16), a few times, over the first step


class Direction(NamedTuple):
    """A unit vector in the space of one tensor.

    Args:
        name: Of the tensor.
        vector: Of its shape and of length one.
    """

    name: str
    vector: Tensor


class Slopes(NamedTuple):
    """Slopes along directions.

    Args:
        values: ``[D]``.
        errors: How uncertain each is, ``[D]``, in the unit of the values.
    """

    values: Tensor
    errors: Tensor


def random_directions(name: str, like: Tensor, allowed: Tensor, seed: int, number: int) -> list[Direction]:
    """Gaussian directions over the entries that ``allowed`` marks; a gradient that is wrong in any of them is wrong
    along each with probability one. None if no entry is allowed."""
    if not bool(allowed.any()):
        return []
    found = []
    for i in range(number):
        generator = torch.Generator().manual_seed(stream(seed, name, i))
        vector = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like) * allowed
        found.append(Direction(name, vector / vector.norm()))
    return found


def along(gradient: Mapping[str, Tensor], directions: list[Direction]) -> Tensor:
    """The components of a gradient, ``[D]``."""
    if not directions:
        return torch.zeros(0, dtype=torch.float64)
    return torch.stack([(gradient[d.name].detach() * d.vector).sum().double().cpu() for d in directions])


def shift(variables: Tensors, direction: Direction, distance: float) -> dict[str, Tensor]:
    """``variables`` as constants, one of them moved along ``direction``."""
    constants = detach_all(variables)
    return {**constants, direction.name: constants[direction.name] + distance * direction.vector}


def slopes(function: Callable[[Tensors], Tensor], variables: Tensors, directions: list[Direction]) -> Slopes:
    """Central differences, extrapolated from a step and half of it (Richardson).

    The uncertainty is the change between the two, and what the second difference has left once its share of curvature
    is taken away: a kink (of a ReLU, of a pool) at the point itself shows in no first difference.
    """
    if not directions:
        return Slopes(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))
    here = evaluate(function, detach_all(variables))
    values, errors = zip(*(_slope(function, variables, here, direction) for direction in directions), strict=True)
    return Slopes(torch.tensor(values, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64))


def _slope(
    function: Callable[[Tensors], Tensor], variables: Tensors, here: float, direction: Direction
) -> tuple[float, float]:
    best = (0.0, float("inf"))
    for step in STEPS:
        first, second = [], []
        for h in (step, step / 2):
            ahead, behind = (evaluate(function, shift(variables, direction, x)) for x in (h, -h))
            first.append((ahead - behind) / (2 * h))
            second.append((ahead - 2 * here + behind) / h)  # of a smooth function it halves with the step
        value, error = (4 * first[1] - first[0]) / 3, abs(first[1] - first[0]) + abs(2 * second[1] - second[0])
        if error < best[1]:
            best = (value, error)
        if error <= SMOOTH * abs(value) + ROUNDING:
            break
    return best


def evaluate(function: Callable[[Tensors], Tensor], variables: Tensors) -> float:
    """The value of a scalar function."""
    return float(function(variables).detach())


def change_along(
    function: Callable[[Tensors], Mapping[str, Tensor]], variables: Tensors, direction: Direction, step: float = 1e-6
) -> dict[str, Tensor]:
    """The derivative of a function to tensors along ``direction``, by a central difference."""
    forward, backward = (function(shift(variables, direction, h)) for h in (step, -step))
    return {name: (forward[name].detach() - backward[name].detach()) / (2 * step) for name in forward}
