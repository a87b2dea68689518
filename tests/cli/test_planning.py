"""The words of `fastnas plan` and of `fastnas search --budget`."""

import json
import re
from pathlib import Path

import pytest

import fastnas
from fastnas.cli.main import main

README = Path(fastnas.__file__).parent / "spaces" / "README.md"
SPACE = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
SIZE = ["--channels", "4", "--cells", "1", "--method", "darts", "--resolution", "16"]


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "my_space.py"
    file.write_text(SPACE)
    return ["--space", f"{file}:my_space"]


@pytest.mark.slow
def test_a_plan_is_printed_with_its_causes(space, capsys):
    assert main(["plan", *SIZE, *space, "--batch-size", "32", "--budget", "4MB", "--no-timed"]) == 0
    shown = capsys.readouterr().out
    for part in ("budget: 4MB", "weight step", "kept for the backward pass", "the plan", "--recompute"):
        assert part in shown


def test_a_plan_for_data_that_is_not_here_needs_no_images(space, capsys):
    sizes = ["--channels", "4", "--cells", "1", "--method", "darts", "--data", "cifar10:nowhere"]
    assert main(["plan", *sizes, *space, "--batch-size", "8", "--budget", "H100", "--no-timed"]) == 0
    assert "keep everything" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_that_fits_is_an_exit_status(space, capsys):
    assert main(["plan", *SIZE, *space, "--batch-size", "64", "--budget", "900KB", "--no-timed"]) == 1
    assert "--batch-size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("1KiB", "plan: budget must hold the weights"),
        ("plenty", "plan: budget must be a size as 24GiB"),
    ],
)
def test_a_budget_that_cannot_be_is_one_line(space, capsys, budget, message):
    assert main(["plan", *SIZE, *space, "--budget", budget]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_search_within_a_budget_finds_what_one_without_it_finds(space, tmp_path):
    short = [*SIZE, *space, "--epochs", "1", "--warmup-epochs", "0", "--train-fraction", "0.1", "--batch-size", "32"]
    short += ["--select", "argmax", "--no-retrain-searched", "--random-genotypes", "0", "--device", "cpu"]
    assert main(["search", *short, "--run", str(tmp_path / "free")]) == 0
    assert main(["search", *short, "--run", str(tmp_path / "bound"), "--budget", "4MB"]) == 0
    free, bound = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("free", "bound"))
    assert free["config"]["recompute"] == ["none"]
    assert bound["config"]["recompute"] != ["none"]
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("free", "bound")]
    first, second = ([{**json.loads(line), "seconds": 0} for line in of_run] for of_run in lines)
    assert first == second


@pytest.mark.slow
def test_a_search_that_cannot_fit_does_not_begin(space, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["search", *SIZE, *space, "--batch-size", "64", "--run", str(folder), "--budget", "900KB"]
    assert main(arguments) == 1
    assert "fastnas: plan: budget must be at least" in capsys.readouterr().err
    assert not folder.exists()
