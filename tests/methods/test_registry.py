"""Methods by name."""

import doctest
import importlib
import pkgutil

import pytest

from fastnas import bilevel, mechanisms, methods
from fastnas.methods import METHODS, list_methods, method_by_name, pc_darts, register_method, registry


@pytest.fixture(autouse=True)
def same_registry(monkeypatch):
    mine = dict(METHODS)
    monkeypatch.setattr(registry, "_METHODS", mine)
    return mine


@pytest.mark.parametrize("room", [methods, mechanisms, bilevel], ids=lambda room: room.__name__)
def test_the_examples_hold(room):
    names = [f"{room.__name__}.{module.name}" for module in pkgutil.iter_modules(room.__path__)]
    results = {name: doctest.testmod(importlib.import_module(name)) for name in names}
    assert not [name for name, result in results.items() if result.failed]
    assert sum(result.attempted for result in results.values()) >= 4


def test_a_pattern_lists_the_names_that_match():
    assert list_methods("*darts*")[:3] == ["darts", "darts_2nd", "darts_plus"]
    assert list_methods("nothing") == []


def test_a_method_is_made_by_its_name_and_options():
    assert method_by_name("pc_darts") == pc_darts()
    assert method_by_name("PC-DARTS", k=2) == pc_darts(k=2)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("pcdarts", "pc_darts"), ("gdass", "gdas"), ("proxylesnas", "proxyless_nas")]
)
def test_a_misspelt_name_suggests_the_nearest(wrong, meant):
    with pytest.raises(ValueError, match=rf"Did you mean {meant}\?"):
        method_by_name(wrong)


def test_a_name_like_none_lists_all():
    with pytest.raises(ValueError, match="Known are darts, "):
        method_by_name("resnet")


def test_a_registered_function_is_found_and_its_name_taken_once(same_registry):
    @register_method
    def my_darts():
        return pc_darts()

    assert register_method(my_darts) is my_darts  # a module that is loaded again registers the same
    assert method_by_name("my_darts") == pc_darts()

    def gdas():
        return pc_darts()

    with pytest.raises(ValueError, match="gdas must be a new name"):
        register_method(gdas)
