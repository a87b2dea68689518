"""Second order and the stop by curvature as options of any method, and where they have no meaning."""

from dataclasses import replace
from math import exp

import pytest
import torch

from fastnas.bilevel.hypergradient import Unrolled, first_order
from fastnas.engine.step import search_step
from fastnas.mechanisms.choice import Evolution
from fastnas.mechanisms.control import EigenvalueRollBack, EigenvalueStop, FirstOf, RankStable, SkipCount
from fastnas.mechanisms.perturbation import Adversarial, random_smoothing
from fastnas.mechanisms.schedules import Constant, Progress, Ramp
from fastnas.methods.library import METHODS, darts, darts_plus, p_darts, pc_darts, robust_darts
from fastnas.methods.variants import Techniques, with_order, with_stop, with_techniques
from tests.engine.points import make_batches, make_run

DRAWS = ["gdas", "gdas_nasbench201", "snas", "parsec", "nasp", "proxyless_nas", "proxyless_nas_r"]
NO_SECOND_ORDER = [*DRAWS, "gaea", "single_darts", "drnas", "spos"]
NO_STOP = [*NO_SECOND_ORDER, "p_darts", "robust_darts", "robust_darts_ada"]


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NO_SECOND_ORDER])
def test_any_method_with_an_inner_step_to_look_through_has_a_second_order(name):
    assert with_order(METHODS[name](), 2).hypergradient == Unrolled()
    assert with_order(METHODS[name](), 1).hypergradient is first_order


@pytest.mark.parametrize("name", NO_SECOND_ORDER)
def test_second_order_is_refused_where_it_has_no_meaning(name):
    with pytest.raises(ValueError, match=rf"--order 2: method {name}: .* does not work with .*\. \w"):
        with_order(METHODS[name](), 2)


def test_what_already_unrolls_keeps_its_way():
    by_differences = darts(order=2, by_differences=True)
    assert with_order(by_differences, 2) is by_differences
    assert with_order(darts(), 1) == darts()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NO_STOP])
@pytest.mark.parametrize("stop", ["eigenvalue", "eigenvalue_code"])
def test_any_method_that_relaxes_may_stop_by_curvature(name, stop):
    method = with_stop(METHODS[name](), stop)
    assert method.eigenvalue_every == (1 if stop == "eigenvalue" else 2)
    control = method.control.controls[-1] if isinstance(method.control, FirstOf) else method.control
    assert isinstance(control, EigenvalueStop)


def test_the_code_form_measures_with_the_weight_decay_of_alpha_and_ada_goes_back():
    assert with_stop(darts(), "eigenvalue").control.rule.shift == 0.0
    assert with_stop(darts(), "eigenvalue_code").control.rule.shift == 1e-3
    assert with_stop(pc_darts(), "eigenvalue_ada").control == EigenvalueRollBack()


@pytest.mark.parametrize("name", NO_STOP)
def test_a_stop_by_curvature_is_refused_where_it_has_no_meaning(name):
    with pytest.raises(ValueError, match=rf"--stop eigenvalue: method {name}:? (.* does not work with|already stops)"):
        with_stop(METHODS[name](), "eigenvalue")


def test_going_back_combines_with_another_control():
    both = with_stop(darts_plus(), "eigenvalue_ada")
    assert both.control.controls == (darts_plus().control, EigenvalueRollBack())
    assert both.snapshots == EigenvalueRollBack().keeps
    assert robust_darts().eigenvalue_every == 1


def test_stopping_by_skips_and_by_rank_are_options_of_any_method():
    assert with_stop(METHODS["gdas"](), "skips").control == SkipCount()
    assert with_stop(robust_darts(), "rank").control.controls == (robust_darts().control, RankStable())
    assert with_stop(robust_darts(), "rank").eigenvalue_every == 1


def test_operation_dropout_and_resetting_surplus_identities_are_those_of_p_darts():
    method = with_techniques(METHODS["gdas"](), Techniques(skip_dropout=0.4, skip_cap=2))
    at = Progress(3, 25, 0, 0)
    assert method.skip_dropout(at) == p_darts(skip_dropout=(0.4,)).skip_dropout(at) == pytest.approx(0.4 * exp(-0.6))
    assert method.derivation == p_darts().derivation


def test_an_l1_penalty_pulls_every_weight_towards_zero():
    run = make_run(with_techniques(darts(), Techniques(l1=0.01)), grad_clip=0.0)
    free, signs = make_run(darts(), grad_clip=0.0), {n: p.detach().sign() for n, p in run.state.w.items()}
    for one in (run, free):
        search_step(one, make_batches()[0], None)
    for name, p in run.state.w.items():
        torch.testing.assert_close(p.detach(), free.state.w[name].detach() - 0.1 * 0.01 * signs[name])


@pytest.mark.parametrize(
    ("techniques", "equals"),
    [
        ({"drop_path": 0.2, "cutout": 1.0}, {"drop_path": Ramp(0.0, 0.2), "cutout": Constant(1.0)}),
        ({"smoothing": "random"}, {"perturbation": random_smoothing, "radius": Ramp(0.03, 0.3, after=1)}),
        ({"smoothing": "adversarial"}, {"perturbation": Adversarial(), "radius": Ramp(0.03, 0.3, after=1)}),
        ({"partial_channels": 4, "edge_normalisation": True}, {"partial_channels": 4, "edge_normalisation": True}),
        ({"temperature": (1.6, 0.1)}, {"tau": Ramp(1.6, 0.1)}),
        ({"beta_decay": 50.0}, {"alpha_penalties": METHODS["beta_darts"]().alpha_penalties}),
        ({"auxiliary_skip": 1.0}, {"auxiliary_skip": METHODS["darts_minus"]().auxiliary_skip}),
    ],
    ids="-".join,
)
def test_a_technique_is_the_part_of_the_method_that_it_comes_from(techniques, equals):
    assert with_techniques(darts(), Techniques(**techniques)) == replace(darts(), **equals)


def test_proximal_steps_and_sparsity_make_nasp_and_dso_nas_of_darts():
    name = {"name": "same", "source": "same"}
    assert replace(with_techniques(darts(), Techniques(proximal=True)), **name) == replace(METHODS["nasp"](), **name)
    sparse, dso = with_techniques(darts(), Techniques(sparsity=1e-3)), METHODS["dso_nas"]()
    assert (sparse.relaxation, sparse.prune, sparse.derivation) == (dso.relaxation, dso.prune, dso.derivation)


@pytest.mark.parametrize(
    ("method", "techniques", "message"),
    [
        ("gdas", {"smoothing": "random"}, "--smoothing: method gdas: perturbation does not work with draw"),
        ("nasp", {"auxiliary_skip": 1.0}, "--auxiliary-skip: method nasp: auxiliary_skip does not work with draw"),
        ("parsec", {"partial_channels": 2}, "--partial-channels: method parsec: joint_inputs does not work with"),
        ("spos", {"skip_cap": 2}, "--skip-cap: method spos chooses by evaluations"),
        ("spos", {"beta_decay": 50.0}, "--beta-decay: method spos: alpha_penalties does not work with update_schedule"),
        ("dso_nas", {"skip_cap": 2}, r"--skip-cap: method dso_nas derives in its own way \(nonzero\)"),
        ("snas", {"skip_cap": 2}, r"--skip-cap: method snas derives in its own way \(every_edge\)"),
        ("darts", {"skip_cap": 2, "sparsity": 0.1}, "--skip-cap: it does not work with --sparsity"),
        ("darts", {"proximal": True, "sparsity": 0.1}, "--proximal does not work with --sparsity"),
    ],
)
def test_a_technique_without_meaning_is_refused_in_one_line(method, techniques, message):
    with pytest.raises(ValueError, match=message):
        with_techniques(METHODS[method](), Techniques(**techniques))


@pytest.mark.parametrize(
    "value",
    [{"drop_path": 1.0}, {"cutout": 1.5}, {"l1": -1.0}, {"temperature": (1.0, 0.0)}, {"skip_dropout": -0.1}],
    ids=lambda x: next(iter(x)),
)
def test_numbers_without_meaning_are_refused(value):
    with pytest.raises(ValueError, match=f"Techniques: {next(iter(value))} must"):
        Techniques(**value)


@pytest.mark.parametrize("name", ["darts_plus", "robust_darts", "asap"])
def test_an_evaluation_that_a_stop_would_overrule_is_refused(name):
    with pytest.raises(ValueError, match=rf"method {name}: choice=.* does not work with control"):
        replace(METHODS[name](), choice=Evolution())
    assert replace(METHODS["robust_darts_ada"](), choice=Evolution()).choice == Evolution()
