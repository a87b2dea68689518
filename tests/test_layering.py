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
    "fastnas.fingerprint": set(),
    "fastnas.space": BASE,
    "fastnas.bilevel": BASE,
    "fastnas.cost": SPACE | {"fastnas.mechanisms", "fastnas.supernet"},
    "fastnas.supernet": SPACE,
    "fastnas.dropin": SPACE | {"fastnas.supernet"},
    "fastnas.mechanisms": SPACE | {"fastnas.bilevel"},
    "fastnas.method": SPACE | {"fastnas.bilevel", "fastnas.mechanisms"},
    "fastnas.methods": SPACE | {"fastnas.bilevel", "fastnas.mechanisms", "fastnas.method"},
    "fastnas.variants": SPACE | {"fastnas.bilevel", "fastnas.mechanisms", "fastnas.method"},
    "fastnas.train": SPACE | {"fastnas.cost", "fastnas.mechanisms", "fastnas.supernet"},
    "fastnas.report": SPACE | {"fastnas.train.files"},
    "fastnas.search": SPACE
    | {
        "fastnas.bilevel",
        "fastnas.fingerprint",
        "fastnas.mechanisms",
        "fastnas.method",
        "fastnas.supernet",
        "fastnas.train",
    },
    "fastnas.oracle": SPACE
    | {
        "fastnas.bilevel",
        "fastnas.mechanisms",
        "fastnas.method",
        "fastnas.search",
        "fastnas.supernet",
        "fastnas.train",
    },
    "fastnas.plan": SPACE
    | {
        "fastnas.bilevel",
        "fastnas.cost",
        "fastnas.mechanisms",
        "fastnas.method",
        "fastnas.search",
        "fastnas.supernet",
        "fastnas.train",
    },
    "fastnas.budget": SPACE
    | {
        "fastnas.bilevel",
        "fastnas.cost",
        "fastnas.latency",
        "fastnas.mechanisms",
        "fastnas.method",
        "fastnas.train",
    },
    "fastnas.experiment": SPACE
    | {
        "fastnas.budget",
        "fastnas.cost",
        "fastnas.method",
        "fastnas.methods",
        "fastnas.report",
        "fastnas.search",
        "fastnas.supernet",
        "fastnas.train",
        "fastnas.variants",
        "fastnas.watching",
    },
    "fastnas.watching": {"fastnas.train"},
    "fastnas.latency": SPACE | {"fastnas.cost", "fastnas.supernet", "fastnas.train"},
    "fastnas.series": SPACE | {"fastnas.experiment", "fastnas.report", "fastnas.train", "fastnas.watching"},
    "fastnas.printing": SPACE | {"fastnas.experiment", "fastnas.report", "fastnas.series", "fastnas.train"},
    "fastnas.data_verbs": {"fastnas.train"},
    "fastnas.planning": SPACE | {"fastnas.experiment", "fastnas.plan", "fastnas.supernet"},
    "fastnas.recipes": {"fastnas.experiment", "fastnas.train"},
    "fastnas.training_verbs": SPACE
    | {
        "fastnas.experiment",
        "fastnas.planning",
        "fastnas.printing",
        "fastnas.recipes",
        "fastnas.report",
        "fastnas.series",
        "fastnas.supernet",
        "fastnas.train",
    },
    "fastnas.cli": SPACE
    | {
        "fastnas.cost",
        "fastnas.data_verbs",
        "fastnas.experiment",
        "fastnas.latency",
        "fastnas.methods",
        "fastnas.oracle",
        "fastnas.plan",
        "fastnas.planning",
        "fastnas.recipes",
        "fastnas.report",
        "fastnas.supernet",
        "fastnas.train",
        "fastnas.training_verbs",
    },
}
HEAVY = {"matplotlib", "sklearn", "torch._dynamo", "torch.utils.tensorboard", "torchvision"}
"""Each takes a half to two seconds."""
FILES = sorted([*(ROOT / "fastnas").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def layer_of(module):
    return next((layer for layer in MAY_IMPORT if module == layer or module.startswith(f"{layer}.")), None)


def name_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("kernels.").removesuffix(".__init__")


def imports_of(source, at_once=False):
    """What ``source`` imports, or only what it does ``at_once``: not inside of functions, and not for types alone."""
    tree = ast.parse(source)
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            # `from package import module` names a module, too
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offences(module, source):
    """What ``source``, the text of ``module``, imports from above or beside its layer."""
    layer = layer_of(module)
    assert layer is not None, f"{module} belongs to no layer"
    allowed = MAY_IMPORT[layer] | {layer}
    ours = [target for target in imports_of(source) if layer_of(target) is not None]
    return [target for target in ours if not any(target == a or target.startswith(f"{a}.") for a in allowed)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    module = name_of(file)
    if module not in ("fastnas", "fastnas.__main__"):
        assert offences(module, file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastnas_kernels.mixture", "import fastnas.space"),
        ("fastnas.space.formats", "from fastnas import supernet"),
        ("fastnas.supernet.derived", "from fastnas.mechanisms.derivation import derive"),
        ("fastnas.mechanisms.derivation", "def f():\n    from fastnas.supernet import mix"),
        ("fastnas.report.page", "from fastnas.train import checkpoint"),
        ("fastnas.search", "import fastnas.cli as words"),
        ("fastnas.oracle.check", "from fastnas.methods import darts"),
        ("fastnas.search.loop", "from fastnas.plan.planner import plan"),
        ("fastnas.experiment", "from fastnas.cli import main"),
    ],
)
def test_an_import_that_points_up_is_found(module, source):
    assert len(offences(module, source)) == 1


def test_an_import_that_points_down_is_allowed():
    assert offences("fastnas.report.page", "from fastnas.train import files\nimport torch.nn") == []


def test_every_layer_stands_above_all_that_it_may_import():
    above = {}  # a cycle among the rows would allow anything

    def visit(layer, path):
        assert layer not in path, f"{layer} may import itself by way of {path}"
        for below in MAY_IMPORT.get(layer, ()):
            visit(below, (*path, layer))
        above[layer] = path

    for layer in MAY_IMPORT:
        visit(layer, ())
    assert set(MAY_IMPORT) <= set(above)


def test_mechanisms_do_not_import_each_other():
    for file in (ROOT / "fastnas" / "mechanisms").glob("*.py"):
        assert not [target for target in imports_of(file.read_text()) if target.startswith("fastnas.mechanisms")]


def test_the_command_line_answers_before_anything_is_imported_that_few_commands_need():
    texts = {name_of(file): file.read_text() for file in FILES}
    waiting, heavy = ["fastnas.cli"], []
    while waiting:
        module = waiting.pop()
        source = texts.pop(module, "")  # each once
        for target in imports_of(source, at_once=True):
            names = [target.rsplit(".", n)[0] for n in range(target.count(".") + 1)]
            waiting += names
            heavy += [(module, name) for name in names if name in HEAVY]
    assert "fastnas.search.loop" not in texts  # so the walk went deep
    assert heavy == []


def test_no_file_grows_beyond_four_hundred_lines():
    assert [file.name for file in FILES if len(file.read_text().splitlines()) > 400] == []
