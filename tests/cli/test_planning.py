"""The words of `fastnas plan` and of `fastnas search --budget`."""

import json
import re
from pathlib import Path

import pytest

import fastnas
from fastnas.cli.main import main
from fastnas.cli.plan import PlanCommand, make_plan
from fastnas.experiment.settings import Experiment
from fastnas.training.config import SearchConfig

README = Path(fastnas.__file__).parent / "spaces" / "README.md"
SPACE = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
SIZE = ["--channels", "4", "--cells", "1", "--method", "darts", "--resolution", "16"]


def ram(megabytes):
    """A budget of which that much is left for tensors."""
    return f"{512 * 2**20 + int(megabytes * 1e6 / 0.9) + 1}B ram"


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "my_space.py"
    file.write_text(SPACE)
    return ["--space", f"{file}:my_space"]


@pytest.mark.slow
def test_a_plan_is_printed_with_its_causes(space, capsys):
    assert main(["plan", *SIZE, *space, "--batch-size", "32", "--budget", ram(4), "--no-timed"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "B ram, of which 3.81 MiB for tensors",
        "weight step",
        "kept for the backward pass",
        "the plan",
        "--recompute",
    ):
        assert part in shown


def test_a_plan_for_data_that_is_not_here_needs_no_images(space, capsys):
    sizes = ["--channels", "4", "--cells", "1", "--method", "darts", "--data", "cifar10:nowhere"]
    assert main(["plan", *sizes, *space, "--batch-size", "8", "--budget", "H100", "--no-timed"]) == 0
    assert "keep everything" in capsys.readouterr().out


@pytest.mark.slow
def test_nothing_that_fits_is_an_exit_status(space, capsys):
    assert main(["plan", *SIZE, *space, "--batch-size", "64", "--budget", ram(0.9), "--no-timed"]) == 1
    assert "--batch-size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("1KiB", "plan: budget must hold the weights"),
        ("600MiB", "plan: budget must hold the weights"),
        ("1e400GiB", "plan: --budget must be a size such as 24GiB"),
        ("plenty", "plan: --budget must be a size such as 24GiB"),
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
    assert main(["search", *short, "--run", str(tmp_path / "bound"), "--budget", ram(4)]) == 0
    free, bound = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("free", "bound"))
    assert free["config"]["recompute"] == ["none"]
    assert bound["config"]["recompute"] != ["none"]
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("free", "bound")]
    first, second = ([{**json.loads(line), "seconds": 0} for line in of_run] for of_run in lines)
    assert first == second


@pytest.mark.slow
def test_a_search_that_cannot_fit_does_not_begin(space, tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = ["search", *SIZE, *space, "--batch-size", "64", "--run", str(folder), "--budget", ram(0.9)]
    assert main(arguments) == 1
    assert "fastnas: plan: budget must be at least" in capsys.readouterr().err
    assert not folder.exists()


def test_a_plan_says_what_it_is_for_and_shows_no_seconds_of_another_device(space, capsys):
    small = [*SIZE, *space, "--batch-size", "8"]
    assert main(["plan", *small, "--budget", "12GiB"]) == 0  # a GPU's, which is not here
    for_gpu = capsys.readouterr().out
    assert "for: a GPU" in for_gpu
    assert "s a step:" not in for_gpu
    assert main(["plan", *small, "--budget", "12GiB", "--for", "cpu"]) == 0
    for_cpu = capsys.readouterr().out
    assert "for: the CPU" in for_cpu
    assert "s a step:" in for_cpu
    assert "on cpu" in for_cpu


def test_a_plan_on_a_machine_without_a_gpu_asks_for_a_size_of_one(space, capsys):
    assert main(["plan", *SIZE, *space, "--for", "cuda"]) == 1
    assert "plan: cuda:0 must exist, got 0 GPUs. Give a size such as 24GiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (option, value)
            for option in ("--bandwidth", "--images-per-core")
            for value in ("0.0", "-1.0", "nan", "inf")
        ),
        *((option, value) for option in ("--cores", "--gpus", "--nodes") for value in ("0", "-1")),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_planned(space, capsys, option, value):
    assert main(["plan", *SIZE, *space, option, value]) in (1, 2)  # 2: refused while the line is read
    error = capsys.readouterr().err
    assert option in error
    assert value in error
    assert error.count("\n") == 1


def test_options_that_change_the_method_are_planned(space):
    def peak(**changes):
        config = SearchConfig(channels=4, cells=1, batch_size=8, epochs=6)
        experiment = Experiment(**{"method": "darts", "space": space[1], "config": config, **changes})
        command = PlanCommand(budget="1GiB", experiment=experiment, timed=False)
        return make_plan(command, print, neighbours=False).everything.prediction

    assert peak(order=2) == peak(method="darts_2nd") != peak()
    assert "eigenvalue" in peak(stop="eigenvalue").phases


def test_timing_tells_how_long_it_will_take(space):
    told = []
    experiment = Experiment(method="darts", space=space[1], config=SearchConfig(channels=4, cells=1, batch_size=8))
    make_plan(PlanCommand(budget="1GiB", target="cpu", experiment=experiment), told.append)
    assert any(re.search(r"timing steps of 8 images on cpu: 2 of 3, about \d+ s left", line) for line in told)
