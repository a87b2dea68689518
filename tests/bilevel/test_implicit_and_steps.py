"""Several unrolled steps and implicit hypergradients against closed forms, in one process and in two."""

import math
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from fastnas.bilevel.hypergradient import (
    Implicit,
    Unrolled,
    UnrolledByDifferences,
    first_order,
    unrolled,
)
from fastnas.bilevel.problem import Bilevel, OverProcesses, SgdStep
from fastnas.bilevel.products import reverse_over_reverse
from fastnas.bilevel.score_function import ImportanceWeighted
from fastnas.bilevel.solve import ConjugateGradients, Neumann
from tests.forks import serve

D, E = 6, 4
TIGHT = ConjugateGradients(tolerance=1e-13)


class Quadratic:
    """``inner = w A w / 2 + w B a``, ``outer = |w - c|^2 / 2 + a d + a a / 2``: everything has a closed form."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        root = draw(D, D)
        self.A = root @ root.T / D + torch.eye(D, dtype=torch.float64)
        self.B, self.c, self.d = draw(D, E), draw(D), draw(E)
        self.w, self.a, self.velocity = draw(D), draw(E), draw(D)

    def problem(self, step=SgdStep(0.1), **options):  # noqa: B008
        def inner(w, alpha, draw):
            return w["w"] @ self.A @ w["w"] / 2 + w["w"] @ self.B @ alpha["a"]

        def outer(w, alpha, draw):
            a = alpha["a"]
            return (w["w"] - self.c).square().sum() / 2 + a @ self.d + a @ a / 2

        return Bilevel(inner, outer, step, **options)

    @property
    def point(self):
        return {"w": self.w.clone().requires_grad_()}, {"a": self.a.clone().requires_grad_()}

    def after(self, a, steps, step, momentum_from=None):
        """The weights and the derivative of them for alpha after some steps, by the chain rule written out."""
        w, m = self.w.clone(), self.velocity.clone()
        dw, dm = torch.zeros(D, E, dtype=torch.float64), torch.zeros(D, E, dtype=torch.float64)
        for t in range(steps):
            if momentum_from is not None and t < momentum_from:
                dw, dm = torch.zeros_like(dw), torch.zeros_like(dm)
            g = self.A @ w + self.B @ a + step.weight_decay * w
            dg = self.A @ dw + step.weight_decay * dw + self.B
            m, dm = step.momentum * m + g, step.momentum * dm + dg
            ahead = step.momentum if step.nesterov else None
            w = w - step.lr * (m if ahead is None else g + ahead * m)
            dw = dw - step.lr * (dm if ahead is None else dg + ahead * dm)
            if momentum_from is not None and t < momentum_from:
                dw, dm = torch.zeros_like(dw), torch.zeros_like(dm)
        return w, dw

    def slope(self, w, dw):
        return self.d + self.a + dw.T @ (w - self.c)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("steps", "differentiated"), [(1, None), (3, None), (5, 2), (4, 0)])
@pytest.mark.parametrize("product", [Unrolled().product, reverse_over_reverse])
def test_unrolled_steps_with_momentum_decay_and_truncation_have_their_closed_form(
    steps, differentiated, nesterov, product
):
    q = Quadratic()
    step = SgdStep(0.1, 0.9, 0.01, nesterov, {"w": q.velocity})
    loss, gradients = Unrolled(steps, differentiated, product)(q.problem(step), *q.point)
    first = 0 if differentiated is None else steps - differentiated
    w, dw = q.after(q.a, steps, step, first)
    torch.testing.assert_close(gradients["a"], q.slope(w, dw), rtol=1e-9, atol=1e-12)
    assert loss.item() == pytest.approx(((w - q.c).square().sum() / 2 + q.a @ q.d + q.a @ q.a / 2).item(), rel=1e-12)


def at_the_minimum(q, shift):
    return q.d + q.a - q.B.T @ torch.linalg.solve(q.A + shift * torch.eye(D, dtype=torch.float64), q.w - q.c)


@pytest.mark.parametrize(("decay", "damping"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.3)])
def test_implicit_gradients_have_their_closed_form(decay, damping):
    q = Quadratic()
    problem = q.problem(SgdStep(0.1, weight_decay=decay))
    expected = at_the_minimum(q, decay + damping)
    _, by_cg = Implicit(TIGHT, damping)(problem, *q.point)
    torch.testing.assert_close(by_cg["a"], expected, rtol=1e-9, atol=1e-12)
    largest = torch.linalg.eigvalsh(q.A)[-1].item() + decay + damping
    _, by_series = Implicit(Neumann(1 / largest, 400), damping)(problem, *q.point)
    torch.testing.assert_close(by_series["a"], expected, rtol=1e-9, atol=1e-12)


def test_a_short_series_is_what_as_many_steps_of_descent_forget():
    q = Quadratic()
    eye = torch.eye(D, dtype=torch.float64)
    terms = sum(torch.linalg.matrix_power(eye - 0.2 * q.A, k) for k in range(3))
    expected = q.d + q.a - 0.2 * q.B.T @ terms @ (q.w - q.c)
    _, gradients = Implicit(Neumann(0.2, 3))(q.problem(), *q.point)
    torch.testing.assert_close(gradients["a"], expected, rtol=1e-9, atol=1e-12)


def test_a_solver_that_does_not_converge_says_so_in_one_line():
    q = Quadratic()
    with pytest.raises(FloatingPointError, match=r"Neumann: the series must not diverge.*Lower the rate") as diverged:
        Implicit(Neumann(2.0))(q.problem(), *q.point)
    with pytest.raises(FloatingPointError, match=r"residual must fall below 1e-13 of b within 2 products, got") as slow:
        Implicit(ConjugateGradients(1e-13, 2))(q.problem(), *q.point)
    q.A = q.A - 3 * torch.eye(D, dtype=torch.float64)
    with pytest.raises(FloatingPointError, match=r"must be positive definite, got curvature -.*damping") as indefinite:
        Implicit()(q.problem(), *q.point)
    with pytest.raises(FloatingPointError, match=r"curvature of -.*Give Implicit a larger damping"):
        Implicit(Neumann(0.1, 400))(q.problem(), *q.point)
    assert not any("\n" in str(caught.value) for caught in (diverged, slow, indefinite))
    Implicit(TIGHT, damping=3.0)(q.problem(), *q.point)
    Implicit(ConjugateGradients(math.inf, 1), damping=3.0)(q.problem(), *q.point)  # two of six are taken as they are


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unrolled(0), "Unrolled: steps must be at least 1, got 0"),
        (lambda: Unrolled(2, 3), "differentiated must lie between 0 and steps, 2, got 3"),
        (lambda: Implicit(damping=-1.0), r"damping must not be negative, got -1\.0"),
        (lambda: Neumann(0.0), r"rate must be positive, got 0\.0"),
        (lambda: Neumann(1.0, 0), "steps must be at least 1, got 0"),
        (lambda: ConjugateGradients(0.0), r"tolerance must be positive, got 0\.0"),
        (lambda: ConjugateGradients(steps=0), "steps must be at least 1, got 0"),
    ],
)
def test_settings_without_meaning_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


HYPERGRADIENTS = [first_order, unrolled, Unrolled(3, 2), UnrolledByDifferences(), Implicit(damping=50.0)]
NAMES = ["first order", "one step", "three steps", "differences", "implicit", "importance-weighted"]


def bilevel(problem, fails=False):
    """The bilevel problem of a network that keeps statistics and drops out."""
    statistics = torch.zeros(3)

    def loss(shift):
        def evaluate(w, alpha, draw):
            statistics.add_(torch.rand(3))  # as batch normalisation does, and a draw of the global generator
            if fails and shift:
                raise ArithmeticError("in the outer loss")
            return problem.loss({**w, **alpha}) * (1 + 0.1 * torch.rand(())) + shift

        return evaluate

    return Bilevel(loss(0.0), loss(0.1), SgdStep(0.05, 0.9, 1e-3), state=(statistics,)), statistics


@pytest.mark.parametrize("hypergradient", [*HYPERGRADIENTS, ImportanceWeighted(2)], ids=NAMES)
@pytest.mark.parametrize("fails", [False, True])
def test_everything_stays_bit_for_bit_also_if_a_loss_raises(build_problem, hypergradient, fails):
    problem = build_problem(torch.float64)
    w, alpha = ({n: x.clone().requires_grad_() for n, x in part.items()} for part in (problem.w, problem.alpha))
    for x in (*w.values(), *alpha.values()):
        x.grad = torch.randn_like(x)
    task, statistics = bilevel(problem, fails)
    task = Bilevel(**{**vars(task), "log_probability": lambda alpha, draw: alpha["alpha"].log_softmax(-1)[draw]})
    everything = [*w.values(), *alpha.values(), *(x.grad for x in (*w.values(), *alpha.values())), statistics]
    before, random_state = [x.detach().clone() for x in everything], torch.get_rng_state()
    if fails:
        with pytest.raises(ArithmeticError):
            hypergradient(task, w, alpha)
    else:
        hypergradient(task, w, alpha)
    assert all(torch.equal(x, y) for x, y in zip(everything, before, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_network_with_dropout_is_one_function_in_all_evaluations(build_problem):
    problem = build_problem(torch.float64, smooth=True)
    task, _ = bilevel(problem)
    forward, reverse = (Unrolled(2, product=p)(task, problem.w, problem.alpha)[1]["alpha"]
                        for p in (Unrolled().product, reverse_over_reverse))  # fmt: skip
    torch.testing.assert_close(forward, reverse, rtol=1e-10, atol=1e-14)


# ---- two processes, each with half of a batch ---------------------------------------------------------------------

SPREAD = [first_order, unrolled, Unrolled(3, 2), UnrolledByDifferences(), Implicit(TIGHT, 0.5), Implicit(Neumann(0.1))]


def halves():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    return x, torch.randn(8, generator=generator, dtype=torch.float64)


def regression(rows, **options):
    """Nonlinear in both; a mean over images, without normalisation by statistics of them."""
    x, y = (part[rows] for part in halves())

    def loss(shift):
        return lambda w, alpha, draw: ((x @ (w["u"] * alpha["a"].softmax(0)).tanh() - y - shift) ** 2).mean()

    return Bilevel(loss(0.0), loss(0.3), SgdStep(0.2, 0.9, 0.01, buffers={"u": torch.ones(5).double()}), **options)


def start():
    generator = torch.Generator().manual_seed(1)
    return tuple({n: torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()} for n in "ua")


def one_of_two(rank, store, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    problem = regression(slice(4 * rank, 4 * rank + 4), average=OverProcesses())
    found = [(loss, gradients["a"]) for loss, gradients in (h(problem, *start()) for h in SPREAD)]
    torch.save(found, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_find_the_hypergradients_of_one_with_both_halves_of_the_batch(tmp_path):
    serve()
    mp.start_processes(one_of_two, (str(tmp_path / "store"), str(tmp_path)), nprocs=2, start_method="forkserver")
    of_each = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for i, hypergradient in enumerate(SPREAD):
        loss, gradients = hypergradient(regression(slice(None)), *start())
        for found in of_each:
            torch.testing.assert_close(found[i][0], loss, rtol=1e-12, atol=0)
            torch.testing.assert_close(found[i][1], gradients["a"], rtol=1e-9, atol=1e-12)
        assert torch.equal(of_each[0][i][1], of_each[1][i][1])


def test_averaging_only_the_result_would_be_biased():
    """What a wrapper that averages gradients after the fact finds: every process has unrolled a step of its own."""
    _, whole = unrolled(regression(slice(None)), *start())
    parts = [unrolled(regression(slice(4 * rank, 4 * rank + 4)), *start())[1]["a"] for rank in range(2)]
    assert (sum(parts) / 2 - whole["a"]).norm() > 1e-2 * whole["a"].norm()


def test_processes_must_be_joined_before_they_can_agree():
    with pytest.raises(ValueError, match="OverProcesses: the process group must be initialised"):
        first_order(regression(slice(None), average=OverProcesses()), *start())
