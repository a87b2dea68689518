import math

import pytest
import torch

from fastnas.costs.penalties import LinearPenalty, LogPenalty, ProductPenalty

LOSS, COST = torch.tensor(2.0, dtype=torch.float64), torch.tensor(30.0, dtype=torch.float64)


def test_each_penalty_is_its_formula():
    assert LinearPenalty(strength=0.01)(LOSS, COST) == pytest.approx(2.3, rel=1e-15)
    assert LinearPenalty(strength=0.1, target=20)(LOSS, COST) == pytest.approx(2.05, rel=1e-15)
    log = LogPenalty(target=20, exponent=0.3, strength=0.2)(LOSS, COST)
    assert log == pytest.approx(0.2 * 2 * (math.log(30) / math.log(20)) ** 0.3, rel=1e-15)
    assert ProductPenalty(target=20, exponent=0.5)(LOSS, COST) == pytest.approx(2 * 1.5**0.5, rel=1e-15)


def test_at_the_target_a_product_and_a_logarithm_leave_the_loss_alone():
    at = torch.tensor(20.0, dtype=torch.float64)
    for penalty in (
        LinearPenalty(strength=0.1, target=20),
        LogPenalty(target=20, exponent=0.6),
        ProductPenalty(target=20),
    ):
        assert penalty(LOSS, at) == pytest.approx(2.0, rel=1e-15)


@pytest.mark.parametrize(
    ("penalty", "arguments", "message"),
    [
        (
            LinearPenalty,
            {"strength": -1},
            "LinearPenalty: strength must be positive, got -1. A negative one would reward",
        ),
        (LinearPenalty, {"strength": 1, "target": 0}, "LinearPenalty: target must be positive, got 0"),
        (
            LogPenalty,
            {"target": 0.08, "exponent": 1},
            "LogPenalty: target must be above 1 in the unit of the cost, got 0",
        ),
        (LogPenalty, {"target": 80, "exponent": -0.3}, "LogPenalty: exponent must be positive, got -0.3"),
        (ProductPenalty, {"target": 80, "exponent": -0.07}, "ProductPenalty: exponent must be positive, got -0.07"),
    ],
)
def test_a_penalty_that_rewards_cost_is_refused(penalty, arguments, message):
    with pytest.raises(ValueError, match=message):
        penalty(**arguments)
