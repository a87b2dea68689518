"""The dependency direction is part of the design, so it is a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BASE = {"fastnas_kernels", "fastnas.seeds"}
SPACE = BASE | {"fastnas.space"}
MAY_IMPORT = {  # layer -> the other layers that it may import
    "fastnas_kernels": set(),
    "fastnas.seeds": set(),
    "fastnas.space": BASE,
    "fastnas.bilevel": BASE,
    "fastnas.cost": SPACE,
    "fastnas.supernet": SPACE,
    "fastnas.mechanisms": SPACE | {"fastnas.bilevel"},
    "fastnas.methods": SPACE | {"fastnas.bilevel", "fastnas.mechanisms"},
    "fastnas.train": SPACE | {"fastnas.cost", "fastnas.mechanisms", "fastnas.supernet"},
    "fastnas.report": SPACE | {"fastnas.train.files"},
    "fastnas.search": SPACE
    | {"fastnas.bilevel", "fastnas.mechanisms", "fastnas.methods", "fastnas.supernet", "fastnas.train"},
    "fastnas.experiment": SPACE | {"fastnas.methods", "fastnas.report", "fastnas.search", "fastnas.train"},
    "fastnas.recipes": {"fastnas.experiment", "fastnas.train"},
    "fastnas.cli": SPACE
    | {"fastnas.experiment", "fastnas.methods", "fastnas.recipes", "fastnas.report", "fastnas.train"},
}
FILES = sorted([*(ROOT / "fastnas").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def layer_of(module):
    return next((layer for layer in MAY_IMPORT if module == layer or module.startswith(f"{layer}.")), None)


def name_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("kernels.").removesuffix(".__init__")


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    module = name_of(file)
    layer = layer_of(module)
    if module in ("fastnas", "fastnas.__main__"):
        return
    assert layer is not None, f"{module} belongs to no layer"
    allowed = MAY_IMPORT[layer] | {layer}
    for target in imports_of(file):
        if layer_of(target) is not None:
            assert any(target == a or target.startswith(f"{a}.") for a in allowed), f"{module} may not import {target}"


def test_mechanisms_do_not_import_each_other():
    for file in (ROOT / "fastnas" / "mechanisms").glob("*.py"):
        assert not [target for target in imports_of(file) if target.startswith("fastnas.mechanisms")]


def test_no_file_grows_beyond_four_hundred_lines():
    assert [file.name for file in FILES if len(file.read_text().splitlines()) > 400] == []
