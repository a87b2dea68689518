"""Spaces by name."""

import doctest
from dataclasses import replace

import pytest

from fastnas.spaces import DARTS, SPACES, list_spaces, proxyless, register_space, registry, space_by_name
from fastnas.spaces.formats import read_genotype


@pytest.fixture(autouse=True)
def same_registry(monkeypatch):
    mine = dict(SPACES)
    monkeypatch.setattr(registry, "_SPACES", mine)
    monkeypatch.setattr(registry, "SPACES", mine)


def test_the_examples_hold():
    assert doctest.testmod(registry).failed == 0


def test_a_pattern_lists_the_names_that_match():
    assert list_spaces("s?") == ["s1", "s2", "s3", "s4"]
    assert list_spaces("nothing") == []


def test_hyphens_and_capitals_do_not_matter():
    assert space_by_name("DARTS") is DARTS
    assert space_by_name("Proxyless-3") == proxyless(3)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("dart", "darts"), ("nasbench", "nasbench201"), ("proxylesss", "proxyless")]
)
def test_a_misspelt_name_suggests_the_nearest(wrong, meant):
    with pytest.raises(ValueError, match=rf"Did you mean {meant}\?"):
        space_by_name(wrong)


def test_genotypes_of_a_registered_space_are_read_without_naming_it():
    mine = register_space(
        replace(DARTS, name="mine", cell_types=("normal",), num_nodes=1, kept_edges=None, concat=(2,))
    )
    assert register_space(mine) is mine
    text = "Genotype(normal=[('max_pool_3x3', 0), ('none', 1)], normal_concat=[2], space='mine')"
    assert read_genotype(text).normal.nodes[0][0].primitive == "max_pool_3x3"
    with pytest.raises(ValueError, match="name must be a new one, got 'mine'"):
        register_space(replace(mine, primitives=("max_pool_3x3",)))
