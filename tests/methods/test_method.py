"""Combinations that mean nothing are refused, with both sides named and the reason."""

import doctest
import re
from dataclasses import replace

import pytest

from fastnas.bilevel.hypergradient import UnrolledByDifferences, unrolled
from fastnas.bilevel.score_function import ImportanceWeighted, Reinforce
from fastnas.mechanisms.alpha_optimizer import adam
from fastnas.mechanisms.control import EigenvalueRollBack, EigenvalueStop, FirstOf, SkipCount
from fastnas.mechanisms.draw import Categorical, GumbelSoftmax, gumbel_selected
from fastnas.mechanisms.penalty import l1
from fastnas.mechanisms.perturbation import random_smoothing
from fastnas.mechanisms.pruning import Stage
from fastnas.mechanisms.relaxation import raw
from fastnas.mechanisms.schedules import Constant
from fastnas.mechanisms.update_schedule import UpdateSchedule
from fastnas.methods import method
from fastnas.methods.library import METHODS, darts, dso_nas, gdas, nasp, p_darts, parsec, snas
from fastnas.methods.method import Method, Term

WEIGHTED = ImportanceWeighted(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hypergradient": WEIGHTED},
            r"hypergradient=ImportanceWeighted\(draws=4\) does not work with draw=None\. It",
        ),
        ({"draw": Categorical()}, r"draw=Categorical\(\) does not work with hypergradient=FirstOrder\(\)"),
        (
            {"hypergradient": WEIGHTED, "draw": Categorical(), "objective": lambda loss, mix: 2 * loss},
            "objective does not work with hypergradient=ImportanceWeighted.*expected=True",
        ),
        (
            {"hypergradient": Reinforce()},
            r"hypergradient=Reinforce\(\) does not work with draw=None\. It",
        ),
        (
            {"hypergradient": Reinforce(), "draw": Categorical(), "objective": lambda loss, mix: 2 * loss},
            "objective does not work with hypergradient=Reinforce.*expected=True",
        ),
        (
            {"reward": lambda accuracy, mix: -accuracy},
            r"reward does not work with hypergradient=FirstOrder\(\)\. Only Reinforce",
        ),
        ({"weight_average": WEIGHTED}, "weight_average does not work with a weight step without a draw"),
        (
            {"perturbation": random_smoothing, "draw": gumbel_selected},
            "perturbation does not work with draw=GumbelHard.* candidates that do not run",
        ),
        (
            {"perturbation": random_smoothing, "relaxation": raw},
            r"perturbation does not work with relaxation=Raw\(\).*simplex",
        ),
        (
            {"update_schedule": UpdateSchedule(joint=True), "hypergradient": unrolled},
            r"update_schedule\.joint does not work with hyperg",
        ),
        (
            {"update_schedule": UpdateSchedule(joint=True), "perturbation": random_smoothing},
            r"update_schedule\.joint does not work with perturbation",
        ),
        ({"control": EigenvalueStop()}, r"control=EigenvalueStop\(\) does not work with eigenvalue_every=0"),
        (
            {"control": FirstOf((SkipCount(), EigenvalueStop()))},
            "control=FirstOf.* does not work with eigenvalue_every=0",
        ),
        (
            {"eigenvalue_every": 1, "draw": GumbelSoftmax()},
            r"eigenvalue_every does not work with draw=GumbelSoftmax\(\)",
        ),
        (
            {"stages": (Stage(), Stage(1)), "control": EigenvalueRollBack(), "eigenvalue_every": 1},
            r"control=EigenvalueRollBack\(\) does not work with 2 stages",
        ),
        (
            {"hypergradient": unrolled, "draw": gumbel_selected},
            "hypergradient=Unrolled.* does not work with draw=GumbelHard.*surrogate",
        ),
        (
            {"eigenvalue_every": 1, "update_schedule": UpdateSchedule(joint=True)},
            r"eigenvalue_every does not work with update_schedule\.joint",
        ),
        ({"partial_channels": 0}, "partial_channels must be at least 1, got 0"),
        ({"stages": ()}, "stages must not be empty"),
        ({"warmup_share": 1.0}, r"warmup_share must lie in \[0, 1\), got 1\.0"),
        ({"prune_every": 0}, "prune_every must be at least 1, got 0"),
        ({"weight_decay_factor": -1.0}, r"weight_decay_factor must not be negative, got -1\.0"),
    ],
)
def test_a_combination_without_meaning_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"[mM]ethod.*: {message}"):
        replace(darts(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"partial_channels": 2, "edge_normalisation": True, "joint_inputs": False},
        {"penalties": (Term(l1, Constant(0.1)),)},
        {"alpha_optimizer": adam},
        {"warmup_share": 0.5},
        {"control": SkipCount()},
    ],
)
def test_techniques_stand_beside_every_method(changes):
    for recipe in METHODS.values():
        if recipe().name == "spos" and changes.keys() & {"penalties", "control"}:  # its alpha stays, its choice ends it
            with pytest.raises(ValueError, match=r"method spos: (penalties|choice).* does not work with"):
                replace(recipe(), **changes)
        else:
            assert isinstance(replace(recipe(), **changes), Method)


def test_methods_of_different_papers_combine():
    both = replace(p_darts(), perturbation=random_smoothing, radius=Constant(0.1), hypergradient=unrolled)
    assert len(both.stages) == 3
    assert replace(gdas(), partial_channels=4).draw == gumbel_selected
    assert replace(snas(), draw=None).update_schedule.joint


def test_options_name_the_published_alternatives():
    assert parsec(self_normalised=False).hypergradient.self_normalised is False
    assert darts(order=2).hypergradient is unrolled
    assert darts(order=2, by_differences=True).hypergradient == UnrolledByDifferences(0.01)
    assert gdas(last_tau=0.1).tau.end == 0.1
    with pytest.raises(ValueError, match="darts: order must be 1 or 2, got 3"):
        darts(order=3)
    with pytest.raises(ValueError, match="by_differences needs order=2, got order=1"):
        darts(by_differences=True)


def test_every_method_has_its_own_name_a_source_and_a_sentence():
    for name, recipe in METHODS.items():
        assert recipe().name == name
        assert re.search(r"arXiv:\d{4}\.\d{5}|, NeurIPS \d+$", recipe().source)
        assert "(" in recipe.__doc__


def test_a_method_shows_where_it_differs_from_darts_each_part_on_a_line():
    assert doctest.testmod(method).failed == 0
    assert repr(darts()).splitlines()[1:] == [
        "    name='darts',",
        "    source='Liu et al., 2019, arXiv:1806.09055',",
        ")",
    ]
    assert "    projection=clip_to_box,\n" in repr(nasp())
    assert "    draw=Proximal(),\n" in repr(nasp())
    assert "    alpha_optimizer=_apg_nag(0.001),\n" in repr(dso_nas())
    assert "    derivation=SkipCap(),\n" in repr(p_darts())
