"""One step of each of the later methods is that of its equations."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import gamma
from torch.func import functional_call
from torch.nn import functional as F

from fastnas.data import load_data
from fastnas.engine import search
from fastnas.engine.budget import find_alpha_rate, with_rates
from fastnas.engine.coefficients import Sampler
from fastnas.engine.fit import require_fit
from fastnas.engine.record import choose_mix
from fastnas.engine.step import search_step
from fastnas.mechanisms.choice import Perturbation
from fastnas.mechanisms.derivation import AboveThreshold, derive
from fastnas.mechanisms.draw import DirichletSample
from fastnas.mechanisms.schedules import Constant
from fastnas.methods import (
    beta_darts,
    darts,
    darts_2nd,
    darts_minus,
    drnas,
    fair_darts,
    gaea,
    gdas,
    lambda_darts,
    oles,
    spos,
)
from fastnas.methods.variants import with_order
from fastnas.spaces.cell_space import DARTS, NASBENCH201
from fastnas.spaces.chain_space import PROXYLESS
from fastnas.spaces.graph_space import DSO
from fastnas.supernet.mix import Mix
from fastnas.training.config import SearchConfig
from tests.engine.points import SPACE, make_batches, make_run
from tests.methods.references import assert_near, gradients, loss_at, softmax_of, stepped

SKIP = SPACE.primitives.index("skip_connect")


def halfway(method):
    """A run in its fourth of six epochs."""
    run = make_run(method)
    run.state.step = 3 * run.steps
    return run


def after_a_step(run):
    search_step(run, *make_batches())
    return run.state.alpha


def test_beta_decay_adds_the_mean_of_the_log_sum_exp():
    run = halfway(beta_darts(largest=50.0))
    of_loss, weight = gradients(run, make_batches()[1]), 50 * 3 / 6
    expected = {n: a - of_loss[n] - weight * softmax_of(a) / len(SPACE.edges) for n, a in run.state.alpha.items()}
    assert_near(after_a_step(run), expected)


@pytest.mark.parametrize("single_level", [True, False])
def test_gaea_is_exponentiated_gradient_on_the_coefficients(single_level):
    run = halfway(gaea(single_level=single_level))
    weight_batch, search_batch = make_batches()
    batch = weight_batch if single_level else search_batch
    theta = {n.removeprefix("alpha."): softmax_of(a.detach()).requires_grad_() for n, a in run.state.alpha.items()}
    found = torch.autograd.grad(loss_at(run, batch, dict(run.state.w), theta), list(theta.values()))
    w = stepped(run, gradients(run, weight_batch)) if single_level else {}
    after = after_a_step(run)  # at a rate of 1
    for (name, x), gradient in zip(theta.items(), found, strict=True):
        grown = x.detach() * (-gradient).exp()
        torch.testing.assert_close(softmax_of(after[f"alpha.{name}"]), grown / grown.sum(-1, keepdim=True))
    assert_near(run.state.w, w)


def test_gaea_brings_its_rate_and_a_configuration_may_say_another():
    assert with_rates(SearchConfig(), gaea(), 100).alpha_lr == 0.1
    assert with_rates(SearchConfig(alpha_lr=0.5), gaea(), 100).alpha_lr == 0.5
    assert with_rates(SearchConfig(epochs=100), darts(), 100).alpha_lr == find_alpha_rate(10_000)


def test_fair_darts_descends_through_sigmoids_and_towards_zero_or_one():
    run = halfway(fair_darts(strength=10.0))

    def away_from_half(alpha):
        return -10 * ((torch.cat(list(alpha.values())).sigmoid() - 0.5) ** 2).mean()

    of_loss = gradients(run, make_batches()[1], torch.sigmoid, away_from_half)
    expected = {n: a - of_loss[n] for n, a in run.state.alpha.items()}
    assert_near(after_a_step(run), expected)


def test_fair_darts_keeps_what_is_above_its_threshold_and_an_edge_of_each_node():
    mix = {name: [[0.1] * 8 for _ in DARTS.edges] for name in DARTS.cell_types}
    mix["normal"][0][4], mix["normal"][1][5], mix["normal"][2][6], mix["normal"][3][7] = 0.9, 0.95, 0.86, 0.84
    found = AboveThreshold(0.85)(DARTS, mix)
    DARTS.check(found)
    kept = [[(g.primitive, g.source) for g in genes if g.primitive != "none"] for genes in found.normal.nodes]
    assert sorted(kept[0]) == [("sep_conv_3x3", 0), ("sep_conv_5x5", 1)]
    assert kept[1] == [("dil_conv_3x3", 0)]
    assert [len(genes) for genes in kept] == [2, 1, 1, 1]
    assert AboveThreshold(0.05)(DARTS, mix) == derive(DARTS, mix)
    edges = {"normal": [[0.1] * 5 for _ in NASBENCH201.edges]}
    assert AboveThreshold(0.85)(NASBENCH201, edges) == derive(NASBENCH201, edges)


def test_darts_minus_adds_a_skip_connection_that_fades():
    run = halfway(darts_minus())

    def helped(alpha_EK):
        rows = softmax_of(alpha_EK)
        return torch.cat([rows[:, :SKIP], rows[:, SKIP : SKIP + 1] + 0.5, rows[:, SKIP + 1 :]], 1)

    assert [run.method.auxiliary_skip(run.progress(epoch)) for epoch in range(6)] == pytest.approx(
        [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )
    weight_batch, search_batch = make_batches()
    of_alpha = gradients(run, search_batch, helped)
    expected = {n: a - of_alpha[n] for n, a in run.state.alpha.items()}
    moved = replace(run, state=replace(run.state, alpha={n: a.detach() for n, a in expected.items()}))
    w = stepped(run, gradients(moved, weight_batch, helped))
    assert_near(after_a_step(run), expected)
    assert_near(run.state.w, w)


def test_darts_minus_is_measured_with_its_skip_connections_and_derived_without():
    run = halfway(darts_minus())
    rows = choose_mix(run, 3).candidates["normal"]
    torch.testing.assert_close(rows.sum(-1), torch.full((len(SPACE.edges),), 1.5).double())
    with pytest.raises(ValueError, match=r"auxiliary_skip does not work with draw=GumbelHard"):
        replace(gdas(), auxiliary_skip=Constant(1.0))


def test_drnas_samples_dirichlet_coefficients_and_differentiates_their_quantiles():
    run = halfway(drnas())
    sampler, step = run.sampler("alpha"), 1e-5
    w = {name: p.detach() for name, p in run.state.w.items()}
    uniform = {}
    for name, a in run.state.alpha.items():
        cell_type = name.removeprefix("alpha.")
        seeds = Recorder()
        Sampler.__call__(replace(sampler, method=replace(run.method, draw=seeds)), run.state.alpha)
        uniform[cell_type] = torch.rand(
            a.shape, generator=torch.Generator().manual_seed(seeds.seen[-1]), dtype=torch.float64
        )

    def sampled(name, alpha_EK):
        concentration = torch.where(alpha_EK > 0, alpha_EK + 1, alpha_EK.exp())
        rows = torch.tensor(gamma.ppf(uniform[name].numpy(), concentration.numpy()))
        return rows / rows.sum(-1, keepdim=True)

    expected = {}
    for name, a in run.state.alpha.items():
        cell_type, at = name.removeprefix("alpha."), a.detach()
        slope = torch.zeros_like(at)
        for place in range(at.numel()):
            moved = torch.zeros(at.numel(), dtype=torch.float64)
            moved[place] = step
            moved = moved.reshape(at.shape)
            ahead, behind = (
                loss_at(run, make_batches()[1], w, {cell_type: sampled(cell_type, at + sign * moved)})
                for sign in (1, -1)
            )
            slope.view(-1)[place] = (ahead - behind) / (2 * step)
        expected[name] = at - slope
    after = after_a_step(run)
    for name, x in expected.items():
        torch.testing.assert_close(after[name].detach(), x, rtol=1e-5, atol=1e-6)


class Recorder(DirichletSample):
    """Keeps the seeds that it gets."""

    def __init__(self):
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "least", 1e-3)

    def __call__(self, alpha_EK, alive_EK, tau, seed):
        self.seen.append(seed)
        return super().__call__(alpha_EK, alive_EK, tau, seed)


def test_dirichlet_samples_have_their_mean_and_leave_the_dead_at_zero():
    alpha = torch.tensor([[0.5, -1.0, 0.0, 2.0]], dtype=torch.float64)
    concentration = torch.tensor([[1.5, 0.36788, 1.0, 3.0]], dtype=torch.float64)
    alive = torch.tensor([[True, True, False, True]])
    rows = torch.cat([DirichletSample()(alpha, None, 1.0, seed).mix for seed in range(4000)])
    torch.testing.assert_close(rows.mean(0), concentration[0] / concentration.sum(), rtol=0.05, atol=0.01)
    dead = DirichletSample()(alpha, alive, 1.0, 0).mix
    assert dead[0, 2] == 0
    assert float(dead.sum()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"--order 2: .*first derivative and no second"):
        with_order(drnas(), 2)
    assert replace(drnas(), hypergradient=darts_2nd(by_differences=True).hypergradient).unrolls


def test_spos_steps_along_single_uniform_paths_and_alpha_stays():
    run = halfway(spos())
    weight_batch, search_batch = make_batches()
    mix = run.sampler("weights")(run.state.alpha).mix
    rows = mix.candidates["normal"]
    assert rows.sum(-1).tolist() == [1.0] * len(SPACE.edges)
    expected = stepped(run, gradients(run, weight_batch, lambda alpha_EK: rows + 0 * alpha_EK))
    before = {name: a.detach().clone() for name, a in run.state.alpha.items()}
    start = {name: p.detach().clone() for name, p in run.state.w.items()}
    search_step(run, weight_batch, search_batch)
    for name, x in expected.items():
        parts = name.split(".")
        if "edges" in parts:  # what does not run keeps its weights, without decay
            row, primitive = parts[parts.index("edges") + 1 :][:2]
            runs = bool(rows[int(row), SPACE.primitives.index(primitive)])
            assert_near(run.state.w, {name: x if runs else start[name]})
        else:
            assert_near(run.state.w, {name: x})
    assert all(torch.equal(a, before[name]) for name, a in run.state.alpha.items())


def test_a_choice_ends_a_search_and_a_resumed_one_likewise(tmp_path):
    config = SearchConfig(channels=4, cells=1, epochs=1, batch_size=16, train_fraction=0.1, device="cpu")
    data = load_data("digits")
    for method in (
        spos(population=6, generations=2),
        replace(darts(), choice=Perturbation(tune_epochs=0.5)),
    ):
        folder = tmp_path / method.name
        found = search(SPACE, method, data, config, folder=folder)
        SPACE.check(found.genotype)
        assert search(SPACE, method, data, config, folder=folder).genotype == found.genotype
    with pytest.raises(ValueError, match=r"alpha_moves=False does not work with choice=None"):
        replace(spos(), choice=None)


def test_oles_freezes_candidates_whose_gradients_disagree():
    run = halfway(oles(window=2, threshold=1.0))
    weight_batch, search_batch = make_batches()
    one, other = gradients(run, weight_batch), gradients(run, search_batch)
    moved = {n: a - other[n] for n, a in run.state.alpha.items()}
    one = gradients(
        replace(run, state=replace(run.state, alpha={n: a.detach() for n, a in moved.items()})), weight_batch
    )
    search_step(run, weight_batch, search_batch)
    assert run.state.agreement
    for group, (total, count) in run.state.agreement.items():
        names = [name for name in run.state.w if name.startswith(f"{group}.")]
        a, b = (torch.cat([g[name].flatten() for name in names]) for g in (one, other))
        assert total == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-7)
        assert count == 1
    assert run.state.frozen == []
    search_step(run, weight_batch, search_batch)
    assert len(run.state.frozen) == len(run.state.agreement) == 3 * 2 * len(SPACE.edges)  # convolutions of three cells
    before = {name: p.detach().clone() for name, p in run.state.w.items()}
    search_step(run, weight_batch, search_batch)
    stayed = {name for name, p in run.state.w.items() if torch.equal(p, before[name])}
    assert stayed == {name for name in before if ".edges." in name}
    saved = run.state.state_dict()
    run.state.frozen = []
    run.state.load_state_dict(saved)
    assert len(run.state.frozen) == 18
    with pytest.raises(ValueError, match="matching does not work with"):
        replace(gdas(), matching=oles().matching)


@pytest.mark.parametrize("radius", [None, 1e-6])
def test_lambda_darts_climbs_the_agreement_of_its_cells(radius):
    run = halfway(lambda_darts(weight=0.5, radius=radius))
    weight_batch, search_batch = make_batches()
    of_alpha = gradients(run, search_batch)
    moved = {n: (a - of_alpha[n]).detach() for n, a in run.state.alpha.items()}
    w = {n: p.detach().requires_grad_() for n, p in run.state.w.items()}
    at = {"normal": softmax_of(moved["alpha.normal"])}
    shifts = {place: torch.zeros_like(at["normal"]).requires_grad_() for place in (1, 2, 3)}
    mix = Mix(at, {}, shifts={"normal": shifts})
    loss = F.cross_entropy(functional_call(run.state.supernet, w, (weight_batch.images, mix)), weight_batch.labels)
    slopes = [g.flatten() for g in torch.autograd.grad(loss, list(shifts.values()), create_graph=True)]
    pairs = [(0, 1), (0, 2), (1, 2)]
    agreement = sum(slopes[i] @ slopes[j] / (slopes[i].norm() * slopes[j].norm()) for i, j in pairs) / 3
    total = loss - 0.5 * 3 / 5 * agreement
    found = torch.autograd.grad(total, list(w.values()), allow_unused=True, materialize_grads=True)
    expected = stepped(run, dict(zip(w, found, strict=True)))
    search_step(run, weight_batch, search_batch)
    for name, x in expected.items():
        torch.testing.assert_close(run.state.w[name].detach(), x, rtol=1e-4, atol=1e-6)
    for space in (PROXYLESS, DSO):
        with pytest.raises(ValueError, match=f"alignment does not work in the space {space.name}"):
            require_fit(lambda_darts(), space)
