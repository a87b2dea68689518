"""What an architecture costs."""

from fastnas.costs.expectation import CostObjective, CostReward, RelativeCost, expected_cost, sampled_cost
from fastnas.costs.limit import DeriveWithin
from fastnas.costs.penalties import LinearPenalty, LogPenalty, ProductPenalty
from fastnas.costs.tables import (
    CostTable,
    NetworkSize,
    activation_table,
    derived_cost,
    multiply_add_table,
    parameter_table,
)

__all__ = [
    "CostObjective",
    "CostReward",
    "CostTable",
    "DeriveWithin",
    "LinearPenalty",
    "LogPenalty",
    "NetworkSize",
    "ProductPenalty",
    "RelativeCost",
    "activation_table",
    "derived_cost",
    "expected_cost",
    "multiply_add_table",
    "parameter_table",
    "sampled_cost",
]
