"""The Hessian as an operator against its matrix, and as SciPy sees it."""

import numpy as np
import pytest
import torch

from fastnas.bilevel.operator import HessianOperator
from fastnas.bilevel.products import gauss_newton, reverse_over_reverse

X, A = torch.randn(2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
MATRIX = A + A.T  # symmetric, indefinite


def quartic(at):
    """Of a mapping: its Hessian at zero is MATRIX."""
    x = torch.cat([at["a"].flatten(), at["b"]])
    return x @ MATRIX @ x / 2 + (X @ x).pow(4).sum() + x.sum()


ZERO = {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.zeros(3, dtype=torch.float64)}


@pytest.mark.parametrize("options", [{}, {"product": reverse_over_reverse}, {"keep_graph": True}])
def test_tensors_vectors_blocks_and_the_matrix_agree(options):
    operator = HessianOperator(quartic, ZERO, **options)
    v = torch.randn(9, 2, dtype=torch.float64)
    assert operator.shape == (9, 9)
    torch.testing.assert_close(operator.to_dense(), MATRIX, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator @ v, MATRIX @ v, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator @ v[:, 0], MATRIX @ v[:, 0], rtol=1e-12, atol=1e-12)
    named = operator @ operator.unflat(v[:, 1])
    assert list(named) == ["a", "b"]
    torch.testing.assert_close(operator.flat(named), MATRIX @ v[:, 1], rtol=1e-12, atol=1e-12)
    assert (operator @ v[:, :0]).shape == (9, 0)


def test_parameters_may_be_a_list_of_which_the_loss_is_a_function():
    operator = HessianOperator(lambda params: quartic({"a": params[0], "b": params[1]}), list(ZERO.values()))
    v = torch.randn(9, dtype=torch.float64)
    parts = operator @ [v[:6].view(2, 3), v[6:]]
    assert isinstance(parts, list)
    torch.testing.assert_close(torch.cat([part.flatten() for part in parts]), MATRIX @ v, rtol=1e-12, atol=1e-12)


def test_several_losses_stand_for_their_mean():
    losses = [quartic, lambda at: 3 * quartic(at)]
    torch.testing.assert_close(HessianOperator(losses, ZERO).to_dense(), 2 * MATRIX, rtol=1e-12, atol=1e-12)


def test_the_kept_graph_is_built_once():
    calls = []
    operator = HessianOperator(lambda at: calls.append(1) or quartic(at), ZERO, keep_graph=True)
    operator.to_dense()
    assert len(calls) == 1


def test_scipy_finds_the_same_eigenvalues_and_solves_with_it():
    linalg = pytest.importorskip("scipy.sparse.linalg")
    operator = HessianOperator(quartic, ZERO)
    wrapped = operator.to_scipy()
    exact = np.linalg.eigvalsh(MATRIX.numpy())
    assert wrapped.dtype == np.float64
    np.testing.assert_allclose(linalg.eigsh(wrapped, k=2, which="LA")[0], exact[-2:], rtol=1e-9)
    np.testing.assert_allclose(wrapped @ np.eye(9), MATRIX.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(linalg.aslinearoperator(operator) @ np.ones(9), MATRIX.sum(1).numpy(), rtol=1e-12)
    solution, status = linalg.minres(wrapped, np.ones(9), rtol=1e-12)
    assert status == 0
    np.testing.assert_allclose(MATRIX.numpy() @ solution, np.ones(9), rtol=1e-6)


def test_what_does_not_fit_is_said_in_one_line():
    operator = HessianOperator(quartic, ZERO)
    with pytest.raises(ValueError, match=r"HessianOperator: v must have shape \[9\] or \[9, k\], got \[8\]"):
        operator @ torch.ones(8, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"v must have the names \['a', 'b'\], got \['a'\]"):
        operator @ {"a": ZERO["a"]}
    with pytest.raises(ValueError, match=r"v\['b'\] must have shape \[3\], got \[2\]"):
        operator @ {"a": ZERO["a"], "b": torch.zeros(2)}
    with pytest.raises(ValueError, match="keep_graph needs a single loss, got 2 losses"):
        HessianOperator([quartic, quartic], ZERO, keep_graph=True)
    with pytest.raises(ValueError, match="params must not be empty"):
        HessianOperator(quartic, {})
    with pytest.raises(ValueError, match="loss must not be empty"):
        HessianOperator([], ZERO)
    with pytest.raises(ValueError, match=r"params must be float32 or float64 for arrays, got torch\.bfloat16"):
        HessianOperator(lambda at: at["a"].sum(), {"a": torch.ones(2, dtype=torch.bfloat16)}).to_scipy()


def test_values_are_those_of_curvlinops():
    curvlinops = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 3)
    ).double()
    data = [(torch.randn(4, 1, 6, 6, dtype=torch.float64), torch.randint(3, (4,))) for _ in range(3)]
    criterion, params = torch.nn.CrossEntropyLoss(), dict(network.named_parameters())
    losses = [lambda w, x=x, y=y: criterion(torch.func.functional_call(network, w, (x,)), y) for x, y in data]
    ours = HessianOperator(losses, params)
    v = torch.randn(ours.shape[0], dtype=torch.float64)
    theirs = curvlinops.HessianLinearOperator(network, criterion, list(params.values()), data)
    torch.testing.assert_close(ours @ v, theirs @ v, rtol=1e-10, atol=1e-12)
    theirs = curvlinops.GGNLinearOperator(network, criterion, list(params.values()), data) @ v
    found = [
        gauss_newton(lambda w, x=x: torch.func.functional_call(network, w, (x,)), lambda out, y=y: criterion(out, y),
                     params, ours.unflat(v)) for x, y in data
    ]  # fmt: skip
    torch.testing.assert_close(sum(ours.flat(g) for g in found) / 3, theirs, rtol=1e-10, atol=1e-12)
