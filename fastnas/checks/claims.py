"""What a method may claim the gradient of alpha to be, each worked out from values of the losses.

Shape suffix: D directions.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastnas.bilevel.problem import Tensors, detach_all, differentiate
from fastnas.checks.slopes import Direction, Slopes, change_along, slopes
from fastnas.checks.system import Alternative, Claimed, System
from fastnas.mechanisms.relaxation import probabilities
from fastnas_kernels.check import invalid


def slope_of_outer(system: System, directions: list[Direction]) -> Claimed:
    """The slope of the outer loss at the weights as they are: first order, and pathwise estimates for their sample
    (Liu et al., 2019, arXiv:1806.09055, section 2.3)."""
    w = detach_all(system.w)
    return Claimed(
        slopes(lambda alpha: system.outer(w, alpha, 0), system.alpha, directions),
        lambda: [_claim_inner(system, directions)],
    )


def slope_after_step(system: System, directions: list[Direction]) -> Claimed:
    """The slope of the outer loss after the weights made the next step of their own optimiser: momentum, weight decay
    and all that it does, on a copy (Liu et al., 2019, arXiv:1806.09055, eq. 6)."""
    w, here = detach_all(system.w), step_weights(system, system.alpha)
    exact = slopes(lambda alpha: system.outer(step_weights(system, alpha), alpha, 0), system.alpha, directions)

    def alternatives() -> list[Alternative]:
        partial = slopes(lambda alpha: system.outer(here, alpha, 0), system.alpha, directions).values
        first = slopes(lambda alpha: system.outer(w, alpha, 0), system.alpha, directions).values
        second = exact.values - partial
        return [
            *_central_difference(system, directions),
            Alternative("It is the first-order gradient: the step of the weights does nothing.", first),
            Alternative("It is the first-order gradient after the step: the second-order term is missing.", partial),
            Alternative("The second-order term counts {c} times instead of once.", partial, second),
            Alternative(
                "The first-order part is taken before the step of the weights, and the second-order "
                "term counts {c} times.",
                first,
                second,
            ),
            _claim_inner(system, directions),
        ]

    return Claimed(exact, alternatives)


@dataclass(frozen=True)
class CentralDifference:
    """As :func:`slope_after_step`, but with the second-order term by a central difference of ``radius`` along the
    outer gradient (Liu et al., 2019, arXiv:1806.09055, eq. 8). Its own definition, with what it is off by.

    Args:
        radius: To both sides, in the space of the weights; the paper's is 0.01.
    """

    radius: float = 0.01

    def __call__(self, system: System, directions: list[Direction]) -> Claimed:
        here = {name: p.requires_grad_() for name, p in step_weights(system, system.alpha).items()}
        v = differentiate(system.outer(here, detach_all(system.alpha), 0), here)
        scale = self.radius / torch.stack([x.norm() for x in v.values()]).norm()
        group = system.weight_optimizer.param_groups[0]
        rate = group["lr"] * (1 + group["momentum"] if group["nesterov"] else 1)
        first = slopes(lambda alpha: system.outer(detach_all(here), alpha, 0), system.alpha, directions)

        def inner_slopes(sign: int) -> Slopes:
            moved = {name: p.detach() + sign * scale * v[name] for name, p in system.w.items()}
            return slopes(lambda alpha: system.inner(moved, alpha, 0), system.alpha, directions)

        ahead, behind, factor = inner_slopes(1), inner_slopes(-1), float(rate / (2 * scale))
        second = -factor * (ahead.values - behind.values)
        errors = first.errors + factor * (ahead.errors + behind.errors)

        def alternatives() -> list[Alternative]:
            text = "The second-order term counts {c} times instead of once."
            return [Alternative(text, first.values, second), _claim_inner(system, directions)]

        return Claimed(Slopes(first.values + second, errors), alternatives)


def _central_difference(system: System, directions: list[Direction]) -> list[Alternative]:
    """That of the paper's radius, where the weights move by stochastic gradient descent."""
    if "momentum" not in system.weight_optimizer.param_groups[0]:
        return []
    text = "It is the central difference of radius 0.01 (Liu et al., 2019, eq. 8): pass claim=CentralDifference()."
    return [Alternative(text, CentralDifference()(system, directions).slopes.values, close=1e-6)]


def step_weights(system: System, alpha: Tensors) -> dict[str, Tensor]:
    """The weights after a step of a copy of their optimiser on the inner loss at ``alpha``."""
    optimizer = deepcopy(system.weight_optimizer)
    owned = [p for group in system.weight_optimizer.param_groups for p in group["params"]]
    copies = [p for group in optimizer.param_groups for p in group["params"]]
    copy_of = {id(p): copy for p, copy in zip(owned, copies, strict=True)}
    missing = [name for name, p in system.w.items() if id(p) not in copy_of]
    if missing:
        raise invalid("check", "weight_optimizer must own every weight", f"none of {', '.join(missing)}")
    w = {name: copy_of[id(p)].detach().requires_grad_() for name, p in system.w.items()}
    gradients = differentiate(system.inner(w, detach_all(alpha), 0), w)
    for copy in copies:
        copy.grad = None
    for name, p in system.w.items():
        copy_of[id(p)].grad = gradients[name]
    optimizer.step()
    return {name: copy_of[id(p)].detach() for name, p in system.w.items()}


@dataclass(frozen=True)
class StraightThrough:
    """The loss is taken at coefficients ``hard``, and the gradient for them passes to alpha by way of ``soft``.

    ``sum_i (d loss / d m_i at m = hard) (d soft_i / d alpha)``: no slope of any function, so this is its definition
    (Bengio et al., 2013, arXiv:1308.3432). Both derivatives by differences.

    Args:
        hard: From ``(alpha, draw)`` to named coefficients.
        soft: What stands in for them in the derivative; a name that ``hard`` lacks begins at zero.
        loss: From ``(w, coefficients)``, alpha descends on it.
        passes: From ``(alpha, draw)`` to factors of the derivatives of ``soft``, for estimators in which only some
            coefficients carry a gradient; ``None`` for all.
    """

    hard: Callable[[Tensors, int], Mapping[str, Tensor]]
    soft: Callable[[Tensors, int], Mapping[str, Tensor]]
    loss: Callable[[Tensors, Tensors], Tensor]
    passes: Callable[[Tensors, int], Mapping[str, Tensor]] | None = None

    def __call__(self, system: System, directions: list[Direction]) -> Claimed:
        w, alpha = detach_all(system.w), detach_all(system.alpha)
        hard = detach_all(self.hard(alpha, 0))
        passes = {} if self.passes is None else self.passes(alpha, 0)
        found = []
        for direction in directions:
            moved = change_along(lambda at: self.soft(at, 0), alpha, direction)
            start = {name: hard.get(name, torch.zeros_like(d)) for name, d in moved.items()}
            step = {name: d * passes[name] if name in passes else d for name, d in moved.items()}
            found.append(_slope_along(lambda m: self.loss(w, {**hard, **m}), start, step))
        values, errors = zip(*found, strict=True) if found else ((), ())
        exact = Slopes(torch.tensor(values, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64))
        return Claimed(exact, lambda: [_claim_inner(system, directions)])


def _slope_along(loss: Callable[[Tensors], Tensor], start: Tensors, step: Tensors) -> tuple[float, float]:
    """The slope of ``loss`` at ``start`` along ``step``, which may move several tensors at once."""
    length = torch.stack([x.norm() for x in step.values()]).norm()
    if not float(length):
        return 0.0, 0.0

    def moved(by: Tensors) -> Tensor:
        return loss({name: start[name] + by["t"] * (step[name] / length) for name in start})

    unit = Direction("t", torch.ones((), dtype=torch.float64))
    along = slopes(moved, {"t": torch.zeros((), dtype=torch.float64)}, [unit])
    return float(along.values[0] * length), float(along.errors[0] * length)


@dataclass(frozen=True)
class Scored:
    """A score-function estimate: ``-sum_k omega_k d log p(A_k)``, from the losses of its draws alone.

    ``d log p`` of a categorical choice with probabilities ``softmax(alpha / tau)`` is ``(one-hot - p) / tau``, and zero
    where nothing was chosen.

    Args:
        choice: From ``(alpha, draw)`` to one-hot rows under the names of alpha's tensors.
        importance: From the losses ``[K]`` of the draws, or what else they are valued by, to their weights ``[K]``.
        draws: K.
        tau: Temperature of the choice.
        alive: Which candidates take part in the choice, under the names of alpha's tensors; all where one is missing.
        value: What a draw is valued by, from ``(w, alpha, draw)``; ``None`` for the outer loss.
    """

    choice: Callable[[Tensors, int], Mapping[str, Tensor]]
    importance: Callable[[Tensor], Tensor]
    draws: int
    tau: float = 1.0
    alive: Mapping[str, Tensor] = field(default_factory=dict)
    value: Callable[[Tensors, Tensors, int], Tensor] | None = None

    def __call__(self, system: System, directions: list[Direction]) -> Claimed:
        w, alpha = detach_all(system.w), detach_all(system.alpha)
        value = system.outer if self.value is None else self.value
        losses_K = torch.stack([value(w, alpha, k).detach() for k in range(self.draws)])
        choices = [self.choice(alpha, k) for k in range(self.draws)]

        def score(omega_K: Tensor) -> Tensor:
            values = []
            for name, vector in directions:
                p = probabilities(alpha[name], self.tau, self.alive.get(name))
                of_draws = [
                    ((c[name] - p * c[name].sum(-1, keepdim=True)) / self.tau * vector).sum()
                    if name in c
                    else vector.new_zeros(())
                    for c in choices
                ]
                values.append(-(omega_K.to(vector) * torch.stack(of_draws)).sum())
            return torch.stack(values) if values else torch.zeros(0, dtype=torch.float64)

        exact = score(self.importance(losses_K))

        def alternatives() -> list[Alternative]:
            return [
                Alternative(
                    "Likely and unlikely draws are confused: the losses enter with the wrong sign.",
                    score(self.importance(-losses_K)),
                ),
                Alternative(
                    "All draws have the same weight: the importance weights are missing.",
                    score(torch.full_like(losses_K, 1 / self.draws)),
                ),
            ]

        return Claimed(Slopes(exact, torch.zeros_like(exact)), alternatives)


def _claim_inner(system: System, directions: list[Direction]) -> Alternative:
    w = detach_all(system.w)
    found = slopes(lambda alpha: system.inner(w, alpha, 0), system.alpha, directions)
    return Alternative("It is the slope of the inner loss: alpha steps on the batch of the weights.", found.values)
