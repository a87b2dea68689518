"""Gradients of the outer loss for the outer variables, by differentiation."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from fastnas.bilevel.operator import HessianOperator
from fastnas.bilevel.problem import Bilevel, Tensors, detach_all, differentiate, restore_state
from fastnas.bilevel.products import Product, forward_over_reverse
from fastnas.bilevel.solve import ConjugateGradients, Solve
from fastnas_kernels.check import invalid

Hypergradient = Callable[[Bilevel, Tensors, Tensors], tuple[Tensor, dict[str, Tensor]]]
"""From a problem, ``w`` and ``alpha`` to the outer loss and its gradient for every entry of ``alpha``.

What else there is to know of one it says by attributes, and a plain function by their absence: ``unrolls``, whether it
looks through steps of the weights; ``needs_twice``, whether by second derivatives of the losses; ``scores``, whether it
needs the log-probabilities of discrete draws and no slope; ``reads_reward``, whether it asks what a draw is worth;
``claim``, the name of what the oracle compares it with; and ``weight_transfers``, how often several processes exchange
as many numbers as there are weights.
"""


@dataclass(frozen=True)
class FirstOrder:
    """Treat ``w`` as constant: the ``xi = 0`` case of DARTS (Liu et al., 2019, arXiv:1806.09055, section 2.3).

    The weights enter detached, so no gradient is computed or prepared for them.
    """

    claim: ClassVar[str] = "slope"

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = _leaves(alpha)
        return _slopes(problem, lambda: problem.outer(detach_all(w), leaves, 0), leaves)


first_order = FirstOrder()


@dataclass(frozen=True)
class Unrolled:
    """Differentiate exactly through the next steps of the weights.

    The gradient of ``outer(w_T(alpha), alpha)`` where ``w_T`` is ``w`` after T steps of stochastic gradient descent on
    the inner loss, with momentum and weight decay as they are (T = 1: Liu et al., 2019, arXiv:1806.09055, eq. 6 and 7).
    Computed backwards over the steps by products with second derivatives (Maclaurin et al., 2015, arXiv:1502.03492,
    algorithm 2): beside the weights of every step, one step's graph is alive at a time.

    Args:
        steps: T. Step t takes the sample ``draw = t`` of the inner loss, the outer loss takes sample 0.
        differentiated: The last of these steps, through which to look; the others move the weights only (truncation,
            Shaban et al., 2019, arXiv:1810.10667). Unset for all.
        product: How second derivatives are computed.
    """

    steps: int = 1
    differentiated: int | None = None
    product: Product = forward_over_reverse
    unrolls: ClassVar[bool] = True
    needs_twice: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise invalid("Unrolled", "steps must be at least 1", self.steps)
        if self.differentiated is not None and not 0 <= self.differentiated <= self.steps:
            rule = f"differentiated must lie between 0 and steps, {self.steps}"
            raise invalid("Unrolled", rule, self.differentiated)

    @property
    def claim(self) -> str | None:
        """What the oracle compares it with: the slope after one step; it knows no formula for several."""
        return "slope after a step" if self.steps == 1 and self.differentiated in (None, 1) else None

    @property
    def weight_transfers(self) -> int:
        """Each step sends its gradient, and its product with the Hessian; the last one the outer gradient instead."""
        return 2 * self.steps

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        first = 0 if self.differentiated is None else self.steps - self.differentiated
        step, current, path = problem.inner_step, detach_all(w), []
        for t in range(self.steps):
            leaves = _leaves(current)
            _, gradients = _slopes(problem, partial(problem.inner, leaves, detach_all(alpha), t), leaves)
            path += [(t, current)] if t >= first else []
            current, step = step(current, gradients), step.next(current, gradients)
        loss, back, total = _outer(problem, current, alpha)
        carried = {name: torch.zeros_like(x) for name, x in back.items()}  # for the momentum
        lr, momentum, decay = step.lr, step.momentum, step.weight_decay
        for t, at in reversed(path):
            of_velocity = {
                name: carried[name] - lr * (momentum if step.nesterov else 1) * x for name, x in back.items()
            }
            v = {name: x - lr * back[name] if step.nesterov else x for name, x in of_velocity.items()}
            rows = ("alpha", "w") if t > first else ("alpha",)
            of_alpha, of_w = _second_order(problem, at, alpha, v, rows, t, self.product)
            total = {name: x + of_alpha[name] for name, x in total.items()}
            if t > first:
                back = {name: x + decay * v[name] + of_w[name] for name, x in back.items()}
                carried = {name: momentum * x for name, x in of_velocity.items()}
        return loss, total


unrolled = Unrolled()
"""Through one step: second-order DARTS."""


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
    unrolls: ClassVar[bool] = True
    claim: ClassVar[str] = "slope after a step by differences"
    weight_transfers: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise invalid("UnrolledByDifferences", "radius must be positive", self.radius)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        leaves, step = _leaves(w), problem.inner_step
        _, gradients = _slopes(problem, lambda: problem.inner(leaves, detach_all(alpha), 0), leaves)
        loss, v, total = _outer(problem, step(detach_all(w), gradients), alpha)
        length = torch.stack([(x * x).sum() for x in v.values()]).sum().sqrt()
        scale = self.radius / length.clamp(min=torch.finfo(length.dtype).tiny)

        def inner(sign: int) -> dict[str, Tensor]:
            moved = {name: p.detach() + sign * scale * v[name] for name, p in w.items()}
            logits = _leaves(alpha)
            return _slopes(problem, lambda: problem.inner(moved, logits, 0), logits)[1]

        ahead, behind = inner(1), inner(-1)
        # d w' / d gradient is -lr, or -lr (1 + momentum) where SGD looks ahead
        rate = step.lr * (1 + step.momentum if step.nesterov else 1)
        return loss, {name: x - rate * (ahead[name] - behind[name]) / (2 * scale) for name, x in total.items()}


@dataclass(frozen=True)
class Implicit:
    """Differentiate through the minimum of the inner loss, as if the weights had reached it.

    ``d outer - (d2 inner / d alpha d w) (d2 inner / d w2 + (decay + damping) I)^-1 d outer / d w``, by the implicit
    function theorem (Lorraine et al., 2020, arXiv:1911.02590, eq. 3; for architectures Zhang et al., 2021,
    arXiv:2106.10784). ``decay`` is the weight decay of the inner step, which is part of what the weights minimise.

    Args:
        solve: How the linear system is solved: :class:`fastnas.bilevel.solve.ConjugateGradients` or ``Neumann``.
        damping: Added to the diagonal; positive where the inner loss is not convex.
        product: How the mixed second derivative is computed; those of the solver share one kept graph.
    """

    solve: Solve = ConjugateGradients()
    damping: float = 0.0
    product: Product = forward_over_reverse
    unrolls: ClassVar[bool] = True
    needs_twice: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.damping >= 0:
            raise invalid("Implicit", "damping must not be negative", self.damping)

    def __call__(self, problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        at, fixed, shift = detach_all(w), detach_all(alpha), problem.inner_step.weight_decay + self.damping
        loss, v, total = _outer(problem, at, alpha)
        matrix = HessianOperator(
            lambda x: problem.inner(x, fixed, 0),
            at,
            keep_graph=True,
            state=problem.state,
            allow_unused=True,
            average=problem.average,
        )
        solution = matrix.unflat(self.solve(lambda x: matrix @ x + shift * x, matrix.flat(v)))
        of_alpha, _ = _second_order(problem, at, alpha, solution, ("alpha",), 0, self.product)
        return loss, {name: x - of_alpha[name] for name, x in total.items()}


def _leaves(tensors: Tensors) -> dict[str, Tensor]:
    """The same values as variables to differentiate for."""
    return {name: x.detach().requires_grad_() for name, x in tensors.items()}


def _slopes(problem: Bilevel, loss: Callable[[], Tensor], variables: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss and its gradient, both averaged over processes, evaluated without a trace."""
    with restore_state(problem.state):
        value = loss()
        found = differentiate(value, variables)
    averaged = problem.average({"": value.detach().reshape(1), **found})
    return averaged.pop("").reshape(()), averaged


def _outer(problem: Bilevel, w: Tensors, alpha: Tensors) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """The outer loss at constants ``w``, and its gradients for both."""
    of_w, of_alpha = _leaves(w), _leaves(alpha)
    loss, both = _slopes(problem, lambda: problem.outer(of_w, of_alpha, 0), _join(of_w, of_alpha))
    return loss, *_part(both, w, alpha)


def _second_order(
    problem: Bilevel, w: Tensors, alpha: Tensors, v: Tensors, rows: Collection[str], draw: int, product: Product
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Second derivatives of the inner loss times ``v``, which is on the weights: rows of alpha, and those of ``w``."""

    def inner(at: Tensors) -> Tensor:
        return problem.inner(*_part(at, w, alpha), draw)

    of = [name for name in _join(w, alpha) if name.split(" ", 1)[0] in rows]
    at, along = _join(detach_all(w), detach_all(alpha)), _join(v, {})
    found = problem.average(product(inner, at, along, of, state=problem.state, allow_unused=True))
    of_w, of_alpha = _part(found, w, alpha)
    return of_alpha, of_w


def _join(w: Tensors, alpha: Tensors) -> dict[str, Tensor]:
    """Both under names that cannot meet."""
    return {**{f"w {name}": x for name, x in w.items()}, **{f"alpha {name}": x for name, x in alpha.items()}}


def _part(both: Tensors, w: Tensors, alpha: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parts = (("w", w), ("alpha", alpha))
    of_w, of_alpha = ({n: both[f"{key} {n}"] for n in names if f"{key} {n}" in both} for key, names in parts)
    return of_w, of_alpha
