"""Slopes of a function from its values alone, so that no graph has to be trusted.

Shape suffix: D directions.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, detached
from fastnas.seeds import stream

STEPS = (1e-5, 1e-6, 1e-4)  # tried in turn until halving the step no longer matters: a kink may stand within one
SMOOTH = 1e-5  # relative change under halving at which a step is taken


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


def shifted(variables: Tensors, direction: Direction, distance: float) -> dict[str, Tensor]:
    """``variables`` as constants, one of them moved along ``direction``."""
    constants = detached(variables)
    return {**constants, direction.name: constants[direction.name] + distance * direction.vector}


def slopes(function: Callable[[Tensors], Tensor], variables: Tensors, directions: list[Direction]) -> Slopes:
    """Central differences, extrapolated from a step and half of it (Richardson), with the change between the two as
    the uncertainty."""
    pairs = [_slope(function, variables, direction) for direction in directions]
    values, errors = zip(*pairs, strict=True) if pairs else ((), ())
    return Slopes(torch.tensor(values, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64))


def _slope(function: Callable[[Tensors], Tensor], variables: Tensors, direction: Direction) -> tuple[float, float]:
    best = (0.0, float("inf"))
    for step in STEPS:
        whole, half = (
            (
                value_of(function, shifted(variables, direction, h))
                - value_of(function, shifted(variables, direction, -h))
            )
            / (2 * h)
            for h in (step, step / 2)
        )
        value, error = (4 * half - whole) / 3, abs(half - whole)
        if error < best[1]:
            best = (value, error)
        if error <= SMOOTH * abs(value) + 1e-10:
            break
    return best


def value_of(function: Callable[[Tensors], Tensor], variables: Tensors) -> float:
    """The value of a scalar function."""
    return float(function(variables).detach())


def change_along(
    function: Callable[[Tensors], Mapping[str, Tensor]], variables: Tensors, direction: Direction, step: float = 1e-6
) -> dict[str, Tensor]:
    """The derivative of a function to tensors along ``direction``, by a central difference."""
    forward, backward = (function(shifted(variables, direction, h)) for h in (step, -step))
    return {name: (forward[name].detach() - backward[name].detach()) / (2 * step) for name in forward}
