"""The gradients of whole steps, in float64 on real supernets, against differences of the losses themselves."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch.nn import functional as F

from fastnas.bilevel.hypergradient import UnrolledByDifferences, unrolled
from fastnas.bilevel.problem import differentiate
from fastnas.engine.step import alpha_problem, search_step
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.library import (
    METHODS,
    asap,
    darts,
    dso_nas,
    gdas,
    nasp,
    p_darts,
    parsec,
    pc_darts,
    proxyless_nas,
    sharp_darts,
    smooth_darts_rs,
    snas,
)
from fastnas.methods.method import Term
from tests.engine.points import make_batches, make_run

COSTS = torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0], dtype=torch.float64)


def cost(mix):
    return sum((mix_EK * COSTS).sum() for mix_EK in mix.values())


@torch.no_grad()
def slopes(loss, alpha, h=1e-5):
    """Central differences of ``loss`` in every variable."""
    found = {}
    for name, a in alpha.items():
        flat = torch.zeros(a.numel(), dtype=torch.float64)
        for i in range(a.numel()):
            unit = torch.zeros(a.numel(), dtype=torch.float64)
            unit[i] = h
            sides = [loss({**alpha, name: a.detach() + sign * unit.view_as(a)}).item() for sign in (1, -1)]
            flat[i] = (sides[0] - sides[1]) / (2 * h)
        found[name] = flat.view_as(a)
    return found


def assert_slopes(gradients, loss, alpha, tolerance=1e-6):
    for name, expected in slopes(loss, alpha).items():
        scale = max(expected.abs().max().item(), 1e-6)
        assert (gradients[name] - expected).abs().max().item() <= tolerance * scale + 1e-9, name
        assert expected.abs().max() > 1e-5, "a test of zeros would show nothing"


@pytest.mark.parametrize(
    "method",
    [
        darts(),
        pc_darts(),
        sharp_darts(),
        asap(),
        dso_nas(),
        snas(),
        replace(darts(), penalties=(Term(cost, Constant(0.1)),)),
        replace(p_darts(), skip_dropout=Constant(0.4), drop_path=Constant(0.3)),
    ],
    ids=lambda method: method.name,
)
def test_first_order_gradients_are_the_slopes_of_the_outer_loss(method):
    run = make_run(method)
    problem = alpha_problem(run, *make_batches())
    _, gradients = darts().hypergradient(problem, run.state.w, run.state.alpha)
    assert_slopes(gradients, lambda alpha: problem.outer(run.state.w, alpha, 0), run.state.alpha)


@pytest.mark.parametrize("hypergradient", [unrolled, UnrolledByDifferences(1e-6)])
def test_second_order_gradients_are_the_slopes_of_the_loss_after_a_step_of_the_weights(hypergradient):
    run = make_run(darts())
    search_step(run, *make_batches())  # so that there is momentum
    problem = alpha_problem(run, *make_batches())

    def after_step(alpha):
        w = {name: p.detach().clone().requires_grad_() for name, p in run.state.w.items()}
        with torch.enable_grad():
            gradients = differentiate(problem.inner(w, alpha, 0), w)
        return problem.outer(problem.inner_step(w, gradients), alpha, 0)

    _, gradients = hypergradient(problem, run.state.w, run.state.alpha)
    assert_slopes(gradients, after_step, run.state.alpha, tolerance=1e-5)


def test_the_published_step_of_the_difference_crosses_kinks_of_the_network():
    run = make_run(darts())
    search_step(run, *make_batches())
    problem = alpha_problem(run, *make_batches())
    exact, published = (
        h(problem, run.state.w, run.state.alpha)[1]["alpha.normal"] for h in (unrolled, UnrolledByDifferences())
    )
    assert (published - exact).norm() > 0.1 * exact.norm()  # so the exact one is the default


@pytest.mark.parametrize("method", [gdas(), nasp(), proxyless_nas(), proxyless_nas(two_paths=False)])
def test_gradients_of_hard_choices_are_those_of_the_mix_through_the_soft_ones(method):
    run = make_run(method)
    problem, sampler = alpha_problem(run, *make_batches()), run.sampler("alpha")
    drawn = sampler(run.state.alpha)
    mix_EK = drawn.mix.candidates["normal"]
    point = mix_EK.detach()

    def loss_at(mix):
        batch, whole = make_batches()[1], drawn.mix._replace(candidates=mix, alive={})
        return F.cross_entropy(run.state.supernet(batch.images, whole), batch.labels)

    of_mix = slopes(loss_at, {"normal": point})["normal"]
    (expected,) = torch.autograd.grad((mix_EK * of_mix).sum(), run.state.alpha["alpha.normal"])
    _, gradients = method.hypergradient(problem, run.state.w, run.state.alpha)
    torch.testing.assert_close(gradients["alpha.normal"], expected, rtol=1e-5, atol=1e-9)
    assert expected.abs().max() > 1e-5


def test_the_gradient_of_parsec_comes_from_its_losses_alone():
    method = parsec(draws=4)
    run = make_run(method)
    problem, sampler = alpha_problem(run, *make_batches()), run.sampler("alpha")
    losses, directions = [], []
    p = run.state.alpha["alpha.normal"].detach().softmax(-1)
    for draw in range(4):
        losses.append(problem.outer(run.state.w, run.state.alpha, draw).detach())
        directions.append(sampler(run.state.alpha, draw).mix.candidates["normal"].detach() - p)
    omega = (-torch.stack(losses)).softmax(0)
    expected = -sum(weight * direction for weight, direction in zip(omega, directions, strict=True))
    _, gradients = method.hypergradient(problem, run.state.w, run.state.alpha)
    torch.testing.assert_close(gradients["alpha.normal"], expected)


@pytest.mark.parametrize("name", ["darts", "gdas", "parsec", "snas", "proxyless_nas", "dso_nas", "darts_2nd"])
def test_an_expected_cost_has_its_slope_under_every_estimator(name):
    method = METHODS[name]()
    schedule = replace(method.update_schedule, alpha_every=1)
    term = Term(cost, Constant(0.5), expected=True)
    gradients = []
    for penalties in ((), (term,)):
        run = make_run(
            replace(method, penalties=penalties, update_schedule=schedule, projection=None, clip_elements=0.0)
        )
        before = run.state.alpha["alpha.normal"].detach().clone()
        search_step(run, *make_batches())
        gradients.append(before - run.state.alpha["alpha.normal"].detach())  # a rate of one
    relaxation = method.relaxation
    alpha = {"a": before.requires_grad_()}
    tau = 1.0 if method.draw is not None else run.tau
    expected = differentiate(0.5 * cost({"a": relaxation(alpha["a"], None, tau)}), alpha)["a"]
    torch.testing.assert_close(gradients[1] - gradients[0], expected, rtol=1e-9, atol=1e-9)


def test_a_radius_of_zero_is_darts_bit_for_bit():
    steps = []
    for method in (darts(), replace(smooth_darts_rs(), radius=Constant(0.0))):
        run = make_run(method)
        search_step(run, *make_batches())
        steps.append([*run.state.w.values(), *run.state.alpha.values()])
    assert all(torch.equal(*pair) for pair in zip(*steps, strict=True))


def test_a_perturbed_weight_step_leaves_alpha_where_darts_would():
    alphas = []
    for method in (darts(), smooth_darts_rs()):
        run = make_run(method)
        search_step(run, *make_batches())
        alphas.append(run.state.alpha["alpha.normal"])
    assert torch.equal(*alphas)


def test_weight_penalties_reach_the_weights_alone():
    def squares(w):
        return sum((p**2).sum() for p in w.values())

    penalties = ((), (Term(squares, Constant(0.1)),))
    runs = [make_run(replace(darts(), weight_penalties=terms), grad_clip=0.0) for terms in penalties]
    before = {name: p.detach().clone() for name, p in runs[0].state.w.items()}
    for run in runs:
        search_step(run, *make_batches())
    plain, decayed = (run.state.w for run in runs)
    for name, p in before.items():
        torch.testing.assert_close(plain[name] - decayed[name], 0.1 * 0.2 * p, rtol=1e-6, atol=1e-9)
    assert torch.equal(runs[0].state.alpha["alpha.normal"], runs[1].state.alpha["alpha.normal"])


def test_the_weight_step_evaluates_the_supernet_as_it_is_and_the_alpha_step_with_held_weights(monkeypatch):
    run, calls = make_run(darts()), []

    def called(net, w, arguments, tie_weights):
        calls.append({p.requires_grad for p in w.values()})
        return torch.func.functional_call(net, w, arguments, tie_weights=tie_weights)

    monkeypatch.setattr(import_module("fastnas.engine.step"), "functional_call", called)
    search_step(run, *make_batches())
    assert calls == [{False}]


def test_the_weights_move_bit_for_bit_as_a_plain_loop_moves_them():
    run = make_run(darts(), weight_decay=0.1)
    optimizer, mine = run.state.weight_optimizer, list(run.state.w.values())
    group = optimizer.param_groups[0]
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    plain = torch.optim.SGD(theirs, group["lr"], group["momentum"], weight_decay=0.1, foreach=False)
    for _ in range(3):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        plain.step()
    assert all(torch.equal(p, q) for p, q in zip(mine, theirs, strict=True))
