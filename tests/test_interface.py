"""What one sees of the package from outside."""

import ast
import subprocess
import sys
from dataclasses import replace
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


@pytest.mark.parametrize("room", ["bilevel", "costs", "data", "mechanisms", "methods", "spaces", "tasks"])
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


TINY = fastnas.SearchConfig(
    channels=4, cells=1, epochs=1, warmup_epochs=0, batch_size=32, train_fraction=0.1, device="cpu"
)
SHORT = fastnas.RetrainConfig(channels=4, cells=3, epochs=1, batch_size=32)


def test_a_search_takes_names_functions_and_objects_alike(tmp_path):
    by_name = fastnas.search("nasbench201", "darts", "digits", TINY, folder=str(tmp_path / "run"))
    by_object = fastnas.search(fastnas.spaces.NASBENCH201, fastnas.methods.darts, Path("digits"), TINY)
    assert by_name.genotype == by_object.genotype
    assert (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_retraining_takes_a_built_in_name_and_a_folder_as_text(tmp_path):
    result = fastnas.retrain("DARTS_V2", "digits", SHORT, TINY, folder=str(tmp_path / "run"))
    assert result.genotype == fastnas.spaces.read_genotype("DARTS_V2")


def test_a_check_and_a_plan_take_names():
    assert fastnas.check("nasbench201", "darts").ok
    found = fastnas.plan("nasbench201", "darts", "digits", TINY, budget="8GiB", timed=False)
    assert found.config.recompute == ("none",)


DARTS, pc_darts = fastnas.spaces.DARTS, fastnas.methods.pc_darts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fastnas.search(pc_darts(), DARTS, "digits"), "search: space must be a .*Space, got the Method 'pc_d"),
        (lambda: fastnas.search(pc_darts(), DARTS, "digits"), r"The order of arguments is space, method, data\.$"),
        (lambda: fastnas.search(DARTS, DARTS, "digits"), "search: method must be a Method, got the .*Space 'darts'"),
        (lambda: fastnas.search("dart", "darts", "digits"), r"Did you mean darts\?"),
        (lambda: fastnas.search(DARTS, "pc_dart", "digits"), r"Did you mean pc_darts\?"),
        (lambda: fastnas.search(DARTS, "darts", 3), "search: data must be an ImageData, got an int"),
        (lambda: fastnas.search(DARTS, "darts", "digits", SHORT), "config must be a SearchConfig, got a RetrainConfig"),
        (lambda: fastnas.retrain("DARTS_V3", "digits"), r"Did you mean DARTS_V2\?|Did you mean DARTS_V1\?"),
        (lambda: fastnas.retrain("digits", DARTS), "genotype: name must be a built-in name"),
        (lambda: fastnas.retrain("PDARTS", "digits", TINY), "config must be a RetrainConfig, got a SearchConfig"),
        (lambda: fastnas.check(DARTS), "check: a space or a supernet needs a method"),
        (lambda: fastnas.check(pc_darts(), DARTS), "check: subject must be a space, .* got the Method 'pc_darts'"),
        (lambda: fastnas.plan(DARTS, "darts", 3, budget="1GiB"), "plan: data must be an ImageData, got an int"),
        (lambda: fastnas.plan(DARTS, "darts", "digits", budget=8), "plan: budget must be a str, got an int"),
        (
            lambda: fastnas.plan(DARTS, "darts", "digits", budget="1GiB", target="gpu"),
            "target must be one of cuda, cpu",
        ),
        (
            lambda: fastnas.plan(DARTS, "darts", "digits", budget="1GiB", allow="batches"),
            "allow must be .* got 'batches'",
        ),
        (
            lambda: fastnas.retrain("PDARTS", "digits", SHORT, SHORT),
            "setup must be a TrainingSetup, got a RetrainConfig",
        ),
        (lambda: fastnas.search(DARTS, "darts", "digts"), r"got 'digts'\. Did you mean digits\?"),
        (
            lambda: fastnas.SearchConfig(precision="bfloat"),
            r"one of float32, bfloat16, got 'bfloat'\. Did you mean bfloat16",
        ),
        (lambda: fastnas.SearchConfig(epochs=1.5), "SearchConfig: epochs must be a whole number, got 1.5"),
        (lambda: fastnas.RetrainConfig(lr="0.1"), "RetrainConfig: lr must be a number, got '0.1'"),
        (lambda: fastnas.data.DataConfig(fit="pads"), "DataConfig: fit must be .*, got 'pads'"),
        (lambda: replace(pc_darts(), draw="gumbel"), "Method: draw must not be a string, got 'gumbel'"),
        (lambda: fastnas.MixedOp("none", 16, 1), "MixedOp: primitives must be a list of names, got an int"),
        (lambda: fastnas.profile(None, None), "profile: network must be a Module, got None"),
        (lambda: fastnas.restore("net"), "restore: network must be a Module, got 'net'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


MINE = """
from dataclasses import replace
from fastnas.methods import darts

def mine():
    return replace(darts(), name="mine")

def broken():
    return 1 / 0

value = replace(darts(), name="value")
"""


def test_a_method_of_a_file_and_of_a_module_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as of a console script
    Path("mine_interface.py").write_text(MINE)
    as_method = fastnas.methods.as_method
    assert as_method("mine_interface.py:mine") == as_method("mine_interface:mine")
    assert as_method("mine_interface.py:value").name == "value"
    for name, message in (
        ("mine_interface.py:broken", "broken.* must run, got ZeroDivisionError"),
        ("mine_interface.py:none", "mine_interface.py must define none, got nothing of that name"),
        ("absent.py:mine", "FILE.py:NAME must name a Python file, got absent.py"),
        ("absent_module:mine", "absent_module must run, got ModuleNotFoundError"),
        ("mine_interface:", "code must be named as FILE.py:NAME or module:name"),
    ):
        with pytest.raises(ValueError, match=message):
            as_method(name)
