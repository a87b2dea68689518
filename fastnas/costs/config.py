"""What a derived network may cost: settings of a run, and the method with them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from fastnas.costs.expectation import CostObjective, CostReward, RelativeCost, expected_cost
from fastnas.costs.latency import load_table
from fastnas.costs.limit import DeriveWithin
from fastnas.costs.penalties import LogPenalty, ProductPenalty
from fastnas.costs.tables import (
    CostTable,
    NetworkSize,
    activation_table,
    multiply_add_table,
    parameter_table,
    weighted_sum,
)
from fastnas.files import STRICT
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.method import Method, Term
from fastnas.spaces.space import Space
from fastnas_kernels.check import invalid

_COUNTED = {
    "parameters": parameter_table,
    "multiply-adds": multiply_add_table,
    "activation-bytes": activation_table,
}
WHERE = "cost"


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """The cost of the network that is retrained: a price that alpha sees, and a limit that is never passed.

    Args:
        of: parameters, multiply-adds, activation-bytes, or the file of a table that `fastnas latency` measured at the
            size of the retrained network, which counts in milliseconds; unset for no cost.
        penalty: How the expected cost C joins the loss L that alpha sees: linear, L + strength (C - target) / target
            (ProxylessNAS, SNAS); log, L (log C / log target)^exponent; product, L (C / target)^exponent, and for a
            method that learns from rewards R (target / C)^exponent of what was sampled; unset for none.
        strength: Of the linear penalty, in units of the loss for each multiple of the target; unset for the published
            0.1.
        exponent: Of the log and the product penalty; unset for the published 0.3 and 0.07, and 0.1 for rewards.
        target: In the unit of the cost; unset for what an undecided network costs on average.
        limit: Most that the derived network may cost, in the unit of the cost; unset for no limit.
    """

    __pydantic_config__ = STRICT

    of: str | None = None
    penalty: Literal["linear", "log", "product"] | None = None
    strength: float | None = None
    exponent: float | None = None
    target: float | None = None
    limit: float | None = None

    def __post_init__(self) -> None:
        asked = {f"--cost.{name}": getattr(self, name) for name in ("penalty", "limit")}
        named = [f"{name} {value}" for name, value in asked.items() if value is not None]
        if self.of is not None and not named:
            raise invalid(WHERE, "--cost.of needs --cost.penalty or --cost.limit", "neither")
        if self.of is None and named:
            remedy = f"Say what costs: {', '.join(_COUNTED)}, or the file of a latency table."
            raise invalid(WHERE, "--cost.penalty and --cost.limit need --cost.of", " ".join(named), remedy)
        for name in ("strength", "exponent", "target", "limit"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise invalid(WHERE, f"{name} must be positive", value)


def find_costs(config: CostConfig, space: Space, size: NetworkSize) -> CostTable | None:
    """The costs that ``config`` speaks of, or ``None`` where it speaks of none.

    Args:
        config: What is counted.
        space: Whose candidates.
        size: The network that is meant. A latency table must be one of it, for any number of images.
    """
    if config.of is None:
        return None
    if config.of in _COUNTED:
        return _COUNTED[config.of](space, size)
    path = Path(config.of)
    if not path.is_file():
        rule = f"of must be one of {', '.join(_COUNTED)}, or the file of a latency table"
        raise invalid(WHERE, rule, repr(config.of), "Measure one with fastnas latency.")
    measured = load_table(path, space)
    measured = load_table(path, space, replace(size, batch_size=measured.size.batch_size))
    return weighted_sum([measured.costs(space)], [1000.0], "milliseconds")


def limit_cost(method: Method, config: CostConfig, table: CostTable | None) -> Method:
    """``method`` with the penalty and the limit of ``config``.

    The cost is expected, taken at the relaxation of alpha: its gradient is exact under every draw and estimator.

    Args:
        method: What to do otherwise.
        config: Penalty and limit.
        table: The costs, of :func:`find_costs`.

    Raises:
        ValueError: If no architecture is within the limit, or the method does not support this penalty.
    """
    _require_use(config)
    if table is None:
        return method
    target = average_cost(table) if config.target is None else config.target
    if config.penalty == "linear":
        strength = 0.1 if config.strength is None else config.strength
        term = Term(RelativeCost(table, target), Constant(strength), expected=True)
        method = replace(method, penalties=(*method.penalties, term))
    elif config.penalty == "log":
        exponent = 0.3 if config.exponent is None else config.exponent
        method = replace(method, objective=CostObjective(table, LogPenalty(target=target, exponent=exponent)))
    elif config.penalty == "product" and method.reads_reward:
        exponent = 0.1 if config.exponent is None else config.exponent
        method = replace(method, reward=CostReward(table, target, exponent))
    elif config.penalty == "product":
        exponent = 0.07 if config.exponent is None else config.exponent
        method = replace(method, objective=CostObjective(table, ProductPenalty(target=target, exponent=exponent)))
    if config.limit is not None:
        method = replace(method, derivation=DeriveWithin(table, config.limit, method.derivation))
    return method


def _require_use(config: CostConfig) -> None:
    """Raise for numbers that nothing reads. Not where settings are made: files of old runs may hold them."""
    remedy = "It would change nothing."
    if config.penalty is None and config.target is not None:
        raise invalid(WHERE, "--cost.target needs --cost.penalty", config.target, remedy)
    if config.penalty != "linear" and config.strength is not None:
        raise invalid(WHERE, "--cost.strength needs --cost.penalty linear", config.strength, remedy)
    if config.penalty not in ("log", "product") and config.exponent is not None:
        raise invalid(WHERE, "--cost.exponent needs --cost.penalty log or product", config.exponent, remedy)


def average_cost(table: CostTable) -> float:
    """The mean cost of networks whose edges and candidates are drawn evenly, in the unit of ``table``."""
    space = table.space
    alive = {cell_type: torch.tensor(space.alive(cell_type)).double() for cell_type in space.cell_types}
    return float(expected_cost({name: rows / rows.sum(-1, keepdim=True) for name, rows in alive.items()}, table))
