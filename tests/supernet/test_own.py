"""Spaces from files of users: they work like those of the library, and their mistakes are said in one line."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fastnas
from fastnas.cli.main import main
from fastnas.costs.tables import NetworkSize, derived_cost, parameter_table
from fastnas.spaces.cell_space import DARTS
from fastnas.spaces.formats import genotype_to_json, genotype_to_text, read_genotype, space_from_json, space_to_json
from fastnas.spaces.sampling import random_genotype
from fastnas.supernet.own import load_space

README = Path(fastnas.__file__).parent / "spaces" / "README.md"
EXAMPLE = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
TINY = ["--channels", "4", "--cells", "1", "--epochs", "2", "--warmup-epochs", "1", "--batch-size", "32"]
TINY += [
    "--recipe",
    "digits_darts",
    "--train-fraction",
    "0.1",
    "--device",
    "cpu",
    "--random-genotypes",
    "0",
    "--retrain.channels",
    "4",
]
TINY += ["--select", "argmax"]
TINY += ["--retrain.cells", "1", "--retrain.epochs", "1", "--retrain.batch-size", "32"]
TWO_CELLS = (
    EXAMPLE.replace("num_inputs=1", "num_inputs=2")
    .replace('("normal",)', '("normal", "reduction")')
    .replace("kept_edges=None", "kept_edges=2")
    .replace("concat=(2,)", "concat=(2, 3)")
)


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Writes a file and returns its name for --space."""
    monkeypatch.chdir(tmp_path)

    def write(text=EXAMPLE, attribute="my_space"):
        Path("my_space.py").write_text(text)
        return f"my_space.py:{attribute}"

    return write


def test_the_example_of_the_documentation_is_a_space(named):
    space = load_space(named())
    assert space.name == "my_space"
    size = NetworkSize(channels=4, cells=1, resolution=8)
    genotype = random_genotype(space, 1)
    network = size.build(genotype, space)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert derived_cost(genotype, parameter_table(space, size)) == sum(p.numel() for p in network.parameters())


def test_a_function_that_returns_a_space_serves_as_well_and_library_names_still_do(named):
    text = EXAMPLE + "\ndef make():\n    return my_space\n"
    assert load_space(named(text, "make")) == load_space(named(text))
    assert load_space("darts") is DARTS


def test_genotypes_of_an_own_space_are_read_with_it_and_not_without(named):
    for text in (EXAMPLE, TWO_CELLS):
        space = load_space(named(text))
        genotype = random_genotype(space, 0)
        for written in (genotype_to_text(genotype), json.dumps(genotype_to_json(genotype))):
            assert read_genotype(written, space) == genotype
            with pytest.raises(ValueError, match="name must be a registered space"):
                read_genotype(written)
        assert space_from_json(json.loads(json.dumps(space_to_json(space)))) == space


def test_reading_a_genotype_executes_nothing(named):
    named("raise SystemExit('executed')")
    with pytest.raises(ValueError, match="name must be a registered space"):
        read_genotype('{"space": "my_space.py:my_space", "normal": {"nodes": [], "concat": []}}')


@pytest.mark.parametrize("text", [EXAMPLE, TWO_CELLS], ids=["one cell type", "two cell types"])
def test_an_own_space_goes_the_whole_way(named, text, capsys):
    size = ["--random-genotypes", "1"] if text is EXAMPLE else ["--cells", "3", "--retrain.cells", "3"]
    assert main(["search", "--method", "darts", "--space", named(text), *TINY, *size, "--run", "run"]) == 0
    assert "my_space" in Path("run/report.html").read_text()
    Path("my_space.py").rename("gone.py")
    assert main(["report", "run"]) == 0  # needs no code
    assert main(["show", "run/genotype.json"]) == 1
    assert "a registered space" in capsys.readouterr().err
    assert main(["show", "run/genotype.json", "--space", "gone.py:my_space", "--out", "cell.svg"]) == 0
    assert "conv" in Path("cell.svg").read_text()
    training = ["--channels", "4", "--cells", "3", "--epochs", "1", "--train-fraction", "0.1", "--device", "cpu"]
    assert main(["retrain", "run/genotype.json", "--space", "gone.py:my_space", *training, "--run", "again"]) == 0


BAD = {
    "no file": (None, "absent.py:my_space", "FILE.py:NAME must name a Python file, got absent.py"),
    "no such name": (EXAMPLE, "my_space.py:nope", "my_space.py must define nope, got nothing of that name"),
    "syntax": ("x = (", "my_space.py:x", "my_space.py must run, got SyntaxError in line 1"),
    "failure": ("\nx = 1 / 0", "my_space.py:x", "must run, got ZeroDivisionError in line 2: division by zero"),
    "no space": (
        "x = 3",
        "my_space.py:x",
        "x in my_space.py must be a Space, as Space, or a function .*, got an int",
    ),
    "chain": (
        "from fastnas.spaces import ChainSpace\nx = ChainSpace(name='mine', primitives=('conv',), stages=(1,) * 6)",
        "my_space.py:x",
        "primitives of a chain must be none or among mbconv_3x3_e3, .*, got conv",
    ),
    "taken": (EXAMPLE.replace('"my_space"', '"darts"'), "my_space.py:my_space", "must have a name of its own"),
    "graph": (
        EXAMPLE.replace("num_nodes=2", "num_nodes=0"),
        "my_space.py:my_space",
        "got ValueError in line .*num_nodes",
    ),
    "no operation": (
        EXAMPLE.replace('"conv_3x3": conv(3)', ""),
        "my_space.py:my_space",
        "every primitive must have an operation, got none for conv_3x3",
    ),
    "other network": (
        EXAMPLE.replace("num_inputs=1", "num_inputs=3").replace("concat=(2,)", "concat=(3,)"),
        "my_space.py:my_space",
        "cells must have 2 inputs .*, got 3 inputs, normal, 1 output states",
    ),
    "arguments": (
        EXAMPLE.replace("def build(channels, stride, searching)", "def build(channels)"),
        "my_space.py:my_space",
        r"primitive 'conv_1x1': conv_1x1\(8, 1, True\) must run, got TypeError",
    ),
    "buffers": (
        EXAMPLE.replace("batch_norm(channels, searching)", "nn.BatchNorm2d(channels)"),
        "my_space.py:my_space",
        "it must keep no buffers while searching, got .*running_mean.*Use fastnas.supernet.batch_norm",
    ),
    "shape": (
        EXAMPLE.replace("kernel // 2, bias", "0, bias"),
        "my_space.py:my_space",
        r"primitive 'conv_3x3': at stride 1 its output must have shape \[2, 8, 8, 8\], got \[2, 8, 6, 6\]",
    ),
    "no module": (
        EXAMPLE.replace("        return nn.Sequential(", "        return (").replace("nn.ReLU(),", "nn.ReLU,"),
        "my_space.py:my_space",
        r"its operation must return a module at \(8, 1, True\), got tuple",
    ),
    "random": (
        EXAMPLE.replace("nn.ReLU()", "nn.Dropout()"),
        "my_space.py:my_space",
        "it must be a function of its input alone, got two outputs for one input",
    ),
    "reads wrongly": (
        EXAMPLE.replace("nn.Conv2d(channels, channels", "nn.Conv2d(2 * channels, channels"),
        "my_space.py:my_space",
        "at an image must run, got RuntimeError",
    ),
}


@pytest.mark.parametrize(("text", "name", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_one_clear_line(named, text, name, message, capsys):
    if text is not None:
        named(text)
    assert main(["search", "--space", name, *TINY, "--run", "run"]) == 1
    errors = capsys.readouterr().err
    assert re.search(message, errors), errors
    assert errors.count("\n") == 1
    assert not Path("run/config.json").exists()


def test_trying_a_space_leaves_the_global_generator_alone(named):
    state = torch.get_rng_state()
    load_space(named())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda channels: nn.Dropout(0.5), "it must be a function of its input alone"),
        (nn.BatchNorm2d, "it must keep no buffers while searching"),
    ],
    ids=["dropout", "statistics"],
)
@pytest.mark.parametrize("verb", [fastnas.search, fastnas.check])
def test_operations_of_ones_own_are_tried_from_python_too(verb, body, message):
    operations = {"mine": lambda channels, stride, searching: body(channels)}
    space = replace(fastnas.spaces.NASBENCH201, name="mine", primitives=("skip_connect", "mine"), operations=operations)
    arguments = ["digits"] if verb is fastnas.search else []
    with pytest.raises(ValueError, match=message):
        verb(space, "darts", *arguments)
