"""Every method of the library raises no alarm, and a defect in one of its parts, or in a supernet, raises one."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import fastnas
from fastnas import check
from fastnas.bilevel.hypergradient import first_order, unrolled
from fastnas.bilevel.score_function import Reinforce
from fastnas.checks.claims import slope_of_outer
from fastnas.checks.finding import Verdict
from fastnas.mechanisms.draw import Draw, Sample, gumbel_all, gumbel_selected_with_scalars
from fastnas.mechanisms.perturbation import random_smoothing
from fastnas.mechanisms.relaxation import sigmoid, softmax
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.library import (
    METHODS,
    darts,
    darts_2nd,
    gdas,
    nasp,
    parsec,
    pc_darts,
    proxyless_nas,
    proxyless_nas_r,
    sharp_darts,
    smooth_darts_rs,
    snas,
)
from fastnas.methods.method import Term
from fastnas.spaces.cell_space import DARTS, NASBENCH201, S1
from fastnas.supernet.operations import DARTS_OPERATIONS
from fastnas.supernet.supernets import NasBench201Supernet

GRADIENT = "the hypergradient is the one that is claimed"
SLOW = {
    "robust_darts",
    "robust_darts_ada",
    "robust_darts_l2",
    "darts_plus",
    "smooth_darts_adv",
    "pc_darts_imagenet",
} | {"robust_darts_dp"}
WITH_GRADIENTS = [name for name in METHODS if METHODS[name]().update_schedule.alpha_moves]
SMALL = replace(  # two cell types and two inputs, as DARTS, with one node
    DARTS,
    name="small",
    primitives=("none", "skip_connect", "sep_conv_3x3"),
    num_nodes=1,
    concat=(2,),
    operations={name: DARTS_OPERATIONS[name] for name in ("skip_connect", "sep_conv_3x3")},
)


def names_of(report):
    return {finding.name for finding in report.failures}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in WITH_GRADIENTS]
)
def test_no_method_raises_an_alarm_in_nasbench201(name):
    report = check(NASBENCH201, METHODS[name]())
    assert report.ok, report
    passed = {finding.name for finding in report.findings if finding.verdict is Verdict.PASSED}
    assert GRADIENT in passed
    if getattr(METHODS[name]().relaxation, "surrogate", None) is None:  # else its slope is part of the gradient
        assert "the penalty has a slope, and it reaches alpha" in passed


def test_a_method_whose_alpha_never_moves_has_nothing_to_check():
    with pytest.raises(ValueError, match="must have a gradient of alpha, got spos"):
        check(NASBENCH201, "spos")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_no_method_raises_an_alarm_in_the_darts_space(name):
    report = check(DARTS, METHODS[name]())
    assert report.ok, report


@pytest.mark.parametrize(
    "method",
    [
        pc_darts(),
        gdas(form=gumbel_all),
        gdas(form=gumbel_selected_with_scalars),
        proxyless_nas(two_paths=False),
        proxyless_nas_r(baseline=False),
        nasp(published_for=SMALL),
        parsec(self_normalised=False, temperature=100.0, draws=3),
        darts_2nd(by_differences=True),
        sharp_darts(detach_max=True),
        replace(darts(), relaxation=sigmoid),
        replace(gdas(), partial_channels=4, edge_normalisation=True),
        replace(darts(), drop_path=Constant(0.3), skip_dropout=Constant(0.4)),
    ],
    ids=lambda method: method.name,
)
def test_other_forms_raise_no_alarm_where_two_cells_are_searched(method):
    report = check(SMALL, method)
    assert report.ok, report


@pytest.mark.slow
@pytest.mark.parametrize("method", [darts(), gdas(), nasp(), parsec()], ids=lambda method: method.name)
def test_edges_with_lists_of_their_own_raise_no_alarm(method):
    report = check(S1, method)
    assert report.ok, report


def test_an_edge_of_none_which_leaves_a_state_of_zeros_raises_no_alarm():
    three = replace(NASBENCH201, name="three", num_nodes=2, concat=(2,))
    report = check(three, nasp(), seed=0)  # at the third of its points the differences cross a kink
    assert report.ok, report


@pytest.mark.slow
def test_rewards_differ_in_a_chain():
    report = check("proxyless", "proxyless_nas_r")
    assert report.ok, report
    assert GRADIENT in {finding.name for finding in report.findings if finding.verdict is Verdict.PASSED}


def detach_all(alpha_EK, alive_EK=None, tau=1.0):
    return softmax(alpha_EK.detach(), alive_EK, tau)


def doubled_gradient(problem, w, alpha):
    loss, gradient = first_order(problem, w, alpha)
    return loss, {name: 2 * x for name, x in gradient.items()}


def half_a_step(problem, w, alpha):
    return unrolled(replace(problem, inner_step=replace(problem.inner_step, momentum=0.0)), w, alpha)


def smoothing_at_any_radius(mix, alive, loss, radius, seed):
    return random_smoothing(mix, alive, loss, 0.1, seed)


def cost_of_a_list(mix):
    return sum(torch.tensor(x.tolist()).double()[:, 1:].sum() for x in mix.values())


@dataclass(frozen=True)
class Unseeded(Draw):
    def __call__(self, alpha_EK, alive_EK, tau, seed):
        return Sample((alpha_EK + torch.rand_like(alpha_EK)).softmax(-1))


class OwnMean(Reinforce):
    """The baseline holds the draw's own reward."""

    def weights(self, rewards_K):
        return (rewards_K - rewards_K.mean()) / len(rewards_K)


def test_a_baseline_that_holds_the_draws_own_reward_is_found_by_its_mean_too():
    report = check(NASBENCH201, replace(proxyless_nas_r(), hypergradient=OwnMean()), seed=1)
    assert names_of(report) == {GRADIENT, "the mean gradient is the expectation over all architectures"}
    assert "It is 0.6667 times the exact one" in str(report)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (replace(darts(), relaxation=detach_all), "every alpha that matters gets a gradient"),
        (
            replace(darts(), penalties=(Term(cost_of_a_list, Constant(1.0), expected=True),)),
            "the penalty has a slope, and it reaches alpha",
        ),
        (
            replace(smooth_darts_rs(), perturbation=smoothing_at_any_radius),
            "a perturbation of radius 0 changes no bit of the weight step",
        ),
        (replace(snas(), draw=Unseeded()), "the steps repeat from the same seed"),
    ],
    ids=["detached relaxation", "penalty of a list", "radius ignored", "draw without a seed"],
)
def test_a_defect_in_a_part_of_a_method_is_found(method, expected):
    assert names_of(check(NASBENCH201, method)) == {expected}


def test_a_gradient_that_is_twice_the_exact_one_is_found_and_named():
    report = check(NASBENCH201, replace(darts(), hypergradient=doubled_gradient), claim=slope_of_outer)
    assert names_of(report) == {GRADIENT}
    assert "It is 2 times the exact one." in report.failures[0].meaning


def test_the_statistics_of_a_supernet_of_ones_own_are_put_back_after_a_step_of_alpha():
    supernet = NasBench201Supernet(3, channels=4, cells=1, image_channels=1)
    supernet.norm = nn.BatchNorm2d(16)
    report = check(supernet, darts())
    assert report.ok, report
    statistics = next(f for f in report.findings if f.name == "an alpha step leaves the network's statistics alone")
    assert statistics.verdict is Verdict.PASSED


def test_a_gradient_without_a_formula_must_be_said_to_be_one():
    with pytest.raises(ValueError, match=r"check: the gradient of method darts must have a known formula, .*claim="):
        check(NASBENCH201, replace(darts(), hypergradient=doubled_gradient))


def test_a_space_needs_a_method_and_a_system_none():
    with pytest.raises(ValueError, match="check: a space or a supernet needs a method, got none"):
        check(NASBENCH201)
    with pytest.raises(ValueError, match="check: method, claim and images must not be given with a system"):
        check(lambda seed: None, darts())
    with pytest.raises(ValueError, match="check: a supernet must have a Space as its attribute space"):
        check(nn.Linear(1, 1), darts())


def test_the_function_is_what_users_import():
    assert fastnas.check is check
