"""Combinations that mean nothing are refused, with both sides named and the reason."""

from dataclasses import replace

import pytest

from fastnas.bilevel.hypergradient import ImportanceWeighted, UnrolledByDifferences, unrolled
from fastnas.bilevel.reinforce import Reinforce
from fastnas.mechanisms.alpha_optimizer import sgd
from fastnas.mechanisms.connection import Connection
from fastnas.mechanisms.control import EigenvalueRollBack, EigenvalueStop, FirstOf, SkipCount
from fastnas.mechanisms.draw import Categorical, GumbelSoftmax, gumbel_selected
from fastnas.mechanisms.penalty import undecided
from fastnas.mechanisms.perturbation import random_smoothing
from fastnas.mechanisms.protocol import Protocol
from fastnas.mechanisms.pruning import Stage
from fastnas.mechanisms.relaxation import raw
from fastnas.mechanisms.schedules import Constant
from fastnas.methods.library import METHODS, darts, gdas, p_darts, parsec, snas
from fastnas.methods.method import Method, Term

WEIGHTED = ImportanceWeighted(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hypergradient": WEIGHTED},
            r"hypergradient=ImportanceWeighted must not stand beside draw=None, got both\. It",
        ),
        ({"draw": Categorical()}, r"draw=Categorical\(\) must not stand beside a hypergradient by differentiation"),
        (
            {"hypergradient": WEIGHTED, "draw": Categorical(), "objective": lambda loss, mix: 2 * loss},
            "objective must not stand beside hypergradient=ImportanceWeighted.*expected=True",
        ),
        (
            {"hypergradient": Reinforce()},
            r"hypergradient=Reinforce must not stand beside draw=None, got both\. It",
        ),
        (
            {"hypergradient": Reinforce(), "draw": Categorical(), "objective": lambda loss, mix: 2 * loss},
            "objective must not stand beside hypergradient=Reinforce.*expected=True",
        ),
        ({"reward": lambda accuracy, mix: -accuracy}, "reward must not stand beside a hypergradient other than Rein"),
        ({"weight_average": WEIGHTED}, "weight_average must not stand beside a weight step without a draw"),
        (
            {"perturbation": random_smoothing, "draw": gumbel_selected},
            "perturbation must not stand beside draw=GumbelHard.* candidates that do not run",
        ),
        (
            {"perturbation": random_smoothing, "relaxation": raw},
            "perturbation must not stand beside a relaxation other than softmax.*simplex",
        ),
        (
            {"protocol": Protocol(joint=True), "hypergradient": unrolled},
            r"protocol\.joint must not stand beside hyperg",
        ),
        (
            {"protocol": Protocol(joint=True), "perturbation": random_smoothing},
            r"protocol\.joint must not stand beside perturbation",
        ),
        ({"control": EigenvalueStop()}, "control by eigenvalue must not stand beside eigenvalue_every=0"),
        ({"control": FirstOf((SkipCount(), EigenvalueStop()))}, "control by eigenvalue must not stand beside"),
        (
            {"eigenvalue_every": 1, "draw": GumbelSoftmax()},
            r"eigenvalue_every must not stand beside draw=GumbelSoftmax\(\)",
        ),
        (
            {"stages": (Stage(), Stage(1)), "control": EigenvalueRollBack(), "eigenvalue_every": 1},
            "stages must not stand beside control=EigenvalueRollBack",
        ),
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
        {"connection": Connection(k=2, edge_normalisation=True)},
        {"penalties": (Term(undecided, Constant(0.1)),)},
        {"alpha_optimizer": sgd},
        {"warmup_share": 0.5},
        {"control": SkipCount()},
    ],
)
def test_techniques_stand_beside_every_method(changes):
    for recipe in METHODS.values():
        assert isinstance(replace(recipe(), **changes), Method)


def test_methods_of_different_papers_combine():
    both = replace(p_darts(), perturbation=random_smoothing, radius=Constant(0.1), hypergradient=unrolled)
    assert len(both.stages) == 3
    assert replace(gdas(), connection=Connection(k=4)).draw == gumbel_selected
    assert replace(snas(), draw=None).protocol.joint


def test_options_name_the_published_alternatives():
    assert parsec(self_normalised=False).hypergradient.self_normalised is False
    assert darts(order=2).hypergradient is unrolled
    assert darts(order=2, by_differences=True).hypergradient == UnrolledByDifferences(0.01)
    assert gdas(last_tau=0.1).tau.end == 0.1
    with pytest.raises(ValueError, match="darts: order must be 1 or 2, got 3"):
        darts(order=3)
    with pytest.raises(ValueError, match="by_differences must stand beside order=2, got order=1"):
        darts(by_differences=True)


def test_every_method_has_its_own_name_a_source_and_a_sentence():
    for name, recipe in METHODS.items():
        assert recipe().name == name
        assert "arXiv:" in recipe().source
        assert "(" in recipe.__doc__
