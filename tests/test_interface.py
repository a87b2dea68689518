"""What one sees of the package from outside."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastnas

SOURCE = Path(fastnas.__file__).read_text(encoding="utf-8")


def names_for_type_checkers():
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "only this form is public to type checkers"
            found[alias.name] = node.module
    return found


def test_type_checkers_see_what_is_there():
    places = names_for_type_checkers()
    assert {*places, "__version__"} == set(fastnas.__all__)
    for name, module in places.items():
        value = getattr(fastnas, name)
        assert value is getattr(sys.modules[module], name)


def test_the_top_level_is_small_and_no_name_differs_by_case_alone():
    assert len(fastnas.__all__) <= 26
    assert len({name.lower() for name in fastnas.__all__} - {"plan"}) == len(fastnas.__all__) - 2  # Plan is of plan()


def test_every_public_name_is_listed_for_completion():
    assert set(fastnas.__all__) <= set(dir(fastnas))


@pytest.mark.parametrize("room", ["bilevel", "costs", "data", "mechanisms", "methods", "spaces"])
def test_every_name_of_a_namespace_exists(room):
    namespace = getattr(fastnas, room)
    assert sorted(namespace.__all__) == sorted(set(namespace.__all__))
    for name in namespace.__all__:
        assert hasattr(namespace, name)


def test_a_misspelt_name_gets_the_nearest_one():
    with pytest.raises(AttributeError, match=r"no attribute 'serch'. Did you mean fastnas.search\?"):
        _ = fastnas.serch
    with pytest.raises(AttributeError, match=r"Methods stand in fastnas.methods"):
        _ = fastnas.DARTS


def test_the_import_waits_for_nothing():
    program = "import sys, fastnas; sys.exit(bool({'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_types_are_shipped():
    assert (Path(fastnas.__file__).parent / "py.typed").exists()
