"""The largest eigenvalue against matrices that are known, and against full Hessians."""

import pytest
import torch
from torch.autograd.functional import hessian
from torch.func import functional_call

from fastnas.bilevel.operator import HessianOperator
from fastnas.bilevel.products import by_differences
from fastnas.bilevel.spectrum import dominant_eigenvalue, dominant_interval, eigenpairs, spectral_density, trace
from fastnas.engine import relax
from fastnas.methods.library import darts
from fastnas.spaces.registry import space_by_name
from fastnas.supernet.architecture import draw_logits
from fastnas.supernet.supernets import build_supernet


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
    assert dominant_eigenvalue(lambda v: loss(v["a"]), {"a": at}, steps=60, tolerance=0) == pytest.approx(
        exact, rel=1e-10
    )


def test_a_flat_loss_has_no_curvature():
    assert dominant_eigenvalue(lambda v: 3 * v["a"].sum(), {"a": torch.ones(4)}) == 0.0
    assert dominant_eigenvalue(
        lambda v: (v["a"] ** 2).sum(), {"a": torch.ones(4), "b": torch.ones(2)}
    ) == pytest.approx(2.0)


def test_a_repeated_eigenvalue_ends_the_iteration_early():
    value = dominant_eigenvalue(lambda v: 2 * (v["a"] ** 2).sum(), {"a": torch.ones(6, dtype=torch.float64)})
    assert value == pytest.approx(4.0, rel=1e-12)


# ---- a network with all primitives, its matrix written out ---------------------------------------------------------


@pytest.fixture(scope="module")
def known(build_problem):
    problem = build_problem(torch.float64)
    matrix = problem.dense()
    rows = problem.rows(["alpha"])
    of_alpha = torch.linalg.eigvalsh(matrix[rows][:, rows])
    return problem, *torch.linalg.eigh(matrix), of_alpha


def counted(loss):
    calls = []

    def with_count(at):
        calls.append(1)
        return loss(at)

    return with_count, calls


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-3)])
def test_twenty_products_find_the_largest_eigenvalue_in_alpha_and_in_all(build_problem, known, dtype, tolerance):
    _, values, _, of_alpha = known
    problem = build_problem(dtype)
    found = dominant_eigenvalue(lambda a: problem.loss({**problem.at, **a}), problem.alpha, tolerance=0)
    assert found == pytest.approx(of_alpha[-1].item(), rel=tolerance)
    found = dominant_eigenvalue(problem.loss, problem.at, 20, tolerance=0)
    assert found == pytest.approx(values[-1].item(), rel=tolerance)


@pytest.mark.slow
def test_twenty_products_find_the_largest_eigenvalue_in_the_alpha_of_a_supernet():
    space = space_by_name("darts")
    torch.manual_seed(0)
    network = build_supernet(space, 3, 2, 3, 1, 1, False).double()
    w = {name: p.detach() for name, p in network.named_parameters()}
    alpha = {name: a.detach().double() for name, a in draw_logits(space, False, 0, torch.device("cpu")).items()}
    x, y = torch.randn(8, 1, 8, 8, dtype=torch.float64), torch.randint(3, (8,))

    def loss(at):
        dtype = at[next(iter(at))].dtype
        mix, of_dtype = relax(darts(), space, at), {name: p.to(dtype) for name, p in w.items()}
        return torch.nn.functional.cross_entropy(functional_call(network, of_dtype, (x.to(dtype), mix)), y)

    exact = torch.linalg.eigvalsh(HessianOperator(loss, alpha, keep_graph=True, allow_unused=True).to_dense())
    assert exact[0] < -0.01 * exact[-1]  # there are negative ones to be fooled by
    assert dominant_eigenvalue(loss, alpha, tolerance=0) == pytest.approx(exact[-1].item(), rel=1e-6)
    narrow = {name: a.float() for name, a in alpha.items()}
    assert dominant_eigenvalue(loss, narrow, tolerance=0) == pytest.approx(exact[-1].item(), rel=1e-3)


def test_several_pairs_from_either_end(known):
    problem, values, vectors, _ = known
    matrix = HessianOperator(problem.loss, problem.at, keep_graph=True)
    top, bottom = eigenpairs(matrix, 3), eigenpairs(matrix, 2, largest=False)
    torch.testing.assert_close(top.values, values[-3:].flip(0), rtol=1e-8, atol=0)
    torch.testing.assert_close(bottom.values, values[:2], rtol=1e-8, atol=0)
    overlap = (top.vectors.T @ vectors[:, -3:].flip(1)).abs()
    torch.testing.assert_close(overlap, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-4)
    with pytest.raises(FloatingPointError, match=r"5 residuals must fall below 1e-05 .* within 6 products, got"):
        eigenpairs(matrix, 5, steps=6)
    with pytest.raises(ValueError, match=r"k must lie between 1 and \d+, got 0"):
        eigenpairs(matrix, 0)


def test_the_trace_lies_within_its_error(known):
    problem, values, *_ = known
    found = trace(HessianOperator(problem.loss, problem.at, keep_graph=True), 200)
    assert abs(found.value - values.sum().item()) < 4 * found.error  # one of 16,000 is outside
    assert found.error < 0.2 * values.abs().sum().item()
    with pytest.raises(ValueError, match="probes must be at least 2, got 1"):
        trace(HessianOperator(problem.loss, problem.at), 1)


def test_the_density_has_the_moments_of_the_spectrum_and_adds_up_to_one(known):
    problem, values, *_ = known
    matrix = HessianOperator(problem.loss, problem.at, keep_graph=True)
    found = spectral_density(matrix, 20, 15)
    second = (found.weights * found.values**2).sum().item()
    assert second == pytest.approx((values**2).mean().item(), rel=0.5)  # twenty probes
    grid = torch.linspace(values[0].item() - 1, values[-1].item() + 1, 400, dtype=torch.float64)
    density = found.at(grid, 0.05)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1.0, rel=1e-3)
    assert found.values.max().item() == pytest.approx(values[-1].item(), rel=1e-3)


def test_the_interval_over_batches_holds_the_eigenvalue_of_endlessly_many():
    curvatures = 2 + 0.5 * torch.randn(200, dtype=torch.float64)
    losses = [lambda at, c=c: (c * at["a"][0] ** 2 + at["a"][1] ** 2 / 2) / 2 for c in curvatures]
    at, inside = {"a": torch.ones(2, dtype=torch.float64)}, 0
    for i in range(20):
        found = dominant_interval(losses[10 * i : 10 * i + 10], at, confidence=0.9)
        inside += found.low < 2 < found.high
        assert found.value == pytest.approx(curvatures[10 * i : 10 * i + 10].mean().item(), rel=1e-9)
    assert inside >= 14  # binomial of 20 and 0.9: fewer with probability 0.002
    with pytest.raises(ValueError, match=r"losses must be at least 2, got 1\. One batch has no spread"):
        dominant_interval(losses[:1], at)
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 95"):
        dominant_interval(losses[:2], at, confidence=95)


def test_several_losses_are_streamed_and_stand_for_their_mean(build_problem):
    problem = build_problem(torch.float64, batches=3)
    apart = dominant_eigenvalue(problem.losses, problem.at, tolerance=0)
    together = dominant_eigenvalue(lambda at: sum(loss(at) for loss in problem.losses) / 3, problem.at, tolerance=0)
    assert apart == pytest.approx(together, rel=1e-10)


def test_the_iteration_ends_when_the_residual_is_small(known):
    problem, values, *_ = known
    loss, calls = counted(problem.loss)
    found = dominant_eigenvalue([loss, loss], problem.at, 40)
    assert len(calls) < 60  # two losses a product
    assert found == pytest.approx(values[-1].item(), rel=1e-3)


def test_a_loss_that_closes_over_its_model_is_refused():
    net = torch.nn.Linear(3, 1).double()
    at, x = dict(net.named_parameters()), torch.randn(4, 3).double()
    for find in (
        lambda: dominant_eigenvalue(lambda w: net(x).square().mean(), at),
        lambda: dominant_interval([lambda w: net(x).square().mean()] * 2, at),
    ):
        with pytest.raises(ValueError, match=r"every loss must depend on a tensor of at.*torch\.func\.functional_call"):
            find()


def test_batches_count_by_their_sizes_and_differences_will_do():
    curvature = torch.tensor([1.0, 4.0]).double()
    losses = [lambda at, c=c: c * at["x"].square().sum() / 2 for c in curvature]
    at = {"x": torch.ones(2).double()}
    assert dominant_eigenvalue(losses, at, sizes=[3, 1]) == pytest.approx(1.75)
    assert dominant_eigenvalue(losses, at) == pytest.approx(2.5)
    assert dominant_interval(losses, at, sizes=[3, 1]).value == pytest.approx(1.75)
    assert dominant_eigenvalue(losses[1], at, product=by_differences) == pytest.approx(4.0, rel=1e-4)
