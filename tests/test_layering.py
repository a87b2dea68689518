"""The dependency direction is part of the design, so it is a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = """\
fastnas_kernels
errors seeds files fingerprint ranks
user_code run_files tasks
spaces bilevel progress
mechanisms supernet
networks methods acceleration
costs
data
training
engine
checks memory report selection
experiment notebook
cli
fastnas_audit""".splitlines()
"""A room may import from the rows above its own, and from itself."""
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms.split()}
HEAVY = {"matplotlib", "sklearn", "torch._dynamo", "torch.utils.tensorboard", "torchvision"}
"""Each takes a half to two seconds."""
FILES = sorted([*(ROOT / "fastnas").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def room_of(module):
    """``spaces`` for ``fastnas.spaces.genotype``; ``None`` for what is not ours, and for the package itself."""
    first, *rest = module.split(".")
    return first if first in ("fastnas_audit", "fastnas_kernels") else rest[0] if first == "fastnas" and rest else None


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
    """What ``source``, the text of ``module``, imports from its own row or one that stands on it."""
    room = room_of(module)
    assert room in ROW, f"{module} belongs to no row"
    others = [(target, room_of(target)) for target in imports_of(source)]
    return [target for target, other in others if other not in (None, room) and ROW.get(other, len(ROWS)) >= ROW[room]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_down(file):
    module = name_of(file)
    if module not in ("fastnas", "fastnas.__main__"):
        assert offences(module, file.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastnas_kernels.mixture", "import fastnas.spaces"),
        ("fastnas_kernels.mixture.kernel", "from fastnas_audit.meter import Meter"),
        ("fastnas.spaces.formats", "from fastnas import supernet"),
        ("fastnas.supernet.chain", "from fastnas.mechanisms.derivation import derive"),
        ("fastnas.mechanisms.derivation", "def f():\n    from fastnas.supernet import mix"),
        ("fastnas.report.page", "from fastnas.experiment import series"),
        ("fastnas.engine", "import fastnas.cli.main as words"),
        ("fastnas.checks.check", "from fastnas.memory.planner import plan"),
        ("fastnas.engine.loop", "from fastnas.memory.planner import plan"),
        ("fastnas.experiment.experiment", "from fastnas.cli.main import main"),
    ],
)
def test_an_import_that_points_up_is_found(module, source):
    assert len(offences(module, source)) == 1


def test_an_import_that_points_down_is_allowed():
    assert offences("fastnas.report.page", "from fastnas.training import files\nimport torch.nn") == []


def test_the_audit_of_kernels_knows_kernels_alone():
    for file in (ROOT / "kernels" / "fastnas_audit").glob("*.py"):
        assert {room_of(target) for target in imports_of(file.read_text())} <= {
            None,
            "fastnas_audit",
            "fastnas_kernels",
        }


def test_mechanisms_do_not_import_each_other():
    for file in (ROOT / "fastnas" / "mechanisms").glob("[!_]*.py"):
        assert not [target for target in imports_of(file.read_text()) if target.startswith("fastnas.mechanisms")]


def test_the_command_line_answers_before_anything_is_imported_that_few_commands_need():
    texts = {name_of(file): file.read_text() for file in FILES}
    waiting, heavy = ["fastnas.cli.main", "fastnas.cli.search", "fastnas.cli.report"], []
    while waiting:
        module = waiting.pop()
        source = texts.pop(module, "")  # each once
        for target in imports_of(source, at_once=True):
            names = [target.rsplit(".", n)[0] for n in range(target.count(".") + 1)]
            waiting += names
            heavy += [(module, name) for name in names if name in HEAVY]
    assert "fastnas.engine.loop" not in texts  # so the walk went deep
    assert heavy == []


def test_no_file_grows_beyond_four_hundred_lines():
    assert [file.name for file in FILES if len(file.read_text().splitlines()) > 400] == []
