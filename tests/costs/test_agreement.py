import numpy as np
import pytest
from scipy.stats import kendalltau

from fastnas.costs.agreement import kendall_tau, mean_absolute_percentage_error


@pytest.mark.parametrize("ties", [False, True])
def test_tau_is_that_of_scipy(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.normal(size=(2, 15))
        a, b = (np.round(a), np.round(b)) if ties else (a, b)
        assert kendall_tau(a.tolist(), b.tolist()) == pytest.approx(kendalltau(a, b).statistic, abs=1e-12)


def test_tau_of_equal_opposite_and_constant_orders():
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert kendall_tau([1, 1, 1], [1, 2, 3]) == 0


def test_the_percentage_error_is_relative_to_what_was_measured():
    assert mean_absolute_percentage_error([1.5, 1], [1, 2]) == 50
