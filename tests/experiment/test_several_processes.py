"""The command line under torchrun, on the CPU."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "space": "nasbench201",
    "method": "gdas",
    "epochs": 2,
    "warmup-epochs": 0,
    "channels": 4,
    "cells": 1,
    "batch-size": 64,
    "train-fraction": 0.3,
    "checkpoint-steps": 1,
    "select": "argmax",
    "recipe": "digits_darts",
    "random-genotypes": 0,
    "retrain.epochs": 1,
    "retrain.channels": 4,
    "retrain.cells": 1,
    "device": "cpu",
}
TINY = ["search", *(f"--{name}={value}" for name, value in SETTINGS.items())]


def torchrun(module, *arguments, restarts=0):
    """The output of two processes that run ``module``, and how the first that failed ended."""
    options = ["--nproc-per-node", "2", "--max-restarts", str(restarts), "--standalone", "--monitor-interval", "0.2"]
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | paths,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, torchrun("fastnas", *TINY, "--folder", folder)


def test_one_process_speaks_and_all_leave_one_run_folder(whole):
    folder, done = whole
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 1]
    trained = (folder / "retrain" / "searched" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in trained] == [0]
    assert (folder / "report.html").is_file()


@pytest.mark.slow
def test_a_rank_that_dies_is_started_again_and_changes_nothing(whole, tmp_path):
    done = torchrun("tests.dying", *TINY, "--folder", tmp_path / "run", restarts=1)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    alphas = [torch.load(folder / "alpha.pt", weights_only=True) for folder in (whole[0], tmp_path / "run")]
    assert all(torch.equal(alphas[1][name], a) for name, a in alphas[0].items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["--batch-size", "33"], "ranks: batch_size must be a multiple of the 2 processes, which share every batch"),
        (["--runs", "2"], "search: --runs and --strengths need a single process, which starts the others"),
    ],
)
def test_what_does_not_fit_several_processes_is_one_line_from_each(tmp_path, changes, line):
    done = torchrun("fastnas", *TINY, "--folder", tmp_path / "run", *changes)
    assert done.returncode == 1
    assert f"fastnas, rank 0: {line}" in done.stderr
    assert "fastnas/experiment" not in done.stderr  # torchrun has a traceback of its own, and we none


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_with_a_line_that_names_it(tmp_path):
    done = torchrun("tests.dying", *TINY, "--folder", tmp_path / "run")
    assert time.time() - (tmp_path / "run" / "checkpoint.pt").stat().st_mtime < 60  # the step before
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("fastnas, rank")]
    (line,) = lines
    assert line.startswith(
        "fastnas, rank 0: ranks: all processes must live until the end, got the end of rank 1 (process"
    )
    assert "with --resume" in line
    assert "fastnas/engine" not in done.stderr  # no traceback of ours


@pytest.mark.slow
def test_processes_that_may_be_restarted_need_a_folder_that_they_find_again():
    done = torchrun("fastnas", *TINY, restarts=1)
    assert "search: --run must be given where torchrun may restart processes" in done.stderr
