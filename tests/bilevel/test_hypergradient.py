"""Hypergradients against closed forms, and estimators against their expectations written out."""

import itertools

import pytest
import torch

from fastnas.bilevel.hypergradient import UnrolledByDifferences, first_order, unrolled
from fastnas.bilevel.problem import Bilevel, SgdStep
from fastnas.bilevel.score_function import ImportanceWeighted


def scalar(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def toy(lr):
    """Liu et al., 2019, arXiv:1806.09055, figure 2: the optimum of the bilevel problem is (1, 1)."""
    return Bilevel(
        inner=lambda w, alpha, draw: w["w"] ** 2 - 2 * alpha["a"] * w["w"] + alpha["a"] ** 2,
        outer=lambda w, alpha, draw: alpha["a"] * w["w"] - 2 * alpha["a"] + 1,
        inner_step=SgdStep(lr),
    )


@pytest.mark.parametrize(
    ("hypergradient", "lr", "expected"),
    [(first_order, 0.5, -4.0), (unrolled, 0.5, 2.0), (UnrolledByDifferences(), 0.5, 2.0), (unrolled, 0.0, -4.0)],
)
def test_the_toy_of_the_darts_paper_at_two_and_minus_two(hypergradient, lr, expected):
    _, gradients = hypergradient(toy(lr), {"w": scalar(-2.0)}, {"a": scalar(2.0)})
    assert gradients["a"].item() == pytest.approx(expected, rel=1e-12)  # measured: 6e-15


def nonlinear(step):
    """Losses whose mixed second derivative depends on both variables."""
    x = torch.randn(5, 3, dtype=torch.float64)
    y = torch.randn(5, dtype=torch.float64)

    def loss(shift):
        return lambda w, alpha, draw: ((x @ (w["u"] * alpha["a"].softmax(0)).tanh() + w["b"] - y - shift) ** 2).mean()

    return Bilevel(inner=loss(0.0), outer=loss(0.3), inner_step=step)


def variables():
    w = {"u": torch.randn(3, dtype=torch.float64, requires_grad=True), "b": scalar(0.4)}
    return w, {"a": torch.randn(3, dtype=torch.float64, requires_grad=True)}


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_unrolled_gradient_is_that_of_the_loss_after_the_step_of_sgd(nesterov):
    w, alpha = variables()
    buffers = {name: torch.randn_like(p) for name, p in w.items()}
    problem = nonlinear(SgdStep(0.2, 0.9, 0.01, nesterov, buffers))

    def after_step(a):
        moved = {name: p.detach().clone().requires_grad_() for name, p in w.items()}
        optimizer = torch.optim.SGD(moved.values(), 0.2, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
        for name, p in moved.items():
            optimizer.state[p]["momentum_buffer"] = buffers[name].clone()
        problem.inner(moved, {"a": a}, 0).backward()
        optimizer.step()
        return problem.outer(moved, {"a": a}, 0).item()

    loss, gradients = unrolled(problem, w, alpha)
    by_differences = UnrolledByDifferences(1e-4)(problem, w, alpha)[1]
    a = alpha["a"].detach()
    assert loss.item() == pytest.approx(after_step(a), rel=1e-12)
    for k, unit in enumerate(torch.eye(3, dtype=torch.float64)):
        slope = (after_step(a + 1e-5 * unit) - after_step(a - 1e-5 * unit)) / 2e-5
        assert gradients["a"][k].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)  # differences of order h**2
        assert by_differences["a"][k].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert all(p.grad is None for p in [*w.values(), *alpha.values()])


def test_the_difference_is_exact_where_the_mixed_derivative_is_constant():
    m, q = torch.randn(2, 4, 4, dtype=torch.float64).unbind()
    problem = Bilevel(
        inner=lambda w, alpha, draw: w["w"] @ m @ alpha["a"] + (w["w"] ** 2).sum(),
        outer=lambda w, alpha, draw: w["w"] @ q @ w["w"],
        inner_step=SgdStep(0.1),
    )
    w, alpha = ({name: torch.randn(4, dtype=torch.float64, requires_grad=True)} for name in "wa")
    exact, near = (h(problem, w, alpha)[1]["a"] for h in (unrolled, UnrolledByDifferences()))
    torch.testing.assert_close(near, exact, rtol=1e-12, atol=0)


# ---- PARSEC's toy: two edges of two operations, alpha = 0 ------------------------------------------------------
LOSSES = torch.tensor([[0.5, 1.5], [1.0, 3.0]], dtype=torch.float64)


def expected_gradient(estimator):
    """The expectation over all tuples of draws, ascending: the negative of what a minimiser is given."""
    alpha = {"a": torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)}
    architectures = list(itertools.product(range(2), repeat=2))
    total = torch.zeros(2, 2, dtype=torch.float64)
    tuples = list(itertools.product(architectures, repeat=estimator.draws))
    for chosen in tuples:
        problem = Bilevel(
            inner=lambda w, alpha, draw: alpha["a"].sum(),
            outer=lambda w, alpha, draw, chosen=chosen: LOSSES[chosen[draw]],
            log_probability=lambda alpha, draw, chosen=chosen: sum(
                alpha["a"].log_softmax(-1)[edge, k] for edge, k in enumerate(chosen[draw])
            ),
        )
        total -= estimator(problem, {}, alpha)[1]["a"]
    return total / len(tuples)


@pytest.mark.parametrize(("draws", "first", "second"), [(2, 0.092715, 0.144807), (4, 0.132321, 0.223823)])
def test_the_self_normalised_estimate_has_its_known_bias(draws, first, second):
    mean = expected_gradient(ImportanceWeighted(draws, 1.0))
    torch.testing.assert_close(mean, torch.tensor([[first, -first], [second, -second]]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("draws", "first", "second"), [(1, 0.0, 0.0), (2, 0.092715, 0.144807), (6, 0.143679, 0.246095)]
)
def test_its_weights_have_the_known_expectation_for_any_number_of_draws(draws, first, second):
    architectures = list(itertools.product(range(2), repeat=2))
    estimator, towards_first = ImportanceWeighted(6, 1.0), torch.tensor([[0.5 - a, 0.5 - b] for a, b in architectures])
    tuples = torch.tensor(list(itertools.product(range(4), repeat=draws)))
    weights = torch.stack([estimator.weights(losses, 1) for losses in LOSSES.flatten()[tuples]])
    mean = (weights[..., None] * towards_first[tuples]).sum(1).mean(0)
    assert mean.tolist() == pytest.approx([first, second], abs=1e-6)


def test_the_weights_of_all_architectures_are_their_posterior():
    posterior = ImportanceWeighted(4, 1.0).weights(LOSSES.flatten(), 1)
    assert posterior.tolist() == pytest.approx([0.486264, 0.178887, 0.294934, 0.039915], abs=1e-6)
    assert (-LOSSES).exp().mean().item() == pytest.approx(0.3118318, abs=1e-7)
    unnormalised = ImportanceWeighted(4, 1.0, self_normalised=False).weights(LOSSES.flatten(), 1)
    scores = torch.tensor([[0.5, 0.5], [0.5, -0.5], [-0.5, 0.5], [-0.5, -0.5]]).double()
    assert (unnormalised @ scores).tolist() == pytest.approx([0.051499, 0.087687], abs=1e-6)


@pytest.mark.parametrize("draws", [1, 2])
def test_the_unnormalised_estimate_is_unbiased_for_the_evidence(draws):
    mean = expected_gradient(ImportanceWeighted(draws, 1.0, self_normalised=False))
    exact = torch.tensor([[0.165151, -0.165151], [0.281198, -0.281198]]).double() * 0.3118318
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-6)


def test_the_weights_of_the_draws_sum_to_one_and_ignore_a_common_constant():
    losses = torch.rand(16, dtype=torch.float64)
    estimator = ImportanceWeighted(16, 1.0)
    weights = estimator.weights(losses, 64)
    assert abs(weights.sum().item() - 1) < 1e-14
    torch.testing.assert_close(estimator.weights(losses + 3.0, 64), weights, rtol=1e-12, atol=0)
    assert weights.max() > ImportanceWeighted(16).weights(losses, 64).max()  # the mean likelihood is flatter


def test_an_estimator_that_could_only_return_zero_is_refused():
    with pytest.raises(ValueError, match=r"draws must be at least 2, got 1\. The expected gradient of one"):
        ImportanceWeighted(1)
