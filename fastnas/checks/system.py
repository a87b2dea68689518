"""What the oracle needs to know of anybody's search: two losses as functions, two steps as they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fastnas.bilevel.problem import Loss, Tensors
from fastnas.checks.slopes import Direction, Slopes
from fastnas_kernels.check import invalid

CLOSE = 1e-3
"""Relative; nearer than this a gradient is called by the name of a known wrong one."""


class Alternative(NamedTuple):
    """A gradient that a known defect would give: ``base + c * rest`` for some number ``c``.

    Args:
        text: What it means; ``{c}`` stands for the number.
        base: ``[D]``.
        rest: ``[D]``; ``None`` where ``c`` is zero.
        close: How near a gradient must be to be called by this name, relative.
    """

    text: str
    base: Tensor
    rest: Tensor | None = None
    close: float = CLOSE


class Claimed(NamedTuple):
    """What the gradient of alpha should be along some directions.

    Args:
        slopes: By values alone.
        alternatives: What known defects would give instead; asked for only if something failed.
    """

    slopes: Slopes
    alternatives: Callable[[], list[Alternative]]


class Estimate(NamedTuple):
    """A random estimate whose exact expectation is known.

    Args:
        name: What should hold, a sentence.
        sample: From an integer to an independent sample.
        exact: The expectation, by enumeration or in closed form.
        samples: How many to take.
        remedy: What to do about a wrong one.
    """

    name: str
    sample: Callable[[int], Mapping[str, Tensor]]
    exact: Callable[[], Mapping[str, Tensor]]
    samples: int
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What the candidates and edges are multiplied with, and what is claimed of it.

    Args:
        values: From ``(alpha, draw)`` to named rows ``[..., K]``.
        formula: What they should be, written down independently; ``None`` for no formula.
        exempt: The names of rows that need not sum to one.
        off: The entries that must be exactly zero, as masks under the same names.
    """

    values: Callable[[Tensors, int], Mapping[str, Tensor]]
    formula: Callable[[Tensors, int], Mapping[str, Tensor]] | None = None
    exempt: tuple[str, ...] = ()
    off: Callable[[Tensors, int], Mapping[str, Tensor]] | None = None


class Twin(NamedTuple):
    """Two systems that must make the same step of the weights bit for bit.

    Args:
        name: What should hold, a sentence.
        one: From a seed to a system.
        other: The same for the other.
    """

    name: str
    one: "Build"
    other: "Build"


@dataclass(frozen=True, kw_only=True)
class System:
    """A search at one point, fresh, in float64. Its steps may change it; its losses may not.

    Args:
        w: The network's weights by name: the tensors themselves, not copies.
        alpha: The architecture's logits by name, likewise. Those of edges begin with ``beta``.
        outer: What alpha descends on, a function ``(w, alpha, draw)`` of the values that it is given, without
            ``penalty``; ``draw`` chooses one of the samples of the next step of alpha, and may be ignored where
            nothing is random.
        inner: The same for the weights.
        alpha_step: Moves alpha once, as the search does.
        weight_step: Moves the weights once.
        alpha_optimizer: Its ``step`` moves alpha: the oracle looks at ``alpha.grad`` just before it.
        weight_optimizer: Likewise for the weights.
        claim: What the gradient of alpha is said to be: see :mod:`fastnas.checks.claims`.
        buffers: Statistics of the network, which an alpha step must leave alone.
        penalty: From ``(alpha, draw)`` to a term that alpha descends on besides ``outer``.
        coefficients: What is claimed of them, if anything.
        estimates: Random estimates with known expectations.
        twins: Systems that should take equal steps.
        random: Whether the gradient of alpha depends on what is drawn; then several draws are looked at.
    """

    w: Mapping[str, Tensor]
    alpha: Mapping[str, Tensor]
    outer: Loss
    inner: Loss
    alpha_step: Callable[[], None]
    weight_step: Callable[[], None]
    alpha_optimizer: torch.optim.Optimizer
    weight_optimizer: torch.optim.Optimizer
    claim: "Claim"
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    penalty: Callable[[Tensors, int], Tensor] | None = None
    coefficients: Coefficients | None = None
    estimates: tuple[Estimate, ...] = ()
    twins: tuple[Twin, ...] = ()
    random: bool = False

    def __post_init__(self) -> None:
        for kind, tensors in (("w", self.w), ("alpha", self.alpha)):
            if not tensors:
                raise invalid("check", f"{kind} must hold a tensor", "none")
            for name, tensor in tensors.items():
                if tensor.dtype != torch.float64:
                    remedy = "Differences of float32 losses are too coarse to compare with: call .double()."
                    rule = f"{kind}[{name!r}] must be float64"
                    raise invalid("check", rule, tensor.dtype, remedy)


Build = Callable[[int], System]
"""From a seed to a fresh system, the same for the same seed."""
Claim = Callable[[System, list[Direction]], Claimed]
"""From a system and directions in alpha to what the gradient is along them."""
