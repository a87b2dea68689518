"""What is suggested where nothing fits."""

from dataclasses import replace

import pytest

from fastnas.data import placeholder_data
from fastnas.mechanisms.draw import BinaryGate, TwoPaths, gumbel_all, gumbel_selected
from fastnas.memory.budget import Budget
from fastnas.memory.planner import LEAST, list_remedies, take_fewer_paths
from fastnas.memory.prediction import predict
from fastnas.memory.scene import Setup
from fastnas.methods.library import METHODS, darts, gdas, parsec, proxyless_nas, snas
from fastnas.spaces.cell_space import NASBENCH201
from fastnas.training.config import SearchConfig
from tests.engine.points import SPACE

CONFIG = SearchConfig(channels=6, cells=1, epochs=6, batch_size=8, device="cpu", recompute=LEAST, precision="bfloat16")


def peak(method, space=NASBENCH201):
    """Of the search that ``method`` does, least bytes."""
    return predict(Setup(space, method, placeholder_data("digits"), CONFIG)).peak.num_bytes


@pytest.mark.parametrize(
    ("method", "draw"),
    [
        (proxyless_nas(two_paths=False), TwoPaths()),
        (darts(), gumbel_selected),
        (snas(), gumbel_selected),
        (replace(gdas(), draw=gumbel_all), gumbel_selected),
    ],
    ids=["every gate", "mixture", "soft samples", "every candidate for alpha"],
)
def test_methods_that_run_all_candidates_could_sample_some(method, draw):
    words, changed = take_fewer_paths(method)
    assert changed.draw == draw
    assert changed == replace(method, draw=draw)
    assert words.startswith("two" if draw == TwoPaths() else "one")


@pytest.mark.parametrize("name", ["gdas", "proxyless_nas", "proxyless_nas_r", "parsec", "nasp", "dso_nas"])
def test_methods_that_sample_or_project_already_cannot(name):
    assert take_fewer_paths(METHODS[name]()) is None


@pytest.mark.parametrize("recipe", METHODS)
def test_no_suggestion_contradicts_a_method(recipe):
    found = take_fewer_paths(METHODS[recipe]())  # a method refuses choices without meaning
    assert found is None or found[1].draw is not None


@pytest.mark.slow
def test_two_paths_are_suggested_where_they_fit():
    method = proxyless_nas(two_paths=False)
    all_gates, two_paths = peak(method), peak(replace(method, draw=TwoPaths()))
    assert two_paths < all_gates
    setup = Setup(NASBENCH201, method, placeholder_data("digits"), CONFIG)

    def suggested(size):
        return any("draw=TwoPaths()" in remedy for remedy in list_remedies(setup, Budget("so much", size, size)))

    assert method.draw == BinaryGate()
    assert suggested(two_paths)
    assert not suggested(two_paths - 1)


def test_more_samples_take_no_more_memory():
    few, many = (peak(parsec(draws=draws), SPACE) for draws in (2, 4))
    assert many == pytest.approx(few, rel=0.001)  # a loss and a weight for each
