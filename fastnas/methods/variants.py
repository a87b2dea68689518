"""Options that change any method for which they have a meaning: second order, and stopping by curvature."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from fastnas.bilevel.hypergradient import ImportanceWeighted, Unrolled, first_order
from fastnas.mechanisms.control import (
    Control,
    EigenvalueRollBack,
    EigenvalueStop,
    FirstOf,
    eigenvalue_rule_of_the_code,
    never,
)
from fastnas.methods.method import Method
from fastnas_kernels.check import complaint

Order = Literal[1, 2]
StopBy = Literal["eigenvalue", "eigenvalue_code", "eigenvalue_ada"]

_CONTROLS: Mapping[str, tuple[Callable[[], Control], int]] = MappingProxyType(
    {
        "eigenvalue": (EigenvalueStop, 1),
        "eigenvalue_code": (lambda: EigenvalueStop(eigenvalue_rule_of_the_code()), 2),
        "eigenvalue_ada": (EigenvalueRollBack, 2),
    }
)
"""What each word stands for, and the epochs between two of its measurements."""


def with_order(method: Method, order: Order) -> Method:
    """``method`` with the first-order or the unrolled gradient of alpha.

    Args:
        method: Any whose alpha gets its gradient by differentiation.
        order: 1, or 2 to differentiate through the next step of the weights.

    Raises:
        ValueError: Where there is no such step, or alpha's gradient is no derivative.
    """
    draw = method.draw
    option = f"--order {order}"
    if isinstance(method.hypergradient, ImportanceWeighted):
        _refuse(option, "its hypergradient=ImportanceWeighted", method, "It differentiates no loss of the weights.")
    if order == 2 and method.protocol.joint:
        _refuse(option, "its protocol.joint", method, "Both move at once: there is no inner step to look through.")
    if order == 2 and draw is not None and draw.turns_off:
        why = "Its gradient is that of a surrogate, and the weights step with a choice of their own."
        _refuse(option, f"its draw={draw}", method, why)
    unrolls = method.hypergradient is not first_order
    if unrolls == (order == 2):
        return method
    return replace(method, hypergradient=Unrolled() if order == 2 else first_order)


def with_stop(method: Method, stop: StopBy) -> Method:
    """``method`` that also stops, or goes back, when the loss becomes sharp in alpha (Zela et al., 2020,
    arXiv:1909.09656).

    Args:
        method: Any whose coefficients are no random or discrete choice.
        stop: ``eigenvalue`` for the rule of the paper, ``eigenvalue_code`` for that of the published code,
            ``eigenvalue_ada`` to go back and regularise more instead.

    Raises:
        ValueError: Where the curvature of the outer loss in alpha is not measured or means something else.
    """
    option = f"--stop {stop}"
    if method.draw is not None:
        why = "The curvature at a random or discrete choice is not that of the search."
        _refuse(option, f"its draw={method.draw}", method, why)
    if method.protocol.joint:
        _refuse(option, "its protocol.joint", method, "Alpha has no batch of its own to measure on.")
    if len(method.stages) > 1:
        _refuse(option, f"its {len(method.stages)} stages", method, "Each begins with fresh weights and logits.")
    if method.eigenvalue_every > 0:
        _refuse(option, f"its own control={type(method.control).__name__}", method, "It already reads the eigenvalue.")
    make, every = _CONTROLS[stop]
    control = make() if method.control is never else FirstOf((method.control, make()))
    if stop == "eigenvalue_ada" and method.control is not never:
        why = "What is kept to go back to is decided by one control alone."
        _refuse(option, f"its own control={type(method.control).__name__}", method, why)
    return replace(method, control=control, eigenvalue_every=every)


def _refuse(option: str, part: str, method: Method, why: str) -> None:
    raise ValueError(complaint(f"method {method.name}", f"{option} must not stand beside {part}", "both", why))
