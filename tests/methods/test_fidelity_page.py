"""The page of fidelity is what the data say, every method has its row, and the tests that it names are there."""

import ast
from pathlib import Path

import pytest

from docs.fidelity import ASPECTS, FIDELITY
from docs.write_fidelity import TECHNIQUES, write_page
from fastnas.cli import search
from fastnas.cli.main import heading
from fastnas.cli.options import list_options
from fastnas.experiment.recipes import RECIPES
from fastnas.methods import METHODS

ROOT = Path(__file__).parents[2]


def test_the_page_is_generated():
    page = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert page == write_page(), "python -m docs.write_fidelity > docs/fidelity.md"


def test_every_method_has_every_aspect():
    ours = {name for name, recipe in METHODS.items() if recipe.__module__.startswith("fastnas.")}
    assert set(FIDELITY) == ours
    assert all(tuple(row) == ASPECTS for row in FIDELITY.values())


@pytest.mark.parametrize("name", FIDELITY)
def test_what_is_equal_is_shown_by_a_test_that_exists(name):
    for aspect, claim in FIDELITY[name].items():
        assert claim.test or claim.kind not in ("code", "paper"), aspect
        assert claim.text or claim.kind not in ("differs", "not verifiable"), aspect
        if claim.test:
            file, _, test = claim.test.partition("::")
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, claim.test
        if claim.official:
            results = (ROOT / "profiling" / "results" / "official.md").read_text(encoding="utf-8")
            assert f"| `{claim.official}` |" in results, claim.official


def test_every_technique_has_options_that_exist():
    command = search.Search(experiment=RECIPES["digits"])
    known = {spelling for option in list_options(command, heading) for spelling in option.spellings}
    for technique, options, _ in TECHNIQUES:
        flags = [word.strip("`,") for word in options.split() if word.startswith("`--")]
        assert flags, technique
        assert set(flags) <= known, technique
