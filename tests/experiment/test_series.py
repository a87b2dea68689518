"""Several searches in one command, in processes of their own."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from fastnas.data import hold_out, load_data, share_memory
from fastnas.data.division import divide
from fastnas.experiment.parts import find_method
from fastnas.experiment.series import Series, _search_and_validate, list_places, load_series, save_series
from fastnas.experiment.settings import Experiment
from fastnas.methods.library import robust_darts_dp, robust_darts_l2
from fastnas.training.config import RetrainConfig

ROOT = Path(__file__).parents[2]
EPOCHS = 6  # far more than a search is interrupted after: whoever looks must still find it at work
SETTINGS = {
    "method": "darts",
    "space": "nasbench201",
    "channels": 4,
    "cells": 1,
    "epochs": EPOCHS,
    "batch-size": 32,
    "train-fraction": 0.1,
    "device": "cpu",
    "select": "argmax",
    "recipe": "digits_darts",
    "random-genotypes": 0,
    "retrain.channels": 4,
    "retrain.cells": 1,
    "retrain.epochs": 1,
    "retrain.batch-size": 32,
}
TINY = [f"--{name}={value}" for name, value in SETTINGS.items()]


def start(*arguments, cwd):
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.Popen(
        [sys.executable, "-m", "fastnas", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


def searches_of(process):
    """The processes in which a series searches; Python keeps others that end by themselves."""
    children = psutil.Process(process.pid).children()
    return [child.pid for child in children if any("spawn_main" in word for word in child.cmdline())]


def results(folder):
    summary = json.loads((folder / "runs.json").read_text())
    return summary["best"], [(one["seed"], one["genotype"], one["accuracy"]) for one in summary["runs"]]


@pytest.mark.slow  # six processes import torch
def test_a_series_that_is_interrupted_goes_on_and_ends_as_if_it_had_not_been(tmp_path):
    process = start("search", *TINY, "--runs", "2", "--run", "run", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "run").glob("runs/*/checkpoint.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = searches_of(process)
    assert len(children) == len(list_places("cpu", 2))
    process.send_signal(signal.SIGINT)  # to the parent alone: it is the parent's to tell the others
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "fastnas: interrupted. Everything up to the last checkpoint is kept.\n"
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.glob("run/**/.*"))

    resumed = start("search", "--resume", "run", cwd=tmp_path)
    output, errors = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, errors
    best, runs = results(tmp_path / "run")
    assert [seed for seed, _, _ in runs] == [0, 1]
    assert runs[best][2] == max(accuracy for _, _, accuracy in runs)
    assert "validated by a short retraining" in output
    for number in (0, 1):
        assert len((tmp_path / "run" / "runs" / str(number) / "metrics.jsonl").read_text().splitlines()) == EPOCHS
    assert (tmp_path / "run" / "runs" / str(best) / "report.html").exists()
    assert not (tmp_path / "run" / "runs" / str(1 - best) / "comparison.json").exists()

    series, data = load_series(tmp_path / "run"), load_data("digits")
    for number in (0, 1):  # here, in one process, without a stop
        folder = tmp_path / "whole" / str(number)
        _search_and_validate(series, number, folder, data, "cpu")
        judged = json.loads((folder / "judged.json").read_text())
        assert runs[number] == (judged["seed"], judged["genotype"], judged["accuracy"])


def test_members_differ_in_seed_or_strength_alone():
    experiment = Experiment(method="robust_darts_l2")
    seeds = Series(experiment=experiment, runs=3).members
    assert [member.config.seed for member in seeds] == [0, 1, 2]
    assert all(replace(member, config=experiment.config) == experiment for member in seeds)
    strengths = Series(experiment=experiment, strengths=(1.0, 3.0, 9.0, 27.0)).members
    assert [member.strength for member in strengths] == [1.0, 3.0, 9.0, 27.0]
    assert all(replace(member, strength=None) == experiment for member in strengths)


def test_a_strength_is_that_of_the_recipe():
    assert find_method("robust_darts_l2", 9.0) == robust_darts_l2(factor=9.0)
    assert find_method("robust_darts_dp", 0.4) == robust_darts_dp(largest=0.4)
    with pytest.raises(
        ValueError, match=r"method: --strength needs a method that regularises: robust_darts_l2, .*beside darts"
    ):
        find_method("darts", 1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runs": 0}, "runs must lie between 1 and 10000, got 0"),
        ({"runs": 3, "strengths": (1.0, 2.0)}, "runs must be one for each of the 2 strengths, or unset, got 3"),
        ({"strengths": (1.0, 1.0)}, "strengths must differ"),
        ({"short_epochs": 0}, "short_epochs must be positive, got 0"),
    ],
)
def test_a_series_without_meaning_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"series: {message}"):
        Series(experiment=Experiment(), **settings)


def test_a_series_survives_its_file_and_a_broken_one_is_named(tmp_path):
    series = Series(experiment=Experiment(method="darts"), strengths=(0.5, 1.0), short_epochs=2)
    save_series(series, tmp_path)
    assert load_series(tmp_path) == series
    (tmp_path / "series.json").write_text('{"experiment": {"method": "darts"}, "runs": "many"}')
    with pytest.raises(ValueError, match=r"series: .*series.json must describe a series, got runs"):
        load_series(tmp_path)


def test_the_short_retraining_is_a_quarter_and_no_shorter_than_its_schedule_allows():
    retraining = RetrainConfig(epochs=40)
    assert Series(experiment=Experiment(retrain=retraining)).short_retraining.epochs == 10
    assert Series(experiment=Experiment(retrain=retraining), short_epochs=3).short_retraining.epochs == 3
    linear = replace(retraining, epochs=8, schedule="linear")
    assert Series(experiment=Experiment(retrain=linear)).short_retraining.epochs == 6


def test_a_process_a_core_and_no_more_than_searches():
    assert list_places("cpu", 1) == ["cpu"]
    assert len(list_places("cpu", 1000)) == len(os.sched_getaffinity(0))


def test_images_are_shared_and_held_out_ones_are_no_test_images():
    data = load_data("digits")
    both = share_memory(data)
    assert both.train.image.arrays.is_shared()
    assert torch.equal(both.train.image(5), data.train.image(5))
    part = hold_out(pickle.loads(pickle.dumps(data)), *divide(data, (0.1, 0.1), 0))
    assert abs(len(part.train.labels) - len(part.test.labels)) <= 10  # one a class
    seen = {part.train.image(i).numpy().tobytes() for i in range(len(part.train.labels))}
    judged = {part.test.image(i).numpy().tobytes() for i in range(len(part.test.labels))}
    assert not seen & judged
    assert np.bincount(part.test.labels).min() > 0
