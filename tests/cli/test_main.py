"""The command line as people use it, in processes of its own where signals are sent."""

import json
import os
import resource
import signal
import time
from dataclasses import asdict, replace

import pytest
import torch

from fastnas.bilevel.hypergradient import Unrolled
from fastnas.cli.main import main, parse
from fastnas.data import decoders
from fastnas.experiment.parts import find_method, prepare
from fastnas.experiment.recipes import RECIPES
from fastnas.experiment.settings import experiment_to_json, load_experiment
from fastnas.mechanisms.control import EigenvalueStop
from fastnas.methods.library import METHODS, pc_darts
from fastnas.spaces.formats import genotype_to_text, read_genotype
from fastnas.spaces.known import KNOWN
from tests.forks import Fork

SETTINGS = {
    "space": "nasbench201",
    "channels": 8,
    "cells": 1,
    "epochs": 3,
    "warmup-epochs": 1,
    "batch-size": 32,
    "train-fraction": 0.1,
    "device": "cpu",
    "recipe": "digits_darts",
    "random-genotypes": 1,
    "retrain.channels": 8,
    "retrain.cells": 1,
    "retrain.epochs": 2,
    "retrain.batch-size": 32,
}
TINY = [f"--{name}={value}" for name, value in SETTINGS.items()]


def start(*arguments, cwd, largest_file=None):
    """The command line in a process of its own, which may be told how large its files may become."""
    return Fork(run, arguments, cwd, largest_file, folder=cwd, COLUMNS="200")


def run(arguments, cwd, largest_file):
    # A shell that runs the tests in the background has its children ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    return main(list(arguments))


def wait_for(path, started):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert started.process.is_alive(), started.printed[1].read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trace(run):
    """Everything that a run printed to its files, but for the time that it took."""
    files = [run / "metrics.jsonl", *sorted(run.glob("retrain/*/metrics.jsonl"))]
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    comparison = json.loads((run / "comparison.json").read_text())["networks"]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in [*records, *comparison]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, output, errors = start("search", *TINY, "--run", "run", cwd=folder).ended()
    assert status == 0, errors
    return folder / "run", output


def test_a_search_leaves_a_run_folder_with_everything(uninterrupted):
    run, output = uninterrupted
    for name in (
        "config.json",
        "data.json",
        "genotype.json",
        "metrics.jsonl",
        "comparison.json",
        "checkpoint.pt",
        "report.html",
    ):
        assert (run / name).stat().st_size > 0
    assert list((run / "events").glob("events.out.tfevents.*"))
    genotype = genotype_to_text(read_genotype(str(run / "genotype.json")))
    for text in (genotype, "epoch 3/3", "random: mean", "of 1", "report: run/report.html", "--resume run"):
        assert text in output
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("milestone", ["checkpoint.pt", "retrain/searched/checkpoint.pt"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, uninterrupted, milestone):
    run = tmp_path / "run"
    started = start("search", *TINY, "--run", "run", cwd=tmp_path)
    wait_for(run / milestone, started)
    started.process.kill()
    assert started.ended()[0] == -signal.SIGKILL
    assert main(["search", "--resume", str(run)]) == 0
    assert trace(run) == trace(uninterrupted[0])


def test_an_interrupted_run_says_so_in_a_line_and_keeps_its_files(tmp_path):
    started = start("search", *TINY, "--run", "run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "checkpoint.pt", started)
    os.kill(started.process.pid, signal.SIGINT)
    status, output, errors = started.ended()
    assert status == 130
    assert errors == "fastnas: interrupted. Everything up to the last checkpoint is kept.\n"
    assert "fastnas search --resume run" in output
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def run_main(capsys, *arguments):
    status = main(list(map(str, arguments)))
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--data", "folder:nowhere"], "data: the folder of images must exist, got nowhere."),
        (["search", "--data", "mnist"], "data: source must be digits, "),
        (["search", "--decoder", "turbojpeg"], "data: decoder must be simplejpeg unless the data are image files"),
        (
            ["retrain", "DARTS_V2", "--data", "digits", "--decoder", "turbojpeg"],
            "data: decoder must be simplejpeg unless",
        ),
        (["search", "--method", "magic"], "method: name must be a registered method, FILE.py:NAME or module:name"),
        (["search", "--method", "json:dumps"], "method: json:dumps() must run, got TypeError"),
        (["search", "--space", "cube"], "space: name must be a registered space, "),
        (
            ["search", "--recipe", "digits_darts", "--channels", "10"],
            "SearchCell: channels / k must be a whole number (k = 4), got 10 channels.",
        ),
        (["search", "--batch-size", "4000"], "data: batch_size must not exceed the half for the weights"),
        (["search", "--train-fraction", "0.001"], "data: train_fraction must leave an image of every class"),
        (["search", "--epochs", "4", "--warmup-epochs", "9"], "SearchConfig: warmup_epochs must lie in [0, epochs)"),
        (
            ["search", "--recipe", "digits_darts", "--retrain.auxiliary", "0.4"],
            "auxiliary head: the state under it must measure at least 8",
        ),
        (["search", "--retrain.batch-size", "4000"], "data: batch_size must not exceed the training images of the"),
        (["search", "--recipe", "digits_darts", "--retrain.cells", "2"], "layout: cells must be at least 3, got 2."),
        (["search", "--resume", "nowhere"], "search: --resume must name a run folder, got nowhere."),
        (["search", "--resume", "x", "--channels", "8"], "search: --resume takes no other settings"),
        (["search", "--minutes", "5", "--epochs=3"], "search: --minutes chooses the epochs, got --epochs 3 beside it"),
        (["search", "--recipe", "soup"], "recipe: name must be one of digits, digits_darts, darts_cifar10"),
        (
            ["search", "--recipe", "digits", "--ladder.entrants", "3"],
            "Experiment: settings of the ladder need select=ladder, got average.",
        ),
        (
            ["search", "--retrain.init-from", "supernet", "--no-retrain-searched"],
            "Experiment: retrain.init_from must not be set without a retraining, got supernet.",
        ),
        (["search", "--space", "nasbench201", "--retrain.auxiliary", "0.4"], "Experiment: retrain.auxiliary must be 0"),
        (
            ["retrain", "PDARTS", "--auxiliary", "0.4"],
            "auxiliary head: the state under it must measure at least 8",
        ),
        (["retrain", "nobody"], "genotype: name must be a built-in name"),
        (["report", "nowhere"], "report: run must be a run folder, got nowhere, without config.json."),
        (["show", "nobody"], "genotype: name must be a built-in name"),
        (["show", "PDARTS", "--out", "cell.gif"], "drawing: file must end in .png or .svg, got 'cell.gif'."),
    ],
)
def test_bad_input_gets_one_line_and_a_failing_status(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, errors = run_main(capsys, *arguments)
    assert status == 1
    assert errors.startswith(f"fastnas: {message}")
    assert errors.count("\n") == 1
    assert not list(tmp_path.glob("runs/*/checkpoint.pt"))


def test_a_run_folder_that_holds_files_is_not_overwritten(capsys, tmp_path):
    (tmp_path / "precious").write_text("data")
    status, _, errors = run_main(capsys, "search", "--run", tmp_path)
    assert status == 1
    assert "search: the run folder must be new" in errors
    assert f"fastnas search --resume {tmp_path}" in errors


@pytest.mark.parametrize("error", ["truncated", "foreign configuration"])
def test_a_broken_checkpoint_is_named_and_left_where_it_is(capsys, tmp_path, uninterrupted, error):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "metrics.jsonl", "checkpoint.pt"):
        (run / name).write_bytes((uninterrupted[0] / name).read_bytes())
    if error == "truncated":
        (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:1000])
    else:
        settings = json.loads((run / "config.json").read_text())
        del settings["checksum"]  # or the change is noticed there
        settings["config"]["weight_lr"] *= 2
        (run / "config.json").write_text(json.dumps(settings))
    status, _, errors = run_main(capsys, "search", "--resume", run)
    assert status == 1
    assert f"checkpoint: {run / 'checkpoint.pt'} must" in errors
    assert (run / "checkpoint.pt").exists()


def test_a_full_disk_is_said_in_one_line_and_keeps_what_was_saved(tmp_path):
    started = start("search", *TINY, "--run", "run", cwd=tmp_path, largest_file=30_000)  # which stands for the disk
    status, _, errors = started.ended()
    assert status == 1
    assert errors.startswith("fastnas: disk: run/")
    assert "must be written, got File too large. What was saved before is whole" in errors
    assert errors.count("\n") == 1
    assert not list((tmp_path / "run").glob(".*"))
    assert (tmp_path / "run" / "config.json").exists()


def test_a_batch_of_the_retraining_is_lowered_by_its_own_option(capsys):
    assert "Lower --retrain.batch-size" in run_main(capsys, "search", "--retrain.batch-size", "4000")[2]


def test_every_recipe_survives_its_config_file_and_every_setting_is_an_option(tmp_path, capsys):
    for name, recipe in RECIPES.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(experiment_to_json(recipe)))
        found = load_experiment(path)
        assert found == replace(recipe, data=found.data)
        assert found.data.partition(":")[0] == recipe.data.partition(":")[0]  # and a folder from the root on
        assert parse(["search", "--recipe", str(path)]).experiment == found
    assert main(["search", "--help-all"]) == 0
    page = capsys.readouterr().out
    config = RECIPES["digits"].config
    for option in asdict(config):
        assert f"--{option.replace('_', '-')} " in page or f"--{option.replace('_', '-')}," in page
    assert "--retrain.epochs" in page


def test_a_config_file_with_a_stranger_or_a_wrong_type_is_refused(tmp_path):
    good = {"method": "darts", "config": {"epochs": 3}}
    for change, message in (
        ({"config": {"epochs": "many"}}, r"config\.epochs"),
        ({"config": {"epoch": 3}}, "config.epoch"),
        ({"colour": "blue"}, "colour"),
    ):
        (tmp_path / "c.json").write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=message):
            load_experiment(tmp_path / "c.json")


def test_options_win_over_the_recipe():
    command = parse(["search", "--recipe", "darts_cifar10", "--epochs", "7", "--retrain.lr", "0.5"])
    assert (command.experiment.method, command.experiment.config.epochs) == ("darts", 7)
    assert (command.experiment.config.channels, command.experiment.retrain.lr) == (16, 0.5)
    assert command.experiment.retrain.epochs == 600


def test_order_and_stop_are_options_of_any_method_and_refused_where_they_have_no_meaning(capsys, tmp_path):
    command = parse(["search", "--method", "pc_darts", "--order", "2", "--stop", "eigenvalue"])
    method = prepare(command.experiment).method
    assert method.hypergradient == Unrolled()
    assert method.control == EigenvalueStop()
    assert main(["search", "--method", "gdas", "--order", "2", "--run", str(tmp_path / "run")]) == 1
    assert "--order 2: method gdas: hypergradient=Unrolled() does not work with draw=" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["search", "--method", "p_darts", "--stop", "eigenvalue", "--run", str(tmp_path / "run")]) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "--stop eigenvalue: method p_darts: control=EigenvalueStop() does not work with 3 stages" in error


def test_methods_and_genotypes_are_shown(capsys, tmp_path):
    _, output, _ = run_main(capsys, "methods")
    assert all(name in output for name in METHODS)
    for name in KNOWN:
        status, output, _ = run_main(capsys, "show", name, "--out", tmp_path / f"{name}.svg")
        assert status == 0
        assert ("chain of blocks" if name.startswith("PROXYLESS") else "reduction cell") in output
        assert (tmp_path / f"{name}.svg").exists()


def test_a_method_is_checked_and_one_that_is_wrong_fails_with_the_claim(capsys, tmp_path, monkeypatch):
    status, output, _ = run_main(capsys, "check", "--method", "darts")
    assert status == 0
    assert "darts in nasbench201" in output
    assert "the hypergradient is" in output
    assert "FAILED" not in output
    own = "from dataclasses import replace\nfrom fastnas.methods import darts\n"
    own += (
        "def wrong():\n    return replace(darts(), relaxation=lambda a, alive, tau: a.softmax(-1).detach() + 0 * a)\n"
    )
    (tmp_path / "mine.py").write_text(own)
    monkeypatch.syspath_prepend(tmp_path)
    status, output, _ = run_main(capsys, "check", "--method", "mine:wrong")
    assert status == 1
    assert "FAILED" in output
    assert "every alpha that" in output


def test_a_method_of_your_own_is_imported_by_its_name():
    assert find_method("fastnas.methods.library:pc_darts") == pc_darts()


def test_a_genotype_is_retrained_and_goes_on_where_it_stopped(capsys, tmp_path):
    arguments = ["retrain", "PDARTS", "--channels", 8, "--cells", 3, "--batch-size", 32, "--train-fraction", 0.1]
    status, output, errors = run_main(capsys, *arguments, "--epochs", 2, "--run", tmp_path)
    assert status == 0, errors
    assert "epoch 2/2" in output
    assert set(torch.load(tmp_path / "network.pt", weights_only=True))
    status, output, _ = run_main(capsys, *arguments, "--epochs", 2, "--run", tmp_path)
    assert status == 0
    assert "epoch" not in output


def test_a_backend_or_a_decoder_that_is_not_there_is_said_in_one_line(monkeypatch, capsys, tmp_path, photos):
    monkeypatch.setenv("FASTNAS_BACKEND", "tritn")
    status, _, errors = run_main(capsys, "search", *TINY, "--run", tmp_path / "one")
    assert status == 1
    rule = "FASTNAS_BACKEND must be triton, cpu or reference, got 'tritn'"
    assert errors == f"fastnas: backend_for: {rule}. Set it to one of them, or unset it.\n"

    monkeypatch.setattr(decoders, "find_spec", lambda name: None)
    monkeypatch.setattr(decoders, "find_library", lambda name: None)
    decoders.load_turbojpeg.cache_clear()
    status, _, errors = run_main(
        capsys, "search", *TINY, "--data", f"folder:{photos}", "--decoder", "turbojpeg", "--run", tmp_path / "other"
    )
    assert status == 1
    assert errors.startswith("fastnas: data: decoder turbojpeg must find libjpeg-turbo 3, got ")
    assert errors.count("\n") == 1
