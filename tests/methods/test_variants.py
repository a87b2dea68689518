"""Second order and the stop by curvature as options of any method, and where they have no meaning."""

import pytest

from fastnas.bilevel.hypergradient import Unrolled, first_order
from fastnas.mechanisms.control import EigenvalueRollBack, EigenvalueStop, FirstOf
from fastnas.methods.library import METHODS, darts, darts_plus, pc_darts, robust_darts
from fastnas.methods.variants import with_order, with_stop

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
