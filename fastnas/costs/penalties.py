"""From the loss of a network and its cost to what the architecture descends on (axis K).

Each is a value that is called as ``penalty(loss, cost)`` with two scalars. Its gradient reaches alpha through the
cost, see :func:`fastnas.costs.expectation.expected_cost`.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fastnas_kernels.check import invalid


@dataclass(frozen=True, kw_only=True)
class LinearPenalty:
    """A price for each unit of cost.

    Without a target ``loss + strength * cost``: SNAS (Xie et al., 2019, arXiv:1812.09926) and the paper of
    ProxylessNAS (Cai et al., 2019, arXiv:1812.00332, section 3.3). With one
    ``loss + strength * (cost - target) / target``, as the published code of ProxylessNAS has it (strength 0.1): the
    same slope but for a factor, and a strength without unit.

    Args:
        strength: Positive; loss for each unit of cost, or for each multiple of the target.
        target: In the unit of the cost.
    """

    strength: float
    target: float | None = None

    def __post_init__(self) -> None:
        _require_positive("LinearPenalty", "strength", self.strength)
        if self.target is not None:
            _require_positive("LinearPenalty", "target", self.target)

    def __call__(self, loss: Tensor, cost: Tensor) -> Tensor:
        if self.target is None:
            return loss + self.strength * cost
        return loss + self.strength * (cost - self.target) / self.target


@dataclass(frozen=True, kw_only=True)
class LogPenalty:
    """``strength * loss * (log cost / log target) ** exponent``.

    FBNet multiplies the loss by ``alpha * log(latency) ** beta`` (Wu et al., 2019, arXiv:1812.03443); the published
    code of ProxylessNAS divides the logarithm by that of a target (strength 0.2, exponent 0.3).

    Args:
        target: In the unit of the cost. The logarithm needs both above 1: count seconds in milliseconds.
        exponent: Positive, dimensionless.
        strength: Positive, dimensionless; it scales the whole loss.
    """

    target: float
    exponent: float
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.target > 1:
            remedy = "Take a smaller unit: weighted_sum([table], [1000], 'milliseconds')."
            raise invalid("LogPenalty", "target must be above 1 in the unit of the cost", self.target, remedy)
        _require_positive("LogPenalty", "exponent", self.exponent)
        _require_positive("LogPenalty", "strength", self.strength)

    def __call__(self, loss: Tensor, cost: Tensor) -> Tensor:
        ratio = cost.log() / math.log(self.target)
        return self.strength * loss * ratio**self.exponent


@dataclass(frozen=True, kw_only=True)
class ProductPenalty:
    """``loss * (cost / target) ** exponent``.

    MnasNet multiplies a reward by ``(latency / target) ** w`` with ``w = -0.07`` (Tan et al., 2019,
    arXiv:1807.11626). A loss is descended on, so the sign of the exponent is the other one here.

    Args:
        target: In the unit of the cost, positive.
        exponent: Positive, dimensionless.
    """

    target: float
    exponent: float = 0.07

    def __post_init__(self) -> None:
        _require_positive("ProductPenalty", "target", self.target)
        _require_positive("ProductPenalty", "exponent", self.exponent)

    def __call__(self, loss: Tensor, cost: Tensor) -> Tensor:
        return loss * (cost / self.target) ** self.exponent


Penalty = LinearPenalty | LogPenalty | ProductPenalty


def _require_positive(where: str, name: str, value: float) -> None:
    if not value > 0:
        remedy = "A negative one would reward cost." if value < 0 else ""
        raise invalid(where, f"{name} must be positive", value, remedy)
