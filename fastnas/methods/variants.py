"""Options that change any method for which they have a meaning: second order, and stopping by curvature."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from fastnas.bilevel.hypergradient import Unrolled, first_order
from fastnas.mechanisms.control import (
    Control,
    EigenvalueRollBack,
    EigenvalueStop,
    FirstOf,
    eigenvalue_rule_of_the_code,
)
from fastnas.methods.method import Method

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
    if method.unrolls == (order == 2) and not method.scores:
        return method
    return _changed(method, f"--order {order}", hypergradient=Unrolled() if order == 2 else first_order)


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
    option, (make, every) = f"--stop {stop}", _CONTROLS[stop]
    if method.eigenvalue_every > 0:
        raise ValueError(f"{option}: method {method.name} already stops by the eigenvalue. Leave the option out.")
    control = make() if method.control is None else FirstOf((method.control, make()))
    return _changed(method, option, control=control, eigenvalue_every=every)


def _changed(method: Method, option: str, **parts: Any) -> Method:
    """``method`` with other parts; where they have no meaning together, the error begins with the option."""
    try:
        return replace(method, **parts)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None
