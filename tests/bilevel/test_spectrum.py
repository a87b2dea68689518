"""The largest eigenvalue against matrices that are known, and against full Hessians."""

import pytest
import torch
from torch.autograd.functional import hessian

from fastnas.bilevel.spectrum import dominant_eigenvalue


def test_the_largest_eigenvalue_is_meant_and_not_the_largest_magnitude():
    a = torch.diag(torch.tensor([3.0, 1.0, -5.0], dtype=torch.float64))
    value = dominant_eigenvalue(lambda x: x["a"] @ a @ x["a"] / 2, {"a": torch.randn(3, dtype=torch.float64)})
    assert value == pytest.approx(3.0, rel=1e-12)

    def decayed(x):  # the published code of RobustDARTS adds alpha's weight decay to the gradient
        return x["a"] @ a @ x["a"] / 2 + 1e-3 * x["a"].square().sum() / 2

    value = dominant_eigenvalue(decayed, {"a": torch.randn(3, dtype=torch.float64)})
    assert value == pytest.approx(3.001, rel=1e-12)


def test_ten_products_find_the_top_of_a_hessian_of_sixty_variables():
    x, target = torch.randn(30, 12, dtype=torch.float64), torch.randint(5, (30,))

    def loss(flat):
        return torch.nn.functional.cross_entropy((x @ flat.view(12, 5)).tanh(), target)

    at = torch.randn(60, dtype=torch.float64) / 4
    exact = torch.linalg.eigvalsh(hessian(loss, at))[-1].item()
    ten = dominant_eigenvalue(lambda v: loss(torch.cat([v["a"], v["b"]])), {"a": at[:20], "b": at[20:]})
    assert ten == pytest.approx(exact, rel=1e-2)
    assert dominant_eigenvalue(lambda v: loss(v["a"]), {"a": at}, steps=60) == pytest.approx(exact, rel=1e-10)


def test_a_flat_loss_has_no_curvature():
    assert dominant_eigenvalue(lambda v: 3 * v["a"].sum(), {"a": torch.ones(4)}) == 0.0
    assert dominant_eigenvalue(
        lambda v: (v["a"] ** 2).sum(), {"a": torch.ones(4), "b": torch.ones(2)}
    ) == pytest.approx(2.0)


def test_a_repeated_eigenvalue_ends_the_iteration_early():
    value = dominant_eigenvalue(lambda v: 2 * (v["a"] ** 2).sum(), {"a": torch.ones(6, dtype=torch.float64)})
    assert value == pytest.approx(4.0, rel=1e-12)
